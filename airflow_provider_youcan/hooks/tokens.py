"""
Access tokens that renew themselves: obtained with the OAuth client of a connection, and stored in Airflow.

A refresh token works once, and ends the access token that it came with. So the newest pair is stored in an Airflow
Variable, where every worker finds it. If two tasks renew at once, the second one uses the pair of the first.

The facts come from https://developer.youcan.shop/store-admin (``introduction/oauth``). It is an assumption, after
Laravel Passport, that a refresh token works once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import tenacity

from airflow_provider_youcan.client import oauth
from airflow_provider_youcan.client.attempts import Attempts
from airflow_provider_youcan.client.credentials import Credentials, OAuthClient
from airflow_provider_youcan.client.responses import read_response
from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanConnectionError,
    YouCanError,
    YouCanTransientError,
)
from airflow_provider_youcan.hooks.session import Session
from airflow_provider_youcan.metrics import count_renewal
from airflow_provider_youcan.version_compat import find_variable_class, mask_secret

__all__ = ["with_current_token"]

_MAX_MARGIN = 300.0
"""Seconds before its expiry at which a token is renewed, or a tenth of its lifetime if that is less."""

_WAIT_FOR_OTHER_SECONDS = 20.0
"""The seconds that a task waits for the pair that another is storing: two requests, both of which may be slow."""

_STORE_RETRY_SECONDS = 120.0
"""The seconds to try to store a new pair: if it is lost, a person has to authorise again."""

_RENEWAL_COOLDOWN = 30.0
"""Seconds before a renewal ahead of the expiry is tried again after it failed."""

_MAX_ROUNDS = 10

_wait = tenacity.wait_random_exponential(multiplier=0.1, max=2)

_log = logging.getLogger(__name__)


def with_current_token(
    credentials: Credentials,
    youcan_conn_id: str,
    refused: Collection[str] = (),
    *,
    may_renew: bool = True,
    max_retry_seconds: float | None = None,
) -> Credentials:
    """
    Return the credentials with a token that is valid, as far as can be known without a request to YouCan.

    :param credentials: the credentials as the Airflow connection has them.
    :param youcan_conn_id: the id of that connection, for the error messages.
    :param refused: the tokens that YouCan refused, if any (default none).
    :param may_renew: whether to obtain a new token; ``False`` uses at most one that another task has obtained (default
        ``True``).
    :param max_retry_seconds: seconds after the first request for a token after which none is sent any more; ``None``
        for as many attempts as the connection's ``max_attempts`` (default).
    :return: the credentials, with a refused token if there is no other and none may be obtained.
    :raises YouCanAuthenticationError: if YouCan gives no new token, and no other task obtained one.
    :raises YouCanTransientError: if the request for one failed, or Airflow can't store one now.
    """
    client = credentials.oauth_client
    if client is None:
        return credentials
    variable = _TokenVariable(client)
    kept = variable.read()
    if kept is not None and kept.is_usable(refused):
        return kept.apply_to(credentials)
    # The connection's own token counts until it is refused: a person may have replaced it since the pair was stored.
    if credentials.token not in ("", *refused) and (kept is None or kept.access_token in refused):
        return credentials
    if not may_renew:
        return kept.apply_to(credentials) if kept is not None else credentials
    try:
        return _Renewal(credentials, client, variable, refused, youcan_conn_id, max_retry_seconds).run(kept)
    except YouCanTransientError as error:
        if kept is None or kept.access_token in refused or time.time() >= kept.expires_at:
            raise
        _log.warning("%s Continuing with the old token, which is still valid.", error)
        return replace(kept.apply_to(credentials), renew_at=min(time.time() + _RENEWAL_COOLDOWN, kept.expires_at))


@dataclass(frozen=True)
class _Pair:
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_at: float
    lifetime: float

    @property
    def renew_at(self) -> float:
        return self.expires_at - min(_MAX_MARGIN, self.lifetime / 10)

    def is_usable(self, refused: Collection[str]) -> bool:
        return self.access_token not in refused and time.time() < self.renew_at

    @property
    def is_valid(self) -> bool:
        """True if its values are of their types: a person may have edited the Variable."""
        has_numbers = all(isinstance(number, (int, float)) for number in (self.expires_at, self.lifetime))
        return has_numbers and oauth.is_token(self.access_token) and oauth.is_token(self.refresh_token)

    def mask(self) -> None:
        mask_secret(self.access_token)
        mask_secret(self.refresh_token)

    def apply_to(self, credentials: Credentials, *, is_renewed: bool = False) -> Credentials:
        return replace(credentials, token=self.access_token, renew_at=self.renew_at, is_renewed=is_renewed)


@dataclass(frozen=True)
class _Renewal:
    """The renewal of one connection's token; the arguments are those of :func:`with_current_token`."""

    credentials: Credentials
    client: OAuthClient
    variable: _TokenVariable
    refused: Collection[str]
    youcan_conn_id: str
    max_retry_seconds: float | None

    def run(self, kept: _Pair | None) -> Credentials:
        """
        Obtain a new pair, or take over the one that another task has stored meanwhile.

        :param kept: the pair that was in the Variable, if any.
        """
        # Test that Variables can be stored before using the refresh token. This also detects an unreachable database,
        # which Airflow reports as a missing Variable.
        self.variable.check_that_it_can_be_stored()
        kept = self.variable.read() or kept
        for _ in range(_MAX_ROUNDS):
            if kept is not None and kept.is_usable(self.refused):
                return kept.apply_to(self.credentials)
            try:
                new = self._exchange(kept)
            except YouCanAuthenticationError as error:
                # If YouCan rejects the refresh token, another task may have used it. Any other 401 is final.
                if error.status_code is None or error.detail == "invalid_client":
                    raise
                seconds = _WAIT_FOR_OTHER_SECONDS
                _log.info("The refresh token was refused; waiting up to %g s for another task to renew it.", seconds)
                kept = self.variable.wait_for_another(kept)
                if kept is None:
                    raise
            else:
                count_renewal(self.youcan_conn_id)
                _log.info("Renewed the access token of the Airflow connection %r.", self.youcan_conn_id)
                return new.apply_to(self.credentials, is_renewed=True)
        raise YouCanAuthenticationError(
            "The access token expires faster than it can be renewed",
            advice=f"check the lifetime of the tokens of the Airflow connection {self.youcan_conn_id!r} on YouCan.",
        )

    def _exchange(self, kept: _Pair | None) -> _Pair:
        """Exchange the refresh token for a new pair, and store that, in as many attempts as the connection allows."""
        refresh_token = kept.refresh_token if kept else self.client.refresh_token
        request = oauth.exchange_refresh_token(self.client.client_id, self.client.client_secret, refresh_token)
        # The request for a token carries no token.
        anonymous = replace(self.credentials, token="")
        attempts = Attempts(self.max_retry_seconds)

        def exchange_and_store() -> _Pair:
            asked_at = time.time()
            with Session(anonymous) as session:
                answer = session.send_request(request, anonymous)
            payload = read_response(request, answer, f"the Airflow connection {self.youcan_conn_id!r}")
            new = _read_pair(payload, refresh_token, asked_at)
            self.variable.write(new, instead_of=kept)
            return new

        while True:
            attempts.begin(anonymous)
            try:
                return _run_uninterrupted(exchange_and_store)
            except YouCanAuthenticationError:
                raise
            except YouCanError as error:
                seconds = attempts.fail(request, error)
                _log.warning("%s Trying again in %.1f s.", error, seconds)
            time.sleep(seconds)


def _read_pair(payload: dict[str, Any], old_refresh_token: str, asked_at: float) -> _Pair:
    """Read a pair from the payload of the token endpoint, and have Airflow mask it."""
    # Some servers omit the refresh token; then the old one stays valid.
    refresh_token = payload["refresh_token"] if oauth.is_token(payload.get("refresh_token")) else old_refresh_token
    lifetime = oauth.read_lifetime(payload)
    pair = _Pair(payload["access_token"], refresh_token, asked_at + lifetime, lifetime)
    pair.mask()
    return pair


def _run_uninterrupted(function: Callable[[], _Pair]) -> _Pair:
    """Call a function in a thread, so that no timeout of the task interrupts it before a new pair is stored."""
    if threading.current_thread() is not threading.main_thread():
        return function()
    with ThreadPoolExecutor(1, "youcan-renewal") as thread:
        return thread.submit(function).result()


class _TokenVariable:
    """
    The Airflow Variable that holds the newest pair of one connection.

    Its name has "token" in it, so that Airflow masks its value, and a fingerprint of the refresh token in the
    connection. So a person's new refresh token starts a new Variable, two connections with the same refresh token don't
    use it twice, and the Test button, which gives the connection another id, finds the pair too.
    """

    def __init__(self, client: OAuthClient) -> None:
        fingerprint = hashlib.sha256(f"{client.client_id} {client.refresh_token}".encode()).hexdigest()[:24]
        self.name = f"youcan_token_{fingerprint}"
        self._description = (
            f"The access token of the YouCan app {client.client_id}, renewed by the tasks that use it. Without it, its "
            "connection has to be authorised again."
        )

    def read(self) -> _Pair | None:
        text = find_variable_class().get(self.name, None)
        if text is None:
            return None
        try:
            pair = _Pair(**json.loads(text))
        except (TypeError, ValueError):
            pair = None
        if pair is None or not pair.is_valid:
            _log.warning("The Airflow Variable %r holds no valid tokens, and is ignored.", self.name)
            return None
        pair.mask()
        return pair

    def check_that_it_can_be_stored(self) -> None:
        """
        Set another Variable and read it: a new pair that Airflow can't store now must not be requested.

        :raises YouCanConnectionError: if Airflow doesn't return what was set.
        """
        trial, variables = f"{self.name}_trial", find_variable_class()
        reason, is_stored = "LookupError", False
        try:
            before = variables.get(trial, None)
            try:
                variables.set(trial, secrets.token_hex(8), "Shows that Airflow can store a token; it can be deleted.")
            except Exception as error:  # perhaps only because another task has set it at the same moment
                reason = type(error).__name__
            # Another task's value proves as much, so it is no error if two tasks do this at once.
            is_stored = variables.get(trial, None) not in (None, before)
        except Exception as error:  # whatever Airflow's database or API raises
            reason = type(error).__name__
        if not is_stored:
            raise YouCanConnectionError(
                f"Airflow can't store a renewed access token in its Variables ({reason})",
                advice="see that tasks can set Variables; it may work later",
                outcome="The token has to be renewed, and no new one was requested",
            )

    def write(self, pair: _Pair, instead_of: _Pair | None) -> None:
        """
        Store a pair, and check that it is stored.

        :param pair: the new pair.
        :param instead_of: the one that it replaces; a pair that another task has stored since then stays.
        :raises YouCanAuthenticationError: if Airflow didn't store it.
        """
        value = json.dumps(vars(pair))

        def store() -> None:
            # None may mean "not readable right now". A different pair is newer: another task renewed ours.
            if self.read() in (None, instead_of):
                find_variable_class().set(self.name, value, self._description)
                if self.read() in (None, instead_of):
                    raise LookupError("it was not stored")

        retries = tenacity.Retrying(stop=tenacity.stop_after_delay(_STORE_RETRY_SECONDS), wait=_wait, reraise=True)
        try:
            retries(store)
        except Exception as error:  # whatever Airflow's database or API raises
            reason = type(error).__name__
        else:
            return
        raise YouCanAuthenticationError(
            f"Airflow did not store the renewed access token ({reason})",
            advice="let tasks set Variables, and authorise again (python -m airflow_provider_youcan authorize)",
            outcome=f"The old token no longer works, and the new one is not in the Variable {self.name!r}",
        )

    def wait_for_another(self, pair: _Pair | None) -> _Pair | None:
        """Wait until another task stores another pair, and return it; ``None`` if none does."""
        policy = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda read: read is None or read == pair),
            stop=tenacity.stop_after_delay(_WAIT_FOR_OTHER_SECONDS),
            wait=_wait,
            retry_error_callback=lambda _: None,
        )
        return policy(self.read)

"""
Access tokens that renew themselves: obtained with the OAuth client that a connection holds, kept in Airflow.

A refresh token works once, and the access token that it came with dies with it. So the newest pair is kept where
every worker finds it, in an Airflow Variable, and whoever comes second at a renewal takes up what the first one kept.

The facts come from https://developer.youcan.shop/store-admin (``introduction/oauth``); that a refresh token works
once is assumed from Laravel Passport.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sys
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
from airflow_provider_youcan.version_compat import mask_secret

__all__ = ["with_current_token"]

_MAX_MARGIN = 300.0
"""A token is renewed so many seconds before it runs out, or a tenth of its life if that is less."""

_WAIT_FOR_OTHER_SECONDS = 20.0
"""How long a task waits for a pair that another one is storing: two requests, both of which may be slow."""

_STORE_RETRY_SECONDS = 120.0
"""How long it is tried to store a new pair: without it, a person has to authorise again."""

_RENEWAL_COOLDOWN = 30.0
"""How long an early renewal that failed is not tried again."""

_MAX_ROUNDS = 10

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
    Return the credentials with a token that is good, as far as is known without asking YouCan.

    :param credentials: what the Airflow connection says.
    :param youcan_conn_id: its id, for the error messages.
    :param refused: the tokens that YouCan refused, if any.
    :param may_renew: whether a new token may be obtained, rather than taken up from who else did (default ``True``).
    :param max_retry_seconds: YouCan is not asked for one later than this after the first time; ``None`` leaves it to
        the connection's ``max_attempts`` alone (default).
    :return: the credentials, with a refused token if there is no other and none may be obtained.
    :raises YouCanAuthenticationError: if YouCan gives no new token, and no one else obtained one.
    :raises YouCanTransientError: if YouCan could not be asked for one, or Airflow can't keep one now.
    """
    client = credentials.oauth_client
    if client is None:
        return credentials
    variable = _TokenVariable(client)
    kept = variable.read()
    if kept is not None and kept.is_usable(refused):
        return kept.apply_to(credentials)
    # The connection's own token, until it is refused: a person may have put in a better one than is kept.
    if credentials.token not in ("", *refused) and (kept is None or kept.access_token in refused):
        return credentials
    if not may_renew:
        return kept.apply_to(credentials) if kept is not None else credentials
    try:
        return _renew(credentials, client, variable, kept, refused, youcan_conn_id, max_retry_seconds)
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
        """Whether it holds what it should: a person may have edited the Variable."""
        numbers = (self.expires_at, self.lifetime)
        return all(map(oauth.is_token, (self.access_token, self.refresh_token))) and all(
            isinstance(number, (int, float)) for number in numbers
        )

    def apply_to(self, credentials: Credentials, *, is_renewed: bool = False) -> Credentials:
        return replace(credentials, token=self.access_token, renew_at=self.renew_at, is_renewed=is_renewed)


def _renew(
    credentials: Credentials,
    client: OAuthClient,
    variable: _TokenVariable,
    kept: _Pair | None,
    refused: Collection[str],
    youcan_conn_id: str,
    max_retry_seconds: float | None,
) -> Credentials:
    # Before a refresh token is spent that could not be kept, or that only seems to be the newest because Airflow
    # takes a database that is out of reach for one without the Variable.
    variable.check_that_it_can_be_stored()
    newest = variable.read()
    if newest is not None and newest.is_usable(refused):
        return newest.apply_to(credentials)
    kept = newest or kept
    for _ in range(_MAX_ROUNDS):
        try:
            new = _exchange(credentials, client, variable, kept, youcan_conn_id, max_retry_seconds)
        except YouCanAuthenticationError as error:
            # Only a refresh token that YouCan refuses may have been spent by another.
            if error.status_code is None or error.detail == "invalid_client":
                raise
            _log.info(
                "The refresh token was refused; waiting up to %g s for another task to renew it.",
                _WAIT_FOR_OTHER_SECONDS,
            )
            newer = variable.wait_for_another(kept)
            if newer is None:
                raise
            if newer.is_usable(refused):
                return newer.apply_to(credentials)
            kept = newer
        else:
            count_renewal(youcan_conn_id)
            _log.info("Renewed the access token of the Airflow connection %r.", youcan_conn_id)
            return new.apply_to(credentials, is_renewed=True)
    raise YouCanAuthenticationError(
        f"The access token of the Airflow connection {youcan_conn_id!r} runs out faster than it can be renewed; check "
        "its lifetime on YouCan."
    )


def _exchange(
    credentials: Credentials,
    client: OAuthClient,
    variable: _TokenVariable,
    kept: _Pair | None,
    youcan_conn_id: str,
    max_retry_seconds: float | None,
) -> _Pair:
    """Give the refresh token for a new pair, and store that."""
    refresh_token = kept.refresh_token if kept else client.refresh_token
    request = oauth.exchange_refresh_token(client.client_id, client.client_secret, refresh_token)
    # The request for a token has none itself.
    anonymous = replace(credentials, token="")
    attempts = Attempts(max_retry_seconds)

    def exchange_and_store() -> _Pair:
        asked_at = time.time()
        with Session(anonymous) as session:
            answer = read_response(
                request, session.send_request(request, anonymous), f"the Airflow connection {youcan_conn_id!r}"
            )
        # Some servers leave the refresh token out, and then the old one stays.
        next_refresh_token = answer["refresh_token"] if oauth.is_token(answer.get("refresh_token")) else refresh_token
        lifetime = oauth.read_lifetime(answer)
        mask_secret(answer["access_token"])
        mask_secret(next_refresh_token)
        new = _Pair(answer["access_token"], next_refresh_token, asked_at + lifetime, lifetime)
        variable.write(new, instead_of=kept)
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


def _run_uninterrupted(function: Callable[[], _Pair]) -> _Pair:
    """Call a function where no timeout of the task's interrupts it, between a new pair and its storing."""
    if threading.current_thread() is not threading.main_thread():
        return function()
    with ThreadPoolExecutor(1, "youcan-renewal") as thread:
        return thread.submit(function).result()


class _TokenVariable:
    """
    The Airflow Variable that holds the newest pair of one connection.

    Its name has "token" in it, by which Airflow knows what to mask, and a fingerprint of the refresh token that the
    connection itself holds. So a refresh token that a person changes starts again, two connections with the same one
    don't spend it twice, and the Test button, which gives the connection another id, finds the pair all the same.
    """

    def __init__(self, client: OAuthClient) -> None:
        fingerprint = hashlib.sha256(f"{client.client_id} {client.refresh_token}".encode()).hexdigest()[:24]
        self.name = f"youcan_token_{fingerprint}"
        self._description = (
            f"The access token of the YouCan app {client.client_id}, renewed by the tasks that use it. Without it, its "
            "connection has to be authorised again."
        )

    def read(self) -> _Pair | None:
        text = _variable_class().get(self.name, None)
        if text is None:
            return None
        try:
            pair = _Pair(**json.loads(text))
        except (TypeError, ValueError):
            pair = None
        if pair is None or not pair.is_valid:
            _log.warning("The Airflow Variable %r holds no valid tokens, and is ignored.", self.name)
            return None
        mask_secret(pair.access_token)
        mask_secret(pair.refresh_token)
        return pair

    def check_that_it_can_be_stored(self) -> None:
        """
        Set another Variable and read it back: what Airflow can't keep now must not be asked for.

        :raises YouCanConnectionError: if Airflow doesn't hand out what was set.
        """
        trial = f"{self.name}_trial_{secrets.token_hex(4)}"
        variables = _variable_class()
        try:
            variables.set(trial, "kept", "Whether a new access token could be kept; it can be deleted.")
            is_kept = variables.get(trial, None) == "kept"
            variables.delete(trial)
            if not is_kept:
                raise LookupError("it was not kept")
        except Exception as error:  # whatever Airflow's database or API raises
            reason = type(error).__name__
        else:
            return
        raise YouCanConnectionError(
            f"The access token has to be renewed, but Airflow can't keep a new one in its Variables now ({reason}), so "
            "none was asked for; see that tasks can set Variables, or it may work later."
        )

    def write(self, pair: _Pair, instead_of: _Pair | None) -> None:
        """
        Keep a pair, and see that it is kept.

        :raises YouCanAuthenticationError: if Airflow didn't keep it.
        """
        value = json.dumps(vars(pair))

        def keep() -> None:
            # None may only mean that the Variable can't be read now. What is another is newer: who read this pair
            # at an earlier attempt has renewed it.
            if self.read() in (None, instead_of):
                _variable_class().set(self.name, value, self._description)
                if self.read() in (None, instead_of):
                    raise LookupError("it was not kept")

        retries = tenacity.Retrying(stop=tenacity.stop_after_delay(_STORE_RETRY_SECONDS), wait=_wait, reraise=True)
        try:
            retries(keep)
        except Exception as error:  # whatever Airflow's database or API raises
            reason = type(error).__name__
        else:
            return
        raise YouCanAuthenticationError(
            f"YouCan gave a new access token, but Airflow didn't keep it in its Variable {self.name!r} ({reason}), and "
            "the old one no longer works; make sure that tasks can set Variables, and authorise again (python -m "
            "airflow_provider_youcan authorize)."
        )

    def wait_for_another(self, pair: _Pair | None) -> _Pair | None:
        """Wait until someone keeps another pair, and return it, or ``None`` if no one does."""
        policy = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda read: read is None or read == pair),
            stop=tenacity.stop_after_delay(_WAIT_FOR_OTHER_SECONDS),
            wait=_wait,
            retry_error_callback=lambda _: None,
        )
        return policy(self.read)


_wait = tenacity.wait_random_exponential(multiplier=0.1, max=2)


def _variable_class() -> Any:
    """Return the Task SDK's Variable in a task of Airflow 3, and else the model: the Test button works in a service."""
    if hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS"):
        from airflow.providers.common.compat.sdk import Variable

        return Variable
    from airflow.models.variable import Variable as Model

    return Model

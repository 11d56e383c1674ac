"""The address of a shop and its access token, as plain data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from copy import copy
from dataclasses import dataclass, field, replace

from airflow_provider_youcan.exceptions import YouCanError, YouCanTransientError

__all__ = ["Credentials", "CredentialsCache", "OAuthClient"]

_TTL = 60.0
"""Seconds after which credentials are looked up again, by a wait or after the shop could not be reached."""

_COOLDOWN = 10.0
"""Seconds for which known credentials are used after a look-up that failed."""


@dataclass(frozen=True)
class OAuthClient:
    """
    The OAuth app and the refresh token, which renew an access token.

    :param client_id: the id of the app on YouCan.
    :param client_secret: its secret.
    :param refresh_token: the refresh token that the Airflow connection holds.
    """

    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """
    The address of a shop, the access token, and the settings of the connection.

    :param base_url: where the API is, without a slash at its end.
    :param token: the access token; empty where the connection holds none, and one has to be obtained.
    :param timeout: seconds to wait for a connection, for an answer to begin, and for it to end.
    :param max_attempts: how often a request is sent at most.
    :param verify: the path of a CA bundle, or ``True`` for the usual one.
    :param requests_per_second: how many requests a second a task that sends many may send at most, or ``None``.
    :param oauth_client: the OAuth client that renews the token; ``None`` if it is not renewed.
    :param renew_at: when the token is to be renewed, in seconds since 1970.
    :param is_renewed: whether the token was obtained just now, by this process.
    :param token_since: since when this token is used, in seconds of the monotonic clock.
    """

    base_url: str
    token: str = field(repr=False)
    timeout: float = 30.0
    max_attempts: int = 4
    verify: bool | str = True
    requests_per_second: float | None = None
    oauth_client: OAuthClient | None = None
    renew_at: float = math.inf
    is_renewed: bool = False
    token_since: float = field(default_factory=time.monotonic, compare=False, repr=False)

    @property
    def is_running_out(self) -> bool:
        """True if it is time to renew the token."""
        return time.time() >= self.renew_at

    def has_same_token(self, other: Credentials) -> bool:
        """True if both lead to the same place with the same token."""
        return (self.token, self.base_url) == (other.token, other.base_url)

    def with_age_of(self, earlier: Credentials | None) -> Credentials:
        """Return these credentials in place of earlier ones: the same token has been used since then."""
        if earlier is None or not self.has_same_token(earlier):
            return self
        return replace(self, token_since=earlier.token_since)


class CredentialsCache:
    """
    The credentials of one connection as far as they are known, and whether to look them up again.

    :param clock: returns the time in seconds (default the machine's monotonic one).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failure: YouCanError | None = None
        """A copy of the error of the last look-up that failed."""
        self.failed_at = -math.inf
        self.denied: set[str | None] = set()
        """The scopes for which a new token was refused."""
        self._clock = clock
        self._known: Credentials | None = None
        self._found_at = 0.0
        self._is_expired = False

    def find(self, refused: Collection[Credentials] = ()) -> Credentials | None:
        """
        Return the credentials if no look-up is needed.

        :param refused: those that the shop has refused.
        """
        known = self._find_known(refused) if refused else self._known
        if known is None:
            return None
        is_due = self._is_expired or (known.renew_at < math.inf and known.is_running_out)
        return None if is_due and self._clock() > self.failed_at + _COOLDOWN else known

    def store(self, found: Credentials) -> Credentials:
        """Keep what a look-up found, and return it."""
        self._known, self._found_at, self._is_expired = found.with_age_of(self._known), self._clock(), False
        return self._known

    def fail(self, error: YouCanError, refused: Collection[Credentials] = ()) -> Credentials:
        """
        Return the credentials to go on with after a look-up that failed.

        :raises YouCanError: the error, if none are known or it is permanent.
        """
        self.failure, self.failed_at = copy(error), self._clock()
        known = self._find_known(refused)
        if known is None or not isinstance(error, YouCanTransientError):
            raise error
        return known

    def expire(self) -> None:
        """Have the credentials looked up again, unless that was done a moment ago."""
        self._is_expired = self._clock() > self._found_at + _TTL

    def _find_known(self, refused: Collection[Credentials]) -> Credentials | None:
        known = self._known
        return None if known is None or any(known.has_same_token(old) for old in refused) else known

"""How to reach a shop: the address and the access token, as plain data."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

__all__ = ["Credentials", "OAuthClient"]


@dataclass(frozen=True)
class OAuthClient:
    """
    What an access token is renewed with.

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
    How to reach a shop.

    :param base_url: where the API is, without a slash at its end.
    :param token: the access token; empty where the connection holds none, and one has to be obtained.
    :param timeout: seconds to wait for a connection, for an answer to begin, and for it to end.
    :param max_attempts: how often a request is sent at most.
    :param verify: the path of a CA bundle, or ``True`` for the usual one.
    :param requests_per_second: how many requests a second a task that sends many may send at most, or ``None``.
    :param oauth_client: what the token is renewed with, or ``None`` for one that isn't.
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
        """Whether it is time to renew the token."""
        return time.time() >= self.renew_at

    def has_same_token(self, other: Credentials) -> bool:
        """Whether they lead to the same place with the same token."""
        return (self.token, self.base_url) == (other.token, other.base_url)

    def with_age_of(self, earlier: Credentials | None) -> Credentials:
        """Return these credentials in place of earlier ones: the same token has been used since then."""
        if earlier is None or not self.has_same_token(earlier):
            return self
        return replace(self, token_since=earlier.token_since)

"""The reasons for which no answer came, the same for both transports."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from airflow_provider_youcan.client.endpoints import Request
from airflow_provider_youcan.exceptions import YouCanConnectionError

__all__ = ["TransportFailure", "connection_error", "lookup_by_type"]

T = TypeVar("T")


class TransportFailure(Enum):
    """A reason for which no whole answer came; the transports map their own errors to these."""

    NO_HOST = "The host of {where} could not be found"
    NO_CONNECTION = "There is no connection to {where}"
    NO_CONNECTION_IN_TIME = "There is no connection to {where} within {timeout:g} s"
    NO_PROXY = "The proxy to {where} could not be reached, or refused"
    NO_TLS = "The server at {where} does not speak TLS (is it http?)"
    NO_VALID_CERTIFICATE = "The TLS certificate of {where} could not be verified"
    NOT_IN_TIME = "YouCan gave no whole answer within {timeout:g} s"
    LOST = "The answer was lost or broke off"

    @property
    def was_sent(self) -> bool:
        """True if the shop may have taken the request all the same."""
        return self in (TransportFailure.NOT_IN_TIME, TransportFailure.LOST)


_CHECK_HOST = "check the host of {connection}, and the network; it may work later"
_ADVICE = {
    TransportFailure.NO_HOST: _CHECK_HOST,
    TransportFailure.NO_CONNECTION: _CHECK_HOST,
    TransportFailure.NO_CONNECTION_IN_TIME: _CHECK_HOST,
    TransportFailure.NO_PROXY: "check HTTPS_PROXY and NO_PROXY; it may work later",
    TransportFailure.NO_TLS: "check the host and the port of {connection}",
    TransportFailure.NO_VALID_CERTIFICATE: "check the host of {connection}, or name its CA in the extra 'verify'",
}


def connection_error(
    request: Request,
    why: TransportFailure,
    base_url: str,
    timeout: float,
    connection: str = "the Airflow connection",
) -> YouCanConnectionError:
    """
    Build the error for a request that got no whole answer.

    :param request: what was asked.
    :param why: what kept the answer from coming.
    :param base_url: where the API is.
    :param timeout: the seconds that were waited for.
    :param connection: what to call the Airflow connection.
    """
    what = why.value.format(where=base_url, timeout=timeout)
    unconfirmed = why.was_sent and request.method == "PUT"
    outcome = "whether YouCan took it is unknown" if unconfirmed else "nothing was changed"
    error = YouCanConnectionError(
        what,
        advice=_ADVICE.get(why, "it may work later").format(connection=connection),
        outcome=f"Could not {request.purpose}: {outcome}",
        method=request.method,
        url=request.path,
        detail=what,
    )
    error.unconfirmed = unconfirmed
    return error


def lookup_by_type(table: Mapping[type[BaseException], T], error: object) -> T | None:
    """Return a table's entry for the class of an error, or for the nearest of its base classes."""
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)

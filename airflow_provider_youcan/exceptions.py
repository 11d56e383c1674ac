"""
The errors of YouCan, and what Airflow should do about each.

Every error is a :class:`YouCanError`, and either *transient* or *permanent*. A transient error is left to
Airflow's retries, and a sensor keeps waiting through it. A permanent error is an
:class:`~airflow.exceptions.AirflowFailException` as well: the task fails at once, whatever its ``retries``
say, because trying again could not help.

No error holds the access token or anything of a customer's: neither in its message nor in an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "FATAL_ERRORS",
    "NOTHING_SENT",
    "YouCanAuthenticationError",
    "YouCanConnectionError",
    "YouCanConnectionNotFoundError",
    "YouCanError",
    "YouCanInvalidInputError",
    "YouCanOrderNotFoundError",
    "YouCanPermanentError",
    "YouCanPermissionError",
    "YouCanRateLimitError",
    "YouCanRecordError",
    "YouCanServerError",
    "YouCanStoreSuspendedError",
    "YouCanTaskStoppedError",
    "YouCanTooManyChangesError",
    "YouCanTransientError",
    "YouCanUnexpectedResponseError",
    "YouCanUnknownStatusError",
    "YouCanValidationError",
    "ends_wait",
    "from_dict",
    "to_dict",
]


NOTHING_SENT = "nothing was sent"
"""The outcome of what failed before any request."""


class _Exchange(TypedDict, total=False):
    """The parts of an error that are about the request and its answer."""

    method: str | None
    url: str | None
    status_code: int | None
    detail: str | None


class _Details(_Exchange, total=False):
    """The parts that every error may have beside its problem."""

    advice: str | None
    outcome: str | None


class YouCanError(AirflowException):
    """
    Anything that this provider raises. Its message is ``problem: advice. outcome.``, as far as there are these.

    :param problem: what is wrong; where there is nothing else, it is the whole message.
    :param advice: what to do about it (default ``None``).
    :param outcome: what was not done, and for which order (default ``None``).
    :param method: the HTTP method of the request, ``None`` if none was sent.
    :param url: the path of the request (no host, no query), ``None`` if none was sent.
    :param status_code: the HTTP status of the answer, ``None`` if there was none.
    :param detail: the reason that YouCan gave, on one line, ``None`` if it gave none.
    """

    unconfirmed = False
    """True if an update may have been applied although no confirmation came."""

    status_before: str | None = None
    """The status before such an update, if it was read."""

    # Everything but the message is optional, so that pickling and copying (which call the class with
    # ``args`` alone and then restore the attributes) work for every error.
    def __init__(
        self,
        problem: str = "",
        *,
        advice: str | None = None,
        outcome: str | None = None,
        method: str | None = None,
        url: str | None = None,
        status_code: int | None = None,
        detail: str | None = None,
    ) -> None:
        message = problem if advice is None else f"{problem}: {advice}"
        if outcome is not None:
            message = f"{message.rstrip('.')}{'; ' if outcome[:1].islower() else '. '}{outcome}."
        super().__init__(message)
        self.problem = problem
        self.advice = advice
        self.outcome = outcome
        self.method = method
        self.url = url
        self.status_code = status_code  # type: ignore[assignment]  # Airflow 2 types it as always there
        self.detail = detail

    def drop_nothing_sent(self) -> None:
        """Remove the outcome "nothing was sent" from the message, for a task that only reads."""
        if self.outcome == NOTHING_SENT:
            self.outcome = None
            self.args = (self.problem if self.advice is None else f"{self.problem}: {self.advice}",)


class YouCanTransientError(YouCanError):
    """
    It may work later: Airflow retries the task, a sensor keeps waiting.

    ``retry_after`` is how many seconds the shop asked to wait, or ``None`` where it didn't say.
    """

    def __init__(
        self,
        problem: str = "",
        *,
        retry_after: float | None = None,
        **details: Unpack[_Details],
    ) -> None:
        super().__init__(problem, **details)
        self.retry_after = retry_after


class YouCanConnectionError(YouCanTransientError):
    """No answer came: no connection, a reset one, or a timeout. The update may or may not have happened."""


class YouCanConnectionNotFoundError(YouCanConnectionError):
    """
    Airflow 3 did not return the Airflow connection: it does not exist, or the secrets backend is out of reach.

    The Task SDK answers both with ``AirflowNotFoundException``, so it may work later. Airflow 2 distinguishes them,
    and a connection that is not there is a :class:`YouCanInvalidInputError` on it.
    """


class YouCanTaskStoppedError(YouCanTransientError):
    """The task was stopped, so nothing more was sent."""


class YouCanRecordError(YouCanTransientError):
    """The record of a run takes no lines, and no update is sent without one."""


class YouCanServerError(YouCanTransientError):
    """YouCan answered 408 or 5xx."""


class YouCanRateLimitError(YouCanTransientError):
    """YouCan answered 429: too many requests. ``retry_after`` says for how long to hold back."""


class YouCanUnexpectedResponseError(YouCanTransientError):
    """An answer that is not YouCan's (a gateway's page, half a body) or that contradicts its own status line."""


class YouCanPermanentError(YouCanError, AirflowFailException):
    """Trying again can't help: the task fails at once. Also raised as such for a redirect and for other 4xx."""


class YouCanAuthenticationError(YouCanPermanentError):
    """YouCan answered 401: the token is missing, wrong, revoked or expired, or lacks a scope. The message names it."""


class YouCanStoreSuspendedError(YouCanPermanentError):
    """YouCan answered 402: the store is closed or suspended."""


class YouCanPermissionError(YouCanPermanentError):
    """YouCan answered 403: the token lacks a scope. The message names it."""


class YouCanOrderNotFoundError(YouCanPermanentError):
    """YouCan answered 404: the shop has no such order."""


class YouCanValidationError(YouCanPermanentError):
    """
    YouCan answered 422: it refused what was sent.

    ``fields`` maps each refused field to YouCan's complaints about it; empty where it named none.
    """

    def __init__(
        self,
        problem: str = "",
        *,
        fields: Mapping[str, Sequence[str]] | None = None,
        **details: Unpack[_Details],
    ) -> None:
        super().__init__(problem, **details)
        self.fields = {name: list(complaints) for name, complaints in (fields or {}).items()}


class YouCanInvalidInputError(YouCanPermanentError, ValueError):
    """
    Refused here, before any request: a bad order id, status, argument or connection.

    With an ``advice`` the message ends with the outcome, by default that nothing was sent.
    """

    def __init__(
        self,
        problem: str = "",
        *,
        advice: str | None = None,
        outcome: str | None = NOTHING_SENT,
        **details: Unpack[_Exchange],
    ) -> None:
        super().__init__(problem, advice=advice, outcome=None if advice is None else outcome, **details)

    @property
    def reason(self) -> str:
        """The problem and the advice, for one row of a table; the table's own error says that nothing was sent."""
        return (self.problem if self.advice is None else f"{self.problem}: {self.advice}").rstrip(".")


class YouCanTooManyChangesError(YouCanPermanentError):
    """More would change than ``max_changes`` allows, so nothing was sent."""


class YouCanUnknownStatusError(YouCanInvalidInputError):
    """
    The status is neither documented nor in the store's own list.

    ``closest`` holds the known slugs nearest to it, best first; it may be empty.
    """

    def __init__(self, problem: str = "", *, advice: str | None = None, closest: Sequence[str] = ()) -> None:
        super().__init__(problem, advice=advice)
        self.closest = list(closest)


FATAL_ERRORS = (
    YouCanAuthenticationError,
    YouCanStoreSuspendedError,
    YouCanPermissionError,
    YouCanInvalidInputError,
    YouCanRateLimitError,
    YouCanRecordError,
    YouCanTaskStoppedError,
)
"""A reconciliation ends at one of these: the other orders would fail, too. Transient or not is another question."""


def to_dict(error: YouCanError) -> dict[str, Any]:
    """Return an error as plain JSON, which the triggerer sends to the task."""
    return {"error": type(error).__name__, "message": str(error), "attributes": vars(error)}


def from_dict(data: Mapping[str, Any]) -> YouCanError:
    """
    Rebuild the error that :func:`to_dict` was given: the same class, message and attributes.

    :raises ValueError: if that is no such error, or one that this version does not know.
    """
    kind = globals().get(str(data.get("error")))
    message, attributes = data.get("message"), data.get("attributes")
    is_error = isinstance(kind, type) and issubclass(kind, YouCanError)
    if not (is_error and isinstance(message, str) and isinstance(attributes, Mapping)):
        raise ValueError
    error: YouCanError = kind(message)  # type: ignore[misc]  # mypy does not follow is_error
    vars(error).update(attributes)
    return error


def ends_wait(error: YouCanError) -> bool:
    """Return whether a wait for a status ends by an error: a redirect is a gateway's, and the next look may succeed."""
    is_redirect = error.status_code is not None and error.status_code // 100 == 3
    return isinstance(error, YouCanPermanentError) and not is_redirect

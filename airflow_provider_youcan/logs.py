"""Warnings that come by the hundred when a shop is down, written so that a person can read the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Logger", "Throttle"]

_SECONDS = 30.0


class Logger(Protocol):
    """The common part of Airflow's logger of a class and Python's own."""

    def info(self, event: str, *args: Any) -> Any:
        """Log what a user cares about."""

    def warning(self, event: str, *args: Any, exc_info: Any = None) -> Any:
        """Log what a user should look at."""


class Throttle:
    """
    Logs the first warning of a kind at once, and then one every 30 seconds that says how many there were.

    A kind is a message before its values are put in, so that many of one kind hide none of another.

    :param logger: where they are logged.
    :param clock: returns the time in seconds (default the machine's monotonic one).
    """

    def __init__(self, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def __call__(self, message: str, *values: Any) -> None:
        """Log a warning, or count it."""
        now = self._clock()
        next_at, skipped = self._seen.get(message, (now, 0))
        if now < next_at:
            self._seen[message] = next_at, skipped + 1
            return
        more = f" ({skipped} more such warnings in the last {_SECONDS:g} s or longer)" if skipped else ""
        self._logger.warning(f"{message}{more}", *values)
        self._seen[message] = now + _SECONDS, 0

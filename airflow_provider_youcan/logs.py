"""Warnings that come by the hundred when a shop is down, written so that a person can read the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Logger", "Throttle"]

_SECONDS = 30.0


class Logger(Protocol):
    """What Airflow's logger of a class and Python's own have in common."""

    def info(self, event: str, *args: Any) -> Any:
        """Log what a user cares about."""

    def warning(self, event: str, *args: Any, exc_info: Any = None) -> Any:
        """Log what a user should look at."""


class Throttle:
    """
    Logs the first warning of a kind at once, and then one every 30 seconds that says how many there were.

    :param logger: where they are logged.
    :param clock: returns the time in seconds (default the machine's monotonic one).
    """

    def __init__(self, logger: Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._next_at = -1.0
        self._skipped = 0

    def __call__(self, message: str, *values: Any) -> None:
        """Log a warning, or count it."""
        now = self._clock()
        if now < self._next_at:
            self._skipped += 1
            return
        more = f" ({self._skipped} more such warnings in the last {_SECONDS:g} s or longer)" if self._skipped else ""
        self._logger.warning(f"{message}{more}", *values)
        self._next_at, self._skipped = now + _SECONDS, 0

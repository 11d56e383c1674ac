"""The lines of a report: JSON, one for each status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

__all__ = ["COMPLETE", "LINE_KEYS", "JsonLines", "Sink"]

LINE_KEYS = ("order_id", "ref", "context", "before", "wanted", "outcome", "reason")
COMPLETE = "complete"
"""The outcome of the last line of a report, which is about no status."""


class Sink(Protocol):
    """Takes the lines of a report as they come."""

    def write(self, row: int | None, line: Mapping[str, Any]) -> None:
        """
        Take a line.

        :param row: the row that it is about.
        :param line: plain JSON.
        """


class JsonLines:
    """
    Writes a report as JSON lines.

    :param file: where.
    """

    def __init__(self, file: TextIO) -> None:
        self._file: TextIO | None = file

    def write(self, row: int | None, line: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Write a line at once, so that a task that is killed leaves what it did."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        except Exception:  # whatever a storage raises
            # A full disk takes no more; what is under way is still counted.
            self._file = None
            raise

    def complete(self, *, dry_run: bool, store: str | None, rows: int, max_changes: str | None) -> None:
        """Write the last line, which says that nothing is missing."""
        end: dict[str, Any] = {**dict.fromkeys(LINE_KEYS), "outcome": COMPLETE}
        end |= {"dry_run": dry_run, "store": store, "rows": rows}
        if max_changes is not None:
            # Only where more would change than it allowed, so that the plan is not applied as if it had not been.
            end["max_changes"] = max_changes
        self.write(None, end)

"""The files of reports: any path or URL that Airflow's ``ObjectStoragePath`` takes."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.storage import as_path, is_local, open_file

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

__all__ = ["ReportFile", "read_lines"]

_log = logging.getLogger(__name__)


class ReportFile:
    """
    A file to which a report is written, beside what is there already: ``name.jsonl``, ``name.2.jsonl``, and so on.

    Opening it writes and closes an empty one first: an object store refuses what it does not take only when it is
    closed. No error of the file takes the place of the error that the run itself ended in.

    :param path: the path or URL, or ``None`` for no report.
    :raises YouCanConnectionError: when it is opened, if nothing can be written there.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        """Where it is, once it is open."""
        self.text: TextIO | None = None
        """Where to write, ``None`` for no report."""

    def __enter__(self) -> ReportFile:
        if self.path is not None:
            self.path, self.text = self._open(self.path)
        return self

    def flush(self) -> None:
        """Have what was written so far leave this process, as far as its storage can do that."""
        if self.text is None:
            return
        try:
            self.text.flush()
        except Exception:  # whatever a storage raises
            _log.warning("The report at %s could not be flushed.", self.path, exc_info=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.text is None:
            return
        try:
            self.text.close()
        except Exception:
            if error is None:
                raise
            _log.exception("The report at %s could not be closed, so it may lack what was done.", self.path)

    @staticmethod
    def _open(path: str) -> tuple[str, TextIO]:
        try:
            target = _claim_free_place(as_path(path))
            text: TextIO = target.open("w", encoding="utf-8", errors="backslashreplace")  # type: ignore[no-untyped-call]
        except ImportError as error:
            # What a storage needs, and is not installed; its own words say what.
            missing = str(error)
        except Exception as error:  # whatever a storage raises
            missing, reason = "", f"{type(error).__name__}: {error}"
        else:
            return path if target == as_path(path) else _as_text(target, path), text
        if missing:
            raise YouCanInvalidInputError(f"The report can't be written to {path}, so nothing was sent: {missing}.")
        raise YouCanConnectionError(
            f"The report can't be written to {path} ({reason}), so nothing was sent: check report_path and what its "
            "storage allows."
        )


def read_lines(path: str) -> Iterator[str]:
    """
    Return the lines of a report, each with its end.

    :param path: the path or URL.
    :raises YouCanInvalidInputError: if there is no such file, or it is no text.
    :raises YouCanConnectionError: if its storage is out of reach.
    """
    with open_file(path, "report") as file:
        try:
            yield from io.TextIOWrapper(file, encoding="utf-8")
        except UnicodeDecodeError:
            raise YouCanInvalidInputError(
                f"The file at {path} is not a report, because it is not text, so nothing was sent."
            ) from None


def _claim_free_place(target: ObjectStoragePath) -> ObjectStoragePath:
    """Return the path, or one beside it where another try or run has left its report, with an empty file there."""
    if is_local(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(2):
        free = target if number == 2 else target.with_name(f"{target.stem}.{number - 1}{target.suffix}")
        if _claim(free):
            return free
    raise AssertionError("there is always another number")


def _claim(free: ObjectStoragePath) -> bool:
    if not is_local(free):
        # An object store can't tell which of two tasks came first.
        if free.exists():
            return False
        free.write_text("", encoding="utf-8")
        return True
    from pathlib import Path

    try:
        Path(free.path).touch(exist_ok=False)
    except FileExistsError:
        # What is there and is no file, such as a device, takes all that is written to it.
        return not free.is_file()
    return True


def _as_text(target: ObjectStoragePath, path: str) -> str:
    # A local path stays one, rather than become a URL.
    return str(target.path) if "://" not in path else str(target)

"""The file of a report: any path or URL that Airflow's ``ObjectStoragePath`` takes, tried before anything is sent."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TextIO

from airflow_provider_youcan.exceptions import YouCanConnectionError

__all__ = ["ReportFile"]

_log = logging.getLogger(__name__)


class ReportFile:
    """
    A file to which a report is written.

    Opening it writes and closes an empty one first: an object store refuses what it does not take only when it is
    closed. No error of the file takes the place of the error that the run itself ended in.

    :param path: the path or URL, or ``None`` for no report.
    :raises YouCanConnectionError: when it is opened, if nothing can be written there.
    """

    def __init__(self, path: str | None) -> None:
        self.text: TextIO | None = None
        """Where to write, ``None`` for no report."""
        self._path = path

    def __enter__(self) -> ReportFile:
        if self._path is not None:
            self.text = self._open(self._path)
        return self

    def flush(self) -> None:
        """Have what was written so far leave this process, as far as its storage can do that."""
        if self.text is None:
            return
        try:
            self.text.flush()
        except Exception:  # whatever a storage raises
            _log.warning("The report at %s could not be flushed.", self._path, exc_info=True)

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
            _log.exception("The report at %s could not be closed, so it may lack what was done.", self._path)

    @staticmethod
    def _open(path: str) -> TextIO:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        target = ObjectStoragePath(path)
        try:
            if target.protocol in ("", "file"):
                target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("", encoding="utf-8")
            text: TextIO = target.open("w", encoding="utf-8", errors="backslashreplace")  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever a storage raises
            reason = f"{type(error).__name__}: {error}"
        else:
            return text
        raise YouCanConnectionError(
            f"The report can't be written to {path} ({reason}), so nothing was sent: check report_path and what its "
            "storage allows."
        )

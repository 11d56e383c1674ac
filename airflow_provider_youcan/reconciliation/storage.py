"""Files: at any path or URL that Airflow's ``ObjectStoragePath`` takes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from airflow_provider_youcan.exceptions import NOTHING_SENT, YouCanConnectionError, YouCanError, YouCanInvalidInputError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

__all__ = ["as_path", "is_local", "is_same_file", "open_file", "read_error"]

_BLOCK = 1 << 18


@contextmanager
def open_file(path: str, what: str) -> Iterator[BinaryIO]:
    """
    Open a file to be read.

    :param path: its path or URL.
    :param what: what it is called in errors, such as ``"report"``.
    :raises YouCanInvalidInputError: if there is no such file, or no such storage.
    :raises YouCanConnectionError: if its storage is out of reach, also while it is read.
    """
    try:
        file = as_path(path).open("rb")  # type: ignore[no-untyped-call]
    except Exception as error:  # each storage has errors of its own
        raise read_error(path, what, error) from None
    with file:
        yield io.BufferedReader(_StoredFile(file, path, what), _BLOCK)


def read_error(path: str, what: str, error: Exception) -> YouCanError:
    """Return the error for an unreadable file: permanent for a wrong path, transient if the storage is out of reach."""
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return YouCanInvalidInputError(f"There is no {what} at {path}", advice="check where it was written.")
    if isinstance(error, (ImportError, ValueError)):  # no such scheme, or what its storage needs is not installed
        return YouCanInvalidInputError(f"The {what} at {path} can't be read", advice=f"{error}.")
    reason = f"{type(error).__name__}: {error}"
    return YouCanConnectionError(
        f"The {what} at {path} can't be read ({reason})", advice="it may work later", outcome=NOTHING_SENT
    )


class _StoredFile(io.RawIOBase):
    """A file that turns its storage's errors into ours, so that they are not taken for parsing errors."""

    def __init__(self, file: BinaryIO, path: str, what: str) -> None:
        self._file = file
        self._names = (path, what)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._file.read(len(buffer))
        except Exception as error:  # each storage has errors of its own
            raise read_error(*self._names, error) from None
        buffer[: len(data)] = data
        return len(data)


def is_same_file(one: str, other: str) -> bool:
    """Return whether two paths or URLs lead to the same file."""
    first, second = as_path(one), as_path(other)
    if is_local(first) and is_local(second):
        from pathlib import Path

        return Path(first.path).resolve() == Path(second.path).resolve()
    return first == second


def is_local(target: ObjectStoragePath) -> bool:
    """Return whether a path is one of this machine's."""
    return target.protocol in ("", "file")


def as_path(path: str) -> ObjectStoragePath:
    """Return a path or URL as Airflow reads it."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return ObjectStoragePath(path)

"""The files of records: any path or URL that Airflow's ``ObjectStoragePath`` takes."""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from airflow_provider_youcan.exceptions import NOTHING_SENT, YouCanConnectionError, YouCanError, YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.record.lines import COMPLETE, Line
from airflow_provider_youcan.reconciliation.storage import as_path, is_local, open_file, read_error

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

__all__ = ["LocalFile", "StoredFile", "find_newer", "open_record_file", "read_lines"]


_MAX_NUMBER = 1000
"""A larger number in a name is a date."""


def open_record_file(path: str) -> LocalFile | StoredFile:
    """
    Return the sink of a file, beside what is there already: ``name.jsonl``, ``name.2.jsonl``, and so on.

    :param path: the path or URL.
    :raises YouCanError: if it makes no sense as a path, or what its storage needs is not installed.
    """
    try:
        target = as_path(path)
    except Exception as error:  # whatever a storage raises
        raise _refused(path, error) from None
    return LocalFile(path, target) if is_local(target) else StoredFile(path, target)


class LocalFile:
    """
    A file of this machine, to which lines are appended. A written line survives the end of this process.

    :param path: where it is to be.
    :param target: the same, as Airflow reads it.
    """

    def __init__(self, path: str, target: ObjectStoragePath) -> None:
        self.path = path
        """Its path, once it is open."""
        self.name = f"The report at {path}"
        self._target = target
        self._descriptor: int | None = None
        self._size = 0

    def open(self) -> None:
        """Create the file."""
        try:
            if self._target.is_dir():
                raise IsADirectoryError("it is a directory")
            self._target.parent.mkdir(parents=True, exist_ok=True)
            free = next(filter(_claim_local, _names(self._target)))
            self._descriptor = os.open(free.path, os.O_WRONLY | os.O_APPEND)
        except Exception as error:  # whatever a file system raises
            raise _refused(self.path, error) from None
        self.path = self.path if free == self._target else _as_text(free, self.path)
        self.name = f"The report at {self.path}"

    def append(self, lines: list[tuple[int, int | None, Line]]) -> None:
        """Write lines, or none of them."""
        assert self._descriptor is not None  # noqa: S101  # for the type checker: it is open
        text = _encode(line for _, _, line in lines)
        written = 0
        try:
            while written < len(text):
                written += os.write(self._descriptor, text[written:])
        except OSError:
            if written:
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += written

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)


class StoredFile:
    """
    A file of an object store, which can't be appended to: parts beside its name, which become one file at the end.

    The parts of ``run.jsonl`` are ``run.jsonl.parts/000001-5f0c21ab.jsonl`` and so on, each whole once it is closed;
    the last letters are the writer's own.

    :param path: where it is to be.
    :param target: the same, as Airflow reads it.
    """

    def __init__(self, path: str, target: ObjectStoragePath) -> None:
        self.path = path
        """Its path, once it is open."""
        self.name = f"The report at {path}"
        self._target = target
        self._token = secrets.token_hex(4)
        self._parts = 0
        self._is_complete = False

    def open(self) -> None:
        """Write an empty part: only then an object store says whether it takes anything."""
        try:
            free = next(filter(self._claim, _names(self._target)))
            path = self.path if free == self._target else _as_text(free, self.path)
            self._target = free
        except Exception as error:  # whatever a storage raises
            raise _refused(self.path, error) from None
        self.path = path
        self.name = f"The report at {self.path}"

    def append(self, lines: list[tuple[int, int | None, Line]]) -> None:
        """Write lines as a part."""
        self._write_part(_encode(line for _, _, line in lines))
        self._is_complete = lines[-1][2]["outcome"] == COMPLETE

    def close(self) -> None:
        """Make one file of the parts. Without the last line they stay as they are, and are found all the same."""
        if not self._is_complete:
            return
        parts = _parts_of(self._target)
        # Until the parts are gone, a reader takes the file only if it is as long as they are.
        with self._target.open("wb") as file:  # type: ignore[no-untyped-call]
            for part in parts:
                file.write(part.read_bytes())
        for part in parts:
            part.unlink()

    def _claim(self, free: ObjectStoragePath) -> bool:
        if _is_taken(free):
            return False
        # An object store has no "create only if it is missing" that all storages know. If two writers come at
        # once, the later one sees what the other wrote; a writer that sees this tries the next name.
        claim = self._part(free, 1)
        claim.write_bytes(b"")
        if _parts_of(free) != [claim] or free.exists():
            claim.unlink()
            return False
        self._parts = 1
        return True

    def _write_part(self, text: bytes) -> None:
        # A retry after a failure writes the same part again, so the part is complete in the end.
        self._part(self._target, self._parts + 1).write_bytes(text)
        self._parts += 1

    def _part(self, target: ObjectStoragePath, number: int) -> ObjectStoragePath:
        return _parts_folder(target) / f"{number:06}-{self._token}.jsonl"


def read_lines(path: str) -> Iterator[bytes]:
    """
    Return the lines of a record, with their line ends; if the file is not there, the lines of its parts.

    :param path: the path or URL.
    :raises YouCanInvalidInputError: if there is no such file.
    :raises YouCanConnectionError: if its storage is out of reach.
    """
    for place in _find_parts(path) or [path]:
        with open_file(place, "report") as file:
            yield from file


def find_newer(path: str) -> str | None:
    """Return the newest file that was written beside another because its name was taken, else ``None``."""
    target = as_path(path)
    base, _, number = target.stem.rpartition(".")
    names = _names(target)
    if base and number.isdecimal() and 2 <= int(number[:4]) < _MAX_NUMBER:
        # It may be such a file itself: then the first one and all between are there.
        before = [
            name for name, _ in zip(_names(target.with_name(base + target.suffix)), range(int(number)), strict=False)
        ]
        if all(map(_is_taken, before)):
            names = itertools.chain([target], itertools.islice(_names(before[0]), int(number), None))
    newest = None
    for name in itertools.islice(names, 1, None):
        if not _is_taken(name):
            return newest
        newest = _as_text(name, path)
    return newest


def _is_taken(name: ObjectStoragePath) -> bool:
    # The parts first: looking for them asks the storage again, rather than what this process remembers of it.
    return (not is_local(name) and bool(_parts_of(name))) or bool(name.exists())


def _find_parts(path: str) -> list[str]:
    """Return the parts of a file, if they say more than the file: it may not be there, or not be whole."""
    try:
        target = as_path(path)
        parts = [] if is_local(target) else _parts_of(target)
        if not parts or (target.exists() and _size(target) >= sum(map(_size, parts))):
            return []
        return [_as_text(part, path) for part in parts]
    except FileNotFoundError:  # they became one file just now
        return []
    except Exception as error:  # whatever a storage raises
        raise read_error(path, "report", error) from None


def _size(target: ObjectStoragePath) -> int:
    return int(target.stat().st_size)


def _names(target: ObjectStoragePath) -> Iterator[ObjectStoragePath]:
    yield target
    for number in itertools.count(2):
        yield target.with_name(f"{target.stem}.{number}{target.suffix}")


def _parts_folder(target: ObjectStoragePath) -> ObjectStoragePath:
    return target.with_name(f"{target.name}.parts")


def _parts_of(target: ObjectStoragePath) -> list[ObjectStoragePath]:
    folder = _parts_folder(target)
    # A listing that this process keeps from before lacks the parts that others have written since.
    folder.fs.invalidate_cache(folder.path)
    return sorted(folder.iterdir(), key=lambda part: part.name) if folder.exists() else []


def _claim_local(free: ObjectStoragePath) -> bool:
    from pathlib import Path

    try:
        Path(free.path).touch(exist_ok=False)
    except FileExistsError:
        # What is there and is no file, such as a device, takes all that is written to it.
        return not free.is_file() and not free.is_dir()
    return True


def _encode(lines: Iterable[Line]) -> bytes:
    return b"".join(
        [json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n" for line in lines]
    )


def _as_text(target: ObjectStoragePath, path: str) -> str:
    # A local path stays one, rather than become a URL.
    return str(target.path) if "://" not in path else str(target)


def _refused(path: str, error: Exception) -> YouCanError:
    if isinstance(error, (ImportError, ValueError, IsADirectoryError)):
        # There is no such storage here, or no file can be there; the error's own words say which.
        return YouCanInvalidInputError(f"The report can't be written to {path}", advice=f"{error}.")
    reason = f"{type(error).__name__}: {error}"
    return YouCanConnectionError(
        f"The report can't be written to {path} ({reason})",
        advice="check report_path and what its storage allows",
        outcome=NOTHING_SENT,
    )

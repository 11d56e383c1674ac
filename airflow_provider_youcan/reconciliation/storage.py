"""Files: at any path or URL that Airflow's ``ObjectStoragePath`` takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from airflow_provider_youcan.exceptions import YouCanConnectionError, YouCanError, YouCanInvalidInputError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

__all__ = ["as_path", "is_local", "is_same_file", "open_file"]


@contextmanager
def open_file(path: str, what: str) -> Iterator[BinaryIO]:
    """
    Open a file to be read.

    :param path: its path or URL.
    :param what: what it is called in errors, such as ``"report"``.
    :raises YouCanInvalidInputError: if there is no such file.
    :raises YouCanConnectionError: if its storage is out of reach, also while it is read.
    """
    try:
        with as_path(path).open("rb") as file:  # type: ignore[no-untyped-call]
            yield file
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        failure: Exception = YouCanInvalidInputError(
            f"There is no {what} at {path}, so nothing was sent: check where it was written."
        )
    except (YouCanError, UnicodeError):  # what was found in it
        raise
    except (OSError, ImportError, ValueError) as error:
        failure = YouCanConnectionError(
            f"The {what} at {path} can't be read ({type(error).__name__}: {error}), so nothing was sent; it may work "
            "later."
        )
    else:
        return
    raise failure


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

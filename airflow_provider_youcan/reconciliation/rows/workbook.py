"""The rows of a sheet of Excel's or LibreOffice's, read by python-calamine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.texts import list_some

__all__ = ["read_sheet"]


def read_sheet(file: BinaryIO, path: str, sheet: str | int | None) -> Iterator[list[Any]]:
    """
    Return the rows of a sheet, from its first on, the empty ones too. Whole numbers are whole, dates are dates.

    :param file: the workbook.
    :param path: its path or URL, for errors.
    :param sheet: the name of the sheet, or its number from 1; ``None`` for the first.
    :raises YouCanInvalidInputError: if it can't be read, or has no such sheet.
    """
    try:
        from python_calamine import CalamineError, CalamineWorkbook, PasswordError
    except ImportError:
        raise YouCanInvalidInputError(
            f"Reading {path} needs python-calamine, which is not installed here",
            advice="pip install 'airflow-provider-youcan[excel]', or save the file as CSV.",
        ) from None
    try:
        workbook = CalamineWorkbook.from_filelike(file)
        number = _find_sheet(workbook.sheet_names, path, sheet)
        found = workbook.get_sheet_by_index(number)
    except YouCanInvalidInputError:
        raise
    except PasswordError:
        failure = f"The workbook at {path} is encrypted, so nothing was sent: save it without a password."
    except (CalamineError, ValueError, OSError):
        failure = f"The file at {path} is not a whole workbook, so nothing was sent: check what writes it."
    else:
        # An empty sheet has no rows to go through.
        return (list(map(_read_value, cells)) for cells in (found.iter_rows() if found.start is not None else ()))
    raise YouCanInvalidInputError(failure)


def _find_sheet(names: list[str], path: str, sheet: str | int | None) -> int:
    if isinstance(sheet, str) and sheet in names:
        return names.index(sheet)
    number = 1 if sheet is None else sheet
    if isinstance(number, int) and 1 <= number <= len(names):
        return number - 1
    raise YouCanInvalidInputError(
        f"The workbook at {path} has no sheet {sheet!r}", advice=f"there are {list_some(names) or 'none'}."
    )


def _read_value(value: Any) -> Any:
    if value == "":
        return None
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 10**18 else value

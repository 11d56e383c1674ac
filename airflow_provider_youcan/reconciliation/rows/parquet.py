"""Rows of a Parquet file."""

from __future__ import annotations

from typing import BinaryIO

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState

__all__ = ["read_parquet"]

_ROWS_A_BATCH = 1000


def read_parquet(file: BinaryIO, path: str, desired: DesiredState) -> None:
    """
    Add the rows of a Parquet file to a desired state, reading only the columns that count.

    :param file: its bytes.
    :param path: its name, for errors.
    :param desired: takes the rows.
    :raises YouCanInvalidInputError: if it can't be read, or pyarrow is missing.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise YouCanInvalidInputError(
            f"Reading {path} needs pyarrow, which is not installed here",
            advice="install it, or write the file as CSV or JSON lines.",
        ) from None
    try:
        table = ParquetFile(file)
        names = table.schema_arrow.names
        desired.columns.check(names)
        columns = desired.columns.find(names)
        # A name with a dot in it would be taken for a path.
        is_plain = not any("." in str(name) for name in names)
        for batch in table.iter_batches(batch_size=_ROWS_A_BATCH, columns=columns if is_plain else None):
            for row in batch.select(columns).to_pylist():
                desired.add(row)
    except (pa.ArrowException, OSError, UnicodeError, OverflowError):  # pyarrow calls damaged pages an OSError
        raise YouCanInvalidInputError(
            f"The file at {path} is not a complete Parquet file",
            advice="check what writes it, or it has values that can't be read.",
        ) from None

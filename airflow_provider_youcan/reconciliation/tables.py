"""Tables as people have them in hand: lists of mappings, and those of pandas, polars and pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from airflow_provider_youcan.exceptions import YouCanInvalidInputError

__all__ = ["read_rows"]


def read_rows(table: object, name: str) -> tuple[list[Any] | None, Iterator[object]]:
    """
    Return what the columns of a table are called, ``None`` where only the rows say it, and its rows.

    :param table: any iterable of mappings, or a table of pandas, polars or pyarrow, none of which is imported here.
    :param name: what to call it in an error.
    :raises YouCanInvalidInputError: if it is nothing of the kind.
    """
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(table).__mro__}
    data: Any = table
    if ("pandas", "DataFrame") in kinds:
        names = list(data.columns)
        return names, (dict(zip(names, row, strict=True)) for row in data.itertuples(index=False, name=None))
    if ("polars", "DataFrame") in kinds:
        return list(data.columns), data.iter_rows(named=True)
    if ("pyarrow", "Table") in kinds:
        return list(data.column_names), _read_batches(data.to_batches(max_chunksize=1000))
    if ("pyarrow", "RecordBatch") in kinds:
        return list(data.schema.names), _read_batches([data])
    if ("pyarrow", "RecordBatchReader") in kinds:
        return list(data.schema.names), _read_batches(data)
    if ("polars", "LazyFrame") in kinds:
        raise YouCanInvalidInputError(
            f"{name} is a LazyFrame, which holds no rows yet; nothing was sent: collect() it."
        )
    if not isinstance(table, Iterable) or isinstance(table, (str, bytes, Mapping)) or _is_column(kinds):
        raise YouCanInvalidInputError(
            f"{name} is of type {type(table).__name__}, not a list of mappings; nothing was sent: give rows that say "
            "what each column holds, or a table of pandas, polars or pyarrow. A template renders to text, so pass the "
            "output of an upstream task itself."
        )
    return None, iter(table)


def _read_batches(batches: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()


def _is_column(kinds: Sequence[tuple[str, str]] | set[tuple[str, str]]) -> bool:
    return bool({("pandas", "Series"), ("polars", "Series")} & set(kinds))

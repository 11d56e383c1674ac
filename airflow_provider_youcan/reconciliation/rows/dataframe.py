"""Tables as people have them in hand: lists of mappings, and those of pandas, polars and pyarrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from airflow_provider_youcan.exceptions import YouCanInvalidInputError

if TYPE_CHECKING:
    from airflow_provider_youcan.reconciliation.rows.desired import DesiredState

__all__ = ["TableInHand", "read_rows"]


class TableInHand:
    """A table that a DAG was given. Copies of its operator share it, so that a generator is read only once."""

    def __init__(self, rows: object) -> None:
        self._rows = rows
        self._was_read = False

    def __deepcopy__(self, memo: object) -> TableInHand:
        return self

    def get(self) -> object:
        """
        Return the table.

        :raises YouCanInvalidInputError: if it was a generator, and is read already.
        """
        if self._was_read:
            raise YouCanInvalidInputError(
                "orders was a generator, and was read already",
                advice="have a function make the rows each time, with @task.youcan_reconcile.",
            )
        self._was_read = isinstance(self._rows, Iterator)
        return self._rows


def read_rows(
    table: object,
    name: str,
    desired: DesiredState,
    interrupt: Callable[[Iterator[object]], Iterable[object]],
) -> None:
    """
    Add the rows of a table to a desired state.

    :param table: any iterable of mappings, a list of lists with a header, or a table of pandas, polars or pyarrow.
    :param name: what to call it in an error.
    :param desired: takes the rows.
    :param interrupt: ends the reading if the task is stopped.
    :raises YouCanInvalidInputError: if it is no table, or lacks a column.
    """
    desired.empty_is_null = _is_sheet(table)
    columns, read = _open_table(table, name)
    if _is_sheet(table) and not desired.columns.find(columns or ()):
        # The row itself is not shown: it may be a customer's.
        raise YouCanInvalidInputError(
            f"{name} is a list of lists whose first row is not a header",
            advice=(
                "begin with the names of the columns, such as ['order_id', 'payment_status'], or say in columns "
                "what these are called."
            ),
        )
    if columns is not None:
        desired.columns.check(columns)
    for row in interrupt(read(desired.columns.find(columns or ()))):
        desired.add(row)
    desired.columns.check_seen()


def _is_sheet(table: object) -> bool:
    """Return whether a table is a list of lists, the first of which is its header: what a spreadsheet's API returns."""
    return isinstance(table, (list, tuple)) and bool(table) and isinstance(table[0], (list, tuple))


def _open_table(table: object, name: str) -> tuple[list[Any] | None, Callable[[list[Any]], Iterator[object]]]:
    """
    Return the column names of a table, ``None`` if only its rows have them, and a function that reads its rows.

    Only the columns that are asked for are read: others may hold values that Python can't represent.

    :param table: any iterable of mappings, a list of lists with a header, or a table of pandas, polars or pyarrow, none
        of which is imported here.
    :param name: what to call it in an error.
    :raises YouCanInvalidInputError: if it is nothing of the kind.
    """
    if _is_sheet(table):
        names = [str(name) for name in table[0]]  # type: ignore[index]  # it is a list
        return names, lambda _: _read_lists(names, table[1:])  # type: ignore[index]
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(table).__mro__}
    data: Any = table
    if ("pandas", "DataFrame") in kinds:
        return list(data.columns), lambda columns: _read_frame(data[columns])
    if ("polars", "DataFrame") in kinds:
        return list(data.columns), lambda columns: data.select(columns).iter_rows(named=True)
    if ("pyarrow", "Table") in kinds:
        return list(data.column_names), lambda columns: _read_batches(data.to_batches(max_chunksize=1000), columns)
    if ("pyarrow", "RecordBatch") in kinds:
        return list(data.schema.names), lambda columns: _read_batches([data], columns)
    if ("pyarrow", "RecordBatchReader") in kinds:
        return list(data.schema.names), lambda columns: _read_batches(data, columns)
    if ("polars", "LazyFrame") in kinds:
        raise YouCanInvalidInputError(f"{name} is a LazyFrame, which holds no rows yet", advice="collect() it.")
    is_column = bool({("pandas", "Series"), ("polars", "Series")} & kinds)
    if not isinstance(table, Iterable) or isinstance(table, (str, bytes, Mapping)) or is_column:
        raise YouCanInvalidInputError(
            f"{name} is of type {type(table).__name__}, not a list of mappings",
            advice=(
                "give one, a list of lists with a header, or a table of pandas, polars or pyarrow. A template "
                "renders to text, so pass the output of an upstream task itself."
            ),
        )
    return None, lambda _: iter(table)


def _read_lists(names: list[str], rows: Iterable[object]) -> Iterator[object]:
    for cells in rows:
        if not isinstance(cells, (list, tuple)):
            yield YouCanInvalidInputError(f"it is of type {type(cells).__name__}, and the header is a list")
        elif len(cells) > len(names):
            yield YouCanInvalidInputError(f"it has {len(cells)} cells, and the header {len(names)}")
        else:
            # Empty cells at the end of a row are left out.
            yield dict(zip_longest(names, cells))


def _read_frame(frame: Any) -> Iterator[Mapping[Any, Any]]:
    names = list(frame.columns)
    for row in frame.itertuples(index=False, name=None):
        yield dict(zip(names, row, strict=True))


def _read_batches(batches: Iterable[Any], columns: list[Any]) -> Iterator[Mapping[str, Any]]:
    for batch in batches:
        yield from batch.select(columns).to_pylist()

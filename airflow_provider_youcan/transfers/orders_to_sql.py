"""Bring a shop's orders to the warehouse, as a table or as a file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_youcan.arguments import NOT_PASSED, check_rendered_text, is_rendered_later, was_passed
from airflow_provider_youcan.assets import add_event_extra
from airflow_provider_youcan.checks import check_number, check_order_id
from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanTaskStoppedError,
)
from airflow_provider_youcan.failures import log_end
from airflow_provider_youcan.operators.interruptible import InterruptibleOperator
from airflow_provider_youcan.operators.rendered import check_rate
from airflow_provider_youcan.reconciliation.warehouse import check_table_name
from airflow_provider_youcan.texts import pluralize, shorten
from airflow_provider_youcan.transfers.columns import OrderColumns, check_extra_columns
from airflow_provider_youcan.transfers.file import OrdersFile, check_orders_path
from airflow_provider_youcan.transfers.table import OrdersTable

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
    from airflow_provider_youcan.reconciliation.background import BackgroundWriter
    from airflow_provider_youcan.transfers.columns import Row
    from airflow_provider_youcan.transfers.reading import OrderReader

__all__ = ["YouCanOrdersToSqlOperator"]

_TABLE = "youcan_orders"
_BATCH = 5000
_PROGRESS_SECONDS = 5.0


class YouCanOrdersToSqlOperator(InterruptibleOperator):
    """
    Bring a shop's orders, with their statuses, to a table of the warehouse, or to a file.

    One row for each order: ``order_id``, ``ref``, ``status``, ``shipping_status`` and ``payment_status`` (slugs; null
    if one can't be read), ``created_at`` and ``updated_at`` (UTC), ``total``, ``currency``, ``payment_gateway``,
    ``tracking_number``, ``store`` and ``read_at``. Nothing of the customer is written, unless ``extra_columns`` names
    it.

    A row that is there already is replaced, unless it was read later. A table is written in batches, each in a
    transaction of its own, so a run that was killed leaves whole batches, and a retry does no harm. A file is there
    once it is whole.

    The list of orders is sorted by their creation, and YouCan can't be asked for what has changed since: choose
    ``created_within`` as long as an order of the shop stays open.

    :param table: the table, ``name`` or ``schema.name``; it is created, with a primary key, if it is missing
        (templated; default ``youcan_orders``).
    :param conn_id: the Airflow connection of its database (templated; default ``warehouse``).
    :param created_within: how old the oldest orders are that are read; ``None`` reads all (default 60 days). With
        ``order_ids`` it has no effect.
    :param youcan_conn_id: the Airflow connection of the shop (templated; default ``youcan_default``).
    :param order_ids: a list of order ids: these alone are read, one by one or by pages, whichever takes fewer requests
        (templated; default ``None``).
    :param path: the path or URL of a file, in place of ``table``, which ends in ``.parquet``, or in ``.jsonl``,
        ``.ndjson`` or ``.csv``, each also with ``.gz``; what is there already is replaced (templated; default
        ``None``).
    :param max_concurrency: how many requests are under way at a time, 1 to 256 (default 16).
    :param requests_per_second: how many requests a second are sent at most; the connection's extra
        ``requests_per_second`` can lower it. ``None`` (default) sets no ceiling: the shop's own limit is found.
    :param extra_columns: further columns of text, each with the path to its value in an order as YouCan sends it:
        ``{"city": "shipping.address.city"}``. A path may lead to personal data; then that is what is written (default
        ``None``).
    """

    template_fields: Sequence[str] = ("table", "path", "conn_id", "order_ids", "youcan_conn_id")
    ui_color = "#fde2ec"
    goal = "all orders were written"
    retry_advice = "reads them again, which does no harm"

    table: str | None
    path: str | None
    order_ids: Collection[str] | None

    def __init__(
        self,
        *,
        table: str = NOT_PASSED,
        conn_id: str = "warehouse",
        created_within: timedelta | None = timedelta(days=60),
        youcan_conn_id: str = "youcan_default",
        order_ids: Collection[str] | None = NOT_PASSED,
        path: str | None = NOT_PASSED,
        max_concurrency: int = 16,
        requests_per_second: float | None = None,
        extra_columns: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._is_file = was_passed(self, path)
        self._has_ids = was_passed(self, order_ids)
        if self._is_file and was_passed(self, table):
            raise YouCanInvalidInputError("Give table or path, not both: the orders go to one of them.")
        self.path = path if self._is_file else None
        self.table = None if self._is_file else _TABLE if table is NOT_PASSED else table
        self.order_ids = order_ids if self._has_ids else None
        self.conn_id = conn_id
        self.youcan_conn_id = youcan_conn_id
        self.created_within = _check_created_within(created_within)
        self.max_concurrency = int(check_number("max_concurrency", max_concurrency, 1, 256, whole=True))
        self.requests_per_second = None if requests_per_second is None else check_rate(requests_per_second)
        self.extra_columns = extra_columns
        check_extra_columns(extra_columns)
        if not self._is_file and not is_rendered_later(self.table):
            check_table_name(self.table, "table")
        if isinstance(self.path, str) and not is_rendered_later(self.path):
            check_orders_path(self.path)
        self._columns: OrderColumns | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Read the orders, and write them.

        :return: how many ``orders`` were written, and how many ids were ``not_found``; the ``pages``, the ``requests``
            and the ``seconds`` that it took; when the ``oldest`` and the ``newest`` order was created (ISO times, or
            ``None``); and how many statuses were ``unreadable``.
        :raises YouCanError: if not all orders were written.
        """
        with log_end(self.log, only_reads=True), self._interruption.watch():
            self._interruption.check()
            return self._execute(context)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002  # Airflow's signature
        """Return for OpenLineage the shop whose orders were read, and the table or the file with its columns."""
        from airflow_provider_youcan.operators.lineage import describe_transfer

        return None if self._columns is None else describe_transfer(self, self._columns)

    def _execute(self, context: Context) -> dict[str, Any]:
        from airflow_provider_youcan.transfers.reading import OrderReader

        begun_at = time.monotonic()
        columns = self._columns = OrderColumns(check_extra_columns(self.extra_columns))
        order_ids = self._read_order_ids() if self._has_ids else None
        writer = self._open_writer(columns)
        hook = self._make_hook()

        async def write(orders: Sequence[Mapping[str, Any]], read_at: datetime) -> None:
            writer.write(*[columns.make_row(order, read_at) for order in orders])
            await writer.drain()

        reader = OrderReader(hook.run, columns.include, self.max_concurrency, write)
        error: YouCanError | None = None
        try:
            self._interruption.run(
                self._run(hook, reader, columns, writer, order_ids), hook.stop, self._seconds_left(begun_at)
            )
            self._raise_interruption()
        except YouCanTaskStoppedError:
            # If the task was interrupted, raise that instead.
            self._raise_interruption()
            raise
        finally:
            error = writer.close(lambda: self._interruption.ends_at)
        if error is not None:
            raise error
        self._raise_interruption()
        return self._report(context, columns, reader, hook.requests, time.monotonic() - begun_at)

    def _read_order_ids(self) -> list[str]:
        if isinstance(self.order_ids, (list, tuple, set, frozenset)):
            return list(dict.fromkeys(check_order_id(order_id) for order_id in self.order_ids))
        raise YouCanInvalidInputError(
            f"order_ids is {shorten(self.order_ids)}",
            advice=(
                "give a list of order ids; a template makes one only with render_template_as_native_obj=True on "
                "the DAG."
            ),
            outcome="nothing was read",
        )

    def _open_writer(self, columns: OrderColumns) -> BackgroundWriter[Row | None]:
        from airflow_provider_youcan.reconciliation.background import BackgroundWriter

        if self._is_file:
            sink: Any = OrdersFile(check_orders_path(check_rendered_text("path", self.path)), columns.types)
            left = "There is no file"
        else:
            sink = OrdersTable(check_table_name(self.table, "table"), str(self.conn_id), columns.types)
            left = "Earlier batches are whole"

        def make_error(why: str) -> YouCanError:
            return YouCanConnectionError(f"{sink.name} takes no rows ({why})", advice="it may work later", outcome=left)

        writer: BackgroundWriter[Row | None] = BackgroundWriter(sink, _BATCH, make_error)
        try:
            writer.open()
            self._interruption.check()
        except BaseException:
            writer.close(time.monotonic)
            raise
        return writer

    def _make_hook(self) -> YouCanAsyncHook:
        from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook

        return YouCanAsyncHook(
            self.youcan_conn_id, max_concurrency=self.max_concurrency, requests_per_second=self.requests_per_second
        )

    async def _run(
        self,
        hook: YouCanAsyncHook,
        reader: OrderReader,
        columns: OrderColumns,
        writer: BackgroundWriter[Row | None],
        order_ids: list[str] | None,
    ) -> None:
        from airflow_provider_youcan.client.store import check_statuses, read_store_slug

        logging = asyncio.ensure_future(self._log_progress(reader, columns))
        try:
            async with hook:
                if order_ids is None or order_ids:
                    store, statuses = read_store_slug(), check_statuses([], self.youcan_conn_id)
                    columns.store, checked = await asyncio.gather(hook.run(store), hook.run(statuses))
                    columns.known = {context: frozenset(slugs) for context, slugs in checked.known.items()}
                if order_ids is not None:
                    await reader.read_ids(order_ids)
                else:
                    within = self.created_within
                    await reader.read_since(None if within is None else datetime.now(timezone.utc) - within)
        finally:
            logging.cancel()
            with suppress(asyncio.CancelledError):
                await logging
        if self._is_file:
            writer.write(None)
        await writer.flush()

    async def _log_progress(self, reader: OrderReader, columns: OrderColumns) -> None:
        begun_at = time.monotonic()
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            orders = columns.counts.orders
            pages = "" if reader.total_pages is None else f", {reader.pages:,} of {reader.total_pages:,} pages"
            rate = orders / (time.monotonic() - begun_at)
            self.log.info("%s read%s, %.0f orders a second.", pluralize(orders, "order"), pages, rate)

    def _report(
        self, context: Context, columns: OrderColumns, reader: OrderReader, requests: int, seconds: float
    ) -> dict[str, Any]:
        from airflow_provider_youcan.metrics import count_orders

        counts = columns.counts
        summary = {
            "orders": counts.orders,
            "not_found": reader.not_found,
            "pages": reader.pages,
            "requests": requests,
            "seconds": round(seconds, 1),
            "oldest": None if counts.oldest is None else counts.oldest.isoformat(),
            "newest": None if counts.newest is None else counts.newest.isoformat(),
            "unreadable": counts.unreadable,
        }
        self.log.info(
            "%s written to %s: %s, %.1f s.",
            pluralize(counts.orders, "order"),
            self.path if self._is_file else self.table,
            pluralize(requests, "request"),
            seconds,
        )
        if reader.not_found:
            self.log.warning("%s not in this shop: no row was written for them.", pluralize(reader.not_found, "order"))
        if counts.unreadable:
            self.log.warning(
                "%s could not be read from YouCan's list, and are null: read these orders by order_ids.",
                pluralize(counts.unreadable, "status", "statuses"),
            )
        count_orders(counts.orders, self.youcan_conn_id)
        add_event_extra(self, context, summary)
        return summary


def _check_created_within(value: object) -> timedelta | None:
    if value is None or (isinstance(value, timedelta) and value > timedelta(0)):
        return value
    raise YouCanInvalidInputError(
        f"created_within is {shorten(value)}: give a positive timedelta, such as timedelta(days=60), or None for all "
        "orders."
    )

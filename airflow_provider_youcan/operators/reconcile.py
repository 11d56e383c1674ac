"""Reconcile a whole table with the shop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, BaseHook, BaseOperator

from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanPermanentError, YouCanTransientError
from airflow_provider_youcan.orders import StatusContext, check_flag, closest_statuses

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import TextIO

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.reconciliation.executor import Reconciliation
    from airflow_provider_youcan.reconciliation.record import Record
    from airflow_provider_youcan.reconciliation.rows import DesiredState

__all__ = ["YouCanReconcileOrdersOperator"]

_ROWS_A_FETCH = 1000


class YouCanReconcileOrdersOperator(BaseOperator):
    """
    Bring a shop's orders to where a table says they should be: read, compare, send the difference.

    The table names each order in ``order_id`` (its UUID) or ``ref``, and what should hold in ``status`` (the general
    one), ``shipping_status`` and ``payment_status``; a null, or a column that isn't there, leaves that status alone.

    All rows are checked before anything is sent. What holds already is not sent again, so a run that was killed goes
    on where it was when it is started again. A row that fails does not keep the others from going on.

    :param orders: the rows, as a list of mappings (templated; usually the XCom of an upstream task).
    :param sql: in place of ``orders``, a query whose result they are, or the path of a ``.sql`` file (templated).
    :param conn_id: the Airflow connection that ``sql`` runs on, of any database with a DB-API hook (templated).
    :param parameters: the parameters of ``sql``, as its database takes them (templated; default none).
    :param columns: what the table calls a column, where it is another name: ``{"order_id": "youcan_id"}`` (templated).
    :param status_map: for each context the table's words and the slugs that they mean, ``None`` for a word that leaves
        the status alone: ``{"payment": {"COLLECTED": "paid"}}`` (templated). Other words are taken for slugs.
    :param only_from: for each context the slug, or the slugs, that the status may be moved from:
        ``{"payment": ["pending", "unpaid"]}`` (templated). What stands elsewhere, or can't be read, is left alone.
    :param on_invalid: ``"fail"`` refuses the whole table for a row that can't be used, ``"skip"`` leaves such rows
        out (default ``"fail"``).
    :param allow_custom_label: take any text for a status, even one that is in no list (default ``False``).
    :param max_failures: more failed rows than this fail the task, after the rest is done (default 0). A row fails
        where the shop has no such order, refuses the update, or can't be reached.
    :param max_concurrency: how many requests are under way at a time, 1 to 256 (default 16).
    :param requests_per_second: how many requests a second are sent at most; the connection's extra
        ``requests_per_second`` can lower it. ``None`` (default) sets no ceiling: the shop's own limit is found.
    :param dry_run: compute what would change, and send nothing (default ``False``).
    :param report_path: where one JSON line for each wish, and each invalid row, is written: any path or URL that
        Airflow's ``ObjectStoragePath`` takes (templated; default ``None``, no report).
    :param youcan_conn_id: the Airflow connection of the shop (templated; default ``youcan_default``).
    """

    template_fields: Sequence[str] = (
        "orders",
        "sql",
        "conn_id",
        "parameters",
        "columns",
        "status_map",
        "only_from",
        "report_path",
        "youcan_conn_id",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "orders": "json", "parameters": "json"}
    ui_color = "#fde2ec"

    def __init__(
        self,
        *,
        orders: Iterable[Mapping[str, Any]] | None = None,
        sql: str | None = None,
        conn_id: str | None = None,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        columns: Mapping[str, str] | None = None,
        status_map: Mapping[str, Mapping[Any, str | None]] | None = None,
        only_from: Mapping[str, str | Collection[str]] | None = None,
        on_invalid: str = "fail",
        allow_custom_label: bool = False,
        max_failures: int = 0,
        max_concurrency: int = 16,
        requests_per_second: float | None = None,
        dry_run: bool = False,
        report_path: str | None = None,
        youcan_conn_id: str = "youcan_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (orders is None) == (sql is None):
            raise YouCanInvalidInputError("Give either orders or sql: the rows come from one of them.")
        if (sql is None) != (conn_id is None) or (sql is None and parameters is not None):
            raise YouCanInvalidInputError("sql, with its parameters, and conn_id go together: a query runs somewhere.")
        if on_invalid not in ("fail", "skip"):
            raise YouCanInvalidInputError(f"on_invalid is {on_invalid!r}: give 'fail' or 'skip'.")
        self.orders = orders
        self.sql = sql
        self.conn_id = conn_id
        self.parameters = parameters
        self.columns = columns
        self.status_map = status_map
        self.only_from = only_from
        self.on_invalid = on_invalid
        self.allow_custom_label = check_flag("allow_custom_label", allow_custom_label)
        self.max_failures = _check_number("max_failures", max_failures, 0, 1_000_000_000)
        self.max_concurrency = _check_number("max_concurrency", max_concurrency, 1, 256)
        self.requests_per_second = _check_rate(requests_per_second)
        # An operator has a method of this name already.
        self._dry_run = check_flag("dry_run", dry_run)
        self.report_path = report_path
        self.youcan_conn_id = youcan_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Reconcile the table.

        :return: how many ``rows`` there were and how many of them were ``invalid``; how many wishes (one context of
            one row) were ``planned``, ``changed``, ``unchanged``, ``protected``, ``not_found``, ``failed`` and
            ``not_reached``, and the same ``by_context``; the ``requests`` and the ``seconds`` that it took; and the
            ``report_path``.
        :raises YouCanError: if the table was refused, the run ended early, or more rows failed than ``max_failures``.
        """
        # Imported when a task runs: Airflow parses DAG files again and again.
        from airflow_provider_youcan.reconciliation.record import Record
        from airflow_provider_youcan.reconciliation.rows import DesiredState

        only_from = self._read_guards()
        desired = DesiredState(self.columns, self.status_map)
        self._read_rows(desired)
        with self._open_report() as report:
            record = Record(report)
            record.rows = desired.rows
            self.log.info(
                "Read %s, with %s for %s%s.",
                _count(desired.rows, "row"),
                _count(sum(len(order.wishes) for order in desired.orders), "wish", "wishes"),
                _count(len(desired.orders), "order"),
                "; dry run, nothing will be sent" if self._dry_run else "",
            )
            try:
                run = asyncio.run(self._reconcile(desired, record, only_from))
            finally:
                summary = record.summarise() | {"report_path": self.report_path}
                self._tell(record, summary, context)
        self._warn_of_guards(only_from, record)
        self._check_failures(run, record)
        return summary

    async def _reconcile(
        self, desired: DesiredState, record: Record, only_from: Mapping[StatusContext, Collection[str]]
    ) -> Reconciliation:
        from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
        from airflow_provider_youcan.reconciliation.executor import Reconciliation

        async with YouCanAsyncHook(
            self.youcan_conn_id, max_concurrency=self.max_concurrency, requests_per_second=self.requests_per_second
        ) as hook:
            run = Reconciliation(
                hook,
                desired,
                record,
                only_from=only_from,
                allow_custom_label=self.allow_custom_label,
                skip_invalid=self.on_invalid == "skip",
                dry_run=self._dry_run,
                max_concurrency=self.max_concurrency,
                info=self.log.info,
                warn=self.log.warning,
            )
            # Airflow's own alarm may go off where the event loop has no ear for it.
            limit = self.execution_timeout
            seconds = None if limit is None else max(limit.total_seconds() - 1, limit.total_seconds() / 2)
            try:
                await asyncio.wait_for(run.run(), seconds)
            except asyncio.TimeoutError:
                raise AirflowTaskTimeout(
                    f"The table was not reconciled within the execution_timeout of {limit}; a retry "
                    "sends only what is missing."
                ) from None
            return run

    def _read_guards(self) -> dict[StatusContext, tuple[str, ...]]:
        from airflow_provider_youcan.reconciliation.rows import check_mappings
        from airflow_provider_youcan.waiting import as_slugs

        guards = check_mappings("only_from", self.only_from)
        return {context: as_slugs(f"only_from[{context.value!r}]", slugs) for context, slugs in guards.items()}

    def _read_rows(self, desired: DesiredState) -> None:
        if self.sql is not None:
            self._query(desired)
            return
        if not isinstance(self.orders, Iterable) or isinstance(self.orders, (str, bytes, Mapping)):
            raise YouCanInvalidInputError(
                f"orders is of type {type(self.orders).__name__}, not a list of mappings; nothing was sent: pass the "
                "output of the upstream task itself rather than a template that renders it to text."
            )
        for row in self.orders:
            desired.add(row)
        desired.check_rows()

    def _query(self, desired: DesiredState) -> None:
        connection = BaseHook.get_connection(str(self.conn_id))
        hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]
        if not hasattr(hook, "get_conn") or not hasattr(hook, "run"):
            raise YouCanInvalidInputError(
                f"The Airflow connection {self.conn_id!r} is of type {connection.conn_type!r}, which runs no SQL; "
                "nothing was sent: name one of a database."
            )
        # PostgreSQL's drivers fetch in batches only with a cursor that has a name.
        name = ["youcan_reconcile"] if connection.conn_type == "postgres" else []
        with closing(hook.get_conn()) as session, closing(session.cursor(*name)) as cursor:
            cursor.execute(self.sql, *([self.parameters] if self.parameters is not None else []))
            rows = cursor.fetchmany(_ROWS_A_FETCH)
            if cursor.description is None:
                raise YouCanInvalidInputError(
                    "The sql returns no rows, as a select does; nothing was sent to the shop."
                )
            names = [column[0] for column in cursor.description]
            desired.check_columns(names)
            while rows:
                for row in rows:
                    # Some connections are set up to return mappings.
                    desired.add(row if isinstance(row, Mapping) else dict(zip(names, row, strict=True)))
                rows = cursor.fetchmany(_ROWS_A_FETCH)

    def _open_report(self) -> AbstractContextManager[TextIO | None]:
        if self.report_path is None:
            return nullcontext()
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        path = ObjectStoragePath(self.report_path)
        if path.protocol in ("", "file"):
            path.parent.mkdir(parents=True, exist_ok=True)
        report: AbstractContextManager[TextIO] = path.open("w", encoding="utf-8", errors="backslashreplace")  # type: ignore[no-untyped-call]
        return report

    def _tell(self, record: Record, summary: dict[str, Any], context: Context) -> None:
        self.log.info(
            "%s (%d invalid), %s in %.1f s:\n%s",
            _count(summary["rows"], "row"),
            summary["invalid"],
            _count(summary["requests"], "request"),
            summary["seconds"],
            record.draw(),
        )
        if (task_instance := context.get("ti")) is not None:
            # Now, so that a task that comes after a failure finds it, too.
            task_instance.xcom_push(key="summary", value=summary)

    def _warn_of_guards(self, only_from: Mapping[StatusContext, Collection[str]], record: Record) -> None:
        """Warn of what may be a slip of the pen: a guard with a typo in it protects every order."""
        for context, slugs in only_from.items():
            for slug in slugs if record.has_protected(context) else ():
                if slug not in (known := context.documented_slugs) and (closest := closest_statuses(slug, known)):
                    self.log.warning("only_from names %r for %s: did you mean %r?", slug, context, closest[0])

    def _check_failures(self, run: Reconciliation, record: Record) -> None:
        failed = len(record.failed_rows)
        if failed <= self.max_failures:
            return
        where = f"the report at {self.report_path}" if self.report_path else "a report, which report_path asks for,"
        message = (
            f"{failed:,} of {record.rows:,} rows failed, more than max_failures={self.max_failures}; the others are "
            f"done: {where} says why each did. The first: {record.first_failure}"
        )
        if run.may_pass:
            raise YouCanTransientError(
                f"{message} A retry sends only what is missing.", retry_after=run.retry_after or None
            )
        raise YouCanPermanentError(message)


def _check_number(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise YouCanInvalidInputError(f"{name} is {value!r}: give a whole number from {least} to {most}.")


def _check_rate(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 10_000:
        return float(value)
    raise YouCanInvalidInputError(f"requests_per_second is {value!r}: give a number above 0 and up to 10000, or None.")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"

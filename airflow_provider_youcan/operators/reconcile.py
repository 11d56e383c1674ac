"""Reconcile a whole table with the shop, apply a plan of that, and take a run back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import XComArg

from airflow_provider_youcan.checks import (
    NOT_GIVEN,
    check_contexts,
    check_rendered_text,
    check_slugs,
    is_rendered_later,
    likely_typos,
    was_given,
)
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.operators.base import ReconcilingOperator, count, describe_task
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.record.file import read_lines
from airflow_provider_youcan.reconciliation.record.table import read_outcomes
from airflow_provider_youcan.reconciliation.rows.file import check_file_options, read_orders_file
from airflow_provider_youcan.reconciliation.rows.query import get_database_hook, query
from airflow_provider_youcan.reconciliation.storage import is_same_file
from airflow_provider_youcan.reconciliation.thresholds import read_whole_number

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.reconciliation.plan import Source
    from airflow_provider_youcan.reconciliation.record.reader import RecordedReport
    from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
    from airflow_provider_youcan.reconciliation.summary import Report

__all__ = ["YouCanReconcileOrdersOperator", "YouCanRevertReconciliationOperator"]


class YouCanReconcileOrdersOperator(ReconcilingOperator):
    """
    Bring a shop's orders to where a table says they should be: read, compare, send the difference.

    The table names each order in ``order_id`` (its UUID) or ``ref``, and what should hold in ``status`` (the general
    one), ``shipping_status`` and ``payment_status``; a null, or a column that isn't there, leaves that status alone.

    All rows are checked before anything is sent. What holds already is not sent again, so a run that was killed sends
    only what is missing when it is started again. A row that fails does not keep the others from being set. The general
    status of an order is set last, and left alone where another status of the same order failed or was protected.

    Exactly one of ``orders``, ``orders_file``, ``sql`` and ``plan`` is given. Of the arguments that are templated, one
    that was given and renders to nothing (``None``, an empty text) is refused, never dropped.

    :param orders: the rows: a list, or any iterable, of mappings, or a table of pandas, polars or pyarrow (templated;
        usually the XCom of an upstream task, or a list). Anything but text, a list or a tuple is not
        rendered; ``@task.youcan_reconcile`` takes what a function returns or yields.
    :param orders_file: the path or URL of a file of rows: CSV with a header (``.csv``, ``.tsv``), JSON lines
        (``.jsonl``, ``.ndjson``), each also with ``.gz``, or Parquet (``.parquet``, which takes pyarrow). An empty cell
        is a null, unless ``status_map`` has the word ``""`` (templated).
    :param file_options: for CSV the ``delimiter`` (default: what is most frequent in the header of ``,`` ``;`` tab and
        ``|``), for CSV and JSON lines the ``encoding`` (default UTF-8): ``{"delimiter": ";", "encoding": "cp1252"}``
        (templated; default none).
    :param sql: a query whose result they are, or the path of a ``.sql`` file (templated).
    :param plan: the path or URL of the report of a dry run (templated). What it planned is applied,
        and nothing else: each status only while it still is what the plan saw. The plan has decided ``columns``,
        ``status_map``, ``only_from`` and ``on_invalid``.
    :param conn_id: the Airflow connection that ``sql`` runs on, of any database with a DB-API hook (templated).
    :param hook_params: what the hook of that database is made with, as for Airflow's own SQL operators, such as
        ``{"location": "EU"}`` for BigQuery (templated; default none).
    :param parameters: the parameters of ``sql``, as its database takes them (templated; default none).
    :param columns: what the table calls a column, where it is another name: ``{"order_id": "youcan_id"}`` (templated).
        Where it names any status, only the named ones are read, so that a table's own ``status`` is not taken for one.
    :param status_map: for each context the table's words and the slugs that they mean, ``None`` for a word that leaves
        the status alone: ``{"payment": {"COLLECTED": "paid"}}`` (templated). Other words are taken for slugs.
    :param only_from: for each context the slug, or the slugs, that the status may be moved from:
        ``{"payment": ["pending", "unpaid"]}`` (templated). What stands elsewhere, or can't be read, is left alone.
    :param guard_max_age: how old, in seconds, a status may be that a guarded update relies on. An older one, or one
        read before another attempt or a renewed token, is read again first. 0 to 3600; 0 reads each status right before
        its update (default 5).
    :param on_invalid: ``"fail"`` refuses the whole table for a row that can't be used, ``"skip"`` leaves such rows
        out (default ``"fail"``). Where none is left, the task fails.
    :param allow_custom_label: take any text for a status, even one that is in no list (default ``False``). Without it
        the store's own list is read once and decides.
    :param min_rows: refuse a table of fewer rows, before the shop is asked anything (templated; default 0).
    :param max_changes: where more statuses would change than this number, or than this share (``"10%"``) of all that
        the table asks for, each counted once, the task fails and nothing is sent (templated; default ``None``, no
        limit). All is read and planned before anything is sent.
    :param max_failures: more failed rows than this number, or than this share of the rows, fail the task, after the
        rest is done (templated; default 0). A row fails where the shop has no such order, refuses the update, or can't
        be reached. Invalid rows don't count.
    :param max_concurrency: how many requests are under way at a time, 1 to 256 (default 16).
    :param requests_per_second: how many requests a second are sent at most; the connection's extra
        ``requests_per_second`` can lower it. ``None`` (default) sets no ceiling: the shop's own limit is found.
    :param dry_run: compute what would change, and send nothing (templated; default ``False``).
    :param report_path: where one JSON line for each status that a row asks for, and each invalid row, is written: any
        path or URL that Airflow's ``ObjectStoragePath`` takes (templated; default ``None``, no report). What is there
        already stays: the report is written beside it, as ``name.2.jsonl``.
    :param report_table: a table that the same lines are written to, ``name`` or ``schema.name`` (templated; default
        ``None``). It is created where it is missing.
    :param report_conn_id: the Airflow connection of that table's database (templated; default ``conn_id``).
    :param youcan_conn_id: the Airflow connection of the shop (templated; default ``youcan_default``).
    """

    template_fields: Sequence[str] = (
        "orders",
        "orders_file",
        "file_options",
        "sql",
        "plan",
        "conn_id",
        "hook_params",
        "parameters",
        "columns",
        "status_map",
        "only_from",
        "min_rows",
        *ReconcilingOperator.template_fields,
    )
    template_ext: Sequence[str] = (".sql",)
    # Airflow keeps the arguments of a task, too; a generator among them can't be copied.
    shallow_copy_attrs: Sequence[str] = ("_BaseOperator__init_kwargs",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "orders": "json", "parameters": "json"}

    def __init__(
        self,
        *,
        orders: Iterable[Mapping[str, Any]] | None = None,
        orders_file: str | None = NOT_GIVEN,
        file_options: Mapping[str, str] | None = None,
        sql: str | None = None,
        plan: str | None = NOT_GIVEN,
        conn_id: str | None = None,
        hook_params: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        columns: Mapping[str, str] | None = None,
        status_map: Mapping[str, Mapping[Any, str | None]] | None = None,
        only_from: Mapping[str, str | Collection[str]] | None = NOT_GIVEN,
        guard_max_age: float = 5.0,
        on_invalid: str = "fail",
        allow_custom_label: bool = False,
        min_rows: int | str = 0,
        max_changes: int | str | None = NOT_GIVEN,
        max_failures: int | str = 0,
        max_concurrency: int = 16,
        requests_per_second: float | None = None,
        dry_run: bool | str = False,
        report_path: str | None = NOT_GIVEN,
        report_table: str | None = NOT_GIVEN,
        report_conn_id: str | None = NOT_GIVEN,
        youcan_conn_id: str = "youcan_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            guard_max_age=guard_max_age,
            allow_custom_label=allow_custom_label,
            max_changes=max_changes,
            max_failures=max_failures,
            max_concurrency=max_concurrency,
            requests_per_second=requests_per_second,
            dry_run=dry_run,
            report_path=report_path,
            report_table=report_table,
            report_conn_id=report_conn_id,
            youcan_conn_id=youcan_conn_id,
            **kwargs,
        )
        self._is_planned = was_given(self, plan)
        self._is_file = was_given(self, orders_file)
        self._is_guarded = was_given(self, only_from)
        # Anything else would be in the serialized DAG as text, which is another each time the file is parsed.
        is_rendered = orders is None or isinstance(orders, (str, list, tuple, XComArg))
        self._table = None if is_rendered else _Table(orders)
        self.orders = orders if is_rendered else None
        self.orders_file = None if orders_file is NOT_GIVEN else orders_file
        self.file_options = file_options
        self.sql = sql
        self.plan = None if plan is NOT_GIVEN else plan
        self.conn_id = conn_id
        self.hook_params = hook_params
        self.parameters = parameters
        self.columns = columns
        self.status_map = _with_text_keys(status_map)
        self.only_from = None if only_from is NOT_GIVEN else only_from
        self.on_invalid = on_invalid
        self.min_rows = min_rows
        self._check_sources()
        self._check_companions()

    def _check_sources(self) -> None:
        """Refuse more than one source, or none, and what belongs to another."""
        is_list = self.orders is not None or self._table is not None
        if is_list + self._is_file + (self.sql is not None) + self._is_planned != 1:
            raise YouCanInvalidInputError(
                "Give exactly one of orders, orders_file, sql and plan: what should hold comes from it."
            )
        is_query_only = self.parameters is not None or self.hook_params is not None
        if (self.sql is None) != (self.conn_id is None) or (self.sql is None and is_query_only):
            raise YouCanInvalidInputError(
                "sql, with its parameters and hook_params, and conn_id go together: a query needs a connection."
            )
        if self.file_options is not None and not self._is_file:
            raise YouCanInvalidInputError("file_options goes with orders_file: it says how to read it.")
        decided = {
            "columns": self.columns is not None,
            "status_map": self.status_map is not None,
            "only_from": self._is_guarded,
            "on_invalid": self.on_invalid != "fail",
        }
        if self._is_planned and any(decided.values()):
            given = " and ".join(name for name, is_given in decided.items() if is_given)
            raise YouCanInvalidInputError(f"Leave {given} out beside plan: the plan has decided that.")

    def _check_companions(self) -> None:
        """Refuse what can be seen to be wrong when the DAG is parsed."""
        if self.on_invalid not in ("fail", "skip"):
            raise YouCanInvalidInputError(f"on_invalid is {self.on_invalid!r}: give 'fail' or 'skip'.")
        if "report_table" in self._given and self.conn_id is None and "report_conn_id" not in self._given:
            raise YouCanInvalidInputError("report_table needs report_conn_id: the connection of its database.")
        if not is_rendered_later(self.min_rows):
            read_whole_number("min_rows", self.min_rows)
        options = self.file_options.values() if isinstance(self.file_options, Mapping) else [self.file_options]
        if not any(map(is_rendered_later, options)):
            check_file_options(self.file_options)

    def _read_source(self) -> Source:
        min_rows = read_whole_number("min_rows", self.min_rows)
        source = self._read_plan() if self._is_planned else self._read_table()
        rows = source.desired.rows if source.rows is None else source.rows
        if rows < min_rows:
            raise YouCanInvalidInputError(
                f"The table has {count(rows, 'row')}, fewer than min_rows={min_rows}, so nothing was sent: look at "
                "what feeds it."
            )
        return source

    def _read_plan(self) -> Source:
        from airflow_provider_youcan.reconciliation.plan import read_plan
        from airflow_provider_youcan.reconciliation.record.reader import read_report

        path = check_rendered_text("plan", self.plan)
        if (report_path := self._read_given("report_path")) is not None and is_same_file(path, report_path):
            raise YouCanInvalidInputError(
                f"plan and report_path are both {path!r}, so nothing was sent: write the report elsewhere."
            )
        return read_plan(read_report(read_lines(path), path))

    def _read_table(self) -> Source:
        from airflow_provider_youcan.reconciliation.plan import read_table
        from airflow_provider_youcan.reconciliation.rows.desired import DesiredState

        guards = self._read_guards()
        desired = DesiredState(self.columns, self.status_map, empty_is_null=self._is_file)
        if self.sql is not None:
            self._query(desired)
        elif self._is_file:
            path = check_rendered_text("orders_file", self.orders_file)
            read_orders_file(path, self.file_options, desired)
        else:
            self._read_orders(desired)
        return read_table(desired, guards)

    def _read_guards(self) -> dict[StatusContext, tuple[str, ...]]:
        if not self._is_guarded:
            return {}
        named = check_contexts("only_from", self.only_from)
        if not named:
            raise YouCanInvalidInputError(
                "only_from is {}, which guards nothing; nothing was sent: name a context with its slugs, such as "
                "{'payment': ['pending']}, or leave it out."
            )
        return {context: check_slugs(f"only_from[{context.value!r}]", slugs) for context, slugs in named.items()}

    def _read_orders(self, desired: DesiredState) -> None:
        from airflow_provider_youcan.reconciliation.rows.dataframe import open_table

        table, name = self._take_table()
        columns, read = open_table(table, name)
        if columns is not None:
            desired.check_columns(columns)
        for row in read(desired.find_columns(columns or ())):
            desired.add(row)
        desired.check_rows()

    def _take_table(self) -> tuple[object, str]:
        """Return the rows, and what to call them in errors."""
        return (self.orders if self._table is None else self._table.take()), "orders"

    def _query(self, desired: DesiredState) -> None:
        hook = get_database_hook(str(self.conn_id), self.hook_params)
        for names, rows in query(hook, str(self.sql), self.parameters):
            if not desired.rows:
                desired.check_columns(names)
            for row in rows:
                desired.add(row)

    def _skips_invalid(self) -> bool:
        return self.on_invalid == "skip"

    def _log_rows(self, source: Source, *, dry_run: bool) -> None:
        desired = source.desired
        columns = f" Columns: {desired.describe_columns() or 'none'}." if not source.is_plan else ""
        self.log.info(
            "Read %s, asking for %s of %s%s.%s",
            count(desired.rows, "planned change" if source.is_plan else "row"),
            count(desired.count_statuses(), "status", "statuses"),
            count(sum(1 for _ in desired.orders), "order"),
            "; dry run, nothing will be sent" if dry_run else "",
            columns,
        )

    def _finish(self, report: Report) -> None:
        """Warn of a guard with a typo in it, which protects every order."""
        for context, slugs in self._read_guards().items():
            for slug, closest in likely_typos(slugs, context) if report.has_protected(context) else ():
                self.log.warning("only_from names %r for %s: did you mean %r?", slug, context, closest)


class YouCanRevertReconciliationOperator(ReconcilingOperator):
    """
    Take a run back: set each status that it changed to what it was, while it still is what the run set.

    What people or other runs have set since is *protected*. An update whose outcome was unknown is taken back where the
    shop now shows it. A status whose value before the run is not known, or is no longer in the store's list, is listed
    as *invalid* and left alone. The general status of an order goes first, and each status is decided alone.

    It can't take back what customers, couriers and stock have learned of a status already.

    Exactly one of ``report`` and ``reverts_run_id`` is given.

    :param report: the path or URL of the report of the run; several, as a list, of its tries from the first on
        (templated). A plan may be given too, or in its place: a run that was killed has up to ``max_concurrency``
        updates that no report has. What it planned, and no report is sure of, is taken back where the shop now shows
        it, which may be what somebody else set.
    :param reverts_run_id: in its place, the run id of a run whose outcomes are in ``report_table`` (templated).
    :param reverts_dag_id: the DAG of that run, where several have a run of that id (templated; default ``None``).
    :param reverts_task_id: the task of that run, where several wrote (templated; default ``None``).
    :param allow_custom_label: set a status back to text that is in no list (default ``False``).
    :param guard_max_age: as :class:`YouCanReconcileOrdersOperator` has it, as all that follow.
    :param max_changes: a share is of all statuses of the report (templated; default ``None``, no limit).
    :param max_failures: a share is of all statuses of the report (templated; default 0).
    :param max_concurrency: how many requests are under way at a time, 1 to 256 (default 16).
    :param requests_per_second: how many requests a second are sent at most (default ``None``, no ceiling).
    :param dry_run: compute what would change, and send nothing (templated; default ``False``).
    :param report_path: where the report is written: it can be applied as a plan, and reverted in its turn (templated;
        default ``None``, no report).
    :param report_table: the table that the outcomes are written to, and read from with ``reverts_run_id`` (templated;
        default ``None``).
    :param report_conn_id: the Airflow connection of its database (templated; required with ``report_table``).
    :param youcan_conn_id: the Airflow connection of the shop (templated; default ``youcan_default``).
    """

    template_fields: Sequence[str] = (
        "report",
        "reverts_run_id",
        "reverts_dag_id",
        "reverts_task_id",
        *ReconcilingOperator.template_fields,
    )

    def __init__(
        self,
        *,
        report: str | Sequence[str] | None = NOT_GIVEN,
        reverts_run_id: str | None = NOT_GIVEN,
        reverts_dag_id: str | None = NOT_GIVEN,
        reverts_task_id: str | None = NOT_GIVEN,
        allow_custom_label: bool = False,
        guard_max_age: float = 5.0,
        max_changes: int | str | None = NOT_GIVEN,
        max_failures: int | str = 0,
        max_concurrency: int = 16,
        requests_per_second: float | None = None,
        dry_run: bool | str = False,
        report_path: str | None = NOT_GIVEN,
        report_table: str | None = NOT_GIVEN,
        report_conn_id: str | None = NOT_GIVEN,
        youcan_conn_id: str = "youcan_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            guard_max_age=guard_max_age,
            allow_custom_label=allow_custom_label,
            max_changes=max_changes,
            max_failures=max_failures,
            max_concurrency=max_concurrency,
            requests_per_second=requests_per_second,
            dry_run=dry_run,
            report_path=report_path,
            report_table=report_table,
            report_conn_id=report_conn_id,
            youcan_conn_id=youcan_conn_id,
            **kwargs,
        )
        names = {
            "report": report,
            "reverts_run_id": reverts_run_id,
            "reverts_dag_id": reverts_dag_id,
            "reverts_task_id": reverts_task_id,
        }
        self._given |= {name for name, value in names.items() if was_given(self, value)}
        if ("report" in self._given) == ("reverts_run_id" in self._given):
            raise YouCanInvalidInputError(
                "Give either report or reverts_run_id: one of them names the run to take back."
            )
        if "report" in self._given and self._given & {"reverts_dag_id", "reverts_task_id"}:
            raise YouCanInvalidInputError("reverts_dag_id and reverts_task_id go with reverts_run_id.")
        if "reverts_run_id" in self._given and "report_table" not in self._given:
            raise YouCanInvalidInputError("reverts_run_id needs report_table, where the outcomes of the run are.")
        if "report_table" in self._given and "report_conn_id" not in self._given:
            raise YouCanInvalidInputError("report_table needs report_conn_id: the connection of its database.")
        self.report = None if report is NOT_GIVEN else report
        self.reverts_run_id = None if reverts_run_id is NOT_GIVEN else reverts_run_id
        self.reverts_dag_id = None if reverts_dag_id is NOT_GIVEN else reverts_dag_id
        self.reverts_task_id = None if reverts_task_id is NOT_GIVEN else reverts_task_id
        self._warnings: list[str] = []

    def execute(self, context: Context) -> dict[str, Any]:
        """Take the run back; it returns and raises what :class:`YouCanReconcileOrdersOperator` does."""
        self._reader = describe_task(context)
        return super().execute(context)

    def _read_source(self) -> Source:
        from airflow_provider_youcan.reconciliation.plan import read_revert

        is_table = "reverts_run_id" in self._given
        reports = self._read_table() if is_table else self._read_reports()
        source = read_revert(reports)
        has_plan = any(report.is_plan for report in reports)
        was_killed = any(report.is_retry if is_table else report.end is None for report in reports)
        if has_plan and not (is_table and not was_killed):
            self._warn(
                "Statuses in the plan that no report confirms are taken back if the shop shows them; someone else may "
                "have set them."
            )
        elif was_killed:
            self._warn(
                "A try of this run was, or may have been, killed. Up to max_concurrency of its updates may be "
                "missing from the reports and are not taken back. To include them, give the plan that it applied with "
                "the reports of its tries."
            )
        return source

    def _read_reports(self) -> list[RecordedReport]:
        from airflow_provider_youcan.reconciliation.record.reader import read_report

        is_list = isinstance(self.report, Sequence) and not isinstance(self.report, (str, bytes))
        paths = [check_rendered_text("report", path) for path in (self.report if is_list else [self.report])]  # type: ignore[union-attr]
        if not paths:
            raise YouCanInvalidInputError("report is [], which names no report; nothing was sent: give a path or URL.")
        reports = []
        for path in paths:
            reports.append(read_report(read_lines(path), path))
            if (cut_line := reports[-1].cut_line) is not None:
                self.log.warning("Line %d of %s is cut off, and left out: the run was killed there.", cut_line, path)
        return reports

    def _read_table(self) -> list[RecordedReport]:
        from airflow_provider_youcan.reconciliation.record.reader import read_rows

        table = str(self._read_given("report_table"))
        tries = read_outcomes(
            table,
            str(self._read_given("report_conn_id")),
            str(self._read_given("reverts_run_id")),
            self._read_given("reverts_dag_id"),
            self._read_given("reverts_task_id"),
            reader=self._reader,
        )
        return [
            read_rows(one.lines, table, is_plan=one.is_plan, is_retry=not one.is_plan and one.try_number > 1)
            for one in tries
        ]

    def _warn(self, warning: str) -> None:
        self._warnings.append(warning)
        self.log.warning(warning)

    def _skips_invalid(self) -> bool:
        return True

    def _notes(self) -> Sequence[str]:
        return self._warnings

    def _log_rows(self, source: Source, *, dry_run: bool) -> None:
        self.log.info(
            "Read %s of %s that the run changed%s.",
            count(source.desired.rows, "status", "statuses"),
            count(sum(1 for _ in source.desired.orders), "order"),
            "; dry run, nothing will be sent" if dry_run else "",
        )


class _Table:
    """Rows that are in hand. Copies of the operator share them, so that a generator is read once by all of them."""

    def __init__(self, rows: object) -> None:
        self._rows = rows
        self._was_read = False

    def __deepcopy__(self, memo: object) -> _Table:
        return self

    def take(self) -> object:
        if self._was_read:
            raise YouCanInvalidInputError(
                "orders was a generator, and was read already, so nothing was sent: have a function make the rows each "
                "time, with @task.youcan_reconcile."
            )
        self._was_read = isinstance(self._rows, Iterator)
        return self._rows


def _with_text_keys(status_map: Any) -> Any:
    """Return a status_map whose words are all texts: Airflow 2 can't sort keys of several types."""
    if not isinstance(status_map, Mapping):
        return status_map
    return {
        context: {str(word): slug for word, slug in words.items()} if isinstance(words, Mapping) else words
        for context, words in status_map.items()
    }

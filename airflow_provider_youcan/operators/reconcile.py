"""Reconcile a whole table with the shop, or apply a plan of that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import XComArg

from airflow_provider_youcan.arguments import NOT_PASSED, check_rendered_text, is_rendered_later
from airflow_provider_youcan.checks import check_contexts, check_slugs, likely_typos
from airflow_provider_youcan.exceptions import YouCanInvalidInputError, YouCanUnknownStatusError
from airflow_provider_youcan.operators.base import ReconcilingOperator
from airflow_provider_youcan.operators.revert import YouCanRevertReconciliationOperator
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.databases import get_database_hook
from airflow_provider_youcan.reconciliation.rows.cells import check_words
from airflow_provider_youcan.reconciliation.rows.dataframe import TableInHand, read_rows
from airflow_provider_youcan.reconciliation.rows.file import check_file_options, read_orders_file
from airflow_provider_youcan.reconciliation.rows.query import query
from airflow_provider_youcan.reconciliation.storage import is_same_file
from airflow_provider_youcan.reconciliation.thresholds import read_whole_number
from airflow_provider_youcan.texts import join_slugs, pluralize
from airflow_provider_youcan.version_compat import OPERATOR_ARGUMENTS, with_text_keys

if TYPE_CHECKING:
    from airflow_provider_youcan.reconciliation.inputs import RunInput
    from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
    from airflow_provider_youcan.reconciliation.summary import Report

__all__ = ["YouCanReconcileOrdersOperator", "YouCanRevertReconciliationOperator"]


class YouCanReconcileOrdersOperator(ReconcilingOperator):
    """
    Make a shop's orders match a table: read, compare, send the difference.

    The table names each order in ``order_id`` (its UUID) or ``ref``, and what should hold in ``status`` (the general
    one), ``shipping_status`` and ``payment_status``; a null, or a column that isn't there, leaves that status alone.

    All rows are checked before anything is sent. What holds already is not sent again, so a run that was killed sends
    only what is missing when it is started again. A row that fails does not keep the others from being set. The general
    status of an order is set last, and left alone where another status of the same order failed or was protected.

    Exactly one of ``orders``, ``orders_file``, ``sql`` and ``plan`` is given. A templated argument that was passed and
    renders to nothing (``None``, an empty text) is refused, never ignored.

    :param orders: the rows: a list, or any iterable, of mappings; a list of lists that begins with the header, as a
        spreadsheet's API returns it; or a table of pandas, polars or pyarrow (templated; usually the XCom of an
        upstream task, or a list). Anything but text, a list or a tuple is not rendered; ``@task.youcan_reconcile``
        takes what a function returns or yields.
    :param orders_file: the path or URL of a file of rows: CSV with a header (``.csv``, ``.tsv``) or JSON lines
        (``.jsonl``, ``.ndjson``), each also with ``.gz``, ``.bz2``, ``.xz`` or ``.zst``; Parquet (``.parquet``, which
        takes pyarrow); or a workbook (``.xlsx``, ``.xlsm``, ``.xls``, ``.ods``, with the extra ``excel``). An empty
        cell is a null, unless ``status_map`` has the word ``""`` (templated).
    :param file_options: for CSV the ``delimiter`` (default: what is most frequent in the header of ``,`` ``;`` tab and
        ``|``), for CSV and JSON lines the ``encoding`` (default UTF-8), for CSV and workbooks the ``header_row``, from
        1 (default: the first row that is not empty), for workbooks the ``sheet``, its name or its number from 1
        (default the first): ``{"delimiter": ";", "encoding": "cp1252"}`` (templated; default none).
    :param sql: a query whose result they are, or the path of a ``.sql`` file (templated).
    :param plan: the path or URL of the report of a dry run (templated). What it planned is applied,
        and nothing else: each status only while it still is what the plan saw. The plan has decided ``columns``,
        ``status_map``, ``only_from`` and ``on_invalid``.
    :param conn_id: the Airflow connection that ``sql`` runs on, of any database with a DB-API hook (templated).
    :param hook_params: what the hook of that database is made with, as for Airflow's own SQL operators, such as
        ``{"location": "EU"}`` for BigQuery (templated; default none).
    :param parameters: the parameters of ``sql``, as its database takes them (templated; default none).
    :param columns: the table's names of the columns, if they differ: ``{"order_id": "youcan_id"}`` (templated).
        Where it names any status, only the named ones are read, so that a table's own ``status`` is not taken for one.
    :param status_map: for each context the table's words and the slugs that they mean, ``None`` for a word that leaves
        the status alone: ``{"payment": {"COLLECTED": "paid"}}`` (templated). Other words are taken for slugs.
    :param only_from: for each context the slug, or the slugs, that the status may be moved from:
        ``{"payment": ["pending", "unpaid"]}`` (templated). What stands elsewhere, or can't be read, is left alone.
    :param guard_max_age: the maximum age, in seconds, of a status that a guarded update relies on. An older one, or one
        read before another attempt or a renewed token, is read again first. 0 to 3600; 0 reads each status right before
        its update (default 5).
    :param on_invalid: ``"fail"`` refuses the whole table for a row that can't be used, ``"skip"`` leaves such rows
        out (default ``"fail"``). Where none is left, the task fails.
    :param on_not_found: ``"fail"`` counts a row of an order that the shop does not have as failed, ``"skip"`` leaves it
        out with a warning (default ``"fail"``).
    :param latest_by: a column of dates, numbers or ISO times. Of several rows of one order, for each status the row
        with the greatest value counts, among those that ask for that status; a null is the earliest (templated; default
        ``None``: such rows may not contradict each other).
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
        "latest_by",
        "min_rows",
        *ReconcilingOperator.template_fields,
    )
    template_ext: Sequence[str] = (".sql",)
    # Airflow also keeps the task's arguments, and a generator can't be copied.
    shallow_copy_attrs: Sequence[str] = (OPERATOR_ARGUMENTS,)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql", "orders": "json", "parameters": "json"}

    orders_file: str | None
    plan: str | None
    only_from: Mapping[str, str | Collection[str]] | None
    latest_by: str | None

    def __init__(
        self,
        *,
        orders: Iterable[Mapping[str, Any]] | None = None,
        orders_file: str | None = NOT_PASSED,
        file_options: Mapping[str, str] | None = None,
        sql: str | None = None,
        plan: str | None = NOT_PASSED,
        conn_id: str | None = None,
        hook_params: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        columns: Mapping[str, str] | None = None,
        status_map: Mapping[str, Mapping[Any, str | None]] | None = None,
        only_from: Mapping[str, str | Collection[str]] | None = NOT_PASSED,
        on_invalid: str = "fail",
        on_not_found: str = "fail",
        latest_by: str | None = NOT_PASSED,
        min_rows: int | str = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._set_optional(plan=plan, orders_file=orders_file, only_from=only_from, latest_by=latest_by)
        # Other iterables are serialized as their repr, which differs at each parse.
        is_rendered = orders is None or isinstance(orders, (str, list, tuple, XComArg))
        self._table = None if is_rendered else TableInHand(orders)
        self.orders = orders if is_rendered else None
        self.file_options = file_options
        self.sql = sql
        self.conn_id = conn_id
        self.hook_params = hook_params
        self.parameters = parameters
        self.columns = columns
        check_words(status_map)
        self.status_map = with_text_keys(status_map)
        self.on_invalid = on_invalid
        self.on_not_found = on_not_found
        self.min_rows = min_rows
        self._check_sources()
        self._check_companions()

    def _check_sources(self) -> None:
        """Refuse more than one source, or none, and what belongs to another."""
        is_list = self.orders is not None or self._table is not None
        if is_list + (self.sql is not None) + len(self._passed & {"orders_file", "plan"}) != 1:
            raise YouCanInvalidInputError(
                "Give exactly one of orders, orders_file, sql and plan: what should hold comes from it."
            )
        is_query_only = self.parameters is not None or self.hook_params is not None
        if (self.sql is None) != (self.conn_id is None) or (self.sql is None and is_query_only):
            raise YouCanInvalidInputError(
                "sql, with its parameters and hook_params, and conn_id go together: a query needs a connection."
            )
        if self.file_options is not None and "orders_file" not in self._passed:
            raise YouCanInvalidInputError("file_options goes with orders_file: it says how to read it.")
        decided = {
            "columns": self.columns is not None,
            "status_map": self.status_map is not None,
            "only_from": "only_from" in self._passed,
            "on_invalid": self.on_invalid != "fail",
            "latest_by": "latest_by" in self._passed,
        }
        if "plan" in self._passed and any(decided.values()):
            given = " and ".join(name for name, is_passed in decided.items() if is_passed)
            raise YouCanInvalidInputError(f"Leave {given} out beside plan: the plan has decided that.")

    def _check_companions(self) -> None:
        """Refuse what can be seen to be wrong when the DAG is parsed."""
        for name in ("on_invalid", "on_not_found"):
            if getattr(self, name) not in ("fail", "skip"):
                raise YouCanInvalidInputError(f"{name} is {getattr(self, name)!r}: give 'fail' or 'skip'.")
        if "report_table" in self._passed and self.conn_id is None and "report_conn_id" not in self._passed:
            raise YouCanInvalidInputError("report_table needs report_conn_id: the connection of its database.")
        if not is_rendered_later(self.min_rows):
            read_whole_number("min_rows", self.min_rows)
        options = self.file_options.values() if isinstance(self.file_options, Mapping) else [self.file_options]
        if not any(map(is_rendered_later, options)):
            check_file_options(self.file_options)

    def _read_input(self) -> RunInput:
        min_rows = read_whole_number("min_rows", self.min_rows)
        run_input = self._read_plan() if "plan" in self._passed else self._read_table()
        rows = run_input.desired.rows if run_input.rows is None else run_input.rows
        if rows < min_rows:
            raise YouCanInvalidInputError(
                f"The table has {pluralize(rows, 'row')}, fewer than min_rows={min_rows}",
                advice="look at what feeds it.",
            )
        return run_input

    def _read_plan(self) -> RunInput:
        from airflow_provider_youcan.reconciliation.plan import read_plan
        from airflow_provider_youcan.reconciliation.record.file import find_newer, read_lines
        from airflow_provider_youcan.reconciliation.record.reader import read_record

        path = check_rendered_text("plan", self.plan)
        if (report_path := self._read_passed("report_path")) is not None and is_same_file(path, report_path):
            raise YouCanInvalidInputError(
                f"plan and report_path are both {path!r}", advice="write the report elsewhere."
            )
        plan = read_record(self._interruption.interrupt(read_lines(path)), path)
        if (newer := find_newer(path)) is not None:
            raise YouCanInvalidInputError(
                f"There is a newer plan than {path}: {newer}",
                advice="name the one that was approved, or move the newer one away.",
            )
        return read_plan(plan)

    def _read_table(self) -> RunInput:
        from airflow_provider_youcan.reconciliation.plan import read_table
        from airflow_provider_youcan.reconciliation.rows.desired import DesiredState

        guards = self._read_guards()
        desired = DesiredState(
            self.columns,
            self.status_map,
            empty_is_null="orders_file" in self._passed,
            latest_by=self._read_passed("latest_by"),
        )
        self._check_mapped(desired)
        if self.sql is not None:
            hook = get_database_hook(str(self.conn_id), self.hook_params)
            for names, rows in query(hook, str(self.sql), self.parameters, self._interruption.check):
                if not desired.rows:
                    desired.columns.check(names)
                for row in rows:
                    desired.add(row)
        elif "orders_file" in self._passed:
            path = check_rendered_text("orders_file", self.orders_file)
            read_orders_file(path, self.file_options, desired)
        else:
            read_rows(*self._get_table(), desired, self._interruption.interrupt)
        return read_table(desired, guards)

    def _check_mapped(self, desired: DesiredState) -> None:
        """Refuse a ``status_map`` that leads to a status which neither YouCan nor the store knows."""
        from airflow_provider_youcan.client.store import MAY_LACK_SCOPE
        from airflow_provider_youcan.hooks.youcan import YouCanHook

        mapped = {item: word for item, word in desired.mapped.items() if item[1] not in item[0].documented_slugs}
        if self.allow_custom_label or not mapped:
            return
        with YouCanHook(self.youcan_conn_id) as hook, suppress(*MAY_LACK_SCOPE):  # the run says so, if a row needs it
            for (context, slug), word in mapped.items():
                try:
                    hook.check_status(slug, context)
                except YouCanUnknownStatusError as error:
                    hint = f"did you mean {join_slugs(error.closest)}? " if error.closest else ""
                    raise YouCanUnknownStatusError(
                        f"status_map turns {word!r} into {slug!r}, which is no {context} status of the store",
                        advice=f"{hint}Correct status_map.",
                        closest=error.closest,
                    ) from None

    def _read_guards(self) -> dict[StatusContext, tuple[str, ...]]:
        if "only_from" not in self._passed:
            return {}
        named = check_contexts("only_from", self.only_from)
        if not named:
            raise YouCanInvalidInputError(
                "only_from is {}, which guards nothing",
                advice="name a context with its slugs, such as {'payment': ['pending']}, or leave it out.",
            )
        return {context: check_slugs(f"only_from[{context.value!r}]", slugs) for context, slugs in named.items()}

    def _get_table(self) -> tuple[object, str]:
        """Return the rows, and what to call them in errors."""
        return (self.orders if self._table is None else self._table.get()), "orders"

    def _log_rows(self, run_input: RunInput, *, dry_run: bool) -> None:
        desired = run_input.desired
        columns = f" Columns: {desired.columns.describe() or 'none'}." if not run_input.is_plan else ""
        self.log.info(
            "Read %s, asking for %s of %s%s.%s",
            pluralize(desired.rows, "planned change" if run_input.is_plan else "row"),
            pluralize(desired.count_statuses(), "status", "statuses"),
            pluralize(len(desired.orders), "order"),
            "; dry run, nothing will be sent" if dry_run else "",
            columns,
        )

    def _finish(self, report: Report) -> None:
        """Warn of a guard with a typo in it, which protects every order."""
        for context, slugs in self._read_guards().items():
            for slug, closest in likely_typos(slugs, context) if report.has_protected(context) else ():
                self.log.warning("only_from names %r for %s: did you mean %r?", slug, context, closest)

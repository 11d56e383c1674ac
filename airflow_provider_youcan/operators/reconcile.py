"""Reconcile a whole table with the shop."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, BaseHook, BaseOperator

from airflow_provider_youcan.checks import (
    NOT_GIVEN,
    check_contexts,
    check_flag,
    check_limits,
    check_number,
    check_rendered_flag,
    check_slugs,
    likely_typos,
    was_given,
)
from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanTaskStoppedError,
    YouCanTransientError,
)
from airflow_provider_youcan.interruption import GRACE_SECONDS, InterruptibleRun
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.report_file import ReportFile

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.reconciliation.report import Report
    from airflow_provider_youcan.reconciliation.rows import DesiredState
    from airflow_provider_youcan.reconciliation.run import Options, Reconciliation

__all__ = ["YouCanReconcileOrdersOperator"]

_ROWS_A_FETCH = 1000


class YouCanReconcileOrdersOperator(BaseOperator):
    """
    Bring a shop's orders to where a table says they should be: read, compare, send the difference.

    The table names each order in ``order_id`` (its UUID) or ``ref``, and what should hold in ``status`` (the general
    one), ``shipping_status`` and ``payment_status``; a null, or a column that isn't there, leaves that status alone.

    All rows are checked before anything is sent. What holds already is not sent again, so a run that was killed sends
    only what is missing when it is started again. A row that fails does not keep the others from being set. The general
    status of an order is set last, and left alone where another status of the same order failed or was protected.

    :param orders: the rows, as a list of mappings (templated; usually the XCom of an upstream task).
    :param sql: in place of ``orders``, a query whose result they are, or the path of a ``.sql`` file (templated).
    :param conn_id: the Airflow connection that ``sql`` runs on, of any database with a DB-API hook (templated).
    :param parameters: the parameters of ``sql``, as its database takes them (templated; default none).
    :param columns: what the table calls a column, where it is another name: ``{"order_id": "youcan_id"}`` (templated).
        Where it names any status, only the named ones are read, so that a table's own ``status`` is not taken for one.
    :param status_map: for each context the table's words and the slugs that they mean, ``None`` for a word that leaves
        the status alone: ``{"payment": {"COLLECTED": "paid"}}`` (templated). Other words are taken for slugs.
    :param only_from: for each context the slug, or the slugs, that the status may be moved from:
        ``{"payment": ["pending", "unpaid"]}`` (templated). What stands elsewhere, or can't be read, is left alone. What
        is given and renders to nothing is refused.
    :param guard_max_age: a status that was read no longer ago than this, in seconds, and with no other attempt or
        renewed token in between, counts as read right before its update; an older one is read again first. From 0,
        which reads each one right before its update, to 3600 (default 5).
    :param on_invalid: ``"fail"`` refuses the whole table for a row that can't be used, ``"skip"`` leaves such rows
        out (default ``"fail"``). Where none is left, the task fails.
    :param allow_custom_label: take any text for a status, even one that is in no list (default ``False``). Without it
        the store's own list is read once and decides.
    :param max_failures: more failed rows than this fail the task, after the rest is done (default 0). A row fails
        where the shop has no such order, refuses the update, or can't be reached. Invalid rows don't count.
    :param max_concurrency: how many requests are under way at a time, 1 to 256 (default 16).
    :param requests_per_second: how many requests a second are sent at most; the connection's extra
        ``requests_per_second`` can lower it. ``None`` (default) sets no ceiling: the shop's own limit is found.
    :param dry_run: compute what would change, and send nothing (templated; default ``False``).
    :param report_path: where one JSON line for each status that a row asks for, and each invalid row, is written: any
        path or URL that Airflow's ``ObjectStoragePath`` takes (templated; default ``None``, no report).
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
        "dry_run",
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
        only_from: Mapping[str, str | Collection[str]] | None = NOT_GIVEN,
        guard_max_age: float = 5.0,
        on_invalid: str = "fail",
        allow_custom_label: bool = False,
        max_failures: int = 0,
        max_concurrency: int = 16,
        requests_per_second: float | None = None,
        dry_run: bool | str = False,
        report_path: str | None = NOT_GIVEN,
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
        self.status_map = _with_text_keys(status_map)
        self.only_from = None if only_from is NOT_GIVEN else only_from
        self._is_guarded = was_given(self, only_from)
        self.guard_max_age = check_number("guard_max_age", guard_max_age, 0, 3600)
        self.on_invalid = on_invalid
        self.allow_custom_label = check_flag("allow_custom_label", allow_custom_label)
        self.max_failures = int(check_number("max_failures", max_failures, 0, 1_000_000_000, whole=True))
        self.max_concurrency = int(check_number("max_concurrency", max_concurrency, 1, 256, whole=True))
        self.requests_per_second = None if requests_per_second is None else _check_rate(requests_per_second)
        # An operator has a method of this name already; Airflow renders the attribute, and never calls the method.
        self.dry_run = dry_run  # type: ignore[assignment]
        self.report_path = None if report_path is NOT_GIVEN else report_path
        self._is_reported = was_given(self, report_path)
        self.youcan_conn_id = youcan_conn_id
        self._interruptible: InterruptibleRun | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Reconcile the table.

        :return: how many ``rows`` there were and how many of them were ``invalid``; how many statuses (one context of
            one row) were ``planned``, ``changed``, ``unchanged``, ``protected``, ``not_found``, ``failed`` and
            ``not_reached``, and the same ``by_context``; the ``requests`` and the ``seconds`` that it took; and the
            ``report_path``.
        :raises YouCanError: if the table was refused, the run ended early, or more rows failed than ``max_failures``.
        """
        # Imported when a task runs: Airflow parses DAG files again and again.
        from airflow_provider_youcan.reconciliation.report import Report
        from airflow_provider_youcan.reconciliation.rows import DesiredState

        begun_at = time.monotonic()
        options = self._read_options()
        desired = DesiredState(self.columns, self.status_map)
        self._read_rows(desired)
        with ReportFile(self.report_path if self._is_reported else None) as file:
            report = Report(file.text)
            report.rows = desired.rows
            self._log_rows(desired, dry_run=options.dry_run)
            try:
                run = self._reconcile(desired, report, options, begun_at)
            except YouCanTaskStoppedError:
                # The stop's own error has the last word.
                self._raise_interruption()
                raise
            finally:
                # Before the XComs, so that it is whole whatever becomes of them.
                file.flush()
                summary = report.summarise() | {"report_path": self.report_path}
                self._publish(report, summary, context)
            self._raise_interruption()
        self._warn_of_typos(options, report)
        self._check_failures(run, report)
        return summary

    def on_kill(self) -> None:
        """Begin nothing more; Airflow calls this when the task is to end, in a signal handler."""
        if self._interruptible is not None:
            self._interruptible.stop()

    def _read_options(self) -> Options:
        from airflow_provider_youcan.reconciliation.run import Options

        guards: dict[StatusContext, tuple[str, ...]] = {}
        if self._is_guarded:
            named = check_contexts("only_from", self.only_from)
            if not named:
                raise YouCanInvalidInputError(
                    "only_from is {}, which guards nothing; nothing was sent: name a context with its slugs, such as "
                    "{'payment': ['pending']}, or leave it out."
                )
            guards = {context: check_slugs(f"only_from[{context.value!r}]", slugs) for context, slugs in named.items()}
        if self._is_reported and (not isinstance(self.report_path, str) or self.report_path.strip() in ("", "None")):
            raise YouCanInvalidInputError(
                f"report_path is {self.report_path!r}; nothing was sent: give a path or URL, or leave it out."
            )
        return Options(
            only_from=guards,
            allow_custom_label=self.allow_custom_label,
            skip_invalid=self.on_invalid == "skip",
            dry_run=check_rendered_flag("dry_run", self.dry_run),
            max_concurrency=self.max_concurrency,
            guard_max_age=self.guard_max_age,
            youcan_conn_id=self.youcan_conn_id,
        )

    def _log_rows(self, desired: DesiredState, *, dry_run: bool) -> None:
        self.log.info(
            "Read %s that ask for %s of %s%s. Columns: %s.",
            _count(desired.rows, "row"),
            _count(desired.count_statuses(), "status", "statuses"),
            _count(sum(1 for _ in desired.orders), "order"),
            "; dry run, nothing will be sent" if dry_run else "",
            desired.describe_columns() or "none",
        )

    def _reconcile(self, desired: DesiredState, report: Report, options: Options, begun_at: float) -> Reconciliation:
        from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
        from airflow_provider_youcan.reconciliation.run import Reconciliation

        hook = YouCanAsyncHook(
            self.youcan_conn_id, max_concurrency=self.max_concurrency, requests_per_second=self.requests_per_second
        )
        reconciliation = Reconciliation(hook.run, desired, report, options, self.log)

        async def prepare() -> int:
            if options.only_from:
                await hook.check_ceiling(options.guard_max_age)
            return (await hook.get_credentials()).max_attempts

        async def run() -> None:
            async with hook:
                await reconciliation.run(prepare)

        def stop() -> None:
            hook.stop()
            reconciliation.stop()

        self._interruptible = interruptible = InterruptibleRun(stop)
        try:
            interruptible.run(run(), self._seconds_left(begun_at))
        finally:
            report.requests = hook.requests
        return reconciliation

    def _seconds_left(self, begun_at: float) -> float | None:
        """Return the seconds until the run has to begin to end, so that it has ended when Airflow's alarm goes off."""
        if self.execution_timeout is None:
            return None
        limit = self.execution_timeout.total_seconds()
        return max(0.0, max(limit - GRACE_SECONDS - 1, limit / 2) - (time.monotonic() - begun_at))

    def _raise_interruption(self) -> None:
        """Raise what Airflow expects of a task that was stopped, or whose time was over."""
        interruptible = self._interruptible
        if interruptible is None or not (interruptible.was_stopped or interruptible.timed_out):
            return
        if interruptible.timed_out:
            raise AirflowTaskTimeout(
                f"The table was not reconciled within the execution_timeout of {self.execution_timeout}; a retry "
                "sends only what is missing."
            )
        interruptible.handle_signals()
        # Airflow 3's handler raises nothing, and a task that was stopped must not end as a success.
        raise YouCanTransientError(
            "The task was stopped before the table was reconciled; a retry sends only what is missing."
        )

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
        if not hasattr(hook, "get_conn") or not hasattr(hook, "get_records"):
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

    def _publish(self, report: Report, summary: dict[str, Any], context: Context) -> None:
        self.log.info(
            "%s (%d invalid), %s in %.1f s:\n%s",
            _count(summary["rows"], "row"),
            summary["invalid"],
            _count(summary["requests"], "request"),
            summary["seconds"],
            report.as_table(),
        )
        if (task_instance := context.get("ti")) is None:
            return
        try:
            # Now, so that a task that comes after a failure finds it, too.
            task_instance.xcom_push(key="summary", value=summary)
        except Exception:  # an XCom that is refused must hide nothing
            self.log.warning("The summary could not be pushed as an XCom.", exc_info=True)

    def _warn_of_typos(self, options: Options, report: Report) -> None:
        """Warn of a guard with a typo in it, which protects every order."""
        for context, slugs in options.only_from.items():
            for slug, closest in likely_typos(slugs, context) if report.has_protected(context) else ():
                self.log.warning("only_from names %r for %s: did you mean %r?", slug, context, closest)

    def _check_failures(self, run: Reconciliation, report: Report) -> None:
        failed = len(report.failed_rows)
        if failed <= self.max_failures:
            return
        where = f"the report at {self.report_path}" if self.report_path else "a report, which report_path asks for,"
        message = (
            f"{failed:,} of {report.rows:,} rows failed, more than max_failures={self.max_failures}; the others are "
            f"done: {where} says why each did. The first: {report.first_failure}"
        )
        if run.may_pass:
            raise YouCanTransientError(
                f"{message} A retry sends only what is missing.", retry_after=run.retry_after or None
            )
        raise YouCanPermanentError(message)


def _with_text_keys(status_map: Any) -> Any:
    """Return a status_map whose words are all texts: Airflow 2 can't sort keys of several types."""
    if not isinstance(status_map, Mapping):
        return status_map
    return {
        context: {str(word): slug for word, slug in words.items()} if isinstance(words, Mapping) else words
        for context, words in status_map.items()
    }


def _check_rate(value: object) -> float:
    if isinstance(value, str):
        raise YouCanInvalidInputError(f"requests_per_second is {value!r}: give a number, or None; it is not templated.")
    return check_limits("requests_per_second", value)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"

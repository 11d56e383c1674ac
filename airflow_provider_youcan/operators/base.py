"""The common part of the operators that reconcile: the run, its record, and its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_youcan.arguments import (
    NOT_PASSED,
    check_flag,
    check_rendered_flag,
    check_rendered_text,
    is_rendered_later,
    was_passed,
)
from airflow_provider_youcan.assets import add_event_extra
from airflow_provider_youcan.checks import check_number
from airflow_provider_youcan.exceptions import (
    YouCanRecordError,
    YouCanTaskStoppedError,
    YouCanTooManyChangesError,
)
from airflow_provider_youcan.failures import log_end
from airflow_provider_youcan.operators.ending import check_failures, complete_record, publish
from airflow_provider_youcan.operators.interruptible import InterruptibleOperator
from airflow_provider_youcan.operators.rendered import RenderedArguments, check_rate, describe_task
from airflow_provider_youcan.reconciliation.record.table import OutcomeTable
from airflow_provider_youcan.reconciliation.thresholds import read_threshold
from airflow_provider_youcan.reconciliation.warehouse import check_table_name

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
    from airflow_provider_youcan.reconciliation.inputs import RunInput
    from airflow_provider_youcan.reconciliation.run import Reconciliation
    from airflow_provider_youcan.reconciliation.summary import Report

__all__ = ["ReconcilingOperator"]


class ReconcilingOperator(InterruptibleOperator):
    """
    The common part of the operators that reconcile: everything but the source of the desired statuses.

    The arguments are documented in each of them, where a user looks.
    """

    template_fields: Sequence[str] = (
        "max_changes",
        "max_failures",
        "dry_run",
        "report_path",
        "report_table",
        "report_conn_id",
        "youcan_conn_id",
    )
    ui_color = "#fde2ec"
    goal = "the table was reconciled"
    retry_advice = "sends only what is missing"
    on_invalid = "fail"
    """What becomes of rows that can't be used: ``"fail"`` refuses the run, ``"skip"`` leaves them out."""
    on_not_found = "fail"
    """The same for rows of orders that the shop does not have."""
    max_changes: int | str | None
    report_path: str | None
    report_table: str | None
    report_conn_id: str | None

    def __init__(
        self,
        *,
        guard_max_age: float = 5.0,
        allow_custom_label: bool = False,
        max_changes: int | str | None = NOT_PASSED,
        max_failures: int | str = 0,
        max_concurrency: int = 16,
        requests_per_second: float | None = None,
        dry_run: bool | str = False,
        report_path: str | None = NOT_PASSED,
        report_table: str | None = NOT_PASSED,
        report_conn_id: str | None = NOT_PASSED,
        youcan_conn_id: str = "youcan_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.guard_max_age = check_number("guard_max_age", guard_max_age, 0, 3600)
        self.allow_custom_label = check_flag("allow_custom_label", allow_custom_label)
        self.max_concurrency = int(check_number("max_concurrency", max_concurrency, 1, 256, whole=True))
        self.requests_per_second = None if requests_per_second is None else check_rate(requests_per_second)
        # An operator has a method of this name already; Airflow renders the attribute, and never calls the method.
        self.dry_run = dry_run  # type: ignore[assignment]
        self.youcan_conn_id = youcan_conn_id
        self.max_failures = max_failures
        self._passed: set[str] = set()
        self._set_optional(
            max_changes=max_changes, report_path=report_path, report_table=report_table, report_conn_id=report_conn_id
        )
        self._report: Report | None = None
        if "max_changes" in self._passed and not is_rendered_later(max_changes):
            read_threshold("max_changes", max_changes)
        if not is_rendered_later(max_failures):
            read_threshold("max_failures", max_failures)
        if "report_table" in self._passed and not is_rendered_later(report_table):
            check_table_name(report_table, "report_table")

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Bring the shop's orders to where they should be.

        :return: how many ``rows`` there were and how many of them were ``invalid``; how many statuses (one context of
            one row) were ``planned``, ``changed``, ``unchanged``, ``protected``, ``not_found``, ``failed`` and
            ``not_reached``, and the same ``by_context``; the ``requests`` and the ``seconds`` that it took; the most
            frequent ``transitions``, each a mapping of ``context``, ``before``, ``after`` and ``count``; and the
            ``report_path`` that was written to.
        :raises YouCanError: if it was refused, the run ended early, or more rows failed than ``max_failures``.
        """
        with log_end(self.log):
            return self.reconcile(context)

    def reconcile(self, context: Context) -> dict[str, Any]:
        """Do what :meth:`execute` does, outside a task as well."""
        with self._interruption.watch():
            self._interruption.check()
            return self._execute(context)

    def _execute(self, context: Context) -> dict[str, Any]:
        # Imported when a task runs: Airflow parses DAG files again and again.
        from airflow_provider_youcan.reconciliation.record.file import open_record_file
        from airflow_provider_youcan.reconciliation.record.writer import Record
        from airflow_provider_youcan.reconciliation.summary import Report

        begun_at = time.monotonic()
        arguments = self._read_arguments()
        run_input = self._read_input()
        if "max_changes" not in self._passed:
            run_input.refuse_exceeded()
        file = None if arguments.report_path is None else open_record_file(arguments.report_path)
        table = None if arguments.report_table is None else self._make_table(arguments, context)
        record = Record([sink for sink in (file, table) if sink is not None])
        self._report = report = Report(record)
        report.rows, report.describe_line = run_input.desired.rows, run_input.desired.describe_line
        try:
            record.open()
            self._interruption.check()
        except BaseException:
            record.abandon()
            raise
        path = None if file is None else file.path
        self._log_rows(run_input, dry_run=arguments.dry_run)
        with self._report_on_exit(run_input, report, path, arguments, context) as summary:
            run = self._run(run_input, report, table, arguments, begun_at)
            self._raise_interruption()
        # It may have been stopped while its record was completed.
        self._raise_interruption()
        self._finish(report)
        skips_not_found = self.on_not_found == "skip"
        check_failures(run_input, run, report, arguments, path, skips_not_found=skips_not_found, log=self.log)
        flat = {name: value for name, value in summary.items() if not isinstance(value, (dict, list))}
        add_event_extra(self, context, flat | {"dry_run": arguments.dry_run})
        return summary

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002  # Airflow's signature
        """Return for OpenLineage which tables were read, and of which shop how many statuses were changed."""
        from airflow_provider_youcan.operators.lineage import describe_lineage
        from airflow_provider_youcan.reconciliation.planner import Outcome

        report = self._report
        changed = 0 if report is None else report.count(Outcome.CHANGED)
        return describe_lineage(self, changed, None if report is None else report.store)

    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete

    def _set_optional(self, **arguments: Any) -> None:
        """Set arguments that may be omitted, and remember which were passed."""
        for name, value in arguments.items():
            setattr(self, name, None if value is NOT_PASSED else value)
            if was_passed(self, value):
                self._passed.add(name)

    def _read_input(self) -> RunInput:
        """Return the desired statuses, and the constraints of the run."""
        raise NotImplementedError

    def _log_rows(self, run_input: RunInput, *, dry_run: bool) -> None:
        """Log what was read."""
        raise NotImplementedError

    def _finish(self, report: Report) -> None:
        """Do what is left to do after the run."""

    def _read_passed(self, name: str) -> str | None:
        """Return an argument that is text, as it was rendered; ``None`` where it was not given."""
        return check_rendered_text(name, getattr(self, name)) if name in self._passed else None

    def _read_arguments(self) -> RenderedArguments:
        max_changes = read_threshold("max_changes", self.max_changes) if "max_changes" in self._passed else None
        table = self._read_passed("report_table")
        return RenderedArguments(
            dry_run=check_rendered_flag("dry_run", self.dry_run),
            max_changes=max_changes,
            max_failures=read_threshold("max_failures", self.max_failures),
            report_path=self._read_passed("report_path"),
            report_table=None if table is None else check_table_name(table, "report_table"),
            report_conn_id=self._read_passed("report_conn_id") or str(getattr(self, "conn_id", "")),
        )

    def _make_table(self, arguments: RenderedArguments, context: Context) -> OutcomeTable:
        is_own = "report_conn_id" in self._passed
        hook_params = {} if is_own else getattr(self, "hook_params", None) or {}
        keys = describe_task(context)
        name, conn_id = str(arguments.report_table), arguments.report_conn_id
        return OutcomeTable(name, conn_id, hook_params, keys, self.youcan_conn_id)

    @contextmanager
    def _report_on_exit(
        self, run_input: RunInput, report: Report, path: str | None, arguments: RenderedArguments, context: Context
    ) -> Iterator[dict[str, Any]]:
        """Complete the report and push the XComs even if the run fails. ``summary`` is filled on exit."""
        summary: dict[str, Any] = {}
        failure: BaseException | None = None
        try:
            yield summary
        except BaseException as error:
            failure = error
            if isinstance(error, YouCanTaskStoppedError):
                # If the task was interrupted, raise that instead.
                self._raise_interruption()
            raise
        finally:
            try:
                exceeded = arguments.max_changes if isinstance(failure, YouCanTooManyChangesError) else None
                complete_record(
                    report,
                    failure,
                    self.log,
                    dry_run=arguments.dry_run,
                    exceeded=exceeded,
                    ends_at=lambda: self._interruption.ends_at,
                )
            except YouCanRecordError:
                # If the task was interrupted, raise that instead.
                self._raise_interruption()
                raise
            finally:
                summary |= report.summarise() | {"report_path": path}
                publish(report, summary, run_input.notes, context, self.youcan_conn_id, self.log)

    def _run(
        self,
        run_input: RunInput,
        report: Report,
        table: OutcomeTable | None,
        arguments: RenderedArguments,
        begun_at: float,
    ) -> Reconciliation:
        from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
        from airflow_provider_youcan.reconciliation.inputs import Options
        from airflow_provider_youcan.reconciliation.run import Reconciliation

        self._interruption.check()
        hook = YouCanAsyncHook(
            self.youcan_conn_id, max_concurrency=self.max_concurrency, requests_per_second=self.requests_per_second
        )
        options = Options(
            allow_custom_label=self.allow_custom_label,
            skip_invalid=self.on_invalid == "skip",
            dry_run=arguments.dry_run,
            max_changes=arguments.max_changes,
            max_concurrency=self.max_concurrency,
            guard_max_age=self.guard_max_age,
            youcan_conn_id=self.youcan_conn_id,
        )
        reconciliation = Reconciliation(hook.run, run_input, options, report, self.log)

        async def run() -> None:
            async with hook, reconciliation:
                await self._prepare(hook, run_input, report, arguments)
                if table is not None:
                    table.store = report.store
                await reconciliation.run((await hook.get_credentials()).max_attempts)

        def stop() -> None:
            hook.stop()
            reconciliation.stop()

        try:
            self._interruption.run(run(), stop, self._seconds_left(begun_at))
        finally:
            report.requests = hook.requests
        return reconciliation

    async def _prepare(
        self, hook: YouCanAsyncHook, run_input: RunInput, report: Report, arguments: RenderedArguments
    ) -> None:
        """Check, before anything is sent, whether guards can be kept, and whether it is the right store."""
        from airflow_provider_youcan.client.store import read_store_slug

        if run_input.is_guarded:
            await hook.check_ceiling(self.guard_max_age)
        if run_input.stores or (arguments.dry_run and arguments.report_path is not None):
            report.store = await hook.run(read_store_slug())
        run_input.refuse_other_store(report.store, self.youcan_conn_id)

"""Take a run of a reconciliation back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_youcan.checks import NOT_PASSED, check_rendered_text
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.operators.base import ReconcilingOperator, describe_task, pluralize
from airflow_provider_youcan.reconciliation.record.file import read_lines
from airflow_provider_youcan.reconciliation.record.table import read_outcomes

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.reconciliation.plan import RunInput
    from airflow_provider_youcan.reconciliation.record.reader import RecordedReport

__all__ = ["YouCanRevertReconciliationOperator"]


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
    report: str | Sequence[str] | None
    reverts_run_id: str | None
    reverts_dag_id: str | None
    reverts_task_id: str | None

    def __init__(
        self,
        *,
        report: str | Sequence[str] | None = NOT_PASSED,
        reverts_run_id: str | None = NOT_PASSED,
        reverts_dag_id: str | None = NOT_PASSED,
        reverts_task_id: str | None = NOT_PASSED,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._set_optional(
            report=report,
            reverts_run_id=reverts_run_id,
            reverts_dag_id=reverts_dag_id,
            reverts_task_id=reverts_task_id,
        )
        if ("report" in self._passed) == ("reverts_run_id" in self._passed):
            raise YouCanInvalidInputError(
                "Give either report or reverts_run_id: one of them names the run to take back."
            )
        if "report" in self._passed and self._passed & {"reverts_dag_id", "reverts_task_id"}:
            raise YouCanInvalidInputError("reverts_dag_id and reverts_task_id go with reverts_run_id.")
        if "reverts_run_id" in self._passed and "report_table" not in self._passed:
            raise YouCanInvalidInputError("reverts_run_id needs report_table, where the outcomes of the run are.")
        if "report_table" in self._passed and "report_conn_id" not in self._passed:
            raise YouCanInvalidInputError("report_table needs report_conn_id: the connection of its database.")
        self._warnings: list[str] = []

    def execute(self, context: Context) -> dict[str, Any]:
        """Take the run back; it returns and raises what :class:`YouCanReconcileOrdersOperator` does."""
        self._reader = describe_task(context)
        return super().execute(context)

    def _read_source(self) -> RunInput:
        from airflow_provider_youcan.reconciliation.revert import read_revert

        is_table = "reverts_run_id" in self._passed
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

        table = str(self._read_passed("report_table"))
        tries = read_outcomes(
            table,
            str(self._read_passed("report_conn_id")),
            str(self._read_passed("reverts_run_id")),
            self._read_passed("reverts_dag_id"),
            self._read_passed("reverts_task_id"),
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

    def _log_rows(self, source: RunInput, *, dry_run: bool) -> None:
        self.log.info(
            "Read %s of %s that the run changed%s.",
            pluralize(source.desired.rows, "status", "statuses"),
            pluralize(sum(1 for _ in source.desired.orders), "order"),
            "; dry run, nothing will be sent" if dry_run else "",
        )

"""Take a run of a reconciliation back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_youcan.arguments import NOT_PASSED, check_rendered_text
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.operators.base import ReconcilingOperator
from airflow_provider_youcan.operators.rendered import describe_task
from airflow_provider_youcan.reconciliation.thresholds import read_whole_number
from airflow_provider_youcan.reconciliation.warehouse import check_table_name
from airflow_provider_youcan.texts import pluralize

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.reconciliation.inputs import RunInput
    from airflow_provider_youcan.reconciliation.record.reader import RecordedTry

__all__ = ["YouCanRevertReconciliationOperator"]


class YouCanRevertReconciliationOperator(ReconcilingOperator):
    """
    Take a run back: set each status that it changed to what it was, while it still is what the run set.

    What people or other runs have set since is *protected*. An update that was announced, and whose outcome is not
    known, is taken back if the shop shows it. A status whose value before the run is not known is listed as *invalid*
    and left alone. The general status of an order goes first, and each status is decided alone.

    It can't take back what customers, couriers and stock have learned of a status already.

    Exactly one of ``report`` and ``reverts_run_id`` is given.

    :param report: the path or URL of the report of the run; several, as a list, of its tries from the first on
        (templated). If reports are lost, the plan that was applied stands in for them: what it planned, and no report
        names, is taken back if the shop shows it.
    :param reverts_run_id: in its place, the run id of a run whose outcomes are in ``report_table`` (templated). Only
        what the run did through ``youcan_conn_id`` is taken back.
    :param reverts_dag_id: the DAG of that run, where several have a run of that id (templated; default ``None``).
    :param reverts_task_id: the task of that run, where several wrote (templated; default ``None``).
    :param reverts_map_index: one map index of that task, from 0 (templated; default ``None``: all of them).
    :param allow_custom_label: has no effect here: what a status is set back to was there before.
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

    on_invalid = "skip"
    template_fields: Sequence[str] = (
        "report",
        "reverts_run_id",
        "reverts_dag_id",
        "reverts_task_id",
        "reverts_map_index",
        *ReconcilingOperator.template_fields,
    )
    report: str | Sequence[str] | None
    reverts_run_id: str | None
    reverts_dag_id: str | None
    reverts_task_id: str | None
    reverts_map_index: int | str | None

    def __init__(
        self,
        *,
        report: str | Sequence[str] | None = NOT_PASSED,
        reverts_run_id: str | None = NOT_PASSED,
        reverts_dag_id: str | None = NOT_PASSED,
        reverts_task_id: str | None = NOT_PASSED,
        reverts_map_index: int | str | None = NOT_PASSED,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._set_optional(
            report=report,
            reverts_run_id=reverts_run_id,
            reverts_dag_id=reverts_dag_id,
            reverts_task_id=reverts_task_id,
            reverts_map_index=reverts_map_index,
        )
        if ("report" in self._passed) == ("reverts_run_id" in self._passed):
            raise YouCanInvalidInputError(
                "Give either report or reverts_run_id: one of them names the run to take back."
            )
        if "report" in self._passed and self._passed & {"reverts_dag_id", "reverts_task_id", "reverts_map_index"}:
            raise YouCanInvalidInputError(
                "reverts_dag_id, reverts_task_id and reverts_map_index go with reverts_run_id."
            )
        if "reverts_run_id" in self._passed and "report_table" not in self._passed:
            raise YouCanInvalidInputError("reverts_run_id needs report_table, where the outcomes of the run are.")
        if "report_table" in self._passed and "report_conn_id" not in self._passed:
            raise YouCanInvalidInputError("report_table needs report_conn_id: the connection of its database.")

    def execute(self, context: Context) -> dict[str, Any]:
        """Take the run back; it returns and raises what :class:`YouCanReconcileOrdersOperator` does."""
        self._reader = describe_task(context)
        return super().execute(context)

    def _read_input(self) -> RunInput:
        from airflow_provider_youcan.reconciliation.revert import read_revert

        run_input = read_revert(self._read_table() if "reverts_run_id" in self._passed else self._read_reports())
        for note in run_input.notes:
            self.log.warning("%s", note)
        return run_input

    def _read_reports(self) -> list[RecordedTry]:
        from airflow_provider_youcan.reconciliation.record.file import find_newer, read_lines
        from airflow_provider_youcan.reconciliation.record.reader import read_record

        is_list = isinstance(self.report, Sequence) and not isinstance(self.report, (str, bytes))
        paths = [check_rendered_text("report", path) for path in (self.report if is_list else [self.report])]  # type: ignore[union-attr]
        if not paths:
            raise YouCanInvalidInputError("report is [], which names no report", advice="give a path or URL.")
        tries = []
        for path in paths:
            tries.append(read_record(self._interruption.interrupt(read_lines(path)), path))
            if (cut_line := tries[-1].cut_line) is not None:
                self.log.warning("Line %d of %s is cut off, and left out: the run was killed there.", cut_line, path)
            if (newer := find_newer(path)) is not None and newer not in paths:
                self.log.warning("There is a newer report: %s is not taken back; name it, too, if it should be.", newer)
        return tries

    def _read_table(self) -> list[RecordedTry]:
        from airflow_provider_youcan.reconciliation.record.reader import read_tries

        return read_tries(
            check_table_name(self._read_passed("report_table"), "report_table"),
            str(self._read_passed("report_conn_id")),
            str(self._read_passed("reverts_run_id")),
            self._read_passed("reverts_dag_id"),
            self._read_passed("reverts_task_id"),
            self._read_map_index(),
            self.youcan_conn_id,
            self._reader,
        )

    def _read_map_index(self) -> int | None:
        if "reverts_map_index" not in self._passed:
            return None
        return read_whole_number("reverts_map_index", self.reverts_map_index)

    def _log_rows(self, run_input: RunInput, *, dry_run: bool) -> None:
        self.log.info(
            "Read %s of %s that the run changed%s.",
            pluralize(run_input.desired.rows, "status", "statuses"),
            pluralize(len(run_input.desired.orders), "order"),
            "; dry run, nothing will be sent" if dry_run else "",
        )

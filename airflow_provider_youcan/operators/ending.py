"""The end of a reconciling task: its record is completed, its summary published, and its failures are judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_youcan.exceptions import YouCanPermanentError, YouCanRecordError, YouCanTransientError
from airflow_provider_youcan.logs import Logger
from airflow_provider_youcan.metrics import count_outcomes
from airflow_provider_youcan.texts import pluralize

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_youcan.operators.rendered import RenderedArguments
    from airflow_provider_youcan.reconciliation.inputs import RunInput
    from airflow_provider_youcan.reconciliation.run import Reconciliation
    from airflow_provider_youcan.reconciliation.summary import Report
    from airflow_provider_youcan.reconciliation.thresholds import Threshold

__all__ = ["check_failures", "complete_record", "publish"]

_MAX_SHOWN = 3

_HURRIED_SECONDS = 1.0
"""The seconds that the last line may take when the record takes no lines."""


def complete_record(
    report: Report,
    failure: BaseException | None,
    log: Logger,
    *,
    dry_run: bool,
    exceeded: Threshold | None,
    ends_at: Callable[[], float | None],
) -> None:
    """
    Write the last line. An error in this does not take the place of the one that the run ended in.

    :param report: what became of each status.
    :param failure: the error that the run ended in, ``None`` if it ended well.
    :param log: the task's.
    :param dry_run: whether nothing was sent.
    :param exceeded: the ``max_changes`` that would have been exceeded.
    :param ends_at: returns when Airflow will end the task, ``None`` while it will not.
    :raises YouCanRecordError: if the run ended well, and the record takes no lines.
    """
    from airflow_provider_youcan.reconciliation.planner import Outcome
    from airflow_provider_youcan.reconciliation.record.lines import make_last_line

    last_line = make_last_line(
        dry_run=dry_run,
        store=report.store,
        rows=report.rows,
        not_reached=report.count(Outcome.NOT_REACHED),
        max_changes=None if exceeded is None else str(exceeded),
    )
    # A moment more, for a record that takes no lines.
    hurried = time.monotonic() + _HURRIED_SECONDS if isinstance(failure, YouCanRecordError) else None
    try:
        report.record.close(last_line, lambda: hurried or ends_at())
    except YouCanRecordError as error:
        if failure is None:
            raise
        if not isinstance(failure, YouCanRecordError):
            log.warning("%s", error)


def publish(
    report: Report, summary: Mapping[str, Any], notes: Sequence[str], context: Context, youcan_conn_id: str, log: Logger
) -> None:
    """
    Log the summary, count it for the metrics, and push it and the preview as XComs.

    :param report: what became of each status.
    :param summary: its counts.
    :param notes: sentences that the preview begins with.
    :param context: Airflow's.
    :param youcan_conn_id: the Airflow connection of the shop.
    :param log: the task's.
    """
    from airflow_provider_youcan.reconciliation.preview import write_preview

    log.info(
        "%s (%d invalid), %s in %.1f s:\n%s",
        pluralize(summary["rows"], "row"),
        summary["invalid"],
        pluralize(summary["requests"], "request"),
        summary["seconds"],
        report.as_table(),
    )
    count_outcomes(summary["rows"], summary["by_context"], youcan_conn_id)
    if (task_instance := context.get("ti")) is None:
        return
    preview = write_preview(report, notes, youcan_conn_id)
    try:
        # Before a failure is raised, so that a task that follows the failure finds it.
        task_instance.xcom_push(key="summary", value=summary)
        task_instance.xcom_push(key="preview", value=preview)
    except Exception:  # an XCom that is refused must hide nothing
        log.warning("The summary could not be pushed as an XCom.", exc_info=True)


def check_failures(
    run_input: RunInput,
    run: Reconciliation,
    report: Report,
    arguments: RenderedArguments,
    report_path: str | None,
    *,
    skips_not_found: bool,
    log: Logger,
) -> None:
    """
    Fail the task if more rows failed than it allows.

    :param run_input: what the run was given.
    :param run: the run.
    :param report: what became of each status.
    :param arguments: the task's.
    :param report_path: where the report was written, ``None`` if there is none.
    :param skips_not_found: whether rows of orders that the shop does not have don't count.
    :param log: the task's.
    :raises YouCanTransientError: if a retry may help.
    :raises YouCanPermanentError: if not.
    """
    from airflow_provider_youcan.reconciliation.planner import Outcome

    refused = report.failed_rows[Outcome.FAILED]
    missing = report.failed_rows[Outcome.NOT_FOUND] - refused
    if skips_not_found and missing:
        log.warning("%s of orders that this shop does not have, which are left out.", pluralize(len(missing), "row"))
    failed = len(refused) + (0 if skips_not_found else len(missing))
    total = report.rows if run_input.total is None else run_input.total
    if arguments.max_failures.allows(failed, total):
        return
    shown = report.failures[Outcome.FAILED] + ([] if skips_not_found else report.failures[Outcome.NOT_FOUND])
    others = "" if arguments.dry_run else " The others are done."
    where = f"The report at {report_path}" if report_path else "A report, if you set report_path,"
    problem = (
        f"{failed:,} of {total:,} rows failed, more than max_failures={arguments.max_failures} "
        f"({len(refused):,} refused, {failed - len(refused):,} not in this shop)"
    )
    advice = "look at the first ones"
    if failed > len(refused):
        advice = "leave orders of other shops out with on_not_found='skip', or correct the rows"
    outcome = f"{' '.join(shown[:_MAX_SHOWN])}{others} {where} says why each failed"
    if run.is_retryable:
        advice = f"{advice}; a retry sends only what is missing"
        raise YouCanTransientError(problem, advice=advice, outcome=outcome, retry_after=run.retry_after or None)
    raise YouCanPermanentError(problem, advice=advice, outcome=outcome)

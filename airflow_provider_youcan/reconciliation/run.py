"""The run: checks the table, reads what the shop shows, and brings its orders to where they should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from airflow_provider_youcan.client.store import check_statuses
from airflow_provider_youcan.exceptions import (
    FATAL_ERRORS,
    YouCanError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanTooManyChangesError,
    YouCanTransientError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.logs import Logger
from airflow_provider_youcan.reconciliation.inputs import Options, RunInput
from airflow_provider_youcan.reconciliation.order import OrderProgress, OrderUpdater
from airflow_provider_youcan.reconciliation.planner import Outcome
from airflow_provider_youcan.reconciliation.refs import match_refs, search_refs
from airflow_provider_youcan.reconciliation.rows.order import DesiredOrder, InvalidRow
from airflow_provider_youcan.reconciliation.snapshot import Run, Snapshot
from airflow_provider_youcan.reconciliation.summary import Report
from airflow_provider_youcan.reconciliation.workers import Outage, WorkerPool

__all__ = ["Reconciliation"]

T = TypeVar("T")

_PROGRESS_SECONDS = 5.0
_MAX_INVALID_SHOWN = 5
_MAX_UNREACHED_LINES = 1000
_STOPPED = "the task was stopped before it came to this order"


class Reconciliation:
    """
    One run against a shop, as an async context manager: on exit it reports what was not reached.

    :param run: runs a procedure against the shop.
    :param run_input: what should hold.
    :param options: how.
    :param report: takes what became of each status.
    :param log: where it logs.
    """

    def __init__(self, run: Run, run_input: RunInput, options: Options, report: Report, log: Logger) -> None:
        self.is_retryable = False
        """True if a retry may help with one of the errors that made orders fail."""
        self.retry_after = 0.0
        """The longest that the shop asked to wait with one of these, in seconds."""
        self._run = run
        self._input = run_input
        self._desired = run_input.desired
        self._report = report
        self._options = options
        self._log = log
        self._snapshot = Snapshot(run, self._desired, max_concurrency=options.max_concurrency, log=log)
        self._outage = Outage()
        self._updater = OrderUpdater(run, self._snapshot, report, self._outage, run_input, options)
        self._planned = 0
        self._pool: WorkerPool[Any] | None = None
        self._begun: set[DesiredOrder] = set()
        self._open: dict[DesiredOrder, OrderProgress] = {}  # begun, and not reported to the end
        self._end_reason: str | None = None
        self._max_attempts = 1
        self._logging: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reconciliation:
        self._logging = asyncio.ensure_future(self._log_progress())
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception):
            self._end_early(error)
        if self._logging is not None:
            self._logging.cancel()
            with suppress(asyncio.CancelledError):
                await self._logging
        self._report_unreached()

    async def run(self, max_attempts: int) -> None:
        """
        Carry it out.

        :param max_attempts: how often a request is sent at most; with one, orders are not tried again either.
        :raises YouCanError: if rows are refused, or an error that concerns all orders ended the run.
        """
        self._max_attempts = max_attempts
        await self._check_statuses()
        self._settle_rows()
        await self._reconcile()

    def stop(self) -> None:
        """Begin nothing more: the task was stopped."""
        self._end_reason = _STOPPED
        if self._pool is not None:
            self._pool.end()

    # --- the rows ---

    async def _check_statuses(self) -> None:
        statuses = self._desired.statuses
        # A revert restores statuses that the shop had before.
        if self._options.allow_custom_label or self._input.is_revert or not statuses:
            return
        checked = await self._run(check_statuses(statuses, self._options.youcan_conn_id))
        for context in checked.incomplete:
            self._log.warning(
                "The store's list of %s statuses lacks YouCan's documented ones: both count.",
                context,
            )
        self._snapshot.learn_slugs(checked.known)
        self._desired.rename_statuses(checked.same)
        self._desired.refuse_statuses(checked.unknown, "" if self._input.is_plan else "translate it in status_map; ")

    def _settle_rows(self) -> None:
        """Decide between rows that name the same order."""
        left_out = self._desired.leave_out_earlier()
        self._desired.refuse_contradictions()
        self._refuse_invalid_rows()
        for order, context, row, wanted, reason in left_out:
            self._report.add_left_out(order, context, row, wanted, reason)

    def _refuse_invalid_rows(self) -> None:
        rows = sorted(self._desired.invalid, key=lambda row: row.row)
        self._desired.invalid = []
        for row in rows:
            self._report.add_invalid(row)
        if rows and not self._options.skip_invalid:
            advice = "plan again" if self._input.is_plan else "correct them, or leave them out with on_invalid='skip'"
            raise self._invalid_rows_error(rows, f": {advice}; nothing was sent")
        if self._report.invalid and self._report.invalid >= self._desired.rows:
            raise self._invalid_rows_error(rows, ", so none is left: correct them; nothing was sent")
        if rows:
            self._log.warning("%s", self._invalid_rows_error(rows, " and are left out"))

    def _invalid_rows_error(self, rows: Sequence[InvalidRow], what: str) -> YouCanInvalidInputError:
        shown = "".join(f"\n{self._report.describe_invalid(row)}" for row in rows[:_MAX_INVALID_SHOWN])
        more = f"\nand {len(rows) - _MAX_INVALID_SHOWN:,} more." if len(rows) > _MAX_INVALID_SHOWN else ""
        message = f"{len(rows):,} of {self._desired.rows:,} rows can't be used{what}.{shown}{more}"
        if isinstance(first := rows[0].error, YouCanUnknownStatusError):
            return YouCanUnknownStatusError(message, closest=first.closest)
        return YouCanInvalidInputError(message)

    # --- the orders ---

    async def _reconcile(self) -> None:
        if not self._options.dry_run and self._options.max_changes is None:
            await self._work_twice(self._orders(), self._updater.apply)
            return
        await self._work_twice(self._orders(), self._plan)
        if self._end_reason is not None:
            return  # it was stopped
        self._check_max_changes()
        await self._work_twice(_stream(list(self._open.values())), self._updater.apply)

    async def _plan(self, progress: OrderProgress) -> None:
        await self._updater.plan(progress)
        self._planned += len(progress.planned or ())
        if self._options.dry_run:
            self._updater.report_planned(progress)

    def _check_max_changes(self) -> None:
        limit, total = self._options.max_changes, self._input.total
        total = self._desired.count_statuses() if total is None else total
        if limit is None or limit.allows(self._planned, total):
            return
        for progress in list(self._open.values()):
            self._updater.report_planned(progress)
            del self._open[progress.order]
        most = "; ".join(self._report.describe_transitions(3))
        raise YouCanTooManyChangesError(
            f"{self._planned:,} of {total:,} statuses would change, more than max_changes={limit} allows",
            advice=f"look at the {'plan' if self._input.is_plan else 'table'}, or raise max_changes",
            outcome=f"nothing was sent. Most frequent: {most}",
        )

    async def _work_twice(
        self, orders: AsyncGenerator[list[OrderProgress], None], work: Callable[[OrderProgress], Awaitable[None]]
    ) -> None:
        """Work on all orders, and once more on those that met an error that may have passed."""
        again: list[OrderProgress] = []

        def postpone(progress: OrderProgress, _: YouCanTransientError) -> None:
            again.append(progress)

        await self._work(orders, work, self._report_failed if self._max_attempts == 1 else postpone)
        if again and self._end_reason is None:
            self._log.info("Trying %d orders once more: they met errors that may have passed.", len(again))
            await self._work(_stream(again), work, self._report_failed)

    async def _orders(self) -> AsyncGenerator[list[OrderProgress], None]:
        """Return the orders as their statuses become known, and at last those that the list does not show."""
        has_refs = bool(self._desired.refs)
        async with aclosing(self._snapshot.read_list()) as batches:
            async for orders in batches:
                # Resolve all refs before sending anything: two rows may name the same order.
                if not has_refs:
                    yield self._begin_all(orders)
        if has_refs:
            await self._resolve_refs()
        yield self._begin_all(self._desired.orders)

    def _begin_all(self, orders: Iterable[DesiredOrder]) -> list[OrderProgress]:
        return [self._begin(order) for order in orders if order not in self._begun]

    def _begin(self, order: DesiredOrder) -> OrderProgress:
        self._begun.add(order)
        self._open[order] = progress = OrderProgress(order, dict(order.desired))
        return progress

    async def _work(
        self,
        orders: AsyncGenerator[list[OrderProgress], None],
        work: Callable[[OrderProgress], Awaitable[None]],
        handle_transient: Callable[[OrderProgress, YouCanTransientError], None],
    ) -> None:
        self._pool = pool = WorkerPool[OrderProgress](self._options.max_concurrency)
        record = self._report.record

        async def work_on(progress: OrderProgress) -> None:
            try:
                await work(progress)
            except YouCanError as error:
                self._handle(pool, progress, error, handle_transient)
            except asyncio.CancelledError as cancelled:
                self._updater.report_cut_off(progress, was_sent=getattr(cancelled, "unconfirmed", True))
                raise
            if not progress.left:
                self._open.pop(progress.order, None)
            if record.is_kept:
                await record.drain()

        await pool.run(orders, work_on)

    def _handle(
        self,
        pool: WorkerPool[OrderProgress],
        progress: OrderProgress,
        error: YouCanError,
        handle_transient: Callable[[OrderProgress, YouCanTransientError], None],
    ) -> None:
        if isinstance(error, FATAL_ERRORS):
            self._end_early(error)
            pool.end(error)
        elif not isinstance(error, YouCanTransientError):
            self._outage.record_success()
            is_gone = isinstance(error, YouCanOrderNotFoundError)
            self._updater.report_all(progress, Outcome.NOT_FOUND if is_gone else Outcome.FAILED, str(error))
        elif self._end_reason is not None:
            return  # it was stopped, and is reported so
        elif self._outage.record_failure():
            self._end_early(error)
            pool.end(error)
        else:
            handle_transient(progress, error)

    def _report_failed(self, progress: OrderProgress, error: YouCanTransientError) -> None:
        self._updater.report_all(progress, Outcome.FAILED, str(error))
        self.retry_after = max(self.retry_after, error.retry_after or 0.0)
        self.is_retryable = True

    def _end_early(self, error: Exception) -> None:
        self._end_reason = self._end_reason or f"the run ended early: {error}"

    async def _resolve_refs(self) -> None:
        """Find the orders that only a ref names, and bring together what is desired of the same one."""
        ids = self._snapshot.ids
        unknown = [ref for ref in self._desired.refs if ref not in ids]
        attempts = min(2, self._max_attempts)
        failed = await search_refs(self._snapshot, unknown, attempts=attempts, size=self._options.max_concurrency)
        self.is_retryable = self.is_retryable or bool(failed)
        matched, others = match_refs(self._desired, ids, failed)
        for order, outcome, reason in others:
            if order.desired:
                self._updater.report_all(self._begin(order), outcome, reason)
                del self._open[order]
        self._desired.join(matched)
        self._settle_rows()

    # --- what is reported ---

    def _report_unreached(self) -> None:
        reason = self._end_reason or "the run ended before it came to this order"
        fresh: list[OrderProgress] = []
        for progress in self._open.values():
            if progress.is_touched:
                self._updater.report_all(progress, Outcome.NOT_REACHED, reason)
            else:
                fresh.append(progress)
        fresh += [
            OrderProgress(order, dict(order.desired)) for order in self._desired.orders if order not in self._begun
        ]
        # Lines for all of them would take longer than Airflow waits for a stopped task.
        has_lines = sum(len(progress.left) for progress in fresh) <= _MAX_UNREACHED_LINES
        for progress in fresh:
            if has_lines:
                self._updater.report_all(progress, Outcome.NOT_REACHED, reason)
            else:
                self._report.count_unreached(progress.order, progress.left)

    async def _log_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            total, done = len(self._desired.orders), len(self._begun) - len(self._open)
            if not done:
                self._log.info("0 of %d orders done: reading the shop's orders, or waiting for the shop.", total)
                continue
            rate = done / self._report.seconds
            left = (total - done) / rate
            self._log.info("%d of %d orders done, %.1f a second, %.0f s left.", done, total, rate, left)


async def _stream(items: Iterable[T]) -> AsyncGenerator[list[T], None]:
    yield list(items)

"""The run: checks the table, reads what the shop shows, and brings its orders to where they should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from airflow_provider_youcan.client.procedures import GUARD_MAX_AGE
from airflow_provider_youcan.client.store import check_statuses
from airflow_provider_youcan.exceptions import (
    YouCanError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanTooManyChangesError,
    YouCanTransientError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.logs import Logger
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.order import OrderProgress, OrderUpdater
from airflow_provider_youcan.reconciliation.planner import Guard, Outcome
from airflow_provider_youcan.reconciliation.rows.desired import DesiredOrder, DesiredState, InvalidRow
from airflow_provider_youcan.reconciliation.snapshot import FATAL_ERRORS, Run, Snapshot
from airflow_provider_youcan.reconciliation.summary import Report
from airflow_provider_youcan.reconciliation.thresholds import Threshold
from airflow_provider_youcan.reconciliation.workers import Outage, WorkerPool

__all__ = ["Options", "Reconciliation"]

T = TypeVar("T")

_PROGRESS_SECONDS = 5.0
_MAX_INVALID_SHOWN = 5
_STOPPED = "the task was stopped before it came to this order"


@dataclass(frozen=True)
class Options:
    """
    How a table is reconciled.

    :param guard: returns what a status of an order may be moved from, ``None`` for anything.
    :param allow_custom_label: take statuses that the store's own list does not have.
    :param skip_invalid: leave rows that can't be used out, rather than refuse them all.
    :param dry_run: send nothing.
    :param is_plan: the rows are those of a plan.
    :param is_revert: decide each status alone, the general one first.
    :param max_changes: with it all is planned before anything is sent, and nothing is sent where more would change.
    :param total: what a share is a share of, ``None`` for all statuses that the rows ask for.
    :param max_concurrency: how many orders are worked on at a time.
    :param guard_max_age: how old a status may be, in seconds, that a guarded update rests on.
    :param youcan_conn_id: the Airflow connection to name in errors.
    """

    guard: Callable[[DesiredOrder, StatusContext], Guard | None] = lambda _order, _context: None
    allow_custom_label: bool = False
    skip_invalid: bool = False
    dry_run: bool = False
    is_plan: bool = False
    is_revert: bool = False
    max_changes: Threshold | None = None
    total: int | None = None
    max_concurrency: int = 16
    guard_max_age: float = GUARD_MAX_AGE
    youcan_conn_id: str = "youcan_default"


class Reconciliation:
    """
    One run of a desired state against a shop.

    :param run: runs a procedure against the shop.
    :param desired: what should hold.
    :param report: takes what became of each status.
    :param options: how.
    :param log: where it logs.
    """

    def __init__(self, run: Run, desired: DesiredState, report: Report, options: Options, log: Logger) -> None:
        self.is_retryable = False
        """Whether one of the errors that made orders fail may pass."""
        self.retry_after = 0.0
        """The longest that the shop asked to wait with one of these, in seconds."""
        self._run = run
        self._desired = desired
        self._report = report
        self._options = options
        self._log = log
        self._snapshot = Snapshot(run, desired, max_concurrency=options.max_concurrency, log=log)
        self._outage = Outage()
        self._applier = OrderUpdater(
            run,
            self._snapshot,
            report,
            self._outage,
            guard=options.guard,
            guard_max_age=options.guard_max_age,
            is_revert=options.is_revert,
        )
        self._planned = 0
        self._pool: WorkerPool[Any] | None = None
        self._begun: set[DesiredOrder] = set()
        self._open: dict[DesiredOrder, OrderProgress] = {}  # begun, and not reported to the end
        self._end_reason: str | None = None
        self._max_attempts = 1

    async def run(self, prepare: Callable[[], Awaitable[int]]) -> None:
        """
        Carry it out.

        :param prepare: checks the connection before anything is sent, and returns how often a request is sent at most;
            with one, orders are not tried again either.
        :raises YouCanError: if rows are refused, or the run was ended by what can't get better for any order.
        """
        progress = asyncio.ensure_future(self._log_progress())
        try:
            self._max_attempts = await prepare()
            await self._check_statuses()
            self._desired.refuse_contradictions()
            self._refuse_invalid_rows()
            await self._reconcile()
        except Exception as error:
            self._end_reason = self._end_reason or f"the run ended early: {error}"
            raise
        finally:
            progress.cancel()
            with suppress(asyncio.CancelledError):
                await progress
            self._report_unreached()

    def stop(self) -> None:
        """Begin nothing more: the task was stopped."""
        self._end_reason = _STOPPED
        if self._pool is not None:
            self._pool.end()

    # --- the rows ---

    async def _check_statuses(self) -> None:
        statuses = self._desired.statuses
        if self._options.allow_custom_label or not statuses:
            return
        unknown, incomplete = await self._run(check_statuses(statuses, self._options.youcan_conn_id))
        for context in incomplete:
            self._log.warning(
                "The store's own list of %s statuses has none of YouCan's documented ones, so it is taken for "
                "incomplete, and those count too.",
                context,
            )
        is_table = not self._options.is_plan and not self._options.is_revert
        self._desired.refuse_statuses(unknown, ", or translate the word in status_map" if is_table else "")

    def _refuse_invalid_rows(self) -> None:
        rows = sorted(self._desired.invalid, key=lambda row: row.row)
        self._desired.invalid = []
        for row in rows:
            self._report.add_invalid(row)
        if rows and not self._options.skip_invalid:
            advice = (
                "Plan again." if self._options.is_plan else "Correct them, or leave them out with on_invalid='skip'."
            )
            raise _invalid_rows_error(rows, self._desired.rows, "so nothing was sent", advice)
        if self._report.invalid and self._report.invalid >= self._desired.rows:
            raise _invalid_rows_error(rows, self._desired.rows, "so none is left and nothing was sent", "Correct them.")
        if rows:
            self._log.warning("%s", _invalid_rows_error(rows, self._desired.rows, "are left out"))

    # --- the orders ---

    async def _reconcile(self) -> None:
        if not self._options.dry_run and self._options.max_changes is None:
            await self._work_twice(self._orders(), self._applier.apply)
            return
        await self._work_twice(self._orders(), self._plan)
        if self._end_reason is not None:
            return  # it was stopped
        self._check_max_changes()
        await self._work_twice(_stream(list(self._open.values())), self._applier.apply)

    async def _plan(self, progress: OrderProgress) -> None:
        await self._applier.plan(progress)
        self._planned += len(progress.planned)
        if self._options.dry_run:
            self._applier.report_planned(progress)

    def _check_max_changes(self) -> None:
        limit, total = self._options.max_changes, self._options.total
        total = self._desired.count_statuses() if total is None else total
        if limit is None or limit.allows(self._planned, total):
            return
        for progress in list(self._open.values()):
            self._applier.report_planned(progress)
            del self._open[progress.order]
        most = "; ".join(self._report.describe_transitions(3))
        raise YouCanTooManyChangesError(
            f"{self._planned:,} of {total:,} statuses would change, more than max_changes={limit} allows, so nothing "
            f"was sent: look at the table, or raise max_changes. Most frequent: {most}."
        )

    async def _work_twice(
        self, orders: AsyncIterator[OrderProgress], work: Callable[[OrderProgress], Awaitable[None]]
    ) -> None:
        again: list[OrderProgress] = []
        await self._work(orders, work, again if self._max_attempts > 1 else None)
        if again and self._end_reason is None:
            self._log.info("Trying %d orders once more: they met errors that may have passed.", len(again))
            await self._work(_stream(again), work, None)

    async def _orders(self) -> AsyncIterator[OrderProgress]:
        """Return the orders as their statuses become known, and at last those that the list does not show."""
        if self._desired.refs:
            # What a ref leads to may contradict what another row says of the same order: nothing is sent before that.
            async for _ in self._snapshot.read_list():
                pass
            await self._resolve_refs()
        else:
            async for order in self._snapshot.read_list():
                if order not in self._begun:
                    yield self._begin(order)
        for order in self._desired.orders:
            if order not in self._begun:
                yield self._begin(order)

    def _begin(self, order: DesiredOrder) -> OrderProgress:
        self._begun.add(order)
        self._open[order] = OrderProgress(order, order.desired)
        return self._open[order]

    async def _work(
        self,
        orders: AsyncIterator[OrderProgress],
        work: Callable[[OrderProgress], Awaitable[None]],
        again: list[OrderProgress] | None,
    ) -> None:
        pool: WorkerPool[OrderProgress] = WorkerPool(self._options.max_concurrency)
        self._pool = pool

        async def work_on(progress: OrderProgress) -> None:
            try:
                await work(progress)
            except YouCanError as error:
                self._handle(pool, progress, error, again)
            if not progress.left:
                self._open.pop(progress.order, None)

        await pool.run(orders, work_on)

    def _handle(
        self,
        pool: WorkerPool[OrderProgress],
        progress: OrderProgress,
        error: YouCanError,
        again: list[OrderProgress] | None,
    ) -> None:
        if isinstance(error, FATAL_ERRORS):
            self._end_reason = self._end_reason or f"the run ended early: {error}"
            pool.end(error)
        elif not isinstance(error, YouCanTransientError):
            self._outage.record_success()
            is_gone = isinstance(error, YouCanOrderNotFoundError)
            self._applier.report_all(progress, Outcome.NOT_FOUND if is_gone else Outcome.FAILED, str(error))
        elif self._end_reason is not None:
            return  # it was stopped, and is reported so
        elif self._outage.record_failure():
            self._end_reason = f"the run ended early: {error}"
            pool.end(error)
        elif again is not None:
            again.append(progress)
        else:
            self._applier.report_all(progress, Outcome.FAILED, str(error))
            self.retry_after = max(self.retry_after, error.retry_after or 0.0)
            self.is_retryable = True

    async def _resolve_refs(self) -> None:
        """Find the orders that only a ref names, and bring together what is desired of the same one."""
        failed = await self._search([ref for ref in self._desired.refs if ref not in self._snapshot.ids])
        order_ids: dict[str, str] = {}
        for order in [order for order in self._desired.orders if order.order_id is None]:
            ref = str(order.ref)
            ids = self._snapshot.ids.get(ref, set())
            if len(ids) == 1 and ref not in failed:
                (order_ids[ref],) = ids
                continue
            outcome, reason = Outcome.NOT_FOUND, "the shop has no order with this ref"
            if ref in failed or ids:
                outcome, reason = Outcome.FAILED, str(failed.get(ref, "the shop has several orders of this ref"))
            self._applier.report_all(self._begin(order), outcome, reason)
            del self._open[order]
        self._desired.join(order_ids)
        self._desired.refuse_contradictions()
        self._refuse_invalid_rows()

    async def _search(self, refs: Sequence[str]) -> dict[str, YouCanTransientError]:
        """Search for orders by their refs, and return what kept some from being searched for."""
        failed: dict[str, YouCanTransientError] = {}

        async def search(ref: str) -> None:
            for is_last in (self._max_attempts == 1, True):
                try:
                    await self._snapshot.search(ref)
                except YouCanTransientError as error:
                    if isinstance(error, FATAL_ERRORS):
                        raise
                    self._snapshot.ids.pop(ref, None)
                    if is_last:
                        failed[ref] = error
                        self.is_retryable = True
                        return
                else:
                    return

        pool: WorkerPool[str] = WorkerPool(self._options.max_concurrency)
        await pool.run(_stream(refs), search)
        return failed

    # --- what is reported ---

    def _report_unreached(self) -> None:
        reason = self._end_reason or "the run ended before it came to this order"
        for progress in self._open.values():
            self._applier.report_all(progress, Outcome.NOT_REACHED, reason)
        for order in self._desired.orders:
            if order not in self._begun:
                self._applier.report_all(OrderProgress(order, order.desired), Outcome.NOT_REACHED, reason)

    async def _log_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            total, done = sum(1 for _ in self._desired.orders), len(self._begun) - len(self._open)
            if not done:
                self._log.info("Reading what the shop shows.")
                continue
            rate = done / self._report.seconds
            self._log.info(
                "%d of %d orders done, %.1f a second, %.0f s left.", done, total, rate, (total - done) / rate
            )


async def _stream(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


def _invalid_rows_error(rows: Sequence[InvalidRow], total: int, what: str, advice: str = "") -> YouCanInvalidInputError:
    shown = "; ".join(f"row {row.row}: {row.reason}" for row in rows[:_MAX_INVALID_SHOWN])
    more = f"; and {len(rows) - _MAX_INVALID_SHOWN:,} more" if len(rows) > _MAX_INVALID_SHOWN else ""
    message = f"{len(rows):,} of {total:,} rows can't be used, {what}: {shown}{more}. {advice}".rstrip()
    if isinstance(first := rows[0].error, YouCanUnknownStatusError):
        return YouCanUnknownStatusError(message, closest=first.closest)
    return YouCanInvalidInputError(message)

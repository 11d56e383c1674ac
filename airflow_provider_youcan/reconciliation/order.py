"""Bringing one order to where it should be, and reporting what became of each of its statuses."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from airflow_provider_youcan.client.endpoints import Request
from airflow_provider_youcan.client.procedures import Read, UpdateResult, update_under_guard
from airflow_provider_youcan.exceptions import (
    FATAL_ERRORS,
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanTransientError,
)
from airflow_provider_youcan.orders import OrderStatuses, StatusContext
from airflow_provider_youcan.reconciliation.inputs import Options, RunInput
from airflow_provider_youcan.reconciliation.planner import (
    Guard,
    Outcome,
    Step,
    block_general,
    contexts_in_order,
    find_moved,
    plan,
    plan_status,
)
from airflow_provider_youcan.reconciliation.rows.order import DesiredOrder
from airflow_provider_youcan.reconciliation.snapshot import Run, Snapshot
from airflow_provider_youcan.reconciliation.summary import Report
from airflow_provider_youcan.reconciliation.workers import Outage

__all__ = ["OrderProgress", "OrderUpdater"]

_UNCONFIRMED = "An update was sent, and it is unknown whether YouCan took it."
_CUT_OFF = "the run was cut off while this update was under way, and it is unknown whether YouCan took it"


@dataclass(slots=True, eq=False)
class OrderProgress:
    """The progress of a run with one order."""

    order: DesiredOrder
    left: dict[StatusContext, str]
    """The statuses without a reported result."""
    settled: dict[StatusContext, Step] = field(default_factory=dict)
    """The results of the others."""
    failures: dict[StatusContext, Step] = field(default_factory=dict)
    """The statuses whose own update failed, each with why; it may work later."""
    unconfirmed: dict[StatusContext, UpdateResult] = field(default_factory=dict)
    """The statuses of which an update was sent, and no confirmation came."""
    under_way: tuple[StatusContext, str | None] | None = None
    """The status whose update is under way, and what it was, as far as that is known."""
    planned: dict[StatusContext, Step] | None = None
    """The statuses that are planned to change, once that is known."""
    read: Read | None = None
    """The read that the plan depends on."""
    ref: str | None = None
    """The shop's ref of the order, once it was read."""

    @property
    def is_touched(self) -> bool:
        """True if anything was tried for one of the statuses that are left."""
        return bool(self.failures or self.unconfirmed or self.under_way)


class OrderUpdater:
    """
    Brings orders to where they should be, one at a time.

    :param run: runs a procedure against the shop.
    :param snapshot: what the shop shows.
    :param report: takes what became of each status.
    :param outage: records each success.
    :param run_input: the desired statuses and the guards.
    :param options: how it works.
    """

    def __init__(
        self, run: Run, snapshot: Snapshot, report: Report, outage: Outage, run_input: RunInput, options: Options
    ) -> None:
        self._run = run
        self._snapshot = snapshot
        self._report = report
        self._outage = outage
        self._input = run_input
        self._options = options
        self._contexts = contexts_in_order(is_revert=run_input.is_revert)

    async def plan(self, progress: OrderProgress) -> None:
        """
        Compare one order with its desired statuses: changes stay in ``left`` and ``planned``, the rest is reported.

        :raises YouCanError: if it could not be read.
        """
        order = progress.order
        progress.read = self._snapshot.pop_read(order) or await self._read(progress)
        progress.planned = {}
        if self._report_other_ref(progress):
            return
        guards = {context: guard for context in progress.left if (guard := self._input.guard(order, context))}
        holds = self._input.holds.get(str(order.order_id))
        steps = plan(progress.left, progress.read.statuses, guards, holds, is_revert=self._input.is_revert)
        for context, step in steps.items():
            if step.outcome is Outcome.PLANNED:
                progress.planned[context] = step
            else:
                self._settle(progress, context, step)

    def report_planned(self, progress: OrderProgress) -> None:
        """Report the planned statuses as planned."""
        for context, step in (progress.planned or {}).items():
            self._settle(progress, context, step)

    async def apply(self, progress: OrderProgress) -> None:
        """
        Bring one order to where it should be.

        :raises YouCanTransientError: if a status failed for now; the order's other statuses are done.
        :raises YouCanError: if nothing more can be done for it.
        """
        read = None
        if not progress.unconfirmed:
            planned, progress.read = progress.read, None
            read = (planned and self._snapshot.if_fresh(planned)) or self._snapshot.pop_read(progress.order)
        if read is None and (progress.order.ref is not None or not self._is_first_guarded(progress)):
            read = await self._read(progress)
        if self._report_other_ref(progress):
            return
        failure: YouCanTransientError | None = None
        for context in self._contexts:
            if context not in progress.left:
                continue
            if context is StatusContext.GENERAL and failure is not None and not self._input.is_revert:
                break
            try:
                step, read = await self._apply_status(progress, context, read)
            except YouCanTransientError as error:
                if isinstance(error, FATAL_ERRORS):
                    raise
                before = None if read is None else read.statuses[context]
                progress.failures[context] = Step(Outcome.FAILED, before, str(error))
                failure = error
                continue
            self._settle(progress, context, step)
        if failure is not None:
            raise failure

    def report_all(self, progress: OrderProgress, outcome: Outcome, reason: str) -> None:
        """Report the result of all statuses in ``left``."""
        for context in [context for context in self._contexts if context in progress.left]:
            own = progress.failures.get(context)
            step = own or Step(outcome, None, reason)
            if (sent := progress.unconfirmed.get(context)) is not None:
                step = Step(Outcome.FAILED, sent.before, f"{step.reason} {_UNCONFIRMED}", unconfirmed=True)
            elif own is None and outcome is Outcome.FAILED and (block := self._find_block(progress, context)):
                step = Step(Outcome.PROTECTED, None, block)
            self._settle(progress, context, step)

    def report_cut_off(self, progress: OrderProgress, *, was_sent: bool) -> None:
        """
        Report the interrupted update, and the statuses that were not tried.

        :param progress: how far it came.
        :param was_sent: whether the update that was announced had left.
        """
        if progress.under_way is not None and was_sent:
            context, before = progress.under_way
            progress.under_way = None
            self._settle(progress, context, Step(Outcome.FAILED, before, _CUT_OFF, unconfirmed=True))
        self.report_all(progress, Outcome.NOT_REACHED, "the run was cut off before it came to this status")

    async def _apply_status(
        self, progress: OrderProgress, context: StatusContext, read: Read | None
    ) -> tuple[Step, Read | None]:
        """Bring one status to where it should be, and return what became of it, and what was read last."""
        wanted, guard = progress.left[context], self._input.guard(progress.order, context)
        if context in progress.unconfirmed:
            return await self._update(progress, context, wanted, guard, read)
        if read is None and guard is None:
            read = await self._read(progress)
        before = None
        if read is not None:
            step = plan_status(wanted, read.statuses[context], guard)
            if step.outcome is not Outcome.PLANNED:
                return step, read
            before = step.before
        if block := self._find_block(progress, context):
            # No need to read the present status for this.
            return Step(Outcome.PROTECTED, before, block), read
        return await self._update(progress, context, wanted, guard, read)

    async def _update(
        self, progress: OrderProgress, context: StatusContext, wanted: str, guard: Guard | None, read: Read | None
    ) -> tuple[Step, Read | None]:
        order, begun_at = progress.order, time.monotonic()
        sent = progress.unconfirmed.get(context)
        holds = self._input.holds.get(str(order.order_id)) if context is StatusContext.GENERAL else None

        async def announce(request: Request) -> None:
            self._report.add_sending(order, context, request.before)
            await self._report.record.flush()
            progress.under_way = (context, request.before)

        def check(statuses: OrderStatuses) -> str | None:
            return find_moved(statuses, holds or {})

        procedure = update_under_guard(
            str(order.order_id),
            wanted,
            context,
            None if guard is None else guard.only_from,
            read=read,
            guard_max_age=self._options.guard_max_age,
            unconfirmed=sent,
            check=check if holds else None,
        )
        try:
            result = await self._run(procedure, announce)
        except YouCanError as error:
            before = error.status_before
            if before is None and progress.under_way is not None:
                before = progress.under_way[1]
            progress.under_way = None
            if error.unconfirmed:
                progress.unconfirmed[context] = UpdateResult(before, changed=True)
            is_about_this_status = isinstance(error, YouCanPermanentError) and not isinstance(
                error, (*FATAL_ERRORS, YouCanOrderNotFoundError)
            )
            if not is_about_this_status:
                raise
            if error.status_code is not None:
                self._outage.record_success()  # the shop answered
            # The error is about the last attempt only; an earlier one may still be unconfirmed.
            reason = f"{error} {_UNCONFIRMED}" if error.unconfirmed else str(error)
            return Step(Outcome.FAILED, before, reason, error.unconfirmed), read
        progress.under_way = None
        self._outage.record_success()
        if result.statuses is not None:
            read = Read(result.statuses, begun_at)
        if result.changed:
            return Step(Outcome.CHANGED, result.before, result.reason), read
        if result.reason is not None:
            return Step(Outcome.PROTECTED, result.before, result.reason), read
        return plan_status(wanted, result.before, guard), read

    def _report_other_ref(self, progress: OrderProgress) -> bool:
        if (ref := self._snapshot.pop_ref(progress.order)) is None or progress.order.ref in (None, ref):
            progress.ref = progress.ref or ref
            return False
        self.report_all(
            progress, Outcome.FAILED, f"the shop knows this order by the ref {ref!r}, so it may be another one"
        )
        return True

    def _settle(self, progress: OrderProgress, context: StatusContext, step: Step) -> None:
        del progress.left[context]
        progress.failures.pop(context, None)
        progress.settled[context] = step
        self._report.add(progress.order, context, step, progress.ref)

    def _find_block(self, progress: OrderProgress, context: StatusContext) -> str | None:
        """Return why the general status is left alone, ``None`` for any other and if it may be set."""
        if context is not StatusContext.GENERAL or self._input.is_revert:
            return None
        return block_general([*progress.settled.items(), *progress.failures.items()])

    def _is_first_guarded(self, progress: OrderProgress) -> bool:
        first = next((context for context in self._contexts if context in progress.left), None)
        return first is not None and self._input.guard(progress.order, first) is not None

    async def _read(self, progress: OrderProgress) -> Read:
        read = await self._snapshot.read(progress.order)
        self._outage.record_success()
        return read

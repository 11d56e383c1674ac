"""Bringing one order to where it should be, and reporting what became of each of its statuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from airflow_provider_youcan.client.procedures import Read, UpdateResult, move_order_status
from airflow_provider_youcan.exceptions import (
    YouCanError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanTransientError,
)
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.planner import (
    Guard,
    Outcome,
    Step,
    contexts_in_order,
    general_is_protected,
    plan,
    plan_status,
)
from airflow_provider_youcan.reconciliation.rows.desired import DesiredOrder
from airflow_provider_youcan.reconciliation.snapshot import FATAL_ERRORS, Run, Snapshot
from airflow_provider_youcan.reconciliation.summary import Report
from airflow_provider_youcan.reconciliation.workers import Outage

__all__ = ["IS_UNKNOWN", "OrderProgress", "OrderUpdater"]

IS_UNKNOWN = "whether YouCan took it is unknown"
"""Stands in the reason of each status of which an update was sent, and no confirmation came."""

_UNCONFIRMED = f"An update was sent before that; {IS_UNKNOWN}."
_CUT_OFF = f"the run was cut off while this was under way; {IS_UNKNOWN}"


@dataclass(slots=True, eq=False)
class OrderProgress:
    """How far a run has come with one order."""

    order: DesiredOrder
    left: dict[StatusContext, str]
    """The statuses of which it is not reported yet what became of them."""
    unconfirmed: dict[StatusContext, UpdateResult] = field(default_factory=dict)
    """The statuses of which an update was sent, and no confirmation came."""
    obstacles: dict[StatusContext, str] = field(default_factory=dict)
    """The statuses that were not set, each with what happened: the general one is not set after them."""
    failures: dict[StatusContext, Step] = field(default_factory=dict)
    """The statuses whose own update failed, each with why; it may work later."""
    current: tuple[StatusContext, str | None] | None = None
    """The status whose update is under way, and what it was, as far as that is known."""
    planned: dict[StatusContext, Step] = field(default_factory=dict)
    """The statuses that are planned to change."""
    read: Read | None = None
    """What the plan rests on."""


class OrderUpdater:
    """
    Brings orders to where they should be, one at a time.

    :param run: runs a procedure against the shop.
    :param snapshot: what the shop shows.
    :param report: takes what became of each status.
    :param guard: returns what a status of an order may be moved from, ``None`` for anything.
    :param guard_max_age: how old a status may be, in seconds, that a guarded update rests on.
    :param is_revert: whether each status is decided alone, the general one first.
    :param outage: records each success.
    """

    def __init__(
        self,
        run: Run,
        snapshot: Snapshot,
        report: Report,
        outage: Outage,
        *,
        guard: Callable[[DesiredOrder, StatusContext], Guard | None],
        guard_max_age: float,
        is_revert: bool,
    ) -> None:
        self._run = run
        self._snapshot = snapshot
        self._report = report
        self._outage = outage
        self._guard = guard
        self._guard_max_age = guard_max_age
        self._is_revert = is_revert
        self._contexts = contexts_in_order(is_revert=is_revert)

    async def plan(self, progress: OrderProgress) -> None:
        """
        Compare one order with what it should be: what changes is left and ``planned``, the rest is reported.

        :raises YouCanError: if it could not be read.
        """
        progress.read = self._snapshot.take(progress.order) or await self._read(progress)
        if self._report_other_ref(progress):
            return
        guards = {context: guard for context in progress.left if (guard := self._guard(progress.order, context))}
        steps = plan(progress.left, progress.read.statuses, guards, is_revert=self._is_revert)
        for context, step in steps.items():
            if step.outcome is Outcome.PLANNED:
                progress.planned[context] = step
            else:
                self._settle(progress, context, step)

    def report_planned(self, progress: OrderProgress) -> None:
        """Report of what is planned that it is planned, and no more."""
        for context, step in progress.planned.items():
            self._settle(progress, context, step)

    async def apply(self, progress: OrderProgress) -> None:
        """
        Bring one order to where it should be.

        :raises YouCanTransientError: if some of it may work later; the rest is done.
        :raises YouCanError: if nothing more can be done for it.
        """
        try:
            await self._apply(progress)
        except asyncio.CancelledError:
            self._report_cut_off(progress)
            raise

    def report_all(self, progress: OrderProgress, outcome: Outcome, reason: str) -> None:
        """Report of all statuses that are left what became of them."""
        for context in [context for context in self._contexts if context in progress.left]:
            step = Step(outcome, None, reason)
            own = progress.failures.get(context)
            if (known := progress.unconfirmed.get(context)) is not None:
                explained = self._explain(progress, context, str(own.reason) if own else reason)
                step = Step(Outcome.FAILED, known.before, explained)
            elif own is not None:
                step = own
            elif context is StatusContext.GENERAL and outcome is Outcome.FAILED:
                step = self._hold_general(progress, context, step)
            self._settle(progress, context, step)

    async def _apply(self, progress: OrderProgress) -> None:
        read = None
        if not progress.unconfirmed:
            read, progress.read = self._snapshot.keep_fresh(progress.read) or self._snapshot.take(progress.order), None
        if read is None and (progress.order.ref is not None or not self._is_first_guarded(progress)):
            read = await self._read(progress)
        if self._report_other_ref(progress):
            return
        failure: YouCanTransientError | None = None
        for context in [context for context in self._contexts if context in progress.left]:
            if context is StatusContext.GENERAL and failure is not None and not self._is_revert:
                break
            try:
                step, read = await self._apply_status(progress, context, read)
            except YouCanTransientError as error:
                if isinstance(error, FATAL_ERRORS):
                    raise
                progress.obstacles[context] = "could not be set"
                before = None if read is None else read.statuses[context]
                progress.failures[context] = Step(Outcome.FAILED, before, str(error))
                failure = error
                continue
            self._settle(progress, context, step)
        if failure is not None:
            raise failure

    def _report_other_ref(self, progress: OrderProgress) -> bool:
        if (ref := self._snapshot.find_other_ref(progress.order)) is None:
            return False
        self.report_all(
            progress, Outcome.FAILED, f"the shop knows this order by the ref {ref!r}, so it may be another one"
        )
        return True

    async def _apply_status(
        self, progress: OrderProgress, context: StatusContext, read: Read | None
    ) -> tuple[Step, Read | None]:
        """Bring one status to where it should be, and return what became of it, and what was read last."""
        wanted, guard = progress.left[context], self._guard(progress.order, context)
        known = progress.unconfirmed.get(context)
        if known is None and read is None and guard is None:
            read = await self._read(progress)
        if known is None and read is not None:
            step = plan_status(wanted, read.statuses[context], guard)
            if step.outcome is Outcome.PLANNED:
                step = self._hold_general(progress, context, step)
            if step.outcome is not Outcome.PLANNED:
                return step, read
        held = self._hold_general(progress, context, Step(Outcome.PLANNED, None))
        if held.outcome is Outcome.PROTECTED and known is None:
            # What it is now was not read, and need not be.
            return held, read
        return await self._update(progress, context, wanted, read, known)

    async def _update(
        self,
        progress: OrderProgress,
        context: StatusContext,
        wanted: str,
        read: Read | None,
        known: UpdateResult | None,
    ) -> tuple[Step, Read | None]:
        guard, begun_at = self._guard(progress.order, context), time.monotonic()
        before = known.before if known is not None else (read.statuses[context] if read is not None else None)
        procedure = move_order_status(
            str(progress.order.order_id),
            wanted,
            context,
            None if guard is None else guard.only_from,
            read=read,
            guard_max_age=self._guard_max_age,
            unconfirmed=known,
        )
        # Of what has been read here. Where the procedure reads, a guard of one status says what it was.
        is_certain = before is None and guard is not None and len(guard.only_from) == 1
        progress.current = (context, guard.only_from[0] if is_certain and guard is not None else before)
        try:
            move = await self._run(procedure)
        except YouCanError as error:
            progress.current = None
            if error.unconfirmed:
                before = error.status_before if before is None else before
                progress.unconfirmed[context] = UpdateResult(before, changed=True)
            is_about_this_status = isinstance(error, YouCanPermanentError) and not isinstance(
                error, (*FATAL_ERRORS, YouCanOrderNotFoundError)
            )
            if not is_about_this_status:
                raise
            is_unreadable = error.status_code is None and guard is not None and not error.unconfirmed
            outcome = Outcome.PROTECTED if is_unreadable else Outcome.FAILED
            return Step(outcome, before, self._explain(progress, context, str(error))), read
        progress.current = None
        self._outage.record_success()
        if move.statuses is not None:
            read = Read(move.statuses, begun_at)
        if move.changed:
            return Step(Outcome.CHANGED, move.before, move.reason), read
        return plan_status(wanted, move.before, guard), read

    def _report_cut_off(self, progress: OrderProgress) -> None:
        if progress.current is not None:
            context, before = progress.current
            self._settle(progress, context, Step(Outcome.FAILED, before, _CUT_OFF))
        self.report_all(progress, Outcome.NOT_REACHED, "the run was cut off before it came to this status")

    def _settle(self, progress: OrderProgress, context: StatusContext, step: Step) -> None:
        del progress.left[context]
        progress.obstacles.pop(context, None)
        progress.failures.pop(context, None)
        if step.outcome is Outcome.PROTECTED:
            progress.obstacles[context] = "was protected"
        elif step.outcome not in (Outcome.CHANGED, Outcome.UNCHANGED, Outcome.PLANNED):
            progress.obstacles[context] = "was not set"
        self._report.add(progress.order, context, step)

    def _hold_general(self, progress: OrderProgress, context: StatusContext, step: Step) -> Step:
        obstacles = {other: what for other, what in progress.obstacles.items() if other is not context}
        if context is not StatusContext.GENERAL or self._is_revert or not obstacles:
            return step
        other, what = next(iter(obstacles.items()))
        return general_is_protected(step.before, other, what)

    def _is_first_guarded(self, progress: OrderProgress) -> bool:
        first = next((context for context in self._contexts if context in progress.left), None)
        return first is not None and self._guard(progress.order, first) is not None

    async def _read(self, progress: OrderProgress) -> Read:
        read = await self._snapshot.read(progress.order)
        self._outage.record_success()
        return read

    @staticmethod
    def _explain(progress: OrderProgress, context: StatusContext, reason: str) -> str:
        return f"{reason} {_UNCONFIRMED}" if context in progress.unconfirmed and IS_UNKNOWN not in reason else reason

"""The run: reads what the shop shows, asks the planner, and sends the difference."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from airflow_provider_youcan.exceptions import (
    YouCanAuthenticationError,
    YouCanError,
    YouCanInvalidInputError,
    YouCanOrderNotFoundError,
    YouCanPermanentError,
    YouCanPermissionError,
    YouCanRateLimitError,
    YouCanStoreSuspendedError,
    YouCanTransientError,
    YouCanUnexpectedResponseError,
    YouCanUnknownStatusError,
)
from airflow_provider_youcan.hooks.youcan import YouCanAsyncHook
from airflow_provider_youcan.orders import OrderStatuses, StatusContext, is_order_id
from airflow_provider_youcan.reconciliation.planner import Outcome, Step, plan
from airflow_provider_youcan.reconciliation.record import Record
from airflow_provider_youcan.reconciliation.rows import DesiredOrder, DesiredState, InvalidRow

__all__ = ["Reconciliation"]

_Work = Callable[[DesiredOrder], Awaitable[None]]

_PAGE_SIZE = 50
_PROGRESS_SECONDS = 5.0
_MOST_INVALID_SHOWN = 5

# Nothing gets better for any other order after one of these.
_ENDS_THE_RUN = (
    YouCanAuthenticationError,
    YouCanStoreSuspendedError,
    YouCanPermissionError,
    YouCanInvalidInputError,
    YouCanRateLimitError,
)
_MOST_FAILURES_IN_A_ROW = 100
_LONGEST_WITHOUT_SUCCESS = 60.0
"""A shop that took nothing for so many seconds, and so many orders, is down: the rest is left to the next try."""


class Reconciliation:
    """
    One run of a desired state against a shop.

    :param hook: leads to the shop.
    :param desired: what should hold.
    :param record: is told what became of each wish.
    :param only_from: for the statuses that are guarded, the slugs that they may be moved from.
    :param allow_custom_label: take statuses that neither YouCan nor the store's own list knows.
    :param skip_invalid: leave rows that can't be used out, rather than refuse them all.
    :param dry_run: send nothing.
    :param max_concurrency: how many orders are worked on at a time.
    :param info: a logger's ``info``, told of the progress.
    :param warn: a logger's ``warning``, told of what a user should look at.
    """

    def __init__(
        self,
        hook: YouCanAsyncHook,
        desired: DesiredState,
        record: Record,
        *,
        only_from: Mapping[StatusContext, Collection[str]],
        allow_custom_label: bool,
        skip_invalid: bool,
        dry_run: bool,
        max_concurrency: int,
        info: Callable[..., None],
        warn: Callable[..., None],
    ) -> None:
        self.may_pass = False
        """Whether one of the errors that made orders fail may pass."""
        self.retry_after = 0.0
        """The longest that the shop asked to be left alone with one of these, in seconds."""
        self._hook = hook
        self._desired = desired
        self._record = record
        self._only_from = only_from
        self._allow_custom_label = allow_custom_label
        self._skip_invalid = skip_invalid
        self._dry_run = dry_run
        self._max_concurrency = max_concurrency
        self._info = info
        self._warn = warn
        self._found: dict[str, OrderStatuses] = {}  # by the order's id, in small letters
        self._refs: dict[str, str] = {}  # what the shop calls the orders that were found
        self._ids: dict[str, set[str]] = {}  # the orders that the shop has of each ref
        self._list_is_terse = False  # whether the list lacks statuses that an order's own page has
        self._total = self._done = 0
        self._ending: Exception | None = None
        self._failures_in_a_row = 0
        self._last_success = time.monotonic()

    async def run(self) -> None:
        """
        Carry it out.

        :raises YouCanError: if rows are refused, or the run was ended by what can't get better for any order.
        """
        progress = asyncio.ensure_future(self._tell_progress())
        try:
            await self._check_statuses()
            self._desired.refuse_contradictions()
            self._refuse_invalid_rows()
            await self._read_list()
            await self._resolve_refs()
            self._refuse_invalid_rows()
            await self._settle_all()
        finally:
            progress.cancel()
            with suppress(asyncio.CancelledError):
                await progress
            self._record.requests = self._hook.requests
            self._record_unreached()

    # --- the rows ---

    async def _check_statuses(self) -> None:
        errors: dict[tuple[StatusContext, str], YouCanUnknownStatusError] = {}
        for context, status in self._desired.statuses:
            try:
                await self._hook.check_status(status, context, allow_custom_label=self._allow_custom_label)
            except YouCanUnknownStatusError as error:
                errors[context, status] = error
        self._desired.refuse_statuses(errors)

    def _refuse_invalid_rows(self) -> None:
        rows = sorted(self._desired.invalid, key=lambda row: row.row)
        self._desired.invalid = []
        for row in rows:
            self._record.add_invalid(row)
        if rows and not self._skip_invalid:
            raise _describe_invalid(rows, self._desired.rows)
        if rows:
            self._warn("%s", _describe_invalid(rows, self._desired.rows, left_out=True))

    # --- what the shop shows ---

    async def _read_list(self) -> None:
        """
        Read the list of orders, page by page, for as long as that takes fewer requests than to read each order.

        The newest come first: what a courier speaks of is often on the first pages of a long list.
        """
        by_id = {order.order_id.casefold(): order for order in self._desired.orders if order.order_id is not None}
        by_ref = {str(order.ref): order for order in self._desired.orders if order.order_id is None}
        page, pages, batch, found, read = 1, 1, 1, 0, 0
        first_ids: set[str] = set()
        while page <= pages:
            missing = len(by_id.keys() - self._found.keys()) + len(by_ref.keys() - self._ids.keys())
            is_dearer = read > 0 and pages - page + 1 > missing and found <= read
            if missing < 2 or is_dearer or (self._list_is_terse and not by_ref):
                return
            numbers = range(page, min(page + batch, pages + 1))
            payloads = await asyncio.gather(*(self._read_page(number) for number in numbers))
            answers = [payload for payload in payloads if payload is not None]
            pages = max([pages, *(answer["meta"]["pagination"]["total_pages"] for answer in answers)])
            listed = [order for answer in answers for order in answer["data"]]
            seen = [self._see_listed(order, by_id, by_ref) for order in listed]
            found, read = seen.count(True), len(numbers)
            self._list_is_terse = bool(found == 0 and seen.count(False))
            page += read
            starts = {answer["data"][0]["id"] for answer in answers if answer["data"]}
            if starts <= first_ids:
                # Nothing new: the list is over, or says the same again and again.
                return
            first_ids |= starts
            batch = self._max_concurrency if pages - page + 1 <= missing else min(batch * 2, self._max_concurrency)

    async def _read_page(self, number: int) -> dict[str, Any] | None:
        try:
            return await self._hook.list_orders(number, _PAGE_SIZE)
        except YouCanError as error:
            if number == 1 or isinstance(error, _ENDS_THE_RUN):
                raise
            # What is on it is read order by order.
            self._warn("Page %d of the list of orders could not be read; its orders are read one by one.", number)
            return None

    def _see_listed(
        self, order: Mapping[str, Any], by_id: Mapping[str, DesiredOrder], by_ref: Mapping[str, DesiredOrder]
    ) -> bool | None:
        """Take in an order of the list, and tell whether that saves a request, ``None`` where nobody asks for it."""
        order_id, ref = order["id"].casefold(), str(order.get("ref"))
        wanted = by_id.get(order_id) or by_ref.get(ref)
        if wanted is None or order_id in self._found or not is_order_id(order["id"]):
            return None
        self._refs[order_id] = ref
        if ref in by_ref:
            self._ids.setdefault(ref, set()).add(order["id"])
        if order_id in by_id:
            # The shop's own spelling: its updates may be more particular about it than its list.
            wanted.order_id = order["id"]
        statuses = OrderStatuses.from_order(order)
        if any(statuses[context] is None for context in wanted.unsettled):
            return ref in by_ref
        self._found[order_id] = statuses
        return True

    async def _resolve_refs(self) -> None:
        """Find the orders that only a ref names, and bring together what is wished of the same one."""
        orders = [order for order in self._desired.orders if order.order_id is None]
        await self._each([order for order in orders if order.ref not in self._ids], self._search)
        known: dict[str, str] = {}
        for order in orders:
            ids = self._ids.get(str(order.ref), set())
            if len(ids) == 1:
                (known[str(order.ref)],) = ids
            elif str(order.ref) in self._ids:
                what = "the shop has no order of this ref" if not ids else "the shop has several orders of this ref"
                self._record_all(order, Outcome.NOT_FOUND if not ids else Outcome.FAILED, what)
        self._desired.join(known)
        self._desired.refuse_contradictions()

    async def _search(self, order: DesiredOrder) -> None:
        """Search for an order by its ref. YouCan finds all that contain it, so most of what it finds is another."""
        ref = str(order.ref)
        page = pages = 1
        first_id = ""
        ids: set[str] = set()
        while page <= pages:
            # By ref, so that several of the same ref stand side by side.
            payload = await self._hook.list_orders(page, _PAGE_SIZE, q=ref, sort_field="ref", sort_order="asc")
            listed = payload["data"]
            if listed and page > 1 and listed[0]["id"] == first_id:
                raise YouCanUnexpectedResponseError(
                    f"Could not search for the order of ref {ref!r}: YouCan's list says the same again and again; "
                    "nothing was changed, and it may work later."
                )
            first_id = listed[0]["id"] if listed else ""
            for found in listed:
                if str(found.get("ref")) == ref and is_order_id(found["id"]):
                    ids.add(found["id"])
                    self._see_listed(found, {}, {ref: order})
            if ids and listed and str(listed[-1].get("ref")) != ref:
                break
            page, pages = page + 1, payload["meta"]["pagination"]["total_pages"]
        self._ids[ref] = ids

    # --- what is sent ---

    async def _settle_all(self) -> None:
        orders = [order for order in self._desired.orders if order.unsettled]
        self._total = len(orders)
        await self._each(orders, self._settle)

    async def _settle(self, order: DesiredOrder) -> None:
        """Bring one order to where it is wished to be."""
        assert order.order_id is not None  # noqa: S101  # for the type checker: refs are resolved
        wanted = order.unsettled
        found = self._found.pop(order.order_id.casefold(), None)
        is_fresh = found is None or any(found[context] is None for context in wanted)
        if is_fresh:
            payload = await self._hook.get_order(order.order_id)
            self._see_success()
            self._refs[order.order_id.casefold()] = str(payload.get("ref"))
            found = OrderStatuses.from_order(payload)
        assert found is not None  # noqa: S101
        ref = self._refs.pop(order.order_id.casefold(), None)
        if order.ref is not None and ref not in (None, "None", order.ref):
            reason = f"the shop knows this order by the ref {ref!r}, so it may be another one"
            self._record_all(order, Outcome.FAILED, reason)
            return
        failure: YouCanTransientError | None = None
        for context, step in plan(wanted, found, self._only_from).items():
            if step.outcome is Outcome.UNCHANGED and context in order.unconfirmed:
                # An update that met an error in the first round took effect after all.
                step = Step(Outcome.CHANGED, order.unconfirmed[context])
            if step.outcome is Outcome.PLANNED and not self._dry_run:
                # A guard is asked again right before the update: what was read may be old.
                known = found if is_fresh or context not in self._only_from else None
                is_fresh = False
                try:
                    step = await self._send(order.order_id, context, wanted[context], known)
                except YouCanError as error:
                    if error.unconfirmed:
                        order.unconfirmed = {**order.unconfirmed, context: step.before}
                    if not isinstance(error, YouCanTransientError) or isinstance(error, _ENDS_THE_RUN):
                        raise
                    # What else is wished of the order may well work.
                    failure = error
                    continue
                self._see_success()
            self._record_step(order, context, step)
        if failure is not None:
            raise failure

    async def _send(self, order_id: str, context: StatusContext, wanted: str, found: OrderStatuses | None) -> Step:
        only_from = self._only_from.get(context)
        try:
            before, changed = await self._hook.move_order_status(
                order_id, wanted, context, only_from=only_from, found=found
            )
        except (*_ENDS_THE_RUN, YouCanOrderNotFoundError):
            raise
        except YouCanPermanentError as error:
            if error.status_code is None and only_from is not None:  # no answer's fault: it can't be read any more
                return Step(Outcome.PROTECTED, None, str(error))
            # It is about this status alone; what else is wished of the order goes on.
            return Step(Outcome.FAILED, found[context] if found else None, str(error))
        if changed:
            return Step(Outcome.CHANGED, before)
        return plan({context: wanted}, OrderStatuses(**{context.value: before}), self._only_from)[context]

    async def _each(self, orders: Sequence[DesiredOrder], work: _Work) -> None:
        """
        Work on all orders, so many at a time.

        Those that met errors which may have passed are tried once more at the end, unless the connection asks for a
        single attempt.

        :raises YouCanError: if an error ended the run.
        """
        again: list[DesiredOrder] | None = []
        if (await self._hook.get_credentials()).max_attempts == 1:
            again = None
        await self._work_on(orders, work, again)
        if again and self._ending is None:
            self._info("%d orders met errors that may have passed: they are tried once more.", len(again))
            await self._work_on(again, work, None)
        if self._ending is not None:
            raise self._ending

    async def _work_on(self, orders: Sequence[DesiredOrder], work: _Work, again: list[DesiredOrder] | None) -> None:
        waiting = iter(orders)
        number = min(self._max_concurrency, len(orders))
        workers = [asyncio.ensure_future(self._work_through(waiting, work, again)) for _ in range(number)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work_through(
        self, orders: Iterator[DesiredOrder], work: _Work, again: list[DesiredOrder] | None
    ) -> None:
        for order in orders:
            try:
                try:
                    await work(order)
                except YouCanError as error:
                    self._see_failure(order, error, again)
            except asyncio.CancelledError:
                if work == self._settle and not self._dry_run:
                    self._record_all(order, Outcome.FAILED, _CUT_OFF)
                raise
            except Exception as error:  # a report that can't be written, or a mistake of ours
                self._ending = self._ending or error
            self._done += not order.unsettled
            # What others have under way is brought to its end: only so can be told what became of it.
            if self._ending is not None:
                return

    def _see_failure(self, order: DesiredOrder, error: YouCanError, again: list[DesiredOrder] | None) -> None:
        if isinstance(error, _ENDS_THE_RUN):
            self._ending = self._ending or error
        elif not isinstance(error, YouCanTransientError):
            self._see_success()
            is_gone = isinstance(error, YouCanOrderNotFoundError)
            self._record_all(order, Outcome.NOT_FOUND if is_gone else Outcome.FAILED, str(error))
        else:
            self._failures_in_a_row += 1
            is_down = time.monotonic() > self._last_success + _LONGEST_WITHOUT_SUCCESS
            if is_down and self._failures_in_a_row >= _MOST_FAILURES_IN_A_ROW:
                self._ending = self._ending or error
            elif again is not None:
                again.append(order)
            else:
                self._record_all(order, Outcome.FAILED, str(error))
                self.retry_after = max(self.retry_after, error.retry_after or 0.0)
                self.may_pass = True

    def _see_success(self) -> None:
        """Note that the shop answers."""
        self._failures_in_a_row, self._last_success = 0, time.monotonic()

    # --- what is told ---

    def _record_step(self, order: DesiredOrder, context: StatusContext, step: Step) -> None:
        order.settled |= {context}
        first: int | None = None
        for wish in order.wishes:
            if wish.context is not context:
                continue
            if first is not None and step.outcome in (Outcome.CHANGED, Outcome.PLANNED):
                # It happens once.
                self._record.add(order, wish, Outcome.UNCHANGED, step.before, f"row {first} wishes the same")
                continue
            first = wish.row
            self._record.add(order, wish, step.outcome, step.before, step.reason)

    def _record_all(self, order: DesiredOrder, outcome: Outcome, reason: str) -> None:
        for context in order.unsettled:
            step = Step(outcome, None, reason)
            if context in order.unconfirmed:
                step = Step(Outcome.FAILED, order.unconfirmed[context], f"{reason} {_UNCONFIRMED}")
            self._record_step(order, context, step)

    def _record_unreached(self) -> None:
        reason = str(self._ending) if self._ending else "the run ended before it came to this order"
        for order in self._desired.orders:
            self._record_all(order, Outcome.NOT_REACHED, reason)

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            if not self._total:
                self._info("Reading what the shop shows: %d requests so far.", self._hook.requests)
                continue
            rate = self._done / self._record.seconds
            left = f"{(self._total - self._done) / rate:.0f} s left" if rate else "nothing is done yet"
            self._info("%d of %d orders done, %.1f a second, %s.", self._done, self._total, rate, left)


def _describe_invalid(rows: Sequence[InvalidRow], total: int, *, left_out: bool = False) -> YouCanInvalidInputError:
    shown = "; ".join(f"row {row.row}: {row.reason}" for row in rows[:_MOST_INVALID_SHOWN])
    more = f"; and {len(rows) - _MOST_INVALID_SHOWN:,} more" if len(rows) > _MOST_INVALID_SHOWN else ""
    what = "are left out" if left_out else "so nothing was sent"
    advice = "" if left_out else " Mend them, or leave them out with on_invalid='skip'."
    message = f"{len(rows):,} of {total:,} rows can't be used, {what}: {shown}{more}.{advice}"
    if isinstance(first := rows[0].error, YouCanUnknownStatusError):
        return YouCanUnknownStatusError(message, closest=first.closest)
    return YouCanInvalidInputError(message)


_UNCONFIRMED = "An update was sent before that; whether YouCan took it is unknown."
_CUT_OFF = "the run was cut off while this was under way; whether YouCan took it is unknown"

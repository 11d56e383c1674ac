"""Finding the orders that only a ref names."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from airflow_provider_youcan.exceptions import FATAL_ERRORS, YouCanTransientError
from airflow_provider_youcan.reconciliation.planner import Outcome
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
from airflow_provider_youcan.reconciliation.rows.order import DesiredOrder
from airflow_provider_youcan.reconciliation.snapshot import Snapshot
from airflow_provider_youcan.reconciliation.workers import WorkerPool

__all__ = ["match_refs", "search_refs"]


async def search_refs(
    snapshot: Snapshot, refs: Sequence[str], *, attempts: int, size: int
) -> dict[str, YouCanTransientError]:
    """
    Search for orders by their refs; what is found is kept in the snapshot.

    :param snapshot: what the shop shows.
    :param refs: the refs.
    :param attempts: how often a search is tried.
    :param size: how many searches are under way at a time.
    :return: the refs that could not be searched for, each with why.
    :raises YouCanError: for an error that every other ref would meet, too.
    """
    failed: dict[str, YouCanTransientError] = {}

    async def search(ref: str) -> None:
        for _ in range(attempts):
            failed.pop(ref, None)
            try:
                await snapshot.search(ref)
            except YouCanTransientError as error:
                if isinstance(error, FATAL_ERRORS):
                    raise
                failed[ref] = error
            else:
                return

    async def batches() -> AsyncGenerator[list[str], None]:
        yield list(refs)

    await WorkerPool[str](size).run(batches(), search)
    return failed


def match_refs(
    desired: DesiredState, ids: Mapping[str, set[str]], failed: Mapping[str, YouCanTransientError]
) -> tuple[dict[str, str], list[tuple[DesiredOrder, Outcome, str]]]:
    """
    Match the orders that only a ref names with those that were found.

    :param desired: the table.
    :param ids: for each ref the ids of the shop's orders that have it.
    :param failed: the refs that could not be searched for, each with why.
    :return: the order id of each ref that exactly one order has, and the other orders, each with its outcome and why.
    """
    matched: dict[str, str] = {}
    others: list[tuple[DesiredOrder, Outcome, str]] = []
    for ref, order in desired.orders_by_ref:
        found = ids.get(ref, set())
        if ref in failed:
            others.append((order, Outcome.FAILED, str(failed[ref])))
        elif len(found) == 1:
            (matched[ref],) = found
        elif found:
            others.append((order, Outcome.FAILED, "the shop has several orders of this ref"))
        else:
            reason = "the shop has no order with this ref"
            if desired.is_number(ref):
                reason += "; the cell is a number, which may have lost its zeros: write it as text, such as '021'"
            others.append((order, Outcome.NOT_FOUND, reason))
    return matched, others

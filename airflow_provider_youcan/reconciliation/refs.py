"""Finding the orders that only a ref names."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from airflow_provider_youcan.exceptions import FATAL_ERRORS, YouCanTransientError
from airflow_provider_youcan.reconciliation.snapshot import Snapshot
from airflow_provider_youcan.reconciliation.workers import WorkerPool

__all__ = ["search_refs"]


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

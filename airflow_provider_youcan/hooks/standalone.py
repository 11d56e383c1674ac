"""A hook outside of a task, for the commands."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_youcan.version_compat import read_from_database

if TYPE_CHECKING:
    from airflow_provider_youcan.hooks.youcan import YouCanHook

__all__ = ["open_hook", "outside_task"]


@contextmanager
def outside_task() -> Iterator[None]:
    """Find connections as Airflow's own commands do, and log nothing."""
    read_from_database()
    # Airflow 2 logs to standard output, where the command prints its answer.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextmanager
def open_hook(conn_id: str) -> Iterator[YouCanHook]:
    """
    Open a hook outside a task.

    :param conn_id: the Airflow connection of the shop.
    """
    with outside_task():
        from airflow_provider_youcan.hooks.youcan import YouCanHook

        with YouCanHook(conn_id) as hook:
            yield hook

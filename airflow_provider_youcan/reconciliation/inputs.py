"""The input of a run: the desired statuses, and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from airflow_provider_youcan.client.procedures import GUARD_MAX_AGE
from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.orders import StatusContext
from airflow_provider_youcan.reconciliation.planner import Guard
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState
from airflow_provider_youcan.reconciliation.rows.order import DesiredOrder
from airflow_provider_youcan.reconciliation.thresholds import Threshold

__all__ = ["Options", "RunInput"]


@dataclass
class RunInput:
    """The desired statuses, and the constraints of the run."""

    desired: DesiredState
    guard: Callable[[DesiredOrder, StatusContext], Guard | None] = lambda _order, _context: None
    """Returns what a status may be moved from, ``None`` for anything."""
    is_guarded: bool = False
    """True if there is any guard."""
    total: int | None = None
    """The total that percentages refer to; ``None``: the rows, and the statuses that they ask for."""
    rows: int | None = None
    """The number of rows of the table that a plan was made of."""
    stores: set[str] = field(default_factory=set)
    """The stores that it is for, as far as they are known."""
    exceeded: str | None = None
    """The ``max_changes`` that a plan is over."""
    is_revert: bool = False
    """True if each status is decided alone, the general one first, and set whatever the store's list says."""
    holds: Mapping[str, Mapping[StatusContext, str]] = field(default_factory=dict)
    """For each order id of a plan the statuses that must still be the same before its general status is set."""
    notes: list[str] = field(default_factory=list)
    """Sentences that a reader of the preview has to know."""

    @property
    def is_plan(self) -> bool:
        """True if it is an approved plan."""
        return self.rows is not None

    def refuse_exceeded(self) -> None:
        """
        Refuse a plan that is over its own ``max_changes``.

        :raises YouCanInvalidInputError: if so.
        """
        if self.exceeded is not None:
            raise YouCanInvalidInputError(
                f"This plan exceeds its own max_changes={self.exceeded}",
                advice="pass a larger max_changes to apply it.",
            )

    def refuse_other_store(self, store: str | None, youcan_conn_id: str) -> None:
        """
        Refuse a store that a report or a plan does not belong to.

        :param store: the store's slug, ``None`` if it is not known.
        :param youcan_conn_id: the Airflow connection that leads to it.
        :raises YouCanInvalidInputError: if so.
        """
        if self.stores and store is not None and self.stores != {store}:
            other = ", ".join(map(repr, sorted(self.stores)))
            raise YouCanInvalidInputError(
                f"The report belongs to the store {other}, and {youcan_conn_id!r} leads to {store!r}",
                advice="name the Airflow connection of the same store.",
            )


@dataclass(frozen=True)
class Options:
    """
    The options of a run.

    :param allow_custom_label: take statuses that the store's own list does not have.
    :param skip_invalid: leave rows that can't be used out, rather than refuse them all.
    :param dry_run: send nothing.
    :param max_changes: with it all is planned before anything is sent, and nothing is sent if more would change.
    :param max_concurrency: how many orders are worked on at a time.
    :param guard_max_age: how old a status may be, in seconds, that a guarded update rests on.
    :param youcan_conn_id: the Airflow connection to name in errors.
    """

    allow_custom_label: bool = False
    skip_invalid: bool = False
    dry_run: bool = False
    max_changes: Threshold | None = None
    max_concurrency: int = 16
    guard_max_age: float = GUARD_MAX_AGE
    youcan_conn_id: str = "youcan_default"

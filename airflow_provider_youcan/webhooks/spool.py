"""The spool: deliveries that were taken, on disk until Airflow has them, and after that to know them again."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from airflow_provider_youcan.webhooks.deliveries import Delivery

__all__ = ["Spool", "Waiting"]

KEPT_SECONDS = 7 * 86_400.0
"""How long a delivery is known: YouCan delivers again over some four hours."""

_SCHEMA = """
create table if not exists deliveries (
    delivery_id text primary key, event text not null, order_id text not null, store text not null, time text not null,
    taken_at real not null, due_at real not null, forwarded_at real);
create index if not exists waiting on deliveries (due_at) where forwarded_at is null;
"""


@dataclass(frozen=True)
class Waiting:
    """A delivery that Airflow does not have yet."""

    delivery: Delivery
    taken_at: float


class Spool:
    """
    Deliveries in an SQLite file.

    :param path: the file, which is made where it is missing. Each receiver has its own.
    :param clock: returns the time in seconds since 1970 (default the machine's).
    :raises sqlite3.Error: if it can't be used.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1)
        # What was answered with 200 has to be there after the machine died.
        self._database.executescript("pragma journal_mode = wal; pragma synchronous = full;" + _SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """
        Keep deliveries, those that are known already aside. Once it returns, they are on the disk.

        :raises sqlite3.Error: if they could not be kept.
        """
        now = self._clock()
        rows = [(one.delivery_id, one.event, one.order_id, one.store, one.time, now, now) for one in deliveries]
        with self._lock:
            self._database.execute("begin immediate")
            try:
                self._database.executemany("insert or ignore into deliveries values (?, ?, ?, ?, ?, ?, ?, null)", rows)
            except BaseException:
                self._database.execute("rollback")
                raise
            self._database.execute("commit")

    def take(self, most: int) -> list[Waiting]:
        """Return deliveries that are due to be forwarded, those that are due longest first."""
        columns = "delivery_id, event, order_id, store, time, taken_at"
        statement = (
            f"select {columns} from deliveries where forwarded_at is null and due_at <= ? "  # noqa: S608
            "order by due_at, rowid limit ?"
        )
        with self._lock:
            rows = self._database.execute(statement, (self._clock(), most)).fetchall()
        return [Waiting(Delivery(*row[:5]), row[5]) for row in rows]

    def mark_forwarded(self, delivery_ids: Sequence[str]) -> None:
        """Keep that Airflow has them."""
        now = self._clock()
        with self._lock:
            self._database.executemany(
                "update deliveries set forwarded_at = ? where delivery_id = ?",
                [(now, delivery_id) for delivery_id in delivery_ids],
            )

    def put_off(self, delivery_id: str, seconds: float) -> None:
        """Try a delivery again in so many seconds."""
        with self._lock:
            self._database.execute(
                "update deliveries set due_at = ? where delivery_id = ?", (self._clock() + seconds, delivery_id)
            )

    def put_off_event(self, event: str, seconds: float) -> None:
        """Try all deliveries of an event again in so many seconds."""
        with self._lock:
            self._database.execute(
                "update deliveries set due_at = ? where forwarded_at is null and event = ?",
                (self._clock() + seconds, event),
            )

    def forget_old(self) -> None:
        """Forget what was forwarded long ago."""
        with self._lock:
            self._database.execute("delete from deliveries where forwarded_at < ?", (self._clock() - KEPT_SECONDS,))

    def count_waiting(self) -> int:
        """Return how many deliveries Airflow does not have yet."""
        with self._lock:
            number: int = self._database.execute(
                "select count(*) from deliveries where forwarded_at is null"
            ).fetchone()[0]
        return number

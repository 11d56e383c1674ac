# ruff: noqa: S608  # the parts of each statement are constants of this module
"""The spool: deliveries that were taken, on disk until Airflow has them, and after that to know them again."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from airflow_provider_youcan.webhooks.deliveries import Delivery, Key

__all__ = ["Spool", "SpoolError", "Waiting"]

KEPT_SECONDS = 7 * 86_400.0
"""The seconds that a delivery is remembered: YouCan delivers again over some four hours."""

_KEY = "delivery_id, event, order_id"
_COLUMNS = f"{_KEY}, store, time, taken_at, due_at"
_SCHEMA = f"""
create table if not exists spooled (
    delivery_id text not null, event text not null, order_id text not null, store text not null, time text not null,
    taken_at real not null, due_at real not null, failing_since real, reason text, forwarded_at real, dropped_at real,
    primary key ({_KEY}));
create index if not exists spooled_waiting on spooled (store, event, due_at)
    where forwarded_at is null and dropped_at is null;
"""
# Older versions knew a delivery by its id alone.
_MIGRATION = f"""
insert or ignore into spooled ({_COLUMNS}, forwarded_at) select {_COLUMNS}, forwarded_at from deliveries;
drop table deliveries;
"""
_IS_WAITING = "forwarded_at is null and dropped_at is null"
_IS_KEY = "delivery_id = ? and event = ? and order_id = ?"


class SpoolError(Exception):
    """Another receiver uses the spool, or it can't be made."""


@dataclass(frozen=True)
class Waiting:
    """A delivery that Airflow does not have yet, or never will."""

    delivery: Delivery
    taken_at: float
    failing_since: float | None = None
    """Since when Airflow itself refuses it, or does not know its asset; ``None`` if it does not."""
    reason: str | None = None
    """Airflow's last answer to it."""
    dropped_at: float | None = None


class Spool:
    """
    Deliveries in an SQLite file.

    :param path: the file, which is made where it is missing. Each receiver has its own.
    :param clock: returns the time in seconds since 1970 (default the machine's).
    :param is_read_only: whether it is only looked at, beside a receiver that uses it (default ``False``).
    :raises SpoolError: if another receiver uses it, or its folder can't be written to.
    :raises sqlite3.Error: if it can't be used.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.time, *, is_read_only: bool = False) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._claim = None if is_read_only else _claim(path)
        self._database = sqlite3.connect(
            f"{Path(path).absolute().as_uri()}?mode={'ro' if is_read_only else 'rwc'}",
            uri=True,
            check_same_thread=False,
            isolation_level=None,
            timeout=1,
        )
        if not is_read_only:
            # A delivery that was answered with 200 has to survive the machine.
            self._database.executescript("pragma journal_mode = wal; pragma synchronous = full;" + _SCHEMA)
            if self._database.execute("select 1 from sqlite_master where name = 'deliveries'").fetchone():
                self._database.executescript(f"begin immediate; {_MIGRATION} commit;")
        self._waiting = self._database.execute(f"select count(*) from spooled where {_IS_WAITING}").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()
            if self._claim is not None:
                self._claim.close()

    def count_waiting(self) -> int:
        """Return the number of deliveries that Airflow does not have yet."""
        number: int = self._waiting
        return number

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """
        Store deliveries, except those that are known already. When it returns, they are on the disk.

        :raises sqlite3.Error: if they could not be kept.
        """
        now = self._clock()
        rows = [(*one.key, one.store, one.time, now, now) for one in deliveries]
        statement = f"insert or ignore into spooled ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?)"
        with self._lock:
            self._waiting += self._change(statement, rows)

    def find_due(self, most: int, resting: Collection[tuple[str, str]] = ()) -> list[Waiting]:
        """
        Return deliveries that are due to be forwarded: of each asset in turn those that are due longest.

        :param most: how many.
        :param resting: the store and the event of assets that are left alone for now.
        """
        found: list[Waiting] = []
        now = self._clock()
        with self._lock:
            assets = self._database.execute(
                f"select distinct store, event from spooled where {_IS_WAITING} and due_at <= ?", (now,)
            ).fetchall()
        awake = [asset for asset in assets if asset not in resting]
        for store, event in awake:
            condition = f"{_IS_WAITING} and due_at <= ? and store = ? and event = ? order by due_at, rowid limit ?"
            found += self._read(condition, now, store, event, max(1, most // len(awake)))
        return found

    def list_all(self, most: int) -> list[Waiting]:
        """Return what waits, and what was dropped, the oldest first."""
        return self._read("forwarded_at is null order by taken_at, rowid limit ?", most)

    def mark_forwarded(self, keys: Iterable[Key]) -> None:
        """Record that Airflow has these deliveries."""
        now = self._clock()
        statement = f"update spooled set forwarded_at = ? where {_IS_WAITING} and {_IS_KEY}"
        with self._lock:
            self._waiting -= self._change(statement, [(now, *key) for key in keys])

    def drop(self, key: Key, reason: str) -> None:
        """Put a delivery aside that Airflow will never take."""
        statement = f"update spooled set dropped_at = ?, reason = ? where {_IS_WAITING} and {_IS_KEY}"
        with self._lock:
            self._waiting -= self._change(statement, [(self._clock(), reason, *key)])

    def postpone(self, key: Key, seconds: float, reason: str | None = None) -> None:
        """
        Postpone a delivery.

        :param key: which delivery.
        :param seconds: after how long.
        :param reason: what Airflow itself said of it; the time for which it fails counts from when it first said this,
            and begins again with ``None``, if Airflow said nothing of it (default).
        """
        now = self._clock()
        since = None if reason is None else now
        assignments = "due_at = ?, failing_since = case when reason = ? then failing_since else ? end, reason = ?"
        statement = f"update spooled set {assignments} where {_IS_WAITING} and {_IS_KEY}"
        with self._lock:
            self._change(statement, [(now + seconds, reason, since, reason, *key)])

    def forget_old(self) -> None:
        """Forget what was forwarded, or dropped, long ago."""
        with self._lock:
            limit = self._clock() - KEPT_SECONDS
            self._change("delete from spooled where coalesce(forwarded_at, dropped_at) < ?", [(limit,)])

    def _read(self, condition: str, *values: object) -> list[Waiting]:
        columns = f"{_KEY}, store, time, taken_at, failing_since, reason, dropped_at"
        with self._lock:
            rows = self._database.execute(f"select {columns} from spooled where {condition}", values).fetchall()
        return [Waiting(Delivery(*row[:5]), *row[5:]) for row in rows]

    def _change(self, statement: str, rows: Sequence[Sequence[object]]) -> int:
        """Change rows in one transaction, and return how many."""
        if not rows:
            return 0
        self._database.execute("begin immediate")
        try:
            changed = self._database.executemany(statement, rows).rowcount
            self._database.execute("commit")
        except BaseException:
            self._database.execute("rollback")
            raise
        return max(0, changed)


def _claim(path: str) -> IO[str]:
    """Lock the spool for this process, until it is closed or the process ends."""
    try:
        lock = Path(f"{Path(path).resolve()}.lock").open("w")  # noqa: SIM115  # it is held
    except OSError as error:
        raise SpoolError(f"The spool {path} can't be used: {error.strerror}.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise SpoolError(f"Another receiver uses the spool {path}: give each one its own, with --spool.") from None
    return lock

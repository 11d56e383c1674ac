"""A warehouse for the sandbox: what a courier says of its orders, in an SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from airflow_provider_youcan.sandbox.shop import Shop

__all__ = ["write_warehouse"]

_ROWS = 50
_NEWS = {
    "unfulfilled": ("PICKED_UP", None),
    "processing": ("PICKED_UP", None),
    "shipped": ("DELIVERED", "COLLECTED"),
    "fulfilled": ("DELIVERED", "COLLECTED"),
    "canceled": ("RETURNED", None),
}
"""For each shipping status what the courier says by now, of the parcel and of the money."""


def write_warehouse(path: str, shop: Shop) -> int:
    """
    Write the table ``courier_orders`` with 50 rows, most of which the shop does not show yet.

    :param path: the file.
    :param shop: whose orders.
    :return: the number of rows.
    :raises sqlite3.Error: if it can't be written, or has such a table.
    """
    rows = [(order["id"], *_NEWS.get(order["shipping_status"], (None, None))) for order in shop.orders()[:_ROWS]]
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "create table courier_orders "
            "(order_id varchar(100), shipping_status varchar(100), payment_status varchar(100))"
        )
        database.executemany("insert into courier_orders values (?, ?, ?)", rows)
        database.commit()
    return len(rows)

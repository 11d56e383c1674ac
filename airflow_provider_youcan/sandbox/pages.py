"""The sandbox's pages for people: its orders, what was asked of it, and how it misbehaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from airflow_provider_youcan.sandbox.misbehaviour import Misbehaviours
from airflow_provider_youcan.sandbox.shop import Shop

__all__ = ["show_order", "show_shop"]

_MOST = 200
_STATUSES = ("general_status", "shipping_status", "payment_status")
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }}
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: start; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid #8884; }}
code {{ font-size: .9em; overflow-wrap: anywhere; }}
</style>
<h1>{title}</h1>
{body}
"""


def show_shop(shop: Shop, misbehaviours: Misbehaviours) -> str:
    """Return the page of the shop."""
    orders = list(reversed(shop.orders()))
    requests = list(reversed(shop.requests()))
    rules = [rule.as_dict() for rule in misbehaviours]
    rows = [
        [
            _link(f"/sandbox/orders/{order['id']}", order["ref"]),
            *[escape(order[name]) for name in _STATUSES],
            _code(order["id"]),
        ]
        for order in orders[:_MOST]
    ]
    asked = [
        [_code(f"{one['method']} {one['path']}"), escape(str(one["status"] or "no answer"))] for one in requests[:50]
    ]
    body = [
        "<p>A made-up shop that speaks YouCan's API. Nobody gets a message when a status changes here.</p>",
        f"<h2>Orders ({len(orders):,}, the newest first)</h2>",
        _table(["ref", "general", "shipping", "payment", "id"], rows),
        f"<h2>Requests ({len(requests):,}, the latest first)</h2>",
        _table(["request", "answer"], asked) if asked else "<p>Nothing was asked yet.</p>",
        "<h2>Misbehaviours</h2>",
        _table(
            ["kind", "route", "times"],
            [[escape(str(rule[name])) for name in ("kind", "route", "times")] for rule in rules],
        )
        if rules
        else "<p>None. <code>POST /sandbox/misbehaviours</code> adds one.</p>",
        "<p>As JSON: "
        + ", ".join(_link(f"/sandbox/{name}", name) for name in ("orders", "requests", "history"))
        + ".</p>",
    ]
    return _PAGE.format(title="YouCan sandbox", body="\n".join(body))


def show_order(order: Mapping[str, Any], history: Iterable[Mapping[str, Any]]) -> str:
    """Return the page of an order: its statuses, and how they changed."""
    changes = [[escape(str(change[name])) for name in ("at", "context", "before", "after")] for change in history]
    body = [
        f"<p>{_link('/sandbox', 'All orders')} · {_code(order['id'])}</p>",
        _table(["general", "shipping", "payment"], [[escape(order[name]) for name in _STATUSES]]),
        "<h2>Changes</h2>",
        _table(["at", "status", "before", "after"], changes) if changes else "<p>None yet.</p>",
    ]
    return _PAGE.format(title=f"Order {escape(order['ref'])}", body="\n".join(body))


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table>"


def _link(target: str, text: str) -> str:
    return f'<a href="{escape(target)}">{escape(text)}</a>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"

"""Trouble on the way to a shop, on request: one rule for each kind."""

from __future__ import annotations

import dataclasses
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

__all__ = ["KINDS", "Misbehaviour", "Misbehaviours", "read_misbehaviour"]

KINDS = {
    "latency": "wait before answering (seconds)",
    "status": "answer with this status code and its documented body (status, headers)",
    "drop": "drop the connection before the shop sees the request",
    "lose-answer": "let the shop take the request, then drop the connection",
    "half-body": "send half of the answer, then drop the connection",
    "terse": "leave the status_object of each status out, as YouCan's example of the list does",
    "html": "answer 200 with a login page",
    "redirect": "answer 302 (location)",
    "forge-webhook": "sign a webhook with another secret",
    "repeat-webhook": "deliver a webhook twice",
    "delay-webhook": "deliver a webhook so much later than those that follow (seconds)",
    "bare-webhook": "deliver the bare order, as older webhooks did",
    "template-resthooks": "list and end webhooks at the routes of YouCan's app template, not at the documented ones",
    "rate-limit": "allow so many requests a window, then answer 429 (limit, seconds, headers_shown)",
}


@dataclass
class Misbehaviour:
    """
    A rule by which the sandbox misbehaves.

    :param kind: which trouble, one of :data:`KINDS`.
    :param route: for which requests, as ``METHOD /path`` with ``*`` for anything (default all); for a webhook
        ``WEBHOOK /order.paid``.
    :param times: for how many requests; ``None`` for any number (default).
    :param share: for which share of the requests, drawn at random, above 0 and up to 1 (default 1).
    :param seconds: how long a ``latency`` or a ``delay-webhook`` is, or the window of a ``rate-limit`` (default 60).
    :param status: the status code of a ``status``.
    :param headers: further headers of a ``status``, such as ``{"Retry-After": "2"}``.
    :param body: the body of a ``status`` as text, in place of the documented one.
    :param location: where a ``redirect`` leads (default ``/login``, which answers 200).
    :param limit: how many requests a window a ``rate-limit`` allows (default 60).
    :param headers_shown: whether a ``rate-limit`` shows ``X-RateLimit-*`` (default ``True``).
    """

    kind: str
    route: str = "*"
    times: int | None = None
    share: float = 1.0
    seconds: float = 60.0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    location: str = "/login"
    limit: int = 60
    headers_shown: bool = True

    def __post_init__(self) -> None:
        def check(name: str, fits: bool, wanted: str) -> None:
            if not fits:
                raise ValueError(f"{name} is {getattr(self, name)!r}: give {wanted}.")

        check("kind", self.kind in KINDS, f"one of {', '.join(KINDS)}")
        check(
            "route", isinstance(self.route, str) and bool(_ROUTE.fullmatch(self.route)), "'PUT /orders/*' or the like"
        )
        check("times", self.times is None or (_is_number(self.times, int) and self.times >= 1), "a number from 1")
        check("share", _is_number(self.share) and 0 < self.share <= 1, "a number above 0 and up to 1")
        check("seconds", _is_number(self.seconds) and self.seconds >= 0, "a number from 0")
        check("status", _is_number(self.status, int) and 200 <= self.status <= 599, "an HTTP status from 200 to 599")
        check("headers", isinstance(self.headers, dict), "names and values")
        check("body", self.body is None or isinstance(self.body, str), "a text")
        check("location", isinstance(self.location, str), "a text")
        check("limit", _is_number(self.limit, int) and self.limit >= 0, "a number from 0")

    def as_dict(self) -> dict[str, Any]:
        """Return the rule as plain JSON."""
        return dataclasses.asdict(self)


_ROUTE = re.compile(r"\*|([A-Z]+|\*) [/*]\S*")


def _is_number(value: object, kind: type | tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def read_misbehaviour(options: object) -> Misbehaviour:
    """
    Return the rule that options say.

    :param options: a mapping with the parameters of :class:`Misbehaviour`.
    :raises ValueError: if one of them is unknown, or makes no sense.
    """
    known = [option.name for option in dataclasses.fields(Misbehaviour)]
    if not isinstance(options, dict) or "kind" not in options:
        raise ValueError(f"Give a JSON object with a kind, one of {', '.join(KINDS)}.")
    for name in options:
        if name not in known:
            closest = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {closest[0]!r}?" if closest else f"there are {', '.join(known)}."
            raise ValueError(f"A misbehaviour has no {name!r}: {hint}")
    return Misbehaviour(**options)


class Misbehaviours:
    """The rules in force. Each request meets all latencies, the rate limits, and the first trouble that fits."""

    def __init__(self, seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules: list[Misbehaviour] = []
        self._random = random.Random(seed)
        self._clock = clock
        # The start of each rule's window, and how many requests came in it. It holds the rule itself, because
        # an id alone comes back once its object is gone.
        self._windows: dict[int, tuple[Misbehaviour, float, int]] = {}

    def __iter__(self) -> Iterator[Misbehaviour]:
        return iter(list(self._rules))

    def add(self, rule: Misbehaviour) -> Misbehaviour:
        """Put a rule in force."""
        self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Lift all rules."""
        self._rules.clear()
        self._windows.clear()

    def latency(self, request: str) -> float:
        """Return how many seconds the request waits."""
        return sum(rule.seconds for rule in self._matching(request, {"latency"}))

    def rate_limit(self, request: str) -> tuple[dict[str, str], bool]:
        """Count the request in each limit's fixed window: the headers to show, and whether it is refused."""
        headers: dict[str, str] = {}
        refused = False
        for rule in self._matching(request, {"rate-limit"}):
            now = self._clock()
            _, start, count = self._windows.get(id(rule), (rule, now, 0))
            if now >= start + rule.seconds:
                start, count = now, 0
            self._windows[id(rule)] = (rule, start, count + 1)
            if rule.headers_shown:
                headers |= {
                    "X-RateLimit-Limit": str(rule.limit),
                    "X-RateLimit-Remaining": str(max(0, rule.limit - count - 1)),
                }
            if count >= rule.limit:
                refused = True
                headers["Retry-After"] = str(max(1, int(start + rule.seconds - now + 0.999)))
        return headers, refused

    def trouble(self, request: str) -> Misbehaviour | None:
        """Return the first trouble that the request runs into, if any."""
        kinds = {kind for kind in KINDS if not kind.endswith("-webhook")} - {
            "latency",
            "rate-limit",
            "template-resthooks",
        }
        return next(self._matching(request, kinds), None)

    @property
    def has_template_resthooks(self) -> bool:
        """True if webhooks are listed and ended as YouCan's app template asks."""
        return any(rule.kind == "template-resthooks" for rule in self)

    def webhook_trouble(self, event: str) -> Misbehaviour | None:
        """Return the first trouble that a webhook runs into, if any."""
        return next(self._matching(f"WEBHOOK /{event}", {kind for kind in KINDS if kind.endswith("-webhook")}), None)

    def _matching(self, request: str, kinds: set[str]) -> Iterator[Misbehaviour]:
        for rule in self:
            if rule.kind not in kinds or not fnmatchcase(request, rule.route):
                continue
            if rule.share < 1 and self._random.random() >= rule.share:
                continue
            if rule.times is not None:
                rule.times -= 1
                if rule.times <= 0:
                    self._rules.remove(rule)
            yield rule

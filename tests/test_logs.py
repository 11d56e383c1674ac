"""Warnings that come by the hundred, written so that a person can read the log."""

from __future__ import annotations

import logging

import pytest

from airflow_provider_youcan.logs import Throttle


def test_the_first_warning_is_logged_at_once_and_then_one_every_half_minute_with_the_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 1000.0
    warn = Throttle(logging.getLogger("shop"), lambda: now)

    # Given a shop that is down for a minute, and is asked ten times a second,
    for tenth in range(600):
        now = 1000.0 + tenth / 10
        warn("Order %s: no answer.", tenth)

    assert caplog.messages == [
        "Order 0: no answer.",
        "Order 300: no answer. (299 more such warnings in the last 30 s or longer)",
    ]

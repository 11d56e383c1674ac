"""Airflow's own retries: they come when the shop said."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanConnectionError,
    YouCanOrderNotFoundError,
    YouCanRateLimitError,
    YouCanServerError,
)
from airflow_provider_youcan.retries import YouCanRetryPolicy
from tests.conftest import HAS_RETRY_POLICIES

pytestmark = pytest.mark.airflow


@pytest.mark.skipif(not HAS_RETRY_POLICIES, reason="retry policies exist from Airflow 3.3")
@pytest.mark.parametrize(
    ("error", "action", "delay"),
    [
        (YouCanRateLimitError("slow", retry_after=90.0), "retry", 90),
        (YouCanRateLimitError("slow", retry_after=0.0), "retry", 0),
        (YouCanRateLimitError("slow", retry_after=1e9), "retry", 86_400),
        (YouCanRateLimitError("slow"), "default", None),
        (YouCanServerError("503", retry_after=30.0), "default", None),
        (YouCanServerError("503"), "default", None),
        (YouCanConnectionError("lost"), "default", None),
        (YouCanOrderNotFoundError("gone"), "fail", None),
        (KeyError("a user's own"), "default", None),
    ],
)
def test_airflows_retry_waits_as_long_as_the_shop_asked(error: Exception, action: str, delay: float | None) -> None:
    decision = YouCanRetryPolicy().evaluate(error, try_number=1, max_tries=3)

    assert decision.action.value == action
    assert decision.retry_delay == (None if delay is None else timedelta(seconds=delay))


@pytest.mark.skipif(not HAS_RETRY_POLICIES, reason="retry policies exist from Airflow 3.3")
def test_the_policy_survives_serialisation() -> None:
    data = json.loads(json.dumps(YouCanRetryPolicy().serialize()))

    assert isinstance(YouCanRetryPolicy.deserialize(data), YouCanRetryPolicy)


@pytest.mark.skipif(HAS_RETRY_POLICIES, reason="this Airflow has retry policies")
def test_an_older_airflow_says_which_one_it_takes() -> None:
    with pytest.raises(RuntimeError, match=r"takes Airflow 3\.3 or later"):
        YouCanRetryPolicy()

"""The tree of errors: what each one means to Airflow."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_youcan import exceptions
from airflow_provider_youcan.exceptions import (
    YouCanError,
    YouCanPermanentError,
    YouCanRateLimitError,
    YouCanTransientError,
    YouCanUnknownStatusError,
    YouCanValidationError,
    from_dict,
    to_dict,
)

ERRORS = [getattr(exceptions, name) for name in exceptions.__all__ if name.startswith("YouCan")]


def test_every_error_is_either_permanent_or_transient() -> None:
    for error in ERRORS:
        if error is not YouCanError:
            assert issubclass(error, YouCanPermanentError) != issubclass(error, YouCanTransientError), error


def test_airflow_fails_a_task_at_once_on_a_permanent_error_only() -> None:
    for error in ERRORS:
        assert issubclass(error, AirflowException)
        assert issubclass(error, AirflowFailException) == issubclass(error, YouCanPermanentError), error


@pytest.mark.parametrize(
    "error",
    [
        YouCanPermanentError("no", method="PUT", url="/orders/1/status", status_code=418, detail="teapot"),
        YouCanRateLimitError("slow", retry_after=2.5),
        YouCanValidationError("bad", fields={"status": ["required"]}),
        YouCanUnknownStatusError("what", closest=["paid"]),
    ],
)
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        lambda error: pickle.loads(pickle.dumps(error)),
        lambda error: from_dict(json.loads(json.dumps(to_dict(error)))),
    ],
)
def test_an_error_survives_the_way_between_processes(error: YouCanError, duplicate: object) -> None:
    received = duplicate(error)  # type: ignore[operator]

    assert type(received) is type(error)
    assert str(received) == str(error)
    assert vars(received) == vars(error)

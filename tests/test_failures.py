"""What a task's log says of its end, and how every error and log line begins: Airflow's page cuts a line at 110."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import airflow_provider_youcan
from airflow_provider_youcan.client import endpoints, transport
from airflow_provider_youcan.exceptions import YouCanError, YouCanInvalidInputError, YouCanPermanentError
from airflow_provider_youcan.failures import log_end
from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from airflow_provider_youcan.sensors.order_status import YouCanOrderStatusSensor
from airflow_provider_youcan.transfers.orders_to_sql import YouCanOrdersToSqlOperator
from tests.conftest import Sandbox

PACKAGE = Path(airflow_provider_youcan.__file__).parent
SEEN = 90
"""How many characters of a line are seen without scrolling."""
LOGGED = {"info", "warning", "error", "_warn", "_warning"}


def messages() -> Iterator[tuple[str, str, bool]]:
    """Yield where a message of the package stands, how it begins, and whether it is an error's with an advice."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            is_error = name.startswith("YouCan") and name.endswith("Error")
            text = render(node.args[0])
            if text is not None and (is_error or name in LOGGED):
                has_advice = any(keyword.arg == "advice" for keyword in node.keywords)
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text, is_error and has_advice


def render(node: ast.expr) -> str | None:
    """Return a message with a short word in the place of each value."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "<a value>" for part in node.values)
    text = node.value if isinstance(node, ast.Constant) else None
    return re.sub(r"%[-.0-9a-z]*[a-z]", "<a value>", text) if isinstance(text, str) else None


MESSAGES = list(messages())


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 200


@pytest.mark.parametrize(("where", "text", "has_advice"), MESSAGES, ids=[where for where, _, _ in MESSAGES])
def test_a_message_begins_with_its_cause(where: str, text: str, has_advice: bool) -> None:
    cause = re.split(r"[.:;](?:\s|$)", text)[0]

    assert len(cause) < SEEN, where
    assert not (has_advice and "nothing was sent" in text), f"{where}: the outcome follows the advice"


@pytest.mark.parametrize("why", transport.TransportFailure)
def test_a_shop_that_is_not_reached_names_the_connection_or_what_else_to_look_at(
    why: transport.TransportFailure,
) -> None:
    name = "the Airflow connection 'casablanca'"

    error = transport.connection_error(endpoints.get_order("abc"), why, "https://api.youcan.shop", 30, name)

    assert len(error.problem) < SEEN
    assert name in str(error) or "it may work later" in str(error)


def test_an_error_has_its_problem_and_its_advice_as_data() -> None:
    error = YouCanPermanentError("The store is closed", advice="reopen it", outcome="Could not read order 1")

    assert str(error) == "The store is closed: reopen it. Could not read order 1."
    assert (error.problem, error.advice) == ("The store is closed", "reopen it")


def test_a_task_that_fails_logs_the_cause_and_the_remedy_on_a_line_each(
    sandbox: Sandbox, order_id: str, log_lines: Callable[[], list[str]]
) -> None:
    operator = YouCanUpdatePaymentStatusOperator(task_id="pay", order_id=order_id, status="payed")

    with pytest.raises(YouCanInvalidInputError, match="nothing was sent"):
        operator.execute({})

    cause, remedy = "\n".join(log_lines()).splitlines()[-2:]
    assert "'payed' is not a payment status of this store." in cause
    assert remedy.startswith("Did you mean 'paid'?")
    assert sandbox.shop.history() == []


@pytest.mark.parametrize(
    "task",
    [
        YouCanOrderStatusSensor(task_id="wait", order_id="a b", target_status="paid", context="payment"),
        YouCanOrderStatusSensor(task_id="wait", order_id="{{ nothing }}", target_status="payed", context="payment"),
        YouCanOrderStatusSensor(task_id="wait", order_id="a-1", target_status="paid", youcan_conn_id="nowhere"),
        YouCanOrdersToSqlOperator(task_id="orders", path="orders.jsonl", order_ids=["a b"]),
        YouCanOrdersToSqlOperator(task_id="orders", conn_id="nowhere"),
    ],
)
@pytest.mark.usefixtures("sandbox")
def test_a_task_that_only_reads_never_says_that_nothing_was_sent(
    task: YouCanOrderStatusSensor, log_lines: Callable[[], list[str]]
) -> None:
    with pytest.raises(YouCanError) as error:
        task.execute({})

    assert "sent" not in f"{error.value} {log_lines()}"


def test_a_task_that_is_skipped_logs_why(sandbox: Sandbox, order_id: str, log_lines: Callable[[], list[str]]) -> None:
    sandbox.shop.set_status(order_id, "payment", "refunded")
    operator = YouCanUpdatePaymentStatusOperator(task_id="pay", order_id=order_id, status="paid", only_from="pending")

    with pytest.raises(Exception, match="was left alone"):
        operator.execute({})

    assert "the payment status is 'refunded', not 'pending'" in log_lines()[-1]


def test_other_errors_are_left_to_airflow(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError), log_end(logging.getLogger(__name__)):
        raise KeyError("a mistake of ours")

    assert caplog.records == []

"""A task that is stopped, or runs out of time: nothing more is sent, and the record is true."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_youcan.exceptions import YouCanAuthenticationError, YouCanTaskStoppedError
from airflow_provider_youcan.hooks.youcan import YouCanHook
from airflow_provider_youcan.operators.order_status import YouCanUpdatePaymentStatusOperator
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
from airflow_provider_youcan.reconciliation.record.file import LocalFile
from airflow_provider_youcan.sandbox.shop import Request
from airflow_provider_youcan.sensors.order_status import YouCanOrderStatusSensor
from tests.conftest import (
    HOME,
    ROOT,
    Sandbox,
    TaskInstance,
    execute,
    on_request,
    paths,
    payable,
    read_lines,
    read_report,
    reconcile,
)

STOPPED_RUN = """
import json, signal, sys, time
from pathlib import Path
from airflow_provider_youcan.operators.reconcile import YouCanReconcileOrdersOperator
operator = YouCanReconcileOrdersOperator(
    task_id="reconcile", orders=json.loads(Path(sys.argv[1]).read_text()), report_path=sys.argv[2]
)
class Terminated(BaseException):
    pass
stopped_at = 0.0
def on_term(*_):  # as Airflow 3 does, and as Airflow 2 does
    global stopped_at
    stopped_at = time.process_time()
    operator.on_kill()
    if sys.argv[3] == "2":
        raise Terminated
signal.signal(signal.SIGTERM, on_term)
class TaskInstance:
    def xcom_push(self, key, value):
        Path(sys.argv[2] + ".summary").write_text(json.dumps(value))
        raise RuntimeError("the task instance is not running any more")
try:
    operator.execute({"ti": TaskInstance()})
except BaseException as error:
    print("ended in", type(error).__name__, "after", time.process_time() - stopped_at, "seconds of the processor")
    sys.exit(3)
"""


@pytest.mark.parametrize(("airflow", "ended_in"), [("3", "YouCanTaskStoppedError"), ("2", "Terminated")])
def test_a_task_that_is_stopped_sends_nothing_more_and_says_the_truth(
    sandbox: Sandbox, tmp_path: Path, airflow: str, ended_in: str
) -> None:
    sandbox.shop.add_orders(300)
    orders = payable(sandbox)
    sandbox.misbehave("latency", route="PUT *", seconds=0.2)
    (tmp_path / "rows.json").write_text(json.dumps([{"order_id": one, "payment_status": "paid"} for one in orders]))
    report = tmp_path / "report.jsonl"
    environment = os.environ | {"AIRFLOW_HOME": str(HOME), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STOPPED_RUN, str(tmp_path / "rows.json"), str(report), airflow]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        while len(sandbox.shop.history()) < 30:
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.01)
        run.send_signal(signal.SIGTERM)
        taken = len(sandbox.shop.history())
        output, _ = run.communicate(timeout=60)

    # Of waiting there are 0.2 s; the rest is the processor's, whatever else this machine does.
    seconds = float(output.split("seconds of the processor")[0].split()[-1])
    assert seconds < 4, "Airflow 3.3 kills it after five seconds"
    assert (run.returncode, f"ended in {ended_in}" in output) == (3, True), output
    assert len(sandbox.shop.history()) <= taken + 2 * 16, "what was under way came to its end, and nothing new was sent"
    lines = read_report(report)
    assert len(lines) == len(orders)
    reported = {line["order_id"] for line in lines if line["outcome"] == "changed"}
    assert reported == {entry["order_id"] for entry in sandbox.shop.history()}
    summary = json.loads(Path(f"{report}.summary").read_text())
    assert Counter(line["outcome"] for line in lines) == {
        outcome: summary[outcome] for outcome in ("changed", "not_reached") if summary[outcome]
    }
    assert summary["requests"] > 0


def test_an_update_that_takes_too_long_to_end_is_reported_as_cut_off(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.misbehave("latency", route="PUT *", seconds=30)
    report = tmp_path / "report.jsonl"
    rows = [{"order_id": order_id, "payment_status": "paid"} for order_id in payable(sandbox)]

    with pytest.raises(AirflowTaskTimeout):
        reconcile(rows, report_path=str(report), execution_timeout=timedelta(seconds=5), max_concurrency=4)

    outcomes = Counter(line["outcome"] for line in read_report(report))
    assert 1 <= outcomes["failed"] <= 4
    assert outcomes["not_reached"] == len(rows) - outcomes["failed"]
    reasons = {line["reason"] for line in read_report(report) if line["outcome"] == "failed"}
    assert reasons == {"the run was cut off while this update was under way, and it is unknown whether YouCan took it"}


def test_an_alarm_is_never_taken_for_a_lost_answer(sandbox: Sandbox, tmp_path: Path) -> None:
    """Given an alarm that goes off while requests are under way, as Airflow's does, then the run ends in it."""
    sandbox.shop.add_orders(300)
    sandbox.misbehave("latency", route="PUT *", seconds=0.05)

    def rows(number: int) -> list[dict[str, str]]:
        status = ("refunded", "captured")[number % 2]
        return [{"order_id": order_id, "payment_status": status} for order_id in sandbox.shop.order_ids()]

    class Alarm(BaseException):
        pass

    def go_off(*_: Any) -> None:
        raise Alarm

    taken = 0

    def count(method: str, _: int | None) -> None:
        nonlocal taken
        taken += method == "PUT"
        if method == "PUT" and taken == due:
            os.kill(os.getpid(), signal.SIGALRM)

    on_request(sandbox, count)
    handler = signal.signal(signal.SIGALRM, go_off)
    try:
        for number in range(5):
            taken, due = 0, 1 + 10 * number
            with pytest.raises(Alarm):
                reconcile(rows(number), report_path=str(tmp_path / f"{number}.jsonl"))
            reported = {line["order_id"] for line in read_report(tmp_path / f"{number}.jsonl")}
            assert len(reported) == len(sandbox.shop.order_ids())
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_a_stop_while_refs_are_searched_for_leaves_them_not_reached(sandbox: Sandbox) -> None:
    refs = [f"none-{number}" for number in range(30)]
    ti = TaskInstance()
    operator = YouCanReconcileOrdersOperator(
        task_id="reconcile",
        orders=[{"ref": ref, "payment_status": "paid"} for ref in refs],
        max_concurrency=1,
    )
    on_request(
        sandbox,
        lambda *_: operator.on_kill() if any("q=" in one["query"] for one in sandbox.shop.requests()[-1:]) else None,
    )
    with pytest.raises(YouCanTaskStoppedError, match="stopped before the table was reconciled"):
        execute(operator, ti)

    assert (ti.pushed["summary"]["failed"], ti.pushed["summary"]["not_reached"]) == (0, len(refs))


def test_a_single_operator_that_is_stopped_does_not_try_again(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (order_id, *_) = payable(sandbox)
    sandbox.misbehave("status", route="PUT *", status=503)
    operator = YouCanUpdatePaymentStatusOperator(task_id="pay", order_id=order_id, status="paid")
    monkeypatch.setattr(YouCanHook, "_pause", lambda *_: operator.on_kill())

    with pytest.raises(YouCanTaskStoppedError, match="The task was stopped"):
        operator.execute({})

    assert len(sandbox.shop.requests()) == 1


def test_an_execution_timeout_ends_the_run_and_the_record_is_true(
    sandbox: Sandbox, fresh: list[str], tmp_path: Path
) -> None:
    sandbox.misbehave("latency", route="PUT /orders/*", seconds=0.3)
    report = tmp_path / "report.jsonl"

    with pytest.raises(AirflowTaskTimeout, match="a retry sends only what is missing"):
        reconcile(
            [{"order_id": order_id, "status": "closed"} for order_id in fresh],
            execution_timeout=timedelta(seconds=1),
            max_concurrency=1,
            report_path=str(report),
        )

    outcomes = {line["order_id"]: line["outcome"] for line in read_report(report)}
    assert set(outcomes) == set(fresh)
    changed = [order_id for order_id, outcome in outcomes.items() if outcome == "changed"]
    assert changed
    assert "not_reached" in outcomes.values()
    assert all(sandbox.shop.statuses(order_id)["general"] == "closed" for order_id in changed)


# --- from the first second on ---


@pytest.fixture
def sigterm() -> Iterator[list[Any]]:
    """Handle SIGTERM as Airflow 3 does: its handler calls ``on_kill`` of the operators in this list, and returns."""
    operators: list[Any] = []
    before = signal.signal(signal.SIGTERM, lambda *_: [operator.on_kill() for operator in operators])
    yield operators
    signal.signal(signal.SIGTERM, before)


def rows_until_a_stop(sandbox: Sandbox) -> Iterator[dict[str, Any]]:
    for number, order_id in enumerate(payable(sandbox)):
        if number == 5:
            signal.raise_signal(signal.SIGTERM)
        yield {"order_id": order_id, "payment_status": "paid"}


def swallowing_rows(sandbox: Sandbox) -> Iterator[dict[str, Any]]:
    for order_id in payable(sandbox):
        with suppress(Exception):
            signal.raise_signal(signal.SIGTERM)
        yield {"order_id": order_id, "payment_status": "paid"}


@pytest.mark.parametrize("make_rows", [rows_until_a_stop, swallowing_rows])
def test_a_stop_while_rows_are_made_sends_nothing(
    sandbox: Sandbox, sigterm: list[Any], make_rows: Callable[[Sandbox], Iterator[dict[str, Any]]]
) -> None:
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", orders=make_rows(sandbox))
    sigterm.append(operator)

    with pytest.raises(YouCanTaskStoppedError):
        operator.execute({})

    assert sandbox.shop.requests() == []


def test_a_stop_while_a_query_runs_leaves_it_behind(
    sandbox: Sandbox, sigterm: list[Any], warehouse: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def hang(*_: Any) -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        released.wait(60)
        yield [], []

    monkeypatch.setattr("airflow_provider_youcan.reconciliation.rows.query._query", hang)
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", sql="select 1", conn_id="warehouse")
    sigterm.append(operator)

    try:
        with pytest.raises(YouCanTaskStoppedError):
            operator.execute({})
    finally:
        released.set()

    assert sandbox.shop.requests() == []


def test_a_stop_while_the_record_is_opened_sends_nothing(
    sandbox: Sandbox, sigterm: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFile, "open", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    operator = YouCanReconcileOrdersOperator(
        task_id="reconcile",
        orders=[{"order_id": one, "payment_status": "paid"} for one in payable(sandbox)],
        report_path=str(tmp_path / "report.jsonl"),
    )
    sigterm.append(operator)

    with pytest.raises(YouCanTaskStoppedError):
        operator.execute({})

    assert sandbox.shop.requests() == []


def test_a_stop_while_the_record_gets_its_last_line_waits_for_no_storage(
    sandbox: Sandbox, sigterm: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, released = LocalFile.append, threading.Event()

    def hang(self: LocalFile, lines: Any) -> None:
        if any(line["outcome"] == "complete" for _, _, line in lines):
            os.kill(os.getpid(), signal.SIGTERM)
            released.wait(60)
        append(self, lines)

    monkeypatch.setattr(LocalFile, "append", hang)
    operator = YouCanReconcileOrdersOperator(
        task_id="reconcile",
        orders=[{"order_id": one, "payment_status": "paid"} for one in payable(sandbox)],
        report_path=str(tmp_path / "report.jsonl"),
    )
    sigterm.append(operator)

    try:
        with pytest.raises(YouCanTaskStoppedError):
            operator.execute({})
    finally:
        released.set()


def test_a_stop_before_the_first_line_is_a_stop(sandbox: Sandbox) -> None:
    operator = YouCanReconcileOrdersOperator(task_id="reconcile", orders=[{"order_id": "abc", "status": "open"}])
    operator.on_kill()

    with pytest.raises(YouCanTaskStoppedError):
        operator.execute({})

    assert sandbox.shop.requests() == []


def test_a_single_operator_that_is_stopped_while_its_link_is_pushed_sends_nothing(sandbox: Sandbox) -> None:
    (order_id, *_) = payable(sandbox)
    operator = YouCanUpdatePaymentStatusOperator(task_id="pay", order_id=order_id, status="paid")

    class Stopping(TaskInstance):
        def xcom_push(self, key: str, value: Any) -> None:
            operator.on_kill()

    with pytest.raises(YouCanTaskStoppedError):
        operator.execute({"ti": Stopping()})

    assert paths(sandbox, "PUT") == []


@pytest.mark.parametrize("options", [{}, {"soft_fail": True}, {"silent_fail": True}, {"never_fail": True}])
def test_a_poking_sensor_that_is_stopped_looks_no_more(
    sandbox: Sandbox, sigterm: list[Any], options: dict[str, Any]
) -> None:
    (order_id, *_) = payable(sandbox)
    sensor = YouCanOrderStatusSensor(
        task_id="wait", order_id=order_id, target_status="paid", context="payment", poke_interval=30, **options
    )
    sigterm.append(sensor)

    def stop_soon(_: Request) -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()

    with sandbox.on_request(stop_soon), pytest.raises(YouCanTaskStoppedError):
        sensor.execute({"ti": TaskInstance()})

    assert len(sandbox.shop.requests()) == 1


def test_many_unreached_statuses_are_only_counted(sandbox: Sandbox, sigterm: list[Any], tmp_path: Path) -> None:
    sandbox.misbehave("status", route="PUT *", status=401)
    report, ti = tmp_path / "report.jsonl", TaskInstance()
    rows = [{"order_id": payable(sandbox)[0], "payment_status": "paid"}]
    rows += [{"order_id": f"order-{number}", "payment_status": "paid"} for number in range(1500)]

    with pytest.raises(YouCanAuthenticationError):
        reconcile(rows, ti, report_path=str(report), max_concurrency=1)

    lines = read_lines(report)
    reached = sum(line["outcome"] not in ("sending", "complete") for line in lines)
    assert lines[-1]["not_reached"] == ti.pushed["summary"]["not_reached"] == len(rows) - reached
    assert len(lines) < 50

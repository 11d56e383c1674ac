"""Reports in an object store with a real S3 API, which is moto's: make test-s3."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import requests

from airflow_provider_youcan.exceptions import YouCanRecordError, YouCanTransientError
from airflow_provider_youcan.reconciliation.record.file import read_lines
from airflow_provider_youcan.reconciliation.storage import as_path
from airflow_provider_youcan.sandbox import Sandbox
from airflow_provider_youcan.sandbox.shop import Request
from tests.conftest import TaskInstance, all_statuses, paid_rows, reconcile, revert
from tests.forked import begin_reconciling

try:
    from airflow.sdk.io import store
except ImportError:  # Airflow 2
    from airflow.io import store

pytestmark = pytest.mark.s3

KEY = "AKIAREPORTS"
REPORT = "s3://aws_default@reports/run.jsonl"


class ObjectStore:
    """moto's S3 on a socket of this machine, which can be made to refuse."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._moto = DomainDispatcherApplication(create_backend_app)
        # What the next writes are answered with; empty leaves the answer to moto.
        self._statuses: Iterator[str] = iter(())
        self.refused = 0
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def connection(self, key: str = KEY) -> str:
        """Return an Airflow connection to it; it knows one key alone."""
        extra = {"endpoint_url": self.url, "region_name": "us-east-1"}
        return json.dumps({"conn_type": "aws", "login": key, "password": "secret", "extra": extra})

    def refuse(self, status: str, after: int, times: int | None = None) -> None:
        """Answer writes with a status, such as ``503 SlowDown``, after so many of them, so many times."""
        refusals = itertools.repeat(status) if times is None else itertools.repeat(status, times)
        self._statuses = itertools.chain(itertools.repeat("", after), refusals)

    def names(self) -> list[str]:
        """Return the names of all objects, by a client of its own."""
        return sorted(one["Key"] for one in self._client.list_objects_v2(Bucket="reports").get("Contents", []))

    def put(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Write an object of JSON lines, by a client of its own."""
        self._client.put_object(Bucket="reports", Key=name, Body="".join(json.dumps(line) + "\n" for line in lines))

    def reset(self) -> None:
        """Begin again, with one empty bucket."""
        self._statuses, self.refused = iter(()), 0
        requests.post(f"{self.url}/moto-api/reset", timeout=10).raise_for_status()
        self._client.create_bucket(Bucket="reports")

    @property
    def _client(self) -> Any:
        import boto3

        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.url, **keys)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        status = self._refusal(environ)
        if not status:
            return self._moto(environ, start_response)
        self.refused += 1
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(status, [("Content-Type", "application/xml")])
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        code = status.split()[1]
        return [f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()]

    def _refusal(self, environ: dict[str, Any]) -> str:
        signature = environ.get("HTTP_AUTHORIZATION")
        if signature and f"Credential={KEY}/" not in signature:
            return "403 InvalidAccessKeyId"
        return next(self._statuses, "") if environ["REQUEST_METHOD"] == "PUT" else ""


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    server = ObjectStore()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """An object store with one empty bucket, ``reports``, to which the connection ``aws_default`` leads."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", server.connection())
    server.reset()
    begin_a_process()
    return server


def begin_a_process() -> None:
    """Forget the object stores that this process has used: each task is a process of its own."""
    store._STORE_CACHE.clear()


def outcomes(path: str) -> Counter[str]:
    return Counter(json.loads(line)["outcome"] for line in read_lines(path))


def updates_announced(path: str) -> set[tuple[str, str, str]]:
    """Return what a report announces: order, status before, status wanted."""
    lines = [json.loads(line) for line in read_lines(path)]
    return {(line["order_id"], line["before"], line["wanted"]) for line in lines if line["outcome"] == "sending"}


def updates_taken(sandbox: Sandbox) -> set[tuple[str, str, str]]:
    """Return what the shop took: order, status before, status after."""
    return {(entry["order_id"], entry["before"], entry["after"]) for entry in sandbox.shop.history()}


def test_a_report_in_s3_is_one_object_at_the_end(sandbox: Sandbox, s3: ObjectStore) -> None:
    rows = paid_rows(sandbox)

    path = reconcile(rows, report_path=REPORT)["report_path"]

    assert path == REPORT
    assert s3.names() == ["run.jsonl"]
    begin_a_process()
    assert outcomes(path) == {"sending": len(rows), "changed": len(rows), "complete": 1}


@pytest.mark.parametrize("updates", [1, 7])
def test_a_run_that_is_killed_is_taken_back_by_its_parts_in_s3(sandbox: Sandbox, s3: ObjectStore, updates: int) -> None:
    rows, before = paid_rows(sandbox), all_statuses(sandbox)
    environment = {name: os.environ[name] for name in ("AIRFLOW_CONN_AWS_DEFAULT", "AIRFLOW_CONN_YOUCAN_DEFAULT")}
    left = updates

    def kill(request: Request) -> None:
        nonlocal left
        left -= request.method == "PUT"
        if not left:
            os.kill(process.pid, signal.SIGKILL)

    # Given a run that was killed while updates went out,
    with sandbox.on_request(kill):
        process = begin_reconciling(rows, 1, environment, report_path=REPORT, max_concurrency=4)
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(updates_taken(sandbox)) >= updates
    assert updates_taken(sandbox) <= updates_announced(REPORT)
    assert all(name.startswith("run.jsonl.parts/") for name in s3.names())

    # when it is tried again, then that is written beside it,
    begin_a_process()
    again = reconcile(rows, TaskInstance(try_number=2), report_path=REPORT)["report_path"]
    assert again == "s3://aws_default@reports/run.2.jsonl"

    # and both can be taken back.
    begin_a_process()
    assert revert(report=[REPORT, again])["changed"] == len(rows)
    assert all_statuses(sandbox) == before


def test_parts_that_another_process_wrote_are_found_by_one_that_has_looked_before(
    sandbox: Sandbox, s3: ObjectStore
) -> None:
    lines = [{"outcome": "sending"}, {"outcome": "changed"}]
    s3.put("run.jsonl.parts/000001.jsonl", lines[:1])
    assert outcomes(REPORT) == {"sending": 1}
    s3.put("run.jsonl.parts/000002.jsonl", lines[1:])

    assert outcomes(REPORT) == {"sending": 1, "changed": 1}


def test_a_report_that_another_process_wrote_is_not_written_over(sandbox: Sandbox, s3: ObjectStore) -> None:
    s3.put("other.jsonl", [{"outcome": "complete"}])
    assert [path.name for path in as_path("s3://aws_default@reports").iterdir()] == ["other.jsonl"]
    s3.put("run.jsonl", [{"outcome": "complete"}])

    assert reconcile(paid_rows(sandbox), report_path=REPORT)["report_path"] == "s3://aws_default@reports/run.2.jsonl"


@pytest.mark.parametrize(
    ("report_path", "login", "words"),
    [
        pytest.param("s3://aws_default@nowhere/run.jsonl", KEY, "bucket does not exist", id="no such bucket"),
        pytest.param(REPORT, "AKIAOTHERS", "PermissionError: Forbidden", id="refused"),
    ],
)
def test_an_s3_that_takes_nothing_is_found_out_before_anything_is_sent(
    sandbox: Sandbox, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch, report_path: str, login: str, words: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", s3.connection(login))

    with pytest.raises(YouCanTransientError, match=f"The report can't be written to .*{words}.*nothing was sent"):
        reconcile(paid_rows(sandbox), report_path=report_path)

    assert sandbox.shop.requests() == []
    assert s3.names() == []


@pytest.mark.parametrize("status", ["403 AccessDenied", "503 SlowDown"])
def test_an_s3_that_refuses_for_a_moment_costs_a_moment(sandbox: Sandbox, s3: ObjectStore, status: str) -> None:
    rows = paid_rows(sandbox)
    s3.refuse(status, after=2, times=2)

    assert reconcile(rows, report_path=REPORT)["changed"] == len(rows)

    assert s3.refused == 2
    assert s3.names() == ["run.jsonl"]
    assert outcomes(REPORT) == {"sending": len(rows), "changed": len(rows), "complete": 1}


def test_an_s3_that_refuses_for_good_ends_the_run_before_anything_else_is_sent(
    sandbox: Sandbox, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.background.MAX_WAIT", 0.3)
    rows, ti = paid_rows(sandbox), TaskInstance()
    s3.refuse("403 AccessDenied", after=3)

    with pytest.raises(YouCanRecordError, match=r"takes no lines \(PermissionError: .*nothing more was sent"):
        reconcile(rows, ti, report_path=REPORT, max_concurrency=2)

    taken = updates_taken(sandbox)
    assert taken
    assert taken <= updates_announced(REPORT)
    assert ti.pushed["summary"]["changed"] == len(taken) < len(rows)

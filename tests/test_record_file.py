"""The report file: what a run leaves behind, and a retry can't destroy."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanRecordError,
    YouCanTransientError,
)
from airflow_provider_youcan.reconciliation.planner import Outcome, Step
from airflow_provider_youcan.reconciliation.record import file as record_file
from airflow_provider_youcan.reconciliation.record.file import LocalFile, open_record_file
from airflow_provider_youcan.reconciliation.record.file import read_lines as read_stored_lines
from airflow_provider_youcan.reconciliation.record.lines import make_line
from airflow_provider_youcan.reconciliation.storage import as_path
from airflow_provider_youcan.sandbox.shop import Request
from tests.conftest import (
    Sandbox,
    TaskInstance,
    all_statuses,
    paid_rows,
    paths,
    payable,
    read_lines,
    read_report,
    reconcile,
    revert,
)

try:
    from airflow.sdk.io.store import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach

LINE_KEYS = {"order_id", "ref", "context", "before", "wanted", "outcome", "reason", "unconfirmed"}


LINE = {"outcome": "changed"}


def test_concurrent_tasks_have_reports_of_their_own(tmp_path: Path) -> None:
    path, start = str(tmp_path / "report.jsonl"), threading.Barrier(16)

    def write(number: int) -> str:
        start.wait()
        sink = open_record_file(path)
        sink.open()
        sink.append([(1, None, {"number": number})])
        sink.close()
        return sink.path

    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(write, range(16)))

    assert [json.loads(Path(one).read_text()) for one in paths] == [{"number": number} for number in range(16)]


def test_a_report_is_written_beside_what_is_there(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_text("of another try")

    second = reconcile(paid_rows(sandbox), report_path=str(path))
    third = reconcile(paid_rows(sandbox), report_path=str(path))

    assert path.read_text() == "of another try"
    assert second["report_path"] == str(tmp_path / "report.2.jsonl")
    assert third["report_path"] == str(tmp_path / "report.3.jsonl")
    assert Path(second["report_path"]).read_text()


def test_the_last_line_of_a_report_says_that_it_is_whole(sandbox: Sandbox, plan: Path) -> None:
    *lines, last = read_lines(plan)

    assert all(line.keys() == LINE_KEYS for line in lines)
    assert last.keys() == LINE_KEYS | {"record_version", "dry_run", "store", "rows", "not_reached"}
    assert {key: last[key] for key in last.keys() - LINE_KEYS | {"outcome", "unconfirmed"}} == {
        "outcome": "complete",
        "unconfirmed": False,
        "record_version": 1,
        "dry_run": True,
        "store": "sandbox",
        "rows": len(lines),
        "not_reached": 0,
    }
    assert all(last[key] is None for key in LINE_KEYS - {"outcome", "unconfirmed"})


def test_each_update_is_announced_before_it_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    path, announced = tmp_path / "report.jsonl", []

    def look(request: Request) -> None:
        if request.method == "PUT":
            order_id = request.path.split("/")[2]
            announced.extend(line for line in read_lines(path) if line["order_id"] == order_id)

    with sandbox.on_request(look):
        reconcile(paid_rows(sandbox), report_path=str(path))

    changed = [line for line in read_report(path) if line["outcome"] == "changed"]
    assert {(line["order_id"], line["before"], line["wanted"]) for line in announced} == {
        (line["order_id"], line["before"], line["wanted"]) for line in changed
    }
    assert {line["outcome"] for line in announced} == {"sending"}
    assert not any(line["unconfirmed"] for line in [*announced, *changed])


def test_a_dry_run_announces_nothing(plan: Path) -> None:
    assert {line["outcome"] for line in read_lines(plan)} == {"planned", "complete"}


# --- an object store, which can't be appended to ---


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of fsspec's own object store, in memory."""
    from fsspec.implementations.memory import MemoryFileSystem

    attach("memory", fs=MemoryFileSystem())
    bucket = as_path("memory://youcan-tests")
    bucket.mkdir(exist_ok=True)
    yield "memory://youcan-tests"
    bucket.rmdir(recursive=True)


def test_a_report_in_an_object_store_is_one_file_at_the_end(sandbox: Sandbox, bucket: str) -> None:
    rows = paid_rows(sandbox)

    path = reconcile(rows, report_path=f"{bucket}/run.jsonl")["report_path"]

    lines = [json.loads(line) for line in read_stored_lines(path)]
    assert Counter(line["outcome"] for line in lines) == {"sending": len(rows), "changed": len(rows), "complete": 1}
    assert not as_path(f"{path}.parts").exists()
    assert as_path(reconcile(rows, report_path=path)["report_path"]) == as_path(f"{bucket}/run.2.jsonl")


def test_concurrent_runs_on_an_object_store_have_reports_of_their_own(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given runs that all find the name free before the first of them writes,
    path, start, is_taken = f"{bucket}/run.jsonl", threading.Barrier(4), record_file._is_taken
    waited = threading.local()

    def find_free_together(name: Any) -> bool:
        taken = is_taken(name)
        if not hasattr(waited, "once"):
            waited.once = True
            start.wait()
        return taken

    monkeypatch.setattr(record_file, "_is_taken", find_free_together)

    def write(number: int) -> str:
        sink = open_record_file(path)
        sink.open()
        sink.append([(1, None, {"number": number, "outcome": "complete"})])
        sink.close()
        return sink.path

    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(write, range(4)))

    # then each one's lines are whole, and nobody else's.
    assert [[json.loads(line)["number"] for line in read_stored_lines(one)] for one in paths] == [[0], [1], [2], [3]]


def test_the_parts_of_a_report_are_found_and_keep_its_name(sandbox: Sandbox, bucket: str) -> None:
    # Given what a run leaves that was killed,
    before, (order_id, *_) = all_statuses(sandbox), payable(sandbox)
    killed = open_record_file(f"{bucket}/run.jsonl")
    killed.open()
    step = Step(Outcome.SENDING, "pending")
    killed.append([(1, 1, make_line(order_id, None, "payment", "paid", step))])
    sandbox.shop.set_status(order_id, "payment", "paid")

    # when it is tried again, then that is written beside it,
    again = reconcile([{"order_id": order_id, "payment_status": "paid"}], report_path=f"{bucket}/run.jsonl")
    assert as_path(again["report_path"]) == as_path(f"{bucket}/run.2.jsonl")

    # and both can be taken back.
    assert revert(report=[f"{bucket}/run.jsonl", f"{bucket}/run.2.jsonl"])["changed"] == 1
    assert all_statuses(sandbox) == before


def test_a_file_that_was_not_merged_to_its_end_is_read_by_its_parts(bucket: str) -> None:
    sink = open_record_file(f"{bucket}/run.jsonl")
    sink.open()
    sink.append([(1, None, LINE)])
    sink.append([(2, None, LINE)])
    as_path(f"{bucket}/run.jsonl").write_bytes(b'{"outcome": "cha')

    assert len(list(read_stored_lines(f"{bucket}/run.jsonl"))) == 2


# --- storages that fail ---


def test_a_report_that_cannot_be_written_is_found_out_before_anything_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(YouCanTransientError, match="The report can't be written"):
        reconcile(
            [{"order_id": payable(sandbox)[0], "payment_status": "paid"}],
            report_path=str(tmp_path / "file" / "report.jsonl"),
        )

    assert sandbox.shop.requests() == []


@pytest.mark.parametrize(
    ("report_path", "words"),
    [
        pytest.param("{tmp_path}", "it is a directory", id="a directory"),
        pytest.param("klingon://reports/run.jsonl", "klingon", id="no such storage"),
        pytest.param("abfs://reports/run.jsonl", "abfs", id="its provider is not installed"),
    ],
)
def test_a_report_path_that_can_never_be_written_is_refused_for_good(
    sandbox: Sandbox, tmp_path: Path, report_path: str, words: str
) -> None:
    with pytest.raises(YouCanInvalidInputError, match=f"The report can't be written to .*{words}"):
        reconcile(paid_rows(sandbox), report_path=report_path.format(tmp_path=tmp_path))

    assert sandbox.shop.requests() == []
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.*"))


def refuse(monkeypatch: pytest.MonkeyPatch, after: int, error: Exception, times: int | None = None) -> list[int]:
    """Have the file refuse lines after so many of them, so many times."""
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.background.MAX_WAIT", 0.3)
    append, refused, taken = LocalFile.append, [], []

    def append_or_refuse(file: LocalFile, lines: list[Any]) -> None:
        if len(taken) + len(lines) > after and (times is None or len(refused) < times):
            refused.append(len(lines))
            raise error
        taken.extend(lines)
        append(file, lines)

    monkeypatch.setattr(LocalFile, "append", append_or_refuse)
    return refused


def test_no_error_of_the_report_replaces_the_runs_own(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, 1, PermissionError("403 Forbidden"))
    sandbox.misbehave("status", status=401, route="PUT *")
    row = {"order_id": payable(sandbox)[0], "payment_status": "paid"}

    with pytest.raises(YouCanPermanentError, match="401"):
        reconcile([row], report_path=str(tmp_path / "report.jsonl"))
    sandbox.misbehaviours.clear()
    with pytest.raises(YouCanRecordError, match="403 Forbidden"):
        reconcile([row], report_path=str(tmp_path / "report.jsonl"))


def test_a_storage_that_takes_no_more_lines_ends_the_run_before_anything_else_is_sent(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BlobError(Exception):
        pass

    refuse(monkeypatch, 4, BlobError("full"))
    rows, ti = paid_rows(sandbox), TaskInstance()

    with pytest.raises(YouCanRecordError, match=r"takes no lines \(BlobError: full\)"):
        reconcile(rows, ti, report_path=str(tmp_path / "report.jsonl"), max_concurrency=2)

    summary = ti.pushed["summary"]
    assert sum(summary[outcome] for outcome in ("changed", "unchanged", "failed", "not_reached")) == len(rows)
    announced = [line for line in read_lines(tmp_path / "report.jsonl") if line["outcome"] == "sending"]
    assert summary["changed"] == len(sandbox.shop.history()) <= len(announced)


def test_a_storage_that_refuses_for_a_moment_costs_a_moment(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = refuse(monkeypatch, 4, OSError("busy"), times=2)
    rows, path = paid_rows(sandbox), tmp_path / "report.jsonl"

    assert reconcile(rows, report_path=str(path))["changed"] == len(rows)

    assert len(refused) == 2
    assert len(read_lines(path)) == 2 * len(rows) + 1


def test_a_storage_that_hangs_holds_nothing(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.background.MAX_WAIT", 0.3)
    monkeypatch.setattr("airflow_provider_youcan.operators.ending._HURRIED_SECONDS", 0.1)
    released = threading.Event()
    monkeypatch.setattr(LocalFile, "append", lambda *_: released.wait(60))

    try:
        with pytest.raises(YouCanRecordError, match="it does not answer"):
            reconcile(paid_rows(sandbox), report_path=str(tmp_path / "report.jsonl"))
    finally:
        released.set()

    assert paths(sandbox, "PUT") == []


@pytest.mark.parametrize("report_path", ["", "None", " "])
def test_a_report_path_that_renders_to_nothing_is_refused(sandbox: Sandbox, report_path: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match="report_path"):
        reconcile([], report_path=report_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_sends_nothing_and_every_status_is_counted_once(
    sandbox: Sandbox, fresh: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_youcan.reconciliation.background.MAX_WAIT", 0.3)
    rows, ti = [{"order_id": order_id, "status": "closed"} for order_id in fresh], TaskInstance()

    with pytest.raises(YouCanRecordError, match="No space left"):
        reconcile(rows, ti, report_path="/dev/full", max_concurrency=2)

    assert ti.pushed["summary"]["not_reached"] == len(fresh)
    assert sandbox.shop.history() == []

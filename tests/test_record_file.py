"""The report file: what a run leaves behind, and a retry can't destroy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_youcan.exceptions import (
    YouCanInvalidInputError,
    YouCanPermanentError,
    YouCanTransientError,
)
from airflow_provider_youcan.reconciliation.record.file import ReportFile
from tests.conftest import Sandbox, TaskInstance, paid_rows, payable, read_lines, reconcile

LINE_KEYS = {"order_id", "ref", "context", "before", "wanted", "outcome", "reason"}


def test_of_tasks_that_come_at_once_each_has_its_own_report(tmp_path: Path) -> None:
    path, start = str(tmp_path / "report.jsonl"), threading.Barrier(16)

    def write(number: int) -> str | None:
        start.wait()
        with ReportFile(path) as file:
            assert file.text is not None
            file.text.write(str(number))
        return file.path

    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(write, range(16)))

    assert [Path(str(one)).read_text() for one in paths] == [str(number) for number in range(16)]


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
    assert last.keys() == LINE_KEYS | {"dry_run", "store", "rows"}
    assert {key: last[key] for key in ("outcome", "dry_run", "store", "rows")} == {
        "outcome": "complete",
        "dry_run": True,
        "store": "sandbox",
        "rows": len(lines),
    }
    assert all(last[key] is None for key in LINE_KEYS - {"outcome"})


# --- storages that fail ---


def test_a_report_that_cannot_be_written_is_found_out_before_anything_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(YouCanTransientError, match="The report can't be written"):
        reconcile(
            [{"order_id": payable(sandbox)[0], "payment_status": "paid"}],
            report_path=str(tmp_path / "file" / "report.jsonl"),
        )

    assert sandbox.shop.requests() == []


def test_no_error_of_the_report_replaces_the_runs_own(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_youcan.reconciliation.record.file import ReportFile

    class Refusing:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def close(self) -> None:
            raise PermissionError("403 Forbidden")

    open_file = ReportFile._open
    monkeypatch.setattr(ReportFile, "_open", staticmethod(lambda path: (path, Refusing(open_file(path)[1]))))
    sandbox.misbehave("status", status=401, route="PUT *")
    row = {"order_id": payable(sandbox)[0], "payment_status": "paid"}

    with pytest.raises(YouCanPermanentError, match="401"):
        reconcile([row], report_path=str(tmp_path / "report.jsonl"))
    sandbox.misbehaviours.clear()
    with pytest.raises(PermissionError):
        reconcile([row], report_path=str(tmp_path / "report.jsonl"))


def test_a_storage_that_fails_in_its_own_way_hides_nothing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_youcan.reconciliation.record.file import ReportFile

    class BlobError(Exception):
        pass

    class Blob:
        lines = 0

        def write(self, _: str) -> None:
            self.lines += 1
            if self.lines > 2:
                raise BlobError

        def flush(self) -> None:
            if self.lines > 2:
                raise BlobError

        def close(self) -> None:
            pass

    monkeypatch.setattr(ReportFile, "_open", staticmethod(lambda path: (path, Blob())))
    rows = paid_rows(sandbox)
    ti = TaskInstance()

    with pytest.raises(BlobError):
        reconcile(rows, ti, report_path="x", max_concurrency=2)

    summary = ti.pushed["summary"]
    assert sum(summary[outcome] for outcome in ("changed", "unchanged", "failed", "not_reached")) == len(rows)
    assert summary["changed"] == len(sandbox.shop.history())


@pytest.mark.parametrize("report_path", ["", "None", " "])
def test_a_report_path_that_renders_to_nothing_is_refused(sandbox: Sandbox, report_path: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match="report_path"):
        reconcile([], report_path=report_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_ends_the_run_and_every_wish_is_counted_once(sandbox: Sandbox, fresh: list[str]) -> None:
    rows, ti = [{"order_id": order_id, "status": "closed"} for order_id in fresh], TaskInstance()

    with pytest.raises(OSError, match="No space left"):
        reconcile(rows, ti, report_path="/dev/full", max_concurrency=2)

    summary = ti.pushed["summary"]
    assert sum(summary[outcome] for outcome in ("changed", "unchanged", "failed", "not_reached")) == len(fresh)
    assert summary["changed"] == len(sandbox.shop.history()) <= 2

"""A record is read while it is written, after a kill, by several processes; and a fork leaves it whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.patience import wait_until
from tests.support.records import ask, runner, select
from tests.support.store_helpers import forks, in_child

from restaurant_llm_batch import Strategy
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.testing import FakeLLM

CHILD = """
import sys
from restaurant_llm_batch import Strategy
from restaurant_llm_batch.testing import FakeLLM
from tests.support.records import ask, runner

path, first, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with runner(path, llm=FakeLLM(seconds=seconds), strategy=Strategy.stage(4)) as used:
    used.run(ask, range(first, first + count))
"""


def child(path: Path, first: int, count: int, seconds: float) -> subprocess.Popen[bytes]:
    arguments = [str(path), str(first), str(count), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], cwd=Path(__file__).parents[2])


def test_a_killed_run_is_shown_without_an_end_and_with_all_that_was_finished(path: Path) -> None:
    process = child(path, 0, 100_000, 0.01)
    try:
        wait_until(lambda: path.exists() and _succeeded(path) > 20)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    record = open_record(path)
    run = record.run()

    assert (run.state, run.ended) == ("no end", None)
    assert run.succeeded > 20
    assert run.calls >= run.succeeded
    assert run.total == 100_000
    open_items = [row for row in record.items() if row.outcome is None]
    in_flight = [call for call in record.calls() if call.outcome is None]
    assert open_items
    assert in_flight
    assert "no end" in str(run)
    assert "no end" in str(record.explain(open_items[0].item_id or 0))

    runner(path).run(ask, [1])  # a later run goes into the same file
    assert [one.state for one in open_record(path).runs()] == ["no end", "done"]


def _succeeded(path: Path) -> int:
    try:
        runs = open_record(path).runs()
    except Exception:  # it is just being created
        return 0
    return runs[-1].succeeded if runs else 0


@pytest.mark.slow
def test_two_processes_write_into_one_file_and_a_third_reads_it(path: Path) -> None:
    runner(path).run(ask, ["before"])
    writers = [child(path, 1000 * number, 40, 0.02) for number in (1, 2)]
    seen = []
    while any(writer.poll() is None for writer in writers):
        seen.append(sum(run.succeeded for run in open_record(path).runs()))
    assert [writer.returncode for writer in writers] == [0, 0]
    record = open_record(path)

    assert seen == sorted(seen)
    assert sorted(run.succeeded for run in record.runs()) == [1, 40, 40]
    assert {run.process for run in record.runs()} == {os.getpid(), *(writer.pid for writer in writers)}
    for run in record.runs():
        ids = [row.item_id for row in record.items(run)]
        assert len(ids) == len(set(ids)) == run.succeeded
        assert run.missing == 0


@forks
def test_a_forked_child_records_its_own_runs_and_not_its_parents(path: Path) -> None:
    used = runner(path)
    used.run(ask, ["parent"])
    stream = used.stream(ask, [1, 2, 3])
    next(stream)

    def in_the_child() -> str:
        left = len(list(stream))  # a copy of its parent's run, which the parent records
        used.run(ask, ["child"])
        used.close()
        return str(left)

    assert in_child(in_the_child) == "2"
    assert len(list(stream)) == 2
    used.close()
    record = open_record(path)

    of_child = [run for run in record.runs() if run.process != os.getpid()]
    assert sorted(run.succeeded for run in record.runs()) == [1, 1, 3]
    assert [[row.item_id for row in record.items(run)] for run in of_child] == [["child"]]
    assert [run.missing for run in record.runs()] == [0, 0, 0]


@forks
def test_a_child_that_is_forked_while_a_run_goes_on_leaves_the_record_whole(path: Path) -> None:
    with runner(path, strategy=Strategy.threaded(), llm=FakeLLM(seconds=0.01)) as used:
        stream = used.stream(ask, range(30))
        taken = [next(stream) for _ in range(5)]
        assert in_child(lambda: "born") == "born"
        taken += stream
    record = open_record(path)

    assert len(taken) == 30
    assert record.run().succeeded == 30
    assert len(record.calls()) == 30
    assert select(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_record_is_read_without_changing_anything_beside_it(path: Path) -> None:
    for item in (1, 2):
        with runner(path) as used:  # a runner that is dropped closes the file when its thread gets to it
            used.run(ask, [item])
    before = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    record = open_record(path)
    assert len(record.runs()) == 2
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_record_in_a_folder_that_may_not_be_written_is_read(path: Path) -> None:
    with runner(path) as used:
        used.run(ask, [1])
    path.parent.chmod(0o500)
    try:
        assert open_record(path).run().succeeded == 1
    finally:
        path.parent.chmod(0o700)

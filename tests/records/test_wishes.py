"""Limits that are set through the file of a record: done or refused, and never for another run."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.held import Held, ask_once
from tests.support.patience import PATIENCE, wait_until
from tests.support.records import ask, runner, select

from restaurant_llm_batch import BatchRunner, Limits, Strategy
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.events import RunStarted
from restaurant_llm_batch.records import Recording, open_record
from restaurant_llm_batch.records._recording import describe_runner
from restaurant_llm_batch.simulation import SimulatedServer


@contextmanager
def night(
    path: Path | Recording, llm: Held, strategy: Strategy = Strategy.stage(4), **limits: Any
) -> Iterator[None]:
    """Record a run in another thread for a block; then let all calls go, and wait for its end."""
    recording = path if isinstance(path, Recording) else Recording(path)
    given = BatchRunner(llm=llm, strategy=strategy, limits=Limits(**{"llm": 2, **limits}), record=recording)
    thread = threading.Thread(target=given.run, args=(ask_once, range(12)))
    thread.start()
    try:
        llm.wait_for(started=1)
        recording.flush()
        yield
    finally:
        llm.let_all_go()
        thread.join()


def test_a_limit_is_set_while_no_call_ends_and_the_record_says_by_whom(path: Path) -> None:
    llm = Held()
    with night(path, llm):
        record = open_record(path)
        assert record.set_limit("llm", 5) == "llm is 5 now; it was 2"
        llm.wait_for(started=5)
        wait_until(
            lambda: (
                [(one.limiter, one.calls_in_flight, one.reason) for one in record.limits()]
                == [("llm", 5, "manual")]
            )
        )
        wait_until(lambda: [one.in_use for one in record.limiters() if one.limiter == "llm"] == [5])
        assert record.set_limit("llm", "3", 1) == "llm is 3 now; it was 5"
        assert (
            record.set_limit("requests_per_minute", 600)
            == "requests_per_minute is 600 now; it was not configured"
        )
    assert llm.peak == 5
    assert record.run().succeeded == 12
    done = select(path, "SELECT run, name, value, done, answer FROM wishes ORDER BY id")
    assert done[0] == (1, "llm", "5", 1, "llm is 5 now; it was 2")
    assert len(done) == 3


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("llm", "sixteen", "llm must be a whole number from 1 to .*, got 'sixteen'; for example 16"),
        ("llm", 0, "got 0;"),
        ("llm", -1, "got -1;"),
        ("llm", 1.5, "got '1.5';"),
        ("llm", 10**30, "got one beyond that;"),
        ("llm", "9" * 5000, r"got '9+\.\.\.;"),
        ("gpu", 16, "there is no limit 'gpu'; what can be changed: search, llm"),
        ("open_items", 16, "open_items cannot be changed"),
        ("llm_total", 16, "llm_total is not limited in this runner"),
        ("\ud800", "\ud800", "there is no limit"),
    ],
)
def test_what_a_run_refuses_is_said_with_what_to_write(
    shared: Path, name: str, value: Any, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        open_record(shared).set_limit(name, value)
    assert select(shared, "SELECT count(*) FROM wishes WHERE answered IS NULL") == [(0,)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the record of a run that goes on."""
    path = tmp_path_factory.mktemp("shared") / "night.db"
    with night(path, Held()):
        yield path


def test_stage_1_refuses_calls_in_flight(path: Path) -> None:
    with night(path, Held(), Strategy.stage(1)):
        with pytest.raises(ConfigurationError, match="stage 1 makes one call at a time"):
            open_record(path).set_limit("llm", 16)
        assert "60 now" in open_record(path).set_limit("requests_per_minute", 60_000).replace("60,000", "60")


def test_a_run_that_has_ended_is_told_from_one_that_does_not_answer(path: Path) -> None:
    with runner(path) as used:
        used.run(ask, [1])
    with pytest.raises(
        ConfigurationError, match=r"run 1 has ended \(done\), so its limits cannot be changed"
    ):
        open_record(path).set_limit("llm", 16)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE runs SET ended = NULL")  # as if it had been killed
    connection.commit()
    connection.close()
    with pytest.raises(
        ConfigurationError, match=r"run 1 did not answer within 0.1 s, so nothing was changed"
    ):
        open_record(path).set_limit("llm", 16, wait=0.1)
    ((done, answer),) = select(path, "SELECT done, answer FROM wishes WHERE answered IS NOT NULL")
    assert (done, answer) == (0, "withdrawn")


def wish(path: Path, run: int, value: str = "7") -> None:
    """Leave a wish, as somebody who does not wait for the answer."""
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO wishes (id, run, name, value, made) VALUES (?, ?, 'llm', ?, '')",
        ((run << 32) + 1, run, value),
    )
    connection.commit()
    connection.close()


def test_a_wish_for_a_dead_run_never_reaches_a_later_one(path: Path) -> None:
    with runner(path) as used:
        used.run(ask, [1])
    wish(path, 1)
    wish(path, 2)  # the run that begins next
    llm = Held()
    with night(path, llm):
        assert (
            open_record(path).set_limit("search", 3) == "search is 3 now; it was 50"
        )  # so it has looked for wishes
        assert llm.peak == 2
    answers = select(path, "SELECT run, name, value, done FROM wishes ORDER BY id")
    assert answers == [(1, "llm", "7", None), (2, "search", "3", 1)]


def test_a_wish_that_comes_with_the_end_of_its_run_is_refused(path: Path) -> None:
    llm = Held()
    recording = Recording(path)
    with night(recording, llm):
        recording._format.wishes._runs.clear()  # it does not look any more
        wish(path, 1)
    assert select(path, "SELECT done, answer FROM wishes") == [(0, "the run has ended")]


def test_two_runs_in_one_file_get_the_wishes_that_name_them(path: Path) -> None:
    first, second = Held(), Held()
    with night(path, first), night(path, second):
        wait_until(lambda: len(open_record(path).runs()) == 2)
        assert open_record(path).set_limit("llm", 4, 1) == "llm is 4 now; it was 2"
        first.wait_for(started=4)
        assert second.started == 2
        assert open_record(path).set_limit("llm", 3, 2) == "llm is 3 now; it was 2"


def test_a_wish_is_for_anybody_who_can_write_sql(path: Path) -> None:
    llm = Held()
    with night(path, llm):
        wish(path, 1, " 6 ")
        llm.wait_for(started=6)


def test_a_simulation_refuses(path: Path) -> None:
    used = BatchRunner(llm=Held(), strategy=Strategy.stage(4))
    used.simulate(ask_once, [1], SimulatedServer(), record=path)
    with pytest.raises(ConfigurationError, match="has ended"):
        open_record(path).set_limit("llm", 16)


def test_a_simulation_that_goes_on_refuses_too(path: Path) -> None:
    parts = BatchRunner(llm=Held()).parts
    with Recording(path) as recording:
        facts = describe_runner(parts.llm, parts.strategy, parts.limits, parts.config)
        recording.observer(facts)(RunStarted(1, 0.0, 3, "ask"))
        recording.flush()
        with pytest.raises(
            ConfigurationError, match="this run is a simulation, whose limits are those that it began"
        ):
            open_record(path).set_limit("llm", 16)


def test_an_answer_that_cannot_be_written_is_written_later_and_the_limit_is_set_once(path: Path) -> None:
    llm = Held()
    recording = Recording(path, lock_timeout=0.01)
    with night(recording, llm):
        other = sqlite3.connect(path, isolation_level=None)
        wish(path, 1, "4")
        llm.wait_for(started=4)
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE wishes SET answered = NULL, done = NULL")
        other.execute("COMMIT")
        other.close()
        wait_until(lambda: select(path, "SELECT done FROM wishes") == [(1,)])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_may_only_be_read_is_named(shared: Path) -> None:
    shared.chmod(0o400)
    try:
        with pytest.raises(ConfigurationError, match="cannot be written"):
            open_record(shared).set_limit("llm", 16)
    finally:
        shared.chmod(0o600)


CHILD = """
import sys
sys.path[:0] = {path!r}
from tests.support.held import Held, ask_once
from restaurant_llm_batch import BatchRunner, Limits, Strategy

BatchRunner(llm=Held(), strategy=Strategy.stage(4), limits=Limits(llm=2), record=sys.argv[1]).run(ask_once, range(9))
"""


@pytest.mark.slow
def test_another_process_is_reached_and_a_killed_one_does_not_answer(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD.format(path=sys.path), str(path)])
    try:
        wait_until(lambda: path.exists() and path.stat().st_size > 0)
        wait_until(lambda: _calls(path) == 2)
        assert open_record(path).set_limit("llm", 6, wait=PATIENCE) == "llm is 6 now; it was 2"
        wait_until(lambda: _calls(path) == 6)
    finally:
        child.kill()
        child.wait()
    with pytest.raises(ConfigurationError, match="its process has ended or hangs"):
        open_record(path).set_limit("llm", 7, wait=0.3)


def _calls(path: Path) -> int:
    try:
        return int(select(path, "SELECT count(*) FROM calls")[0][0])
    except sqlite3.OperationalError:  # the tables are being made
        return 0


def test_a_record_without_the_new_tables_is_read_and_gets_them_when_it_is_written(path: Path) -> None:
    with runner(path) as used:
        used.run(ask, [1])
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE wishes; DROP TABLE limiters;")
    connection.close()
    assert open_record(path).limiters() == []
    assert open_record(path).run().succeeded == 1
    with runner(path) as used:
        used.run(ask, [2])
    assert {one.limiter for one in open_record(path).limiters()} == {"search", "llm", "batches"}


def test_no_thread_looks_for_wishes_when_no_run_goes_on(path: Path) -> None:
    recording = Recording(path)
    with runner(recording) as used:
        used.run(ask, [1])
        assert recording._format.wishes.seconds is None

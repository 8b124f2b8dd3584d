"""`FileBroker`: real processes on one file, which is private, may be a store, and survives forks and damage."""

from __future__ import annotations

import os
import pickle
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from restaurant_llm_batch import ConcurrencyLimiter, SharedLimiter, Store, errors
from restaurant_llm_batch.sharing import BrokerUnavailable, FileBroker
from restaurant_llm_batch.sharing._messages import Ask, Terms

TERMS = Terms(8)


def soak(*arguments: str) -> str:
    """Run real processes against a server that counts, in a process of their own; return what it says."""
    command = [sys.executable, "-m", "tests.support.sharing", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def test_processes_that_die_and_pause_never_exceed_the_limit() -> None:
    said = soak("file", "--seconds", "3", "--seeds", "1", "--processes", "4", "--limit", "4")

    assert "peak 4 of 4" in said


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_eight_processes_for_a_minute(seed: int) -> None:
    said = soak("file", "--seconds", "60", "--seeds", "1", "--first-seed", str(seed))

    assert "peak 8 of 8" in said


def test_what_one_object_is_told_another_one_knows(tmp_path: Path) -> None:
    first, second = FileBroker(tmp_path / "limits.db"), FileBroker(str(tmp_path / "limits.db"))

    assert first.perform("gpu", Ask("a", 1, TERMS, waiting=6, need=1)).lent == 7
    assert second.perform("gpu", Ask("b", 1, TERMS, waiting=6, need=1)).lent == 1
    assert first.place == second.place == f"file:{tmp_path / 'limits.db'}"
    assert list(second.limits()) == ["gpu"]


def test_the_file_is_private(tmp_path: Path) -> None:
    FileBroker(tmp_path / "limits.db").perform("gpu", Ask("a", 1, TERMS))

    assert stat.S_IMODE((tmp_path / "limits.db").stat().st_mode) == 0o600


def test_it_may_be_the_file_of_a_store(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    store = Store(path)
    store.open()
    store.close()
    broker = FileBroker(path)

    assert broker.perform("gpu", Ask("a", 1, TERMS, waiting=9, need=1)).lent == 8
    Store(path).open()


@pytest.mark.parametrize("path", ["", 7, None])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(errors.ConfigurationError, match="broker must be the path of a file"):
        FileBroker(path)  # type: ignore[arg-type]


def test_a_folder_or_another_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="got the folder"):
        FileBroker(tmp_path).perform("gpu", Ask("a", 1, TERMS))
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(errors.ConfigurationError, match="database of another program"):
        SharedLimiter("gpu", 8, broker=FileBroker(tmp_path / "other.db")).open()


def test_a_file_that_another_process_keeps_locked_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restaurant_llm_batch.sharing.file.LOCK_SECONDS", 0.01)
    broker = FileBroker(tmp_path / "limits.db")
    broker.perform("gpu", Ask("a", 1, TERMS))
    holder = sqlite3.connect(tmp_path / "limits.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(BrokerUnavailable, match="lock"):
            broker.perform("gpu", Ask("a", 2, TERMS))
    finally:
        holder.close()
    assert broker.perform("gpu", Ask("a", 3, TERMS, waiting=1, need=1)).lent > 0


def test_a_state_that_makes_no_sense_is_taken_for_lost(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    broker.perform("gpu", Ask("a", 1, TERMS, waiting=9, need=1))
    broker.close()
    with sqlite3.connect(tmp_path / "limits.db") as connection:
        connection.execute("UPDATE shared_limits SET state = 'nonsense'")
    connection.close()

    assert broker.perform("gpu", Ask("a", 2, TERMS, held=8, in_use=8, waiting=1, need=1)).lent == 8
    assert broker.perform("gpu", Ask("b", 1, TERMS, waiting=9, need=1)).lent == 0


def test_who_comes_first_after_a_state_was_lost_gets_nothing_while_loans_may_go_on(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    for name, lost in (("a", "nonsense"), ("b", ""), ("c", '{"terms":[8,null,null]}'), ("d", "[]")):
        broker.perform(name, Ask(name, 1, TERMS, waiting=9, need=1))
        with sqlite3.connect(tmp_path / "limits.db") as connection:
            connection.execute("UPDATE shared_limits SET state = ? WHERE name = ?", (lost, name.encode()))
        connection.close()

        assert broker.perform(name, Ask("new", 1, TERMS, waiting=9, need=1)).lent == 0


def test_who_comes_first_after_the_file_was_replaced_gets_nothing_if_it_knew_the_old_one(
    tmp_path: Path,
) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    broker.perform("gpu", Ask("a", 1, TERMS, waiting=9, need=1))
    for name in tmp_path.iterdir():
        name.unlink()

    assert broker.perform("gpu", Ask("b", 1, TERMS, waiting=9, need=1)).lent == 0


def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "limits.db"
    broker = FileBroker(path)
    broker.perform("gpu", Ask("a", 1, TERMS, waiting=9, need=1))
    for name in tmp_path.iterdir():
        name.unlink()

    assert broker.perform("gpu", Ask("a", 2, TERMS, held=8, in_use=8, waiting=1, need=1)).lent == 8
    assert path.exists()
    assert list(FileBroker(path).limits()) == ["gpu"]


def test_a_pickled_broker_reaches_the_same_limits(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    broker.perform("gpu", Ask("a", 1, TERMS))

    assert list(pickle.loads(pickle.dumps(broker)).limits()) == ["gpu"]


@pytest.mark.parametrize("limit", [0, -1, True, 2.5, "8", None])
def test_a_limit_is_set_to_a_whole_number(limit: object, tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    broker.perform("gpu", Ask("a", 1, TERMS))

    with pytest.raises(errors.ConfigurationError, match="whole number of at least 1"):
        broker.set_limit("gpu", limit)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigurationError, match="no limit 'cpu'"):
        broker.set_limit("cpu", 3)
    broker.set_limit("gpu", 3)
    assert broker.limits()["gpu"].limit == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_is_forked_while_another_thread_uses_the_file_uses_it_too(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "limits.db")
    stop = threading.Event()

    def ask() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            broker.perform("gpu", Ask("a", turn, TERMS, waiting=1, need=1))
            stop.wait(0.002)  # SQLite does not queue who waits for a lock

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(3):
            child = os.fork()
            if not child:
                lent = -1
                try:
                    lent = broker.perform("gpu", Ask(f"child{os.getpid()}", 1, TERMS)).total
                finally:
                    os._exit(0 if lent == 8 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


def test_a_plain_limiter_has_no_rates() -> None:
    assert ConcurrencyLimiter(3).rate is None

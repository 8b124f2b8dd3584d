"""Stores and processes: killed ones, several of them, forked ones."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.support import store_child
from tests.support.store_child import key_of, reply_of
from tests.support.store_helpers import REPLY, durably, fill, forks, in_child, key

from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch._store.writer import CommitFuture

CHILD = Path(store_child.__file__)


def start_child(path: Path, name: str, count: int, in_flight: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(CHILD), str(path), name, str(count), str(in_flight)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("in_flight", [2, 64])
@pytest.mark.parametrize("heard", [1, 700])
@pytest.mark.sample(1)
def test_what_was_durable_is_there_after_a_kill(path: Path, in_flight: int, heard: int) -> None:
    child = start_child(path, "child", 1_000_000, in_flight)
    assert child.stdout is not None
    with child.stdout as said:
        lines = [said.readline() for _ in range(heard)]
        child.send_signal(signal.SIGKILL)
        lines += said.readlines()
    child.wait()
    durable = [line.split() for line in lines if line.endswith("\n")]
    assert len(durable) >= heard
    assert {what for what, _ in durable} <= {"put", "job"}

    with Store(path) as store:
        for what, number in durable:
            if what == "put":
                assert store.get(key_of("child", int(number))) == reply_of("child", int(number))
            else:
                assert store.job(key_of("child", int(number))) == f"child-{number}"
        durably(store.put, key(1), REPLY)  # and it goes on
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_two_processes_may_share_a_file(path: Path) -> None:
    children = [start_child(path, name, 2000, 64) for name in ("one", "two")]
    outputs = [child.communicate()[0].split("\n") for child in children]

    assert [child.returncode for child in children] == [0, 0]
    assert [len(output) - 1 for output in outputs] == [4000, 4000]
    assert not [line for output in outputs for line in output if line.startswith("error")]
    with Store(path) as store:
        assert store.stats().entries == 4000
        assert all(
            store.get(key_of(name, number)) == reply_of(name, number)
            for name in ("one", "two")
            for number in range(2000)
        )


@pytest.mark.slow
def test_processes_may_make_the_same_store_at_the_same_time(path: Path) -> None:
    children = [start_child(path, str(number), 3, 2) for number in range(4)]
    outputs = [child.communicate()[0] for child in children]

    assert [child.returncode for child in children] == [0] * 4
    assert "error" not in "".join(outputs)
    with Store(path) as store:
        assert store.stats().entries == 12


def open_files(path: Path) -> list[str]:
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [name for name in opened if path.name in name]


@forks
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_forked_child_has_nothing_of_its_parents_open(store: Store, path: Path) -> None:
    fill(store, range(10))
    store.get(key(1))
    assert open_files(path)

    assert in_child(lambda: str(open_files(path))) == "[]"


@pytest.mark.slow
@forks
def test_parent_and_forked_child_both_go_on_writing(store: Store, path: Path) -> None:
    fill(store, range(10))

    def write() -> str:
        fill(store, range(100, 200))
        found = store.get(key(5))
        store.close()
        return str(found == reply_of("test", 5))

    answers = []
    for _ in range(3):
        busy = [CommitFuture() for _ in range(50)]  # with a group under way
        for number, durable in enumerate(busy):
            store.put(key(number), reply_of("test", number), durable)
        answers.append(in_child(write))
        for durable in busy:
            durable.result()
    fill(store, range(200, 210))

    assert answers == ["True"] * 3
    assert store.stats().entries == 160
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@forks
def test_what_a_parent_has_not_written_yet_is_not_written_by_its_child(path: Path) -> None:
    store = Store(path)
    told: list[int] = []
    for number in range(300):
        store.put(key(number), REPLY, lambda error: told.append(os.getpid()))
    in_child(lambda: str(Store.close(store)))  # type: ignore[func-returns-value]
    store.close()

    assert told == [os.getpid()] * 300

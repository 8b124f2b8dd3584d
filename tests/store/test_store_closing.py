"""A store that is closed, at any time, and used again."""

from __future__ import annotations

import gc
import random
import sqlite3
import threading
from functools import partial
from pathlib import Path

import pytest
from tests.support.patience import PATIENCE, wait_until
from tests.support.store_child import key_of
from tests.support.store_helpers import REPLY, durably, fill, key

from restaurant_llm_batch._store import writer
from restaurant_llm_batch._store.database import StoreFile
from restaurant_llm_batch._store.shared_connection import SharedConnection
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch._store.writer import CommitFuture


def test_nothing_is_lost_when_it_is_closed_at_once(path: Path) -> None:
    told: list[Exception | None] = []
    store = Store(path)
    for number in range(500):
        store.put(key(number), REPLY, told.append)
    store.close()

    assert told == [None] * 500
    with Store(path) as again:
        assert again.stats().entries == 500


def test_closing_leaves_one_file_and_no_thread(path: Path) -> None:
    before = threading.enumerate()
    store = Store(path)
    fill(store, range(3))
    store.get(key(1))
    store.close()
    store.close()

    assert [file.name for file in path.parent.iterdir()] == ["run.db"]
    assert set(threading.enumerate()) <= set(before)


def test_a_closed_store_opens_again_when_it_is_used(path: Path) -> None:
    store = Store(path)
    for number in range(3):
        durably(store.put, key(number), REPLY)
        store.close()
        assert store.get(key(number)) == REPLY
        store.close()
    assert store.stats().entries == 3
    store.close()


def test_closing_in_the_middle_of_others_uses_loses_nothing(path: Path) -> None:
    store = Store(path)
    ended = threading.Event()
    wrong: list[object] = []

    def close() -> None:
        while not ended.is_set():
            store.close()

    def work(name: str) -> None:
        for number in range(25):
            durably(store.put, key_of(name, number), REPLY)
            if store.get(key_of(name, number)) != REPLY:
                wrong.append((name, number))

    closer = threading.Thread(target=close)
    workers = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in (closer, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    ended.set()
    closer.join()

    assert not wrong
    assert store.stats().entries == 75
    store.close()


def test_closing_from_the_writing_thread_does_not_wait_for_itself(path: Path) -> None:
    store = Store(path)
    durable = CommitFuture()

    def close_it(error: Exception | None) -> None:
        store.close()
        durable(error)

    store.put(key(1), REPLY, close_it)
    durable.result()
    store.close()

    with Store(path) as again:
        assert again.get(key(1)) == REPLY


def test_a_connection_that_is_closed_in_the_middle_of_its_use_is_closed_afterwards(path: Path) -> None:
    link = SharedConnection(StoreFile(path, 5), 5)
    with link as connection:
        with link:
            link.close()  # as the garbage collector may
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    with link as another:
        assert another.execute("SELECT 1").fetchone() == (1,)
    link.close()


def test_a_connection_that_is_dropped_in_a_cycle_is_closed_before_sqlite_warns_of_it(path: Path) -> None:
    closed: list[bool] = []

    class Watches:
        def __init__(self) -> None:
            self.link = SharedConnection(StoreFile(path, 5), 5)
            with self.link as connection:
                self.connection = connection
            self.itself = self

        def __del__(self) -> None:  # when finalizers run, SQLite's own among them
            try:
                self.connection.execute("SELECT 1")
            except sqlite3.ProgrammingError:
                closed.append(True)

    Watches()
    gc.collect()
    assert closed == [True]


def test_a_store_that_nobody_closed_ends_its_thread_when_it_is_collected(path: Path) -> None:
    before = set(threading.enumerate())
    store = Store(path)
    told: list[Exception | None] = []
    for number in range(100):
        store.put(key(number), REPLY, told.append)
    (writer,) = [
        one for one in threading.enumerate() if one.name == "restaurant-llm-batch-store" and one not in before
    ]
    del store
    gc.collect()
    writer.join(PATIENCE)

    assert not writer.is_alive()
    assert told == [None] * 100


def test_a_change_that_comes_after_the_end_leaves_no_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LINGER_SECONDS", 0.01)
    before = set(threading.enumerate())
    store = Store(path)
    store.close()
    durably(store.put, key(1), REPLY)  # the reply to a call that was given up

    wait_until(lambda: set(threading.enumerate()) <= before)
    durably(store.put, key(2), REPLY)
    assert store.stats().entries == 2
    store.close()


def test_changes_that_come_as_the_thread_ends_are_written_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LINGER_SECONDS", 0.0005)
    chosen = random.Random(3)
    told: list[tuple[int, Exception | None]] = []

    with Store(path) as store:
        for number in range(100):
            store.put(key(number), REPLY, partial(_tell, told, number))
            threading.Event().wait(chosen.choice((0.0, 0.0002, 0.0005, 0.0008)))
    assert told == [(number, None) for number in range(100)]
    with Store(path) as again:
        assert again.stats().entries == 100


def _tell(told: list[tuple[int, Exception | None]], number: int, error: Exception | None) -> None:
    told.append((number, error))

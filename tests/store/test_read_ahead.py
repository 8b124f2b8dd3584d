"""Rows read ahead of their lookups: fewer queries, and never an answer that has been replaced or deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from threading import Thread
from time import monotonic
from typing import Any

import pytest
from tests.support.store_child import reply_of
from tests.support.store_helpers import REPLY, durably, fill, ignore, key

from restaurant_llm_batch import LLMResponse
from restaurant_llm_batch._store import read_ahead
from restaurant_llm_batch._store.shared_connection import SharedConnection
from restaurant_llm_batch._store.store import Store


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record the keys that are looked up one by one."""
    asked: list[object] = []
    fetchone = SharedConnection.fetchone

    def counted(self: SharedConnection, statement: str, values: tuple[object, ...]) -> Any:
        asked.extend(values)
        return fetchone(self, statement, values)

    monkeypatch.setattr(SharedConnection, "fetchone", counted)
    return asked


def look_up(store: Store, numbers: Sequence[int]) -> None:
    for number in numbers:
        assert store.get(key(number)) == reply_of("test", number)


def shuffled(count: int, distance: int) -> list[int]:
    """Return numbers in an order in which calls that are in flight at once may end."""
    random = Random(1)
    return sorted(range(count), key=lambda number: number + random.uniform(0, distance))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("order", "most"), [(range(600), 20), (shuffled(600, 8), 60), (shuffled(600, 64), 250)]
)
def test_a_run_that_is_made_again_makes_few_queries(
    store: Store, queries: list[object], order: Sequence[int], most: int
) -> None:
    fill(store, range(600))
    look_up(store, order)

    assert len(queries) <= most


def test_lookups_in_no_order_read_nothing_ahead(store: Store, queries: list[object]) -> None:
    fill(store, range(600))
    order = list(range(600))
    Random(2).shuffle(order)
    look_up(store, order)

    assert len(queries) > 550


def read_some(store: Store, count: int = 10) -> None:
    """Look up the first rows, so that the next ones have been read ahead."""
    look_up(store, range(count))
    assert key(count) in store._connections.reading.ahead.rows


def test_a_reply_that_was_read_ahead_and_is_replaced_is_not_found_any_more(store: Store) -> None:
    fill(store, range(100))
    read_some(store)
    durably(store.put, key(10), REPLY)

    assert store.get(key(10)) == REPLY
    look_up(store, range(11, 100))


def test_a_reply_that_was_read_ahead_and_is_discarded_is_not_found_any_more(store: Store) -> None:
    fill(store, range(100))
    read_some(store)
    store.discard(key(10), ignore)

    assert store.get(key(10)) is None
    durably(store.discard, key(11))
    assert store.get(key(11)) is None
    look_up(store, range(12, 100))


def test_a_purge_takes_what_was_read_ahead(store: Store) -> None:
    fill(store, range(100))
    read_some(store)
    assert store.purge(0) == 100

    assert [store.get(key(number)) for number in range(100)] == [None] * 100


def test_what_another_process_deletes_is_found_for_a_second_at_most(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, range(100))
    read_some(store)
    with closing(sqlite3.connect(path)) as other:
        other.execute("DELETE FROM replies")
        other.commit()
    later = monotonic() + 1.001
    monkeypatch.setattr(read_ahead, "now", lambda: later)

    assert [store.get(key(number)) for number in range(10, 100)] == [None] * 90


def test_a_row_that_was_read_ahead_is_checked_against_its_proof(store: Store, path: Path) -> None:
    fill(store, range(100))
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE replies SET reply = (SELECT reply FROM replies WHERE id = 1) WHERE id = 20")
        other.commit()
    look_up(store, range(19))

    assert store.get(key(19)) is None
    assert store.stats().damaged == 1
    look_up(store, range(20, 100))


def test_long_replies_are_not_read_ahead(store: Store) -> None:
    for number in range(20):
        durably(store.put, key(number), LLMResponse("long " * 60_000 + str(number)))
    for number in range(20):
        assert store.get(key(number)) == LLMResponse("long " * 60_000 + str(number))
        assert not store._connections.reading.ahead.rows


def test_closing_forgets_what_was_read_ahead(store: Store) -> None:
    fill(store, range(100))
    read_some(store)
    store.close()

    assert not store._connections.reading.ahead.rows
    look_up(store, range(100))


def test_readers_and_writers_at_once_never_find_an_older_reply(store: Store) -> None:
    fill(store, range(200))
    latest = dict.fromkeys(range(200), 0)
    wrong: list[object] = []

    def write(first: int) -> None:
        for version in range(1, 4):
            for number in range(first, 200, 2):
                durably(store.put, key(number), LLMResponse(str(version), prompt_tokens=version))
                latest[number] = version

    def read() -> None:
        for _ in range(6):
            for number in range(200):
                known = latest[number]
                found = store.get(key(number))
                if found is None or (known and found.prompt_tokens < known):
                    wrong.append((number, known, found))

    threads = [Thread(target=write, args=(0,)), Thread(target=write, args=(1,)), Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong

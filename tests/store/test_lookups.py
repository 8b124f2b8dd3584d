"""Lookups: replies of calls that start together are looked for in one query, and found as if each had its own."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.store_helpers import REPLY, durably, fill, ignore, key

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch._store.folder import StoreFolder
from restaurant_llm_batch._store.overlay import OverlayStore
from restaurant_llm_batch._store.shared_connection import SharedConnection
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch.errors import ConfigurationError, StoreError
from restaurant_llm_batch.steps import Flow, complete

TOGETHER = ["stage 4", "threaded"]
"""In the other stages calls start one by one."""
CONCURRENT = {"stage 2": Strategy.stage(2), "stage 4": Strategy.stage(4), "threaded": Strategy.threaded()}


@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 15, 63, 64, 65, 200])
def test_absent_keys_have_no_reply_and_present_ones_are_never_among_them(store: Store, number: int) -> None:
    fill(store, range(0, 200, 3))

    absent = store.absent([key(one) for one in range(number)])

    assert absent == ({key(one) for one in range(number) if one % 3} if number >= 4 else set())


def test_a_reply_that_is_being_deleted_or_was_is_not_there(store: Store) -> None:
    fill(store, range(8))
    durably(store.discard, key(1))
    store.discard(key(2), ignore)

    absent = store.absent([key(one) for one in range(8)])

    assert key(1) in absent
    assert absent <= {key(1), key(2)}
    assert store.get(key(2)) is None


UNREADABLE = [
    sqlite3.DatabaseError("database disk image is malformed"),
    ConfigurationError("the folder of the store does not exist"),  # any more
    StoreError("the store was replaced"),
    OSError(24, "Too many open files"),
]


@pytest.mark.parametrize("error", UNREADABLE, ids=lambda error: type(error).__name__)
def test_a_store_that_cannot_be_read_says_of_no_key_that_it_is_absent(
    error: Exception, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the whole run would fail, in place of the calls whose replies cannot be looked for."""

    def fail(*args: object) -> Any:
        raise error

    monkeypatch.setattr(SharedConnection, "fetchall", fail)

    assert store.absent([key(one) for one in range(8)]) == set()


def test_other_stores_say_what_they_know(tmp_path: Path) -> None:
    overlay = OverlayStore()
    overlay.put(key(1), REPLY, ignore)
    folder = StoreFolder(tmp_path)

    assert overlay.absent([key(1), key(2)]) == {key(2)}
    assert OverlayStore(overlay).absent([key(1), key(2)]) == {key(2)}
    assert folder.absent([key(1)]) == set()
    folder.close()


class Model:
    """Counts what it is asked."""

    fingerprint = "test model"

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.asked[request.messages[0]["content"]] += 1
        return LLMResponse("답")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        await anyio.lowlevel.checkpoint()
        return self.complete(request)


def ask(item: int) -> Flow[str]:
    reply = yield from complete(LLMRequest("test", ({"role": "user", "content": f"{item % 150}"},)))
    return reply.text


class Counting:
    """Counts the queries of a store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queries = 0
        for name in ("fetchone", "fetchall"):
            monkeypatch.setattr(SharedConnection, name, self._counted(getattr(SharedConnection, name)))

    def _counted(self, query: Any) -> Any:
        def counted(connection: SharedConnection, statement: str, values: Sequence[object]) -> Any:
            self.queries += 1
            return query(connection, statement, values)

        return counted


@pytest.mark.parametrize("name", TOGETHER)
def test_calls_that_start_together_are_looked_up_together(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting, model = Counting(monkeypatch), Model()
    runner = BatchRunner(
        llm=model, strategy=CONCURRENT[name], limits=Limits(llm=100, open_items=200), store=path
    )

    report = runner.run(ask, range(200))

    assert report.stats.succeeded == 200
    assert set(model.asked.values()) == {1}  # a question that two items share is asked once
    assert len(model.asked) == 150
    assert counting.queries < 100


@pytest.mark.parametrize("name", CONCURRENT)
def test_what_is_there_is_found_among_what_is_not(name: str, path: Path) -> None:
    model = Model()
    limits = Limits(llm=100, open_items=200)
    BatchRunner(llm=model, strategy=CONCURRENT[name], limits=limits, store=path).run(ask, range(0, 150, 2))
    model.asked.clear()

    report = BatchRunner(llm=model, strategy=CONCURRENT[name], limits=limits, store=path).run(ask, range(150))

    assert report.stats.succeeded == 150
    assert model.asked == Counter(str(item) for item in range(1, 150, 2))
    assert report.stats.cache_hits == 75


@pytest.mark.parametrize("name", TOGETHER)
def test_a_run_that_is_stopped_while_calls_are_looked_up_ends(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    runner = BatchRunner(
        llm=model, strategy=CONCURRENT[name], limits=Limits(llm=8, open_items=50), store=path
    )
    stream = runner.stream(ask, range(150))
    absent = Store.absent

    def stopping(store: Store, keys: Sequence[bytes]) -> Any:
        stream.stop("enough")
        return absent(store, keys)

    monkeypatch.setattr(Store, "absent", stopping)
    outcomes = list(stream)

    assert stream.stats.stopped_because == "enough"
    assert len(outcomes) < 150
    assert stream.stats.succeeded == sum(model.asked.values())
    runner.close()

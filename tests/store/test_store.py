"""The store: what was durable stays, and is found again."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.support.patience import PATIENCE
from tests.support.store_child import key_of, reply_of
from tests.support.store_helpers import REPLY, durably, fill, ignore, key

from restaurant_llm_batch import LLMResponse
from restaurant_llm_batch._engine.loop_mailbox import EventLoopMailbox
from restaurant_llm_batch._llm_response import RateLimitInfo, RateLimitStatus
from restaurant_llm_batch._store.rows import PUT_SIZES, proof_of_job, proof_of_reply
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch._store.writer import CommitFuture
from restaurant_llm_batch.errors import ConfigurationError, StoreError


@pytest.mark.parametrize(
    "reply",
    [
        REPLY,
        LLMResponse(""),
        LLMResponse(
            "half a pair \ud83d, a nul \x00, a bell \x07, 😀", finish_reason="length", model="\udfff"
        ),
        LLMResponse("long " * 100_000),
    ],
    ids=["full", "empty", "odd", "long"],
)
def test_an_answer_comes_back_as_it_was(store: Store, reply: LLMResponse) -> None:
    durably(store.put, key(1), reply)

    assert store.get(key(1)) == reply
    assert store.get(key(2)) is None


def test_an_answer_outlives_the_store_that_kept_it(path: Path) -> None:
    with Store(path) as first:
        first.put(key(1), REPLY, lambda error: None)

    with Store(str(path)) as second:
        assert second.get(key(1)) == REPLY


def test_a_later_answer_takes_the_place_of_an_earlier_one(store: Store) -> None:
    told = [CommitFuture() for _ in range(3)]
    for durable, text in zip(told, "abc", strict=True):
        store.put(key(1), LLMResponse(text), durable)
    for durable in told:
        durable.result()

    assert store.get(key(1)) == LLMResponse("c")
    assert store.stats().entries == 1


def test_an_answer_can_be_found_once_it_is_said_to_be_durable(store: Store) -> None:
    found = []
    for number in range(50):
        durable = CommitFuture()

        def look(error: Exception | None, number: int = number, durable: CommitFuture = durable) -> None:
            found.append((error, store.get(key(number))))
            durable(error)

        store.put(key(number), REPLY, look)
        durable.result()

    assert found == [(None, REPLY)] * 50


def test_an_answer_can_be_taken_out(store: Store) -> None:
    fill(store, range(2))
    durably(store.discard, key(0))

    assert (store.get(key(0)), store.get(key(1))) == (None, reply_of("test", 1))


def test_changes_are_made_in_the_order_they_were_handed_in(store: Store) -> None:
    random, last = Random(5), CommitFuture()
    answers: dict[int, LLMResponse] = {}
    jobs: dict[int, str] = {}
    for step in range(500):
        number = random.randrange(5)
        match random.randrange(4):
            case 0:
                answers[number] = LLMResponse(str(step))
                store.put(key(number), answers[number], ignore)
            case 1:
                answers.pop(number, None)
                store.discard(key(number), ignore)
            case 2:
                jobs[number] = str(step)
                store.record_job(key(number), "runpod", jobs[number], ignore)
            case _:
                store.delete_job(key(number), jobs.pop(number, "none"), ignore)
    store.delete_job(b"", "", last)
    last.result()

    assert {number: store.get(key(number)) for number in range(5)} == {n: answers.get(n) for n in range(5)}
    assert {number: store.job(key(number)) for number in range(5)} == {n: jobs.get(n) for n in range(5)}


@pytest.mark.sample(4)
@pytest.mark.parametrize("count", [*sorted(PUT_SIZES), 3, 63, 65, 127, 1001])
def test_a_group_of_any_size_is_kept_whole(store: Store, count: int) -> None:
    fill(store, range(count))

    assert store.stats().entries == count
    assert [store.get(key(number)) for number in range(count)] == [
        reply_of("test", number) for number in range(count)
    ]


def test_a_reply_that_is_none_fails_alone(store: Store) -> None:
    good, bad, late = CommitFuture(), CommitFuture(), CommitFuture()
    store.put(key(1), REPLY, good)
    store.put(key(2), LLMResponse("x", model=b"bytes"), bad)  # type: ignore[arg-type]
    store.put(key(3), REPLY, late)

    good.result()
    late.result()
    with pytest.raises(StoreError, match="must return an LLMResponse"):
        bad.result()
    assert (store.get(key(1)), store.get(key(2)), store.get(key(3))) == (REPLY, None, REPLY)


def test_a_reply_written_by_a_version_with_other_fields_can_be_read(store: Store, path: Path) -> None:
    durably(store.put, key(1), REPLY)
    with closing(sqlite3.connect(path)) as other:
        written = b'{"text": "t", "model": "m", "mood": "good"}'
        other.execute("UPDATE replies SET reply = ?, proof = ?", (written, proof_of_reply(key(1), written)))
        other.commit()

    assert store.get(key(1)) == LLMResponse("t", model="m")


def test_what_was_left_of_a_limit_then_is_no_part_of_a_kept_answer(store: Store) -> None:
    durably(
        store.put, key(1), replace(REPLY, rate_limit=RateLimitInfo(tokens=RateLimitStatus(200, 150, 12.5)))
    )
    kept = store.get(key(1))

    assert kept == REPLY
    assert kept.rate_limit is None


def test_a_key_must_be_bytes(store: Store) -> None:
    with pytest.raises(TypeError, match="request_key"):
        store.put("key", REPLY, ignore)  # type: ignore[arg-type]


def test_a_job_is_found_by_its_key_until_it_is_forgotten(store: Store, path: Path) -> None:
    durably(store.record_job, key(1), "runpod/abc", "job-1")
    durably(store.record_job, key(2), "runpod/abc", "job-2")
    store.close()

    with Store(path) as again:
        assert (again.job(key(1)), again.job(key(2)), again.job(key(3))) == ("job-1", "job-2", None)
        durably(again.delete_job, key(1), "job-1")
        durably(again.record_job, key(2), "runpod/abc", "job-3")
        assert (again.job(key(1)), again.job(key(2))) == (None, "job-3")


def test_only_the_job_that_is_meant_is_forgotten(store: Store, path: Path) -> None:
    durably(store.record_job, key(1), "runpod/abc", "job-1")
    with Store(path) as other:
        durably(other.record_job, key(1), "runpod/abc", "job-2")
    durably(store.delete_job, key(1), "job-1")

    assert store.job(key(1)) == "job-2"


def test_many_at_once_share_few_commits(store: Store) -> None:
    durably(store.put, key(0), REPLY)
    before = store.commits
    fill(store, range(1, 101))

    assert store.stats().entries == 101
    assert 1 <= store.commits - before <= 20


def test_whoever_hands_in_while_a_group_is_written_waits_for_one_more_commit_only(store: Store) -> None:
    inside, on = threading.Event(), threading.Event()

    def hold_up(error: Exception | None) -> None:
        inside.set()
        on.wait(PATIENCE)

    store.put(key(0), REPLY, hold_up)
    inside.wait(PATIENCE)
    before = store.commits
    told = [CommitFuture() for _ in range(100)]
    for number, durable in enumerate(told):
        store.put(key(number), REPLY, durable)
    on.set()
    for durable in told:
        durable.result()

    assert store.commits == before + 1


def test_each_is_reported_once_even_when_another_fails_to_listen(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[int, Exception | None, str]] = []

    def listen(error: Exception | None, number: int) -> None:
        calls.append((number, error, threading.current_thread().name))
        if number % 2:
            raise ValueError("I do not listen")

    for number in range(20):
        store.put(key(number), REPLY, lambda error, number=number: listen(error, number))  # type: ignore[misc]
    store.close()

    assert calls == [(number, None, "restaurant-llm-batch-store") for number in range(20)]
    assert len(caplog.records) == 10


@pytest.mark.sample(1)
@pytest.mark.anyio
async def test_all_that_an_event_loop_ever_does_is_a_short_read(
    store: Store, nothing_blocks: BlockBuster
) -> None:
    for name in ("Connection.execute", "Cursor.execute", "Cursor.fetchone"):
        nothing_blocks.functions[f"sqlite3.{name}"].can_block_in("_store/store.py", {"_read"})
    home = EventLoopMailbox()
    told: list[Exception | None] = []
    for number in range(20):
        assert store.get(key(number)) is None
        store.put(key(number), REPLY, lambda error: home.post(partial(told.append, error)))
        store.record_job(key(number), "runpod", "job-1", lambda error: home.post(partial(told.append, error)))
    while len(told) < 40:
        await home.run_pending()

    assert told == [None] * 40
    assert (store.get(key(1)), store.job(key(1))) == (REPLY, "job-1")


def test_threads_may_share_a_store(store: Store) -> None:
    wrong: list[object] = []

    def work(name: str) -> None:
        for number in range(100):
            durably(store.put, key_of(name, number), reply_of(name, number))
            if store.get(key_of(name, number)) != reply_of(name, number):
                wrong.append((name, number))

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert store.stats().entries == 800


def test_stats_say_what_is_there(store: Store, path: Path) -> None:
    empty = store.stats()
    assert (empty.entries, empty.jobs, empty.oldest, empty.newest) == (0, 0, None, None)

    before = datetime.now(UTC)
    fill(store, range(300))
    durably(store.record_job, key(300), "runpod", "job-1")
    stats = store.stats()

    assert (stats.entries, stats.jobs, stats.stale_jobs) == (300, 1, 0)
    assert stats.oldest is not None
    assert stats.newest is not None
    slack = timedelta(seconds=1)
    assert before - slack <= stats.oldest <= stats.newest <= datetime.now(UTC) + slack
    assert stats.bytes == sum(
        file.stat().st_size for file in path.parent.iterdir() if file.name != "run.db-shm"
    )
    assert stats.bytes > empty.bytes


def age(path: Path, number: int, days: float) -> None:
    with closing(sqlite3.connect(path)) as other:
        for table in ("replies", "jobs"):
            other.execute(f"UPDATE {table} SET at = at - ? WHERE key = ?", (days * 86400, key(number)))
        other.commit()


def test_jobs_that_nobody_will_go_on_with_count_apart_until_a_purge(store: Store, path: Path) -> None:
    fill(store, range(1))
    for number in range(4):
        durably(store.record_job, key(number), "runpod", str(number))
    age(path, 1, days=7.5)
    age(path, 2, days=8.5)

    stats = store.stats()
    assert (stats.jobs, stats.stale_jobs) == (2, 2)  # one has its answer, and one is too old
    store.purge(timedelta(days=30))
    stats = store.stats()
    assert (stats.entries, stats.jobs, stats.stale_jobs) == (1, 2, 0)
    assert [store.job(key(number)) for number in range(4)] == [None, "1", None, "3"]


@pytest.mark.parametrize("limit", [timedelta(days=30), 30 * 86400])
def test_a_purge_takes_out_what_is_older(store: Store, path: Path, limit: timedelta | float) -> None:
    fill(store, range(4))
    for number in (4, 5):
        durably(store.record_job, key(number), "runpod", str(number))
    for number in (0, 4):
        age(path, number, days=31)
    age(path, 2, days=29)

    assert store.purge(limit) == 1
    assert [store.get(key(number)) is None for number in range(4)] == [True, False, False, False]
    assert (store.job(key(4)), store.job(key(5))) == (None, "5")


def test_a_purge_makes_the_file_smaller(store: Store, path: Path) -> None:
    fill(store, range(1000))
    before = store.stats().bytes

    assert store.purge(0) == 1000
    assert store.stats().bytes < before / 5


@pytest.mark.parametrize("nonsense", [-1, timedelta(days=-1), "30 days", None, True, float("nan")])
def test_a_purge_of_no_duration_is_refused(store: Store, nonsense: Any) -> None:
    with pytest.raises(ConfigurationError, match="older_than"):
        store.purge(nonsense)


def test_nothing_but_hashes_answers_and_jobs_is_written(store: Store, path: Path) -> None:
    durably(store.put, key(1), REPLY)
    durably(store.record_job, key(1), "runpod", "job-1")
    with closing(sqlite3.connect(path)) as other:
        rows = [
            [value for value in row if not isinstance(value, float)]
            for table in ("replies", "jobs")
            for row in other.execute(f"SELECT * FROM {table}")
        ]

    answer = (
        '{"text":"국물이 진하다","finish_reason":"stop","prompt_tokens":120,"completion_tokens":30,'
        '"model":"qwen","cached_tokens":64}'
    )
    assert rows == [
        [1, key(1), answer.encode(), proof_of_reply(key(1), answer.encode())],
        [key(1), "runpod", "job-1", proof_of_job(key(1), b"runpod", b"job-1")],
    ]
    assert repr(store) == f"<Store {str(path)!r}>"


@pytest.mark.parametrize("wait", [-1, float("nan"), "10", None])
def test_a_wait_that_is_none_is_named(tmp_path: Path, wait: Any) -> None:
    with pytest.raises(ConfigurationError, match="lock_timeout must be a number of seconds"):
        Store(tmp_path / "run.db", lock_timeout=wait)

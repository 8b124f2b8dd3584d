"""Rows of a record end as the events say, whenever the writing thread takes them."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.records import ask

from restaurant_llm_batch import BatchRunner, Limits, LLMResponse, Strategy
from restaurant_llm_batch.errors import RateLimited
from restaurant_llm_batch.events import (
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    LateReply,
    RunEnded,
    RunStarted,
)
from restaurant_llm_batch.outcomes import Failure, RunStats, Success
from restaurant_llm_batch.records import _statements, open_record
from restaurant_llm_batch.records._rows import RunRows
from restaurant_llm_batch.records._run_row import RunnerFacts
from restaurant_llm_batch.records._schema import COLUMNS, TABLES
from restaurant_llm_batch.records._statements import SIZES, RowKind
from restaurant_llm_batch.testing import FakeLLM

FACTS = RunnerFacts("m", "stage 4", "{}", {}, "1")
REPLY = LLMResponse("국수", "stop", 10, 2, "m")
KINDS = [kind for kind in vars(_statements).values() if isinstance(kind, RowKind)]


def new_rows(*, texts: bool = False) -> RunRows:
    rows = RunRows(FACTS, RunStarted(1, 100.0, None, "ask"), 0.0, texts)
    rows.id = 1
    return rows


def calls_of(number: int, fails: bool) -> list[Event]:
    """Return the events of an item with one call, which perhaps is refused once."""
    name, at = f"r{number}", 100.0 + number
    started = CallStarted(1, at + 0.1, name, "llm", "dish", 1, 0.05, 1, number)
    events: list[Event] = [ItemStarted(1, at, name, number), started]
    if fails:
        error = RateLimited("busy")
        events += (
            CallEnded(1, at + 0.2, name, "llm", "dish", 1, 0.1, 1, None, error, number),
            CallStarted(1, at + 0.5, name, "llm", "dish", 2, 0.1, 1, number),
        )
    ended = CallEnded(1, at + 0.6, name, "llm", "dish", 1 + fails, 0.1, 1, REPLY, None, number)
    return [*events, ended, ItemEnded(1, at + 0.7, Success(name, "x", number))]


@st.composite
def nights(draw: st.DrawFn) -> list[Event]:
    """Draw the events of a few items, mixed, each item's in their order; some calls have no end."""
    streams = [calls_of(number, draw(st.booleans())) for number in range(draw(st.integers(1, 6)))]
    for number in range(len(streams)):
        if draw(st.integers(0, 4)) == 0:
            streams[number] = streams[number][: draw(st.integers(1, len(streams[number])))]
    mixed: list[Event] = []
    while any(streams):
        chosen = draw(st.sampled_from([stream for stream in streams if stream]))
        mixed.append(chosen.pop(0))
    return mixed


def put(kept: dict[tuple[str, int], dict[str, Any]], rows: RunRows) -> None:
    """Write what rows have, in order, as the statements do: a row replaces the one with its number."""
    for kind, taken in rows.take().rows.items():
        for row in taken:
            kept[kind.table, row[0]] = {**dict(zip(kind.columns, row, strict=True)), "kind": kind}


@given(nights(), st.data())
@settings(max_examples=60)
def test_rows_end_alike_whenever_they_are_taken(night: list[Event], data: st.DataObject) -> None:
    often, once = new_rows(), new_rows()
    seen: dict[tuple[str, int], dict[str, Any]] = {}
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for event in [*night, RunEnded(1, 200.0, RunStats())]:
        often.add(event)
        once.add(event)
        if data.draw(st.booleans()):
            put(seen, often)
            check_order(seen)
    put(seen, often)
    put(last, once)

    ended = {key: row for key, row in seen.items() if "ended" in row}
    assert ended == last
    # What was open to the end is an item only: calls are cancelled.
    assert {row["kind"] for key, row in seen.items() if key not in last} <= {_statements.OPEN_ITEM}


def test_events_and_takings_of_two_threads_lose_and_repeat_nothing() -> None:
    rows = new_rows()
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    over = threading.Event()

    def take() -> None:
        while not over.is_set():
            put(kept, rows)
            check_order(kept)

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(400):
        for event in calls_of(number, fails=number % 3 == 0):
            rows.add(event)
    over.set()
    thread.join()
    put(kept, rows)

    calls = [row for (table, _), row in kept.items() if table == "calls"]
    assert Counter(row["kind"] for row in calls) == {_statements.OK_CALL: 400, _statements.OTHER_CALL: 134}
    assert Counter(row["kind"] for (table, _), row in kept.items() if table == "items") == {
        _statements.SUCCEEDED_ITEM: 400
    }


def check_order(kept: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Check that no call is in the file before one with a smaller number, which a live view would overlook."""
    numbers = sorted(number for table, number in kept if table == "calls")
    assert numbers == list(range(1, len(numbers) + 1))


def test_an_interrupt_within_an_event_leaves_a_call_that_the_end_of_the_run_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = new_rows()
    rows.add(calls_of(0, fails=False)[1])

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(rows, "_reply_values", interrupted)
        rows.add(calls_of(0, fails=False)[2])
    rows.add(RunEnded(1, 200.0, RunStats()))
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    put(kept, rows)

    assert kept["calls", 1]["outcome"] == "cancelled"
    assert kept["calls", 1]["ended"] == 100.0


def test_calls_of_an_item_that_failed_are_cancelled_with_it_and_those_of_others_are_not() -> None:
    rows = new_rows()
    for place, item in enumerate("ab"):
        rows.add(ItemStarted(1, 100.0, item, place))
    for number, item in ((1, "a"), (2, "a"), (3, "b")):
        rows.add(CallStarted(1, 101.0, item, "llm", "dish", 1, 0.0, 1, number))
    rows.add(ItemEnded(1, 105.0, Failure("a", ValueError("no"), "task", 0, 0)))
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    put(kept, rows)
    outcomes = {number: row.get("outcome") for (table, number), row in kept.items() if table == "calls"}

    assert outcomes == {1: "cancelled", 2: "cancelled", 3: None}


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_late_reply_replaces_the_attempt_that_was_given_up_and_no_other(attempt: int) -> None:
    rows = new_rows()
    start = calls_of(0, fails=False)[1]
    assert isinstance(start, CallStarted)
    rows.add(start)
    failed = CallEnded(1, 101.0, "r0", "llm", "dish", 1, 1.0, 1, None, TimeoutError("slow"), 0)
    rows.add(failed)
    rows.add(LateReply(1, 102.0, "r0", 0, attempt, REPLY))
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    put(kept, rows)

    row = kept["calls", 1]
    assert row["outcome"] == ("late" if attempt == 1 else "failed")
    assert row["prompt_tokens"] == (10 if attempt == 1 else None)
    assert row["error_type"] == "TimeoutError"


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("count", [1, *SIZES, sum(SIZES) + 3])
def test_every_statement_writes_its_columns_and_the_ids_of_its_run(kind: RowKind, count: int) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute(TABLES[kind.table])
    texts = {name for name in COLUMNS[kind.table] if f"  {name} TEXT" in TABLES[kind.table]}
    rows = [
        tuple("x" if name in texts else number for name in kind.columns) for number in range(1, count + 1)
    ]
    for part in kind.parts(rows):
        kind.put(connection, 7, part)

    found = connection.execute(f"SELECT id, run, {', '.join(kind.columns)} FROM {kind.table} ORDER BY id")
    for number, row in enumerate(found, 1):
        assert row[:2] == ((7 << 32) + number, 7)
        for name, value in zip(kind.columns, row[2:], strict=True):
            of_file = name in ("id", "item", "prompt")
            assert value == ("x" if name in texts else (7 << 32) + number if of_file else number)
    assert connection.execute(f"SELECT count(*) FROM {kind.table}").fetchone() == (count,)


def test_two_runs_of_one_runner_at_once_keep_their_rows_apart(path: Path) -> None:
    used = BatchRunner(
        llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(llm=3, open_items=3), record=path
    )
    with used:
        one, other = used.stream(ask, range(8)), used.stream(ask, range(100, 105))
        next(one)
        next(other)
        assert len(list(one)) == 7
        assert len(list(other)) == 4
    record = open_record(path)
    assert [len(record.items(run)) for run in record.runs()] == [8, 5]
    assert [len(record.calls(run)) for run in record.runs()] == [8, 5]

"""A recording writes what happens in runs, whatever happens, and never fails a run."""

from __future__ import annotations

import gc
import json
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from tests.support.records import ask, runner, select
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    LLMRequest,
    LLMResponse,
    Price,
    RetryPolicy,
    StopConditions,
    Store,
    Strategy,
    SummarizeAspects,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._store.writer import GroupCommitWriter
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.records import Recording, open_record
from restaurant_llm_batch.simulation import SimulatedServer
from restaurant_llm_batch.steps import Flow, complete, gather, sleep
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

SEARCH = FakeSearch({1: ["맛있어요"], 2: ["친절해요"], "삼": ["비싸요"]})


class Answers:
    """A backend that raises or returns what a list says, in turn, and then texts."""

    model = "m-1"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def complete(self, request: LLMRequest, /) -> Any:
        answer = self.answers.pop(0) if self.answers else LLMResponse("국수", "stop", 10, 2, "m-1-2026")
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.mark.sample(1)
@each_strategy
def test_the_record_has_the_figures_of_the_report(strategy: Strategy, path: Path) -> None:
    prices = {"": Price(prompt=3.0, completion=5.0)}
    with runner(path, search=SEARCH, strategy=strategy, prices=prices, store=path) as used:
        stats = used.run(SummarizeAspects(), [1, 2, "삼"]).stats
        again = used.run(SummarizeAspects(), [1, 2, "삼"]).stats
    record = open_record(path)

    for run, of in zip(record.runs(), (stats, again), strict=True):
        assert (run.succeeded, run.failed, run.retries) == (of.succeeded, of.failed, of.retries)
        assert (run.prompt_tokens, run.completion_tokens) == (of.prompt_tokens, of.completion_tokens)
        assert (run.calls, run.cache_hits) == (sum(of.calls.values()), of.cache_hits)
        assert run.cost == of.cost
        calls = record.calls(run)
        assert sum(call.slots for call in calls) == run.calls
        assert sum(call.prompt_tokens or 0 for call in calls) == of.prompt_tokens
        assert sum(call.cost or 0.0 for call in calls) == pytest.approx(of.cost)
        assert sum(call.outcome == "stored" for call in calls) == of.cache_hits
        assert [item.item_id for item in record.items(run)] == [1, 2, "삼"]
    assert [run.state for run in record.runs()] == ["done", "done"]


def test_every_attempt_is_a_row_with_its_error_and_what_it_waited_for(path: Path) -> None:
    refused = errors.RateLimited("busy", retry_after=0.0)
    down = errors.TransientBackendError("down")
    down.status = 503
    report = runner(path, llm=Answers(refused, down)).run(ask, ["a"])

    first, second, third = open_record(path).calls()
    assert report.stats.succeeded == 1
    assert [call.outcome for call in (first, second, third)] == ["refused", "failed", "ok"]
    assert [call.attempt for call in (first, second, third)] == [1, 2, 3]
    assert len({call.call for call in (first, second, third)}) == 1
    assert (second.error_type, second.status, second.error) == (
        "TransientBackendError",
        503,
        "TransientBackendError: down",
    )
    assert (third.model, third.prompt_tokens, third.finish_reason, third.error) == (
        "m-1-2026",
        10,
        "stop",
        None,
    )
    assert second.queued >= (first.ended or 0.0)
    assert second.retry_seconds == pytest.approx(second.queued - (first.ended or 0.0))


def test_waits_for_a_slot_a_minute_and_a_retry_are_told_apart(path: Path) -> None:
    server = SimulatedServer(latency=1.0, faults={})
    limited = BatchRunner(
        llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(llm=2, requests_per_minute=4, open_items=10)
    )
    limited.simulate(ask, range(8), server, record=path)
    calls = open_record(path).calls()

    slot = [call for call in calls if call.slot_seconds > 0.5]
    minute = [call for call in calls if call.rate_seconds > 5.0]
    assert slot
    assert minute
    for call in calls:
        assert call.started - call.queued == pytest.approx(call.slot_seconds + call.rate_seconds)
        assert call.retry_seconds == 0.0


def test_the_wait_before_a_retry_is_that_of_the_policy(path: Path) -> None:
    patient = BatchRunner(
        llm=FakeLLM(), strategy=Strategy.stage(4), llm_retry=RetryPolicy(wait_initial=8.0, wait_max=8.0)
    )
    server = SimulatedServer(latency=1.0, slots=1, overload="refuse")
    patient.simulate(ask, range(3), server, record=path)
    calls = open_record(path).calls()

    again = [call for call in calls if call.attempt == 2]
    assert again
    assert all(call.retry_seconds > 0.1 for call in again)
    assert all(call.retry_seconds == 0.0 for call in calls if call.attempt == 1)


def test_limits_are_recorded_as_they_change(path: Path) -> None:
    adaptive = BatchRunner(
        llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(llm=AdaptiveLimit(start=2, max=30))
    )
    server = SimulatedServer(latency=1.0, slots=10, overload="refuse")
    report = adaptive.simulate(ask, range(200), server, record=path).report
    limits = open_record(path).limits()

    of_report = [(change.limiter, change.limit, change.reason) for change in report.stats.limit_history]
    assert [(one.limiter, one.calls_in_flight, one.reason) for one in limits] == of_report
    assert limits[0].reason == "start"
    assert {"slow_start", "rate_limited"} <= {one.reason for one in limits}


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "item", [0, -5, 2**70, -(2**63) - 1, "12", "삼", "a\x00b", "x\ud800y", "' OR 1=1", "<b>"]
)
def test_an_id_is_kept_as_a_text_and_as_it_was(item: Any, path: Path) -> None:
    runner(path).run(ask, [item])
    (row,) = open_record(path).items()

    assert row.item_id == item
    assert type(row.item_id) is type(item)
    ((text,),) = select(path, "SELECT item_id FROM items")
    assert text == str(item).encode("utf-8", "backslashreplace").decode()
    assert open_record(path).explain(item).item_id == item  # type: ignore[arg-type]


def test_ids_that_read_alike_are_told_apart_and_found_by_either_form(path: Path) -> None:
    runner(path).run(ask, [12, "12", "7"])
    record = open_record(path)

    assert record.explain(12).item_id == 12
    assert record.explain("12").item_id == "12"
    assert record.explain(7).item_id == "7"


def test_items_that_cannot_be_read_and_duplicates_have_rows_of_their_own(path: Path) -> None:
    report = runner(path).run(ask, iter([1, {"no": "id"}, 1, None]))
    rows = open_record(path).items()

    assert [outcome.ok for outcome in report.outcomes] == [row.outcome == "succeeded" for row in rows]
    assert [row.place for row in rows] == [0, 1, 2, 3]
    assert [row.item_id for row in rows] == [1, None, 1, None]
    assert rows[1].stage == "input"


@pytest.mark.parametrize(
    "answer",
    [
        LLMResponse("half \ud800 a pair", "stop\ud800", 10**40, 3, "m\ud800"),
        LLMResponse("nul \x00 within", "stop", 1, 1, "m\x00"),
        LLMResponse("", "", 0, 0, ""),
        LLMResponse("가" * 200_000, "length", 1, 1, "m" * 5000),
    ],
)
def test_odd_answers_are_recorded_and_lose_nothing(answer: LLMResponse, path: Path) -> None:
    recorded = Recording(path, texts=True)
    runner(recorded, llm=Answers(answer, errors.PermanentBackendError("bad \ud800 \x1b[31m"))).run(
        ask, [1, 2]
    )
    record = open_record(path)

    assert record.run().missing == 0
    assert [row.outcome for row in record.items()] == ["succeeded", "failed"]
    assert [call.outcome for call in record.calls()] == ["ok", "failed"]
    assert "\x1b" not in (record.items()[1].error or "")


def test_values_of_other_types_than_promised_are_recorded_as_texts(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(errors.PermanentBackendError):
        """An error with a status of another type."""

        status = object()  # type: ignore[assignment]

    reply = LLMResponse("국수", cast("Any", ["stop"]), 1, 1, cast("Any", {"name": "m"}))
    runner(path, llm=Answers(Odd("odd"), reply)).run(ask, [1, 2, 3])
    record = open_record(path)
    assert record.run().missing == 0
    assert [call.status for call in record.calls()] == [None, None, None]
    assert [call.finish_reason for call in record.calls()] == [None, "['stop']", "stop"]
    assert not caplog.records


@pytest.mark.parametrize("texts", [False, True])
def test_texts_are_recorded_only_if_wished(texts: bool, path: Path) -> None:
    secret = "검은 밤의 국수"
    llm = FakeLLM(answer=lambda request: json.dumps({"dish": secret}))
    search = FakeSearch({1: [f"{secret}가 맛있어요"]})

    def flow(item: int) -> Flow[str]:
        reply = yield from complete(LLMRequest("dish", ({"role": "user", "content": f"{secret}?"},)))
        return reply.text

    with runner(Recording(path, texts=texts), llm=llm, search=search) as used:
        used.run(flow, [1])
        used.run(SummarizeAspects(), [1])
    written = path.read_bytes()

    assert (secret.encode() in written) is texts
    for table in ("prompts", "answers", "reviews", "results"):
        assert bool(select(path, f"SELECT * FROM {table}")) is texts
    assert open_record(path).run().texts is texts


def test_the_file_is_only_for_its_owner(path: Path) -> None:
    with runner(path) as used:
        used.run(ask, [1])
        modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}


def test_a_stopped_run_says_why(path: Path) -> None:
    llm = Answers(errors.AuthenticationFailed("no such key"))
    report = runner(path, llm=llm).run(ask, [1, 2, 3])
    run = open_record(path).run()

    assert run.state == "stopped"
    assert run.stopped == report.stats.stopped_because
    assert [row.stage for row in open_record(path).items()] == [one.stage for one in report.failures]


def test_a_cancelled_run_has_its_end_and_its_calls_are_cancelled(path: Path) -> None:
    async def main() -> None:
        async with runner(path, llm=FakeLLM(seconds=60), strategy=Strategy.stage(4)) as used:
            with anyio.move_on_after(0.05):
                await used.arun(ask, range(3))

    anyio.run(main)
    record = open_record(path)

    assert record.run().state == "stopped"
    assert {call.outcome for call in record.calls()} == {"cancelled"}
    assert {row.stage for row in record.items()} == {"run"}


def test_an_event_loop_finds_its_run_recorded_when_arun_returns(path: Path) -> None:
    async def main() -> None:
        async with runner(path, strategy=Strategy.stage(4)) as used:
            report = await used.arun(ask, range(5))
            assert report.stats.succeeded == 5
            assert len(open_record(path).items()) == 5
            assert open_record(path).run().state == "done"

    anyio.run(main)


def test_two_runners_at_once_write_into_one_file(path: Path) -> None:
    async def main() -> None:
        recording = Recording(path)
        first = runner(recording, strategy=Strategy.stage(4), llm=FakeLLM(seconds=0.01))
        second = runner(path, strategy=Strategy.stage(4), llm=FakeLLM(seconds=0.01), store=path)
        async with first, second, anyio.create_task_group() as tasks:
            tasks.start_soon(first.arun, ask, range(40))
            tasks.start_soon(second.arun, ask, [f"b{n}" for n in range(30)])

    anyio.run(main)
    record = open_record(path)

    assert sorted(run.succeeded for run in record.runs()) == [30, 40]
    for run in record.runs():
        assert len(record.items(run)) == len(record.calls(run)) == run.succeeded
        assert run.missing == 0


def test_runs_of_one_runner_that_overlap_are_told_apart(path: Path) -> None:
    with runner(path, strategy=Strategy.stage(4)) as used:
        a, b = used.stream(ask, [1, 2, 3]), used.stream(ask, [1, 2])
        taken = [next(a), next(b), next(a), next(b), next(a)]
    assert len(taken) == 5
    assert [run.succeeded for run in open_record(path).runs()] == [3, 2]


def test_a_record_may_be_made_in_an_old_store_and_a_store_in_a_record(path: Path) -> None:
    with Store(path) as store:
        assert store.stats().entries == 0
    with runner(path, store=path) as used:
        used.run(ask, [1])
    with Store(path) as store:
        assert store.stats().entries == 1
        assert store.verify().ok
        store.purge(0)
    assert open_record(path).run().succeeded == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("name,id\n" * 200), "not a record, nor any SQLite file"),
        (lambda path: path.write_bytes(b"x"), "not a record"),
        (lambda path: path.mkdir(), "the folder"),
        (
            lambda path: sqlite3.connect(path).execute("CREATE TABLE x (y)"),
            "a database of another program, not a record",
        ),
        (lambda path: _with_other_runs(path), "table runs is another one"),
    ],
)
def test_a_file_that_is_something_else_is_refused_and_left(
    make: Callable[[Path], Any], said: str, path: Path
) -> None:
    made = make(path)
    if isinstance(made, sqlite3.Cursor):
        made.connection.close()
    before = path.read_bytes() if path.is_file() else None

    with pytest.raises(ConfigurationError, match=said):
        runner(path)
    with pytest.raises(ConfigurationError):
        open_record(path)
    assert (path.read_bytes() if path.is_file() else None) == before


def _with_other_runs(path: Path) -> None:
    with Store(path) as store:
        store.open()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE runs (mine)")
    connection.close()


@pytest.mark.parametrize("given", ["", ":memory:", 5, b"", object(), True, "a\0b"])
def test_what_is_no_path_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'record="night\.db"'):
        runner(given)


def test_arguments_of_a_recording_are_checked(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="texts must be True or False"):
        Recording(path, texts="yes")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="lock_timeout"):
        Recording(path, lock_timeout=-1)
    with pytest.raises(ConfigurationError, match="does not exist"):
        runner(path / "missing" / "x.db")
    assert "with texts" in repr(Recording(path, texts=True))


def test_a_full_disk_is_said_once_and_the_run_goes_on(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    broken = True
    original = GroupCommitWriter._try

    def attempt(self: GroupCommitWriter, write: Any) -> Exception | None:
        def fail(connection: sqlite3.Connection) -> None:
            raise full

        return original(self, fail if broken else write)

    monkeypatch.setattr(GroupCommitWriter, "_try", attempt)
    with runner(path) as used:
        lost = used.run(ask, range(50))
        also_lost = used.run(ask, range(5))
        broken = False
        kept = used.run(ask, range(3))
    run = open_record(path).run()
    said = [one.getMessage() for one in caplog.records if "incomplete" in one.getMessage()]

    assert (lost.stats.succeeded, also_lost.stats.succeeded, kept.stats.succeeded) == (50, 5, 3)
    assert len(said) == 1
    assert "is full" in said[0]
    assert (run.succeeded, run.missing) == (3, 0)


def test_a_run_that_could_not_be_written_in_part_counts_what_is_missing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = sqlite3.connect(path, isolation_level=None)
    recording = Recording(path, lock_timeout=0.05)
    with runner(recording) as used:
        stream = used.stream(ask, range(4))
        next(stream)
        recording.flush()
        lock.execute("BEGIN IMMEDIATE")
        next(stream)
        recording.flush()
        lock.execute("ROLLBACK")
        assert len(list(stream)) == 2
    lock.close()
    run = open_record(path).run()

    assert run.missing > 0
    assert (run.succeeded, run.state) == (4, "done")
    assert "is locked" in caplog.text
    assert [row.outcome for row in open_record(path).items()].count("succeeded") == 3


def test_a_file_that_is_deleted_while_it_is_open_does_not_fail_the_run(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recording = Recording(path)
    with runner(recording) as used:
        used.run(ask, [1])
        for file in path.parent.iterdir():
            file.unlink()
        assert used.run(ask, [2]).stats.succeeded == 1
        assert used.run(ask, [3]).stats.succeeded == 1
    assert "deleted, moved or replaced" in caplog.text
    assert open_record(path).run().succeeded == 1


def test_a_call_whose_reply_came_too_late_is_late_and_its_tokens_count(path: Path) -> None:
    llm = FakeLLM(seconds=0.2)
    slow = runner(path, llm=llm, strategy=Strategy.threaded(), time_limits=TimeLimits(call=0.05))
    with slow:
        stream = slow.stream(gather_two, [1])
        outcomes = list(stream)
    (run,) = open_record(path).runs()
    calls = open_record(path).calls()

    assert not outcomes[0].ok
    assert {call.outcome for call in calls} <= {"late", "failed"}
    assert sum(call.prompt_tokens or 0 for call in calls) == run.prompt_tokens


def gather_two(item: int) -> Flow[str]:
    """Make a call whose time is up, and wait until it has come back."""
    (first,) = yield from gather(ask(item))
    yield from sleep(0.4)
    if isinstance(first, Exception):
        raise first
    return str(first)


def test_simulations_are_recorded_where_they_are_told_to_and_marked(path: Path, tmp_path: Path) -> None:
    with runner(path, strategy=Strategy.stage(4)) as used:
        used.run(ask, [1])
        used.simulate(ask, range(5))
        used.simulate(ask, range(5), record=tmp_path / "simulation.db")
    assert [run.simulated for run in open_record(path).runs()] == [False]
    (simulated,) = open_record(tmp_path / "simulation.db").runs()
    assert simulated.simulated
    assert simulated.seconds > 0.5
    assert simulated.succeeded == 5


def test_settings_are_recorded_and_hold_no_secret(path: Path) -> None:
    shared = ConcurrencyLimiter(3)
    limits = Limits(llm=shared, batches=AdaptiveLimit(start=2))
    runner(path, limits=limits, stop=StopConditions(max_tokens=10**9)).run(ask, [1])
    run = open_record(path).run()

    assert run.settings["limits"]["llm"] == 3
    assert run.settings["limits"]["batches"]["start"] == 2
    assert run.settings["stop"]["max_tokens"] == 10**9
    assert run.version
    assert run.process == os.getpid()


def test_a_recording_that_nobody_closes_ends_with_its_runner(path: Path) -> None:
    before = set(threading.enumerate())
    runner(path).run(ask, [1])
    gc.collect()
    writers = [
        one for one in set(threading.enumerate()) - before if one.name == "restaurant-llm-batch-record"
    ]
    for one in writers:
        one.join(5)
    assert not any(one.is_alive() for one in writers)
    assert open_record(path).run().state == "done"


def test_logging_is_quiet_when_all_is_well(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    runner(path).run(ask, range(3))
    assert not caplog.records

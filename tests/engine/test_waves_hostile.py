"""Batches under attack, on virtual time: whatever the service, the disk or others do, nothing is paid for twice."""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support.waves import Batch, MemoryBatches, MemoryStore, Playing, answers, one, play

from restaurant_llm_batch import Limits, Price, RetryPolicy, StopConditions, TimeLimits, errors
from restaurant_llm_batch._engine import wave_answers, wave_file, wave_timing
from restaurant_llm_batch._engine.wave_service import BatchProblem, BatchState
from restaurant_llm_batch._store.wave_journal import WaveJournal, WaveNote, may_live, this_process
from restaurant_llm_batch.events import BatchProgress, CallEnded, CallStarted
from restaurant_llm_batch.integrations._tally import ProgressState
from restaurant_llm_batch.steps import Flow, sleep

Trouble = Callable[[str, int], Exception | None]


def failing(operation: str, error: Exception, times: float = float("inf")) -> Trouble:
    return lambda asked, number: error if asked == operation and number <= times else None


def left_behind(items: range, **more: Any) -> tuple[MemoryBatches, MemoryStore]:
    """Return the service and the store of a run that ended while its batch was in progress."""
    service, store = MemoryBatches(on_stop="keep", **more), MemoryStore()
    play(service, one, items, store=store, until=10.0)
    assert len(service.waves) == 1
    return service, store


def assert_paid_once(service: MemoryBatches, items: range, batches: int = 1) -> None:
    assert service.sent == {str(item): 1 for item in items}
    assert len(service.waves) == batches


# The service


DOWN: dict[str, tuple[str, Exception, int, bool]] = {
    "the key is wrong": ("look", errors.AuthenticationFailed("401", status=401), 1, False),
    "the credit is used up": ("look", errors.QuotaExhausted("429", status=429), 1, False),
    "access is denied": ("look", errors.PermanentBackendError("403", status=403), 1, False),
    "it is down for half an hour": ("look", errors.TransientBackendError("503"), 35, True),
    "it refuses for half an hour": ("look", errors.RateLimited("429"), 35, True),
    "the file cannot be had for half an hour": ("fetch", errors.TransientBackendError("502"), 35, True),
    "the file cannot be had": ("fetch", errors.TransientBackendError("502"), 70, False),
    "the file must not be had": ("fetch", errors.PermanentBackendError("403", status=403), 1, False),
}


@pytest.mark.parametrize("what", DOWN)
@pytest.mark.sample(3)
def test_a_batch_that_cannot_be_collected_now_is_collected_by_a_later_run(what: str) -> None:
    operation, error, times, survives = DOWN[what]
    items = range(10)
    service, store = left_behind(items)
    service.asked.clear()
    service.trouble = failing(operation, error, times)
    report, _ = play(service, one, items, store=store)
    assert (not report.failures) == survives
    again, _ = play(service, one, items, store=store)
    assert again.results == answers(items)
    assert_paid_once(service, items)
    assert store.jobs == {}


@pytest.mark.parametrize("lost", ["created", "create"])
def test_if_it_cannot_be_found_out_whether_a_batch_was_made_it_is_not_made_again(lost: str) -> None:
    items = range(10)
    service, store = MemoryBatches(), MemoryStore()
    gone = errors.TransientBackendError("the connection was lost")
    service.trouble = lambda asked, number: (
        gone if asked == "find" or (asked == lost and number == 1) else None
    )
    report, _ = play(service, one, items, store=store)
    assert {type(failure.error) for failure in report.failures} == {errors.PermanentBackendError}
    assert "run again with the same store" in str(report.failures[0].error)
    service.trouble = lambda *_: None
    again, _ = play(service, one, items, store=store)
    assert again.results == answers(items)
    assert_paid_once(service, items)


def test_what_is_refused_when_it_is_created_was_not_made_and_needs_no_search() -> None:
    service = MemoryBatches(trouble=failing("create", errors.PermanentBackendError("400", status=400), 1))
    report, _ = play(service, one, range(3))
    assert len(report.failures) == 3
    assert service.asked["find"] == 0


class Strange(MemoryBatches):
    """A service whose files can be spoilt: `spoil` gets the content, and how often it was asked for."""

    spoil: Callable[[bytes, int], bytes] = staticmethod(lambda content, _: content)

    def fetch(self, file_id: str, into: Any) -> None:
        self._trouble("fetch")
        if file_id.endswith("output"):
            into.write(self.spoil(self.files[file_id], self.asked["fetch"]))
        else:
            into.write(self.files[file_id])


NO_ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "a page": lambda _: b"<html><body>Sign in to continue</body></html>",
    "gzip": gzip.compress,
    "blank lines": lambda _: b"\n \n\n",
    "an error": lambda _: b'{"error": {"message": "try again"}}',
    "a number": lambda _: b"12",
}


@pytest.mark.parametrize("what", NO_ANSWERS)
@pytest.mark.sample(2)
def test_a_file_without_any_answer_is_downloaded_again_and_its_calls_are_not_sent_again(what: str) -> None:
    items = range(10)
    service, store = Strange(), MemoryStore()
    service.spoil = lambda content, times: NO_ANSWERS[what](content) if times <= 3 else content
    report, _ = play(service, one, items, store=store)
    assert {str(failure.error)[:36] for failure in report.failures} == {
        "the answers of batch batch-0 cannot b"[:36]
    }
    again, _ = play(service, one, items, store=store)
    assert again.results == answers(items)
    assert_paid_once(service, items)


def test_a_file_that_is_cut_off_is_downloaded_again() -> None:
    service = Strange()
    service.spoil = lambda content, times: content[: len(content) // 2] if times == 1 else content
    report, _ = play(service, one, range(50))
    assert report.results == answers(range(50))
    assert_paid_once(service, range(50))


def test_of_a_file_that_stays_cut_off_what_is_there_is_used() -> None:
    service = Strange()
    service.spoil = lambda content, times: content.rstrip()[:-20] if times <= 3 else content
    report, _ = play(service, one, range(50))
    assert report.results == answers(range(50))
    assert service.waves[0] == 50
    assert sum(service.waves) <= 53


class Counting(Strange):
    """One that says how many lines its batches have, and how many of them are answered."""

    def _state(self, batch: Batch) -> BatchState:
        state, lines = super()._state(batch), len(batch.prompts)
        return state._replace(lines=lines, done=lines, answered=lines) if state.has_ended else state


SHORT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut where a line ends": lambda content: b"".join(content.splitlines(keepends=True)[:20]),
    "blank after that": lambda content: b"".join(content.splitlines(keepends=True)[:20]) + b"\r\n" * 100,
}


@pytest.mark.parametrize("what", SHORT)
@pytest.mark.sample(2)
def test_a_file_with_fewer_lines_than_the_batch_has_answers_is_downloaded_again(what: str) -> None:
    service = Counting()
    service.spoil = lambda content, times: SHORT[what](content) if times <= 2 else content
    report, _ = play(service, one, range(50))
    assert report.results == answers(range(50))
    assert service.asked["fetch"] == 3
    assert_paid_once(service, range(50))


@pytest.mark.parametrize("what", ["empty", "cut where a line ends"])
@pytest.mark.sample(1)
def test_of_a_file_that_stays_short_what_is_there_is_used(what: str) -> None:
    service = Counting()
    service.spoil = lambda content, times: SHORT[what](content) if times <= 3 else content
    report, _ = play(service, one, range(50))
    assert report.results == answers(range(50))
    assert service.asked["fetch"] == 4
    assert service.waves == [50, 50 if what == "empty" else 30]


def test_a_line_that_is_too_long_is_passed_over_and_the_others_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wave_answers, "MAX_LINE", 200)
    service = MemoryBatches(
        answer=lambda prompt, time: "x" * 10_000 if prompt == "3" and time == 1 else prompt
    )
    report, _ = play(service, one, range(10))
    assert report.results == [str(item) for item in range(10)]
    assert service.waves == [10, 1]


@pytest.mark.parametrize(
    "content", [b"", b"a\n" * 3, b"a" * 50, b"a" * 10, b"a" * 9 + b"\n" + b"b" * 30 + b"\nc"]
)
def test_lines_are_read_within_their_bound(
    content: bytes, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wave_answers, "MAX_LINE", 10)
    path = tmp_path / "lines"
    path.write_bytes(content)
    with path.open("rb") as file:
        found = list(iter(lambda: wave_answers.read_line(file), None))
    whole = [
        len(line) < 10 or (len(line) == 10 and line.endswith(b"\n")) for line in content.splitlines(True)
    ]
    assert found == [
        line if kept else b"" for line, kept in zip(content.splitlines(True), whole, strict=True)
    ]


def test_lines_of_other_batches_reach_neither_a_flow_nor_the_store() -> None:
    items = range(5)
    service, store = left_behind(items)
    foreign = "".join(f'{{"id": "{key}", "text": "not yours"}}\n' for key in ("ff" * 16, "00", "zz", ""))
    service.trouble = lambda asked, _: service.files.update(
        {
            name: foreign.encode() + content
            for name, content in service.files.items()
            if name.endswith("output")
        }
    )
    report, _ = play(service, one, items, store=store)
    assert report.results == answers(items)
    assert len(store.replies) == 5


class Unnamed(MemoryBatches):
    """A service that names the files of a batch some looks after it has completed."""

    lacking = 2

    def _state(self, batch: Batch) -> BatchState:
        state = super()._state(batch)
        if state.has_ended and self.lacking:
            self.lacking -= 1
            return state._replace(output_file="", error_file="")
        return state


def test_a_batch_that_is_done_but_does_not_name_its_files_yet_is_looked_at_again() -> None:
    service = Unnamed()
    report, _ = play(service, one, range(5))
    assert report.results == answers(range(5))
    assert_paid_once(service, range(5))


def test_a_service_that_rejects_a_line_of_every_batch_is_given_up() -> None:
    service = MemoryBatches(end=lambda _: "bad line 1")
    report, _ = play(service, one, range(24), stop=StopConditions(same_error_in_a_row=None))
    assert len(report.failures) == 24
    assert len(service.waves) == wave_timing.MAX_REFUSALS + 1


# Stop conditions


def test_calls_that_fail_among_many_that_are_answered_do_not_stop_the_run() -> None:
    def fails(prompt: str, _: int) -> Any:
        return errors.PermanentBackendError("no") if int(prompt) % 8 == 0 else prompt

    service = MemoryBatches(answer=fails)
    stop = StopConditions(error_rate=0.5, error_rate_window=20, same_error_in_a_row=20)
    report, _ = play(service, one, range(400), stop=stop)
    assert (report.stats.stopped_because, report.stats.succeeded, report.stats.failed) == (None, 350, 50)


@pytest.mark.parametrize("rule", [{"same_error_in_a_row": 20}, {"error_rate": 0.5, "error_rate_window": 20}])
def test_calls_that_all_fail_stop_the_run(rule: dict[str, Any]) -> None:
    service = MemoryBatches(answer=lambda *_: errors.PermanentBackendError("no"))
    report, _ = play(service, one, range(100), stop=StopConditions(**rule))
    assert report.stats.stopped_because is not None


@pytest.mark.parametrize("end", ["expired", "vanished"])
@pytest.mark.parametrize("adopted", [True, False])
@pytest.mark.sample(2)
def test_calls_that_a_batch_has_not_done_count_as_no_failures(end: str, adopted: bool) -> None:
    service, store = left_behind(range(50)) if adopted else (MemoryBatches(), MemoryStore())
    service.end = lambda number: end if number == 0 else "completed"
    stop = StopConditions(error_rate=0.5, error_rate_window=10)
    report, _ = play(service, one, range(50), store=store, stop=stop)
    assert report.results == answers(range(50))


def test_a_call_is_counted_if_the_item_that_asked_first_has_gone() -> None:
    service = MemoryBatches(seconds=30.0)
    arrivals = [0.0, 10.0, 11.0]
    report, events = play(
        service, lambda _: one("the same"), range(3), arrivals=arrivals, time_limits=TimeLimits(item=25.0)
    )
    assert [outcome.ok for outcome in report.outcomes] == [False, False, False]  # the batch is made at 11.0
    assert service.waves == [1]
    service = MemoryBatches(seconds=8.0)
    report, events = play(
        service, lambda _: one("the same"), range(3), arrivals=arrivals, time_limits=TimeLimits(item=15.0)
    )
    assert [outcome.ok for outcome in report.outcomes] == [False, True, True]
    assert (report.stats.prompt_tokens, report.stats.completion_tokens, report.stats.cache_hits) == (10, 5, 1)
    started = sum(isinstance(event, CallStarted) for event in events)
    assert (
        started == sum(isinstance(event, CallEnded) for event in events) + 1
    )  # the first was cancelled with its item


BUDGETS: list[dict[str, Any]] = [
    {"max_tokens": 400},
    {"max_cost": 400 / 1e6},
    {"max_cost": 400 / 1e6, "max_tokens": 10_000},
]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.sample(1)
def test_no_more_is_sent_than_what_is_left_of_the_budget(budget: dict[str, Any]) -> None:
    service = MemoryBatches()
    prices = {"tiny": Price(prompt=2.0, completion=2.0, batch=0.5)}
    limits, stop = Limits(open_items=200), StopConditions(**budget)
    report, _ = play(
        service, one, range(200), prices=prices, stop=stop, limits=limits, count_tokens=lambda _: 6
    )
    # A prompt has 10 tokens, an answer 5, and with the chat's template a prompt is taken for one of 22: so 18 prompts
    # are sent, and what is left then is too little for another batch.
    assert service.waves == [18]
    assert len(report.results) == 18
    assert "too little for another batch" in str(report.stats.stopped_because)


def test_a_budget_that_is_too_small_for_one_call_sends_none() -> None:
    service = MemoryBatches()
    report, _ = play(service, one, range(3), stop=StopConditions(max_tokens=3), count_tokens=lambda _: 10)
    assert service.waves == []
    assert "what is left of max_tokens=3" in str(report.stats.stopped_because)
    assert len(report.failures) == 3


# The quota of enqueued tokens


@dataclass
class Busy(MemoryBatches):
    """A service whose quota is taken by others for the first batches."""

    refused: int = 6
    told: int | None = None

    def _state(self, batch: Batch) -> BatchState:
        if self._number(batch) < self.refused:
            problem = BatchProblem("token_limit_exceeded", "Enqueued token limit", None, True, self.told)
            return BatchState(batch.id, "failed", problems=(problem,))
        return super()._state(batch)


def test_a_wave_within_the_limit_that_was_told_waits_and_is_not_cut() -> None:
    service = Busy(told=1_000_000)
    report, _ = play(service, one, range(64))
    assert report.results == answers(range(64))
    assert service.waves == [64] * 7


def test_a_wave_beyond_the_limit_that_was_told_is_cut_to_it() -> None:
    service = Busy(told=5 * 64, refused=1)
    report, _ = play(service, one, range(64), count_tokens=lambda _: 6)
    assert report.results == answers(range(64))
    assert service.waves[0] == 64
    assert service.waves[1:] == [14, 14, 14, 14, 8]  # of 22 tokens each


def test_what_was_learned_from_refusals_is_unlearned_when_there_is_room_again() -> None:
    def four(item: int) -> Flow[str]:
        for step in range(3):
            yield from one(f"{step} {item}")
        return (yield from one(item))

    service = Busy(refused=3)
    report, _ = play(service, four, range(32))
    assert report.results == answers(range(32))
    assert max(service.waves[3:7]) <= 8
    assert max(service.waves[-2:]) >= 20


# Other processes and other runs


def note_owner(store: MemoryStore, owner: str) -> None:
    for key, job in store.jobs.items():
        if " b " in job:
            store.jobs[key] = f"memory:1 {WaveNote(owner, batch_id='batch-0').written()}"


@pytest.mark.parametrize("alive", [True, False])
def test_a_batch_is_cancelled_only_if_no_other_process_waits_for_it(alive: bool) -> None:
    service, store = left_behind(range(5))
    host = this_process().partition("@")[2]
    note_owner(store, f"{os.getppid() if alive else 2**22 + 1}@{host}")
    service.on_stop = "cancel"
    play(service, one, range(5), store=store, until=service.time.now() + 10.0)
    assert service.cancelled_later == ([] if alive else ["batch-0"])


def test_a_batch_of_another_process_that_takes_too_long_is_not_cancelled() -> None:
    service, store = left_behind(range(5))
    note_owner(store, f"{os.getppid()}@{this_process().partition('@')[2]}")
    service.wait_at_most, service.online_rest = 20.0, True
    report, _ = play(service, one, range(5), store=store)
    assert len(service.online_calls) == len(report.results) == 5
    assert not service.batches["batch-0"].cancelled


def test_a_run_counts_the_calls_of_one_that_has_ended_and_takes_its_batch_over() -> None:
    service, store = left_behind(range(5))
    service.on_stop = "cancel"
    play(service, one, range(5), store=store, until=service.time.now() + 10.0)
    assert service.cancelled_later == ["batch-0"]
    report, events = play(service, one, range(5), store=store)
    assert report.results == answers(range(5))
    assert report.stats.calls["llm"] == 5 + 3  # the batch has done half of its lines before it was cancelled
    started = sum(isinstance(event, CallStarted) for event in events)
    assert started == sum(isinstance(event, CallEnded) for event in events) == 8


class Contested(MemoryStore):
    """A store in which another process claims some of the lines a moment before this one does."""

    def __init__(self, others: set[bytes], wave: str) -> None:
        super().__init__()
        self._others, self._wave = others, wave

    def claim_job(self, key: bytes, backend: str, job_id: str, on_commit: Any) -> None:
        if key in self._others:
            self._others.discard(key)
            self.jobs[key] = f"{backend} {self._wave}"
        super().claim_job(key, backend, job_id, on_commit)


@pytest.mark.parametrize("taken", [0, 3, 10])
def test_of_two_processes_that_ask_the_same_at_once_one_sends_a_line_and_both_get_the_answer(
    taken: int,
) -> None:
    items = range(10)
    first, store = left_behind(items)
    name = next(job.split()[1] for job in store.jobs.values() if " b " not in job)
    lines = [key for key, job in store.jobs.items() if job == f"memory:1 {name}"][:taken]
    contested = Contested(set(lines), name)
    contested.jobs = {key: job for key, job in store.jobs.items() if " b " in job}
    report, _ = play(first, one, items, store=contested)
    assert report.results == answers(items)
    assert first.waves == [10, *([10 - taken] if taken < 10 else [])]


def test_a_line_of_a_wave_that_is_over_is_claimed_by_the_next_one() -> None:
    items = range(5)
    service, store = left_behind(items)
    store.jobs = {key: job for key, job in store.jobs.items() if " b " not in job}  # its own row has gone
    play(service, one, items, store=store, until=service.time.now() + 10.0)
    assert service.waves == [5, 5]
    assert len({job.split()[1] for job in store.jobs.values() if " b " not in job}) == 1


def test_two_runs_at_the_same_time_with_one_store_send_each_line_once() -> None:
    service, store = MemoryBatches(), MemoryStore()
    runs = [Playing(service, one, items, store=store) for items in (range(10), range(5, 15))]
    while not all(run.finished for run in runs) and service.time.step(float("inf")):
        pass
    reports = [run.end() for run in runs]
    assert [report.results for report in reports] == [answers(range(10)), answers(range(5, 15))]
    assert [(report.stats.calls["llm"], report.stats.cache_hits) for report in reports] == [(10, 0), (5, 5)]
    assert_paid_once(service, range(15), batches=2)
    assert store.jobs == {}


@pytest.mark.parametrize("moment", [0.5, 10.0])
def test_a_run_that_is_stopped_does_not_cancel_what_another_one_waits_for(moment: float) -> None:
    service, store = MemoryBatches(), MemoryStore()
    first = Playing(service, one, range(10), store=store)
    while service.time.step(0.2):
        pass
    second = Playing(service, one, range(10), store=store)
    while service.time.step(moment):
        pass
    second.end()
    assert service.cancelled_later == []
    while not first.finished and service.time.step(float("inf")):
        pass
    assert first.end().results == answers(range(10))
    assert_paid_once(service, range(10))


def test_input_that_comes_while_a_batch_goes_on_is_sent_a_minute_after_its_last_item() -> None:
    service = MemoryBatches(seconds=10_000.0)
    report, _ = play(service, one, range(4), arrivals=[0.0, 0.0, 500.0, 3000.0])
    assert report.results == answers(range(4))
    made = [round(batch.made_at) for batch in service.batches.values()]
    assert (service.waves, made) == ([2, 1, 1], [60, 560, 3000])  # after the last item, none is waited for


def test_events_say_how_far_batches_are() -> None:
    _, events = play(MemoryBatches(seconds=5.0), one, range(3))
    looks = [event for event in events if isinstance(event, BatchProgress)]
    assert {(look.batch, look.lines) for look in looks} == {("batch-0", 3)}
    assert [look.status for look in looks] == ["in_progress"] * 4 + ["completed"]
    state = ProgressState()
    for event in events[: events.index(looks[-1])]:
        state.handle(event, event.time)
    assert state.waiting_for(4.0) == "waiting for batch batch-0 (in_progress): 0 of 3 calls answered, for 4 s"
    state.handle(looks[-1], 5.0)
    assert "batch" not in str(state.waiting_for(5.0))


NOTES = [
    WaveNote(""),
    WaveNote("1@host"),
    WaveNote("1.ab@host", file_id="file-1"),
    WaveNote("1.ab@host", batch_id="batch_1"),
    WaveNote("1.ab@host", batch_id="an odd id / with\nblanks %20"),
]


@pytest.mark.parametrize("note", NOTES)
def test_what_the_journal_says_is_read_as_it_was_written(note: WaveNote) -> None:
    journal, found = WaveJournal(MemoryStore(), "memory:1"), []  # type: ignore[arg-type,var-annotated]
    journal.record_note("wave", note, found.append)
    assert (journal.note_of("wave"), found) == (note, [None])


@pytest.mark.parametrize(
    ("written", "note"), [("b batch_1", WaveNote("", "", "batch_1")), ("x", None), ("f", None)]
)
def test_the_journal_of_before_and_an_odd_one_are_read(written: str, note: WaveNote | None) -> None:
    assert WaveNote.read(written) == note


def test_a_process_before_this_one_with_the_same_number_is_not_taken_for_alive() -> None:
    host = this_process().partition("@")[2]
    assert may_live(this_process())
    assert may_live(f"{os.getppid()}.beef@{host}")
    assert may_live("1.beef@another-machine")
    assert not may_live(f"{os.getpid()}.beef@{host}")
    assert not may_live(f"{2**22 + 1}.beef@{host}")
    assert not may_live("")


# Flows that go, and the disk


def test_a_line_that_no_flow_waits_for_any_more_is_not_sent() -> None:
    def the_last_sleeps(item: int) -> Flow[str]:
        if item == 4:
            yield from sleep(10.0)
        return (yield from one(item))

    service = MemoryBatches(seconds=1.0)
    arrivals = [0.0, 0.0, 0.0, 0.0, 15.0]
    report, _ = play(service, the_last_sleeps, range(5), arrivals=arrivals, time_limits=TimeLimits(item=19.0))
    assert service.waves == [1]
    assert [outcome.ok for outcome in report.outcomes] == [False] * 4 + [True]


class Full:
    """A temporary file on a disk that becomes full."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, content: bytes) -> int:
        self._room -= len(content)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(content))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 300])
def test_a_disk_that_is_full_while_a_wave_is_written_stops_the_run_and_sends_nothing(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = wave_file.temporary_file
    monkeypatch.setattr(wave_file, "temporary_file", lambda: Full(real(), room))
    service = MemoryBatches()
    report, _ = play(service, one, range(20))
    assert service.waves == []
    assert report.failures
    assert not report.results
    assert "set TMPDIR" in str(report.stats.stopped_because)


def test_a_disk_that_is_full_while_answers_are_downloaded_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full() -> Any:
        with wave_file.writing_file():
            raise OSError(errno.ENOSPC, "No space left on device")

    service, store = MemoryBatches(), MemoryStore()
    with monkeypatch.context() as patched:
        patched.setattr(wave_answers, "temporary_file", is_full)
        report, _ = play(service, one, range(5), store=store)
    assert "No space left" in str(report.stats.stopped_because)
    report, _ = play(service, one, range(5), store=store)
    assert report.results == answers(range(5))
    assert_paid_once(service, range(5))


def test_each_flow_of_a_wave_that_fails_raises_an_error_of_its_own() -> None:
    service = MemoryBatches(trouble=failing("upload", errors.PermanentBackendError("413", status=413)))
    seen: list[Exception] = []

    def watching(item: int) -> Flow[str]:
        try:
            return (yield from one(item))
        except errors.PermanentBackendError as error:
            seen.append(error)
            raise

    play(service, watching, range(5), llm_retry=RetryPolicy(attempts=1))
    assert len({id(error) for error in seen}) == 5

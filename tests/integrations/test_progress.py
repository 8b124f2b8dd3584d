"""What the progress display says, and when."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable
from threading import Condition, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.support.held import Held, ask_once
from tests.support.patience import PATIENCE

from restaurant_llm_batch import BatchRunner, Failure, Limits, RetryPolicy, Strategy, Success
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.errors import BackendError, RateLimited, RunStopped, TransientBackendError
from restaurant_llm_batch.events import (
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    RetryScheduled,
    RunEnded,
    RunStarted,
)
from restaurant_llm_batch.integrations._tally import ProgressState, duration
from restaurant_llm_batch.integrations.progress import RichProgress
from restaurant_llm_batch.outcomes import RunStats, Stage
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.tasks.summary import SummarizeAspects


class Screen(io.StringIO):
    """What was drawn, and a way to wait until something is."""

    def __init__(self) -> None:
        super().__init__()
        self.news = Condition()

    def write(self, text: str) -> int:
        with self.news:
            self.news.notify_all()
            return super().write(text)

    def shows(self, text: str) -> bool:
        with self.news:
            return self.news.wait_for(lambda: text in self.getvalue(), timeout=PATIENCE)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def terminal() -> tuple[Console, Screen]:
    screen = Screen()
    return Console(file=screen, force_terminal=True, width=100, color_system=None, _environ={}), screen


def started(item: int, stage: Stage = "llm", attempt: int = 1, weight: int = 1, run: int = 1) -> CallStarted:
    return CallStarted(run, 0, item, stage, "aspect_summaries", attempt, 0, weight)


def ended(
    item: int,
    stage: Stage = "llm",
    attempt: int = 1,
    weight: int = 1,
    error: Exception | None = None,
    run: int = 1,
) -> CallEnded:
    return CallEnded(run, 0, item, stage, "aspect_summaries", attempt, 1, weight, None, error)


def planned(item: int, wait: float, error: BackendError, attempt: int = 1, run: int = 1) -> RetryScheduled:
    refused = isinstance(error, RateLimited)
    return RetryScheduled(run, 0, item, "llm", "aspect_summaries", attempt, wait, refused, error)


def done(item: int, run: int = 1) -> ItemEnded:
    return ItemEnded(run, 0, Success(item, None))


def tally(*events: Event, at: float = 0.0) -> ProgressState:
    counts = ProgressState()
    for event in events:
        counts.handle(event, at)
    return counts


def refused(items: Iterable[int], wait: float = 12.0) -> list[Event]:
    error = RateLimited("slow down", status=429)
    return [
        e for item in items for e in (started(item), ended(item, error=error), planned(item, wait, error))
    ]


def test_a_wait_says_how_long_how_many_and_why() -> None:
    counts = tally(RunStarted(1, 0, 9), *refused(range(3)))
    assert counts.waiting_for(0.0) == "waiting 12 s: 3 calls after 429 (RateLimited)"
    assert counts.waiting_for(10.0) == "waiting 2 s: 3 calls after 429 (RateLimited)"
    assert (counts.retries, counts.rate_limited) == (3, 3)


def test_several_causes_are_summed_up_by_the_most_common() -> None:
    lost = TransientBackendError("connection lost")
    counts = tally(*refused(range(2)), planned(7, 30, lost))
    assert counts.waiting_for(0.0) == "waiting 12 s: 3 calls after 429 (RateLimited) and others"


def test_a_call_that_may_go_on_but_has_no_slot_is_said_to_wait_for_one() -> None:
    counts = tally(*refused([1]))
    assert counts.waiting_for(13.0) == "waiting for a slot: 1 call to retry after 429 (RateLimited)"
    counts.handle(started(1, attempt=2), 13.0)
    assert counts.waiting_for(13.0) is None


def test_a_slow_answer_is_named_as_what_is_waited_for() -> None:
    counts = tally(started(1), started(2))
    assert counts.waiting_for(4.0) is None
    assert counts.waiting_for(34.0) == "waiting for 2 calls in flight, the oldest for 34 s"
    counts.handle(ended(1), 34.0)
    assert counts.waiting_for(34.0) == "waiting for 1 call in flight, the oldest for 34 s"


def test_nothing_is_waited_for_any_more_when_the_item_or_the_run_is_over() -> None:
    assert tally(*refused([1]), done(1)).waiting_for(0.0) is None
    over = tally(RunStarted(1, 0, 1), started(1), *refused([2]), RunEnded(1, 0, RunStats()))
    assert over.waiting_for(100.0) is None
    assert not any(over.in_flight.values())


def test_a_restaurant_that_a_stop_left_unfinished_is_not_a_failure() -> None:
    stopped = ItemEnded(1, 0, Failure(1, RunStopped("stopped"), "run"))
    failed = ItemEnded(1, 0, Failure(2, TransientBackendError("no"), "llm", 3))
    counts = tally(stopped, failed, done(3))
    assert (counts.done, counts.failed, counts.stopped) == (3, 1, 1)


def test_a_run_that_stops_shows_what_is_done_and_no_estimate() -> None:
    stopped = ItemEnded(1, 0, Failure(1, RunStopped("stopped"), "run"))
    counts = tally(RunStarted(1, 0, 9), started(5), started(6), done(3))
    assert counts.seconds_left(5.0) is not None
    counts.handle(stopped, 6.0)
    assert (counts.finished, counts.done, counts.is_stopping) == (1, 2, True)
    assert counts.seconds_left(6.0) is None
    assert counts.waiting_for(6.0) == "stopping: 2 calls in flight may finish"
    counts.handle(ended(5), 7.0)
    counts.handle(done(5), 7.0)
    assert counts.not_started == 0  # it is not known before the end
    counts.handle(RunEnded(1, 0, RunStats(stopped_because="the caller stopped it")), 8.0)
    assert (counts.finished, counts.stopped, counts.not_started) == (2, 1, 6)
    assert counts.waiting_for(8.0) is None


def test_a_run_that_ends_early_without_an_open_item_is_shown_as_stopped() -> None:
    counts = tally(RunStarted(1, 0, 3), done(1), RunEnded(1, 0, RunStats(stopped_because="max_tokens")))
    assert (counts.finished, counts.stopped, counts.not_started, counts.is_stopping) == (1, 0, 2, True)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_the_last_display_of_a_stopped_run_says_what_was_stopped(cancelled: bool, plain: bool) -> None:
    console, screen = terminal()
    if plain:
        screen = Screen()
        console = Console(file=screen, force_terminal=False, width=100, _environ={})
    llm = Held()
    runner = BatchRunner(
        llm=llm,
        strategy=Strategy.threaded(),
        limits=Limits(llm=2, open_items=5),
        observers=[RichProgress(console=console)],
    )
    stream = runner.stream(ask_once, range(12))
    reader = Thread(target=lambda: list(stream))
    reader.start()
    llm.wait_for(started=2)
    if cancelled:
        stream.close()
        llm.let_all_go()
    else:
        stream.stop()
        if not plain:
            assert screen.shows("stopping: 2 calls in flight may finish")
        llm.let_go(2)
    reader.join()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    share, stopped = ("0/12", "stopped 5") if cancelled else ("2/12", "stopped 3")
    if plain:
        last = text.splitlines()[-1]
        assert re.fullmatch(rf"{share} restaurants; {stopped} · not started 7; stopped after \d+ s", last)
    else:  # then the lines below it are removed
        assert re.search(rf" {share} stopped after \d+ s\n  {stopped} · not started 7\n", text)


def test_the_estimate_grows_while_nothing_finishes_and_knows_of_planned_waits() -> None:
    counts = tally(RunStarted(1, 0, 4))
    assert counts.seconds_left(5.0) is None
    counts.handle(done(1), 10.0)
    counts.handle(done(2), 10.0)
    assert counts.seconds_left(10.0) == 10.0
    assert counts.seconds_left(20.0) == 20.0
    counts.handle(planned(3, 60, TransientBackendError("no")), 10.0)
    assert counts.seconds_left(10.0) == 60.0


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["search", "llm"]), st.integers(1, 5))))
def test_every_call_that_ended_is_in_flight_no_longer(made: list[tuple[int, Stage, int]]) -> None:
    counts = tally(*(started(item, stage, 1, weight) for item, stage, weight in made))
    assert sum(counts.in_flight.values()) == sum(weight for *_, weight in made)
    for item, stage, weight in made:
        counts.handle(ended(item, stage, 1, weight), 1.0)
    assert not any(counts.in_flight.values())
    assert counts.waiting_for(1e6) is None


def test_spans_of_time_read_the_way_people_say_them() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 61, 3600)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 00 min",
    ]


def test_a_terminal_shows_progress_calls_and_waits_without_being_asked() -> None:
    console, screen = terminal()
    with RichProgress(console=console, clock=Clock()) as progress:
        for event in (RunStarted(1, 0, 9), started(7, "search", weight=3), done(8), *refused(range(3))):
            progress(event)
        assert screen.shows("1/9")
        assert screen.shows("search 3 in flight")
        assert screen.shows("retries 3 · rate limited 3")
        assert screen.shows("waiting 12 s: 3 calls after 429 (RateLimited)")
        progress.note("finishing 3 calls")
        assert screen.shows("finishing 3 calls")


def test_an_input_of_unknown_length_is_counted_without_an_end() -> None:
    console, screen = terminal()
    with RichProgress(console=console) as progress:
        for event in (RunStarted(1, 0, None), done(1), done(2)):
            progress(event)
        assert screen.shows(" 2 ")
    assert "left" not in screen.getvalue()


@pytest.mark.parametrize("transient", [False, True])
def test_the_bar_stays_at_the_end_or_goes_as_was_asked(transient: bool) -> None:
    console, screen = terminal()
    progress = RichProgress(console=console, transient=transient)
    for event in (RunStarted(1, 0, 1), done(1), RunEnded(1, 0, RunStats())):
        progress(event)
    after_the_last_erasure = screen.getvalue().rpartition("\x1b[2K")[2]
    kept = "1/1" in screen.getvalue()
    assert kept is not transient
    assert "\x1b[?25h" in after_the_last_erasure  # the cursor is back
    assert progress.in_flight == 0


def test_without_a_terminal_there_is_a_plain_line_now_and_then() -> None:
    screen, clock = io.StringIO(), Clock()
    progress = RichProgress(console=Console(file=screen, width=40), plain_every=10, clock=clock)
    progress(RunStarted(1, 0, 100))
    for item in range(100):
        clock.now += 0.3
        for event in (ItemStarted(1, 0, item), started(item), ended(item), done(item)):
            progress(event)
    progress(RunEnded(1, 0, RunStats()))
    lines = screen.getvalue().splitlines()
    assert 3 <= len(lines) <= 4
    assert lines[0] == "33/100 restaurants; 10 s, about 21 s left"
    assert lines[-1].startswith("100/100 restaurants; 30 s")
    assert "\x1b" not in screen.getvalue()


def test_without_a_terminal_a_long_wait_is_reported_at_once() -> None:
    screen, clock = io.StringIO(), Clock()
    progress = RichProgress(console=Console(file=screen), clock=clock)
    progress(RunStarted(1, 0, 2))
    clock.now += 2
    for event in refused([1], wait=60):
        progress(event)
    assert "waiting 1 min 00 s: 1 call after 429 (RateLimited)" in screen.getvalue()


def test_a_short_run_without_a_terminal_says_nothing() -> None:
    screen = io.StringIO()
    progress = RichProgress(console=Console(file=screen))
    for event in (RunStarted(1, 0, 1), started(1), ended(1), done(1), RunEnded(1, 0, RunStats())):
        progress(event)
    assert screen.getvalue() == ""


def test_two_runners_whose_runs_have_the_same_number_share_a_row() -> None:
    counts = tally(RunStarted(1, 0, 5), RunStarted(1, 0, 7), done(1), RunEnded(1, 0, RunStats()))
    assert (counts.total, counts.done, counts.ended) == (12, 1, None)
    counts.handle(RunEnded(1, 0, RunStats()), 3.0)
    assert counts.ended == 3.0


def test_runs_may_be_watched_from_many_threads_at_once() -> None:
    console, screen = terminal()
    progress = RichProgress(console=console)

    def run(number: int) -> None:
        progress(RunStarted(number, 0, 200))
        for item in range(200):
            for event in (started(item, run=number), ended(item, run=number), done(item, run=number)):
                progress(event)
        progress(RunEnded(number, 0, RunStats()))

    threads = [Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.in_flight == 0
    assert screen.getvalue().count("200/200") >= 8


@pytest.mark.parametrize("strategy", [Strategy(), Strategy.stage(4), Strategy.threaded()], ids=str)
@pytest.mark.sample(1)
def test_it_follows_a_real_run_to_its_end(strategy: Strategy, caplog: pytest.LogCaptureFixture) -> None:
    console, screen = terminal()
    search = EmbeddedSearch()
    search.index_reviews({"restaurant_id": n, "id": n, "content": "The food was great."} for n in range(5))
    runner = BatchRunner(
        llm=OfflineLLM(),
        search=search,
        strategy=strategy,
        llm_retry=RetryPolicy(wait_initial=0),
        observers=[RichProgress(console=console)],
    )
    with caplog.at_level(logging.ERROR):
        assert runner.run(SummarizeAspects(), range(5)).stats.succeeded == 5
        assert runner.run(SummarizeAspects(), range(3)).stats.succeeded == 3
    assert not caplog.records
    assert screen.getvalue().count("5/5") >= 1
    assert screen.getvalue().count("3/3") >= 1

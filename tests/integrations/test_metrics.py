"""What the counters count, and how they tell it to Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.patience import PATIENCE

from restaurant_llm_batch import BatchRunner, Failure, LLMRequest, LLMResponse, RetryPolicy, Strategy, Success
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.errors import (
    BackendError,
    ConfigurationError,
    RateLimited,
    RunStopped,
    TransientBackendError,
)
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
from restaurant_llm_batch.integrations.metrics import RunMetrics
from restaurant_llm_batch.outcomes import RunStats, Stage
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.tasks.summary import SummarizeAspects
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

EVERY_STAGE = [*(Strategy.stage(number) for number in (1, 2, 3, 4)), Strategy.threaded()]
RETRIES = RetryPolicy(attempts=2, wait_initial=0.0)
SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$')


def started(
    item: int, stage: Stage = "llm", what: str = "task", attempt: int = 1, weight: int = 1
) -> CallStarted:
    return CallStarted(1, 10.0, item, stage, what, attempt, 0.5, weight)


def ended(
    item: int,
    stage: Stage = "llm",
    what: str = "task",
    attempt: int = 1,
    weight: int = 1,
    reply: LLMResponse | None = None,
    error: Exception | None = None,
) -> CallEnded:
    return CallEnded(1, 12.0, item, stage, what, attempt, 2.0, weight, reply, error)


def planned(item: int, stage: Stage = "llm", what: str = "task", attempt: int = 1) -> RetryScheduled:
    return RetryScheduled(1, 12.0, item, stage, what, attempt, 1.0, False, TransientBackendError("no"))


def failed(item: int | None, stage: Stage, error: Exception | None = None) -> ItemEnded:
    return ItemEnded(1, 20.0, Failure(item, error or RunStopped("stopped"), stage))


def counted(*events: Event) -> RunMetrics:
    counters = RunMetrics()
    for event in (RunStarted(1, 0.0, None), *events):
        counters(event)
    return counters


def samples(text: str) -> dict[tuple[str, str], float]:
    """Read Prometheus's text format, strictly."""
    found: dict[tuple[str, str], float] = {}
    typed: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, _ = line.split(" ", 3)
            if what == "TYPE":
                assert name not in typed
                typed.add(name)
            continue
        match = SAMPLE.match(line)
        assert match, line
        name, labels, value = match.groups()
        assert {name, re.sub("_(bucket|sum|count)$", "", name)} & typed, line
        key = (name.removeprefix("restaurant_llm_batch_"), labels or "")
        assert key not in found
        found[key] = float(value)
    assert text.endswith("\n")
    return found


def troubled(request: LLMRequest, attempt: int) -> BackendError | None:
    """Fail for good for restaurant 2; refuse 3 once; fail 4 once."""
    restaurant = request.inputs["restaurant_id"]
    if restaurant == 2:
        return TransientBackendError("down", status=503)
    if restaurant == 3 and attempt == 1:
        return RateLimited("slow down")
    if restaurant == 4 and attempt == 1:
        return TransientBackendError("down", status=503)
    return None


@pytest.mark.parametrize("strategy", EVERY_STAGE, ids=str)
def test_they_agree_with_what_the_runs_report(strategy: Strategy) -> None:
    counters = RunMetrics()
    search = FakeSearch({number: ["맛있어요"] for number in range(6)})
    runner = BatchRunner(
        llm=FakeLLM(fault=troubled),
        search=search,
        strategy=strategy,
        llm_retry=RETRIES,
        observers=[counters],
    )
    runs = [runner.run(SummarizeAspects(), range(6)).stats for _ in range(2)]
    counts = counters.snapshot()

    def total(name: str) -> int:
        return sum(getattr(stats, name) for stats in runs)

    assert (counts.runs_started, counts.runs_ended, counts.open_items) == (2, 2, 0)
    assert (counts.succeeded, sum(counts.failed.values())) == (total("succeeded"), total("failed"))
    assert counts.failed == {"llm": 2}
    assert sum(counts.retries.values()) == total("retries") > 0
    assert sum(counts.rate_limited.values()) == total("rate_limited") > 0
    assert sum(counts.prompt_tokens.values()) == total("prompt_tokens") > 0
    assert sum(counts.completion_tokens.values()) == total("completion_tokens") > 0
    stages: tuple[Stage, ...] = ("search", "llm")
    for stage in stages:
        made = sum(number for (of, _), number in counts.calls.items() if of == stage)
        assert made == sum(stats.calls[stage] for stats in runs)
    assert counts.latency["llm"].count == sum(stats.calls["llm"] for stats in runs)
    assert not any(counts.in_flight.values())
    assert not any(counts.waiting.values())


def test_a_call_is_in_flight_until_it_ends() -> None:
    begun, go_on = Flag(), Flag()

    class Slow:
        def complete(self, request: LLMRequest) -> LLMResponse:
            begun.set()
            assert go_on.wait(PATIENCE)
            return LLMResponse("done")

    def ask(item: int) -> Flow[str]:
        return (yield from complete(LLMRequest("slow", ()))).text

    counters = RunMetrics()
    runner = BatchRunner(llm=Slow(), strategy=Strategy.threaded(), observers=[counters])
    thread = Thread(target=runner.run, args=(ask, [1]))
    thread.start()
    assert begun.wait(PATIENCE)
    during = counters.snapshot()
    go_on.set()
    thread.join()
    assert (during.in_flight["llm"], during.open_items, during.calls) == (1, 1, {})
    after = counters.snapshot()
    assert (after.in_flight["llm"], after.open_items, after.calls) == (0, 0, {("llm", "answered"): 1})
    assert during.in_flight["llm"] == 1  # a snapshot stays what it was


def test_calls_are_told_apart_by_what_became_of_them() -> None:
    counters = counted(
        *(started(1), ended(1, reply=LLMResponse("yes"))),
        *(started(2), ended(2, error=RateLimited("later"))),
        *(started(3), ended(3, error=TransientBackendError("no"))),
        *(started(4), failed(4, "run")),
    )
    assert counters.snapshot().calls == {
        ("llm", "answered"): 1,
        ("llm", "rate_limited"): 1,
        ("llm", "failed"): 1,
        ("llm", "cancelled"): 1,
    }
    assert counters.snapshot().rate_limited == {"llm": 1}


def test_a_round_trip_for_several_queries_counts_as_that_many_calls_and_one_time() -> None:
    counters = counted(started(1, "search", "search_many", weight=3))
    assert counters.snapshot().in_flight["search"] == 3
    counters(ended(1, "search", "search_many", weight=3))
    counts = counters.snapshot()
    assert counts.calls == {("search", "answered"): 3}
    assert (counts.latency["search"].count, counts.latency["search"].sum) == (1, 2.0)
    assert (counts.queue_seconds["search"].count, counts.queue_seconds["search"].sum) == (1, 0.5)


def test_a_call_waits_from_its_failure_to_its_next_attempt() -> None:
    counters = counted(started(1), ended(1, error=TransientBackendError("no")), planned(1))
    assert counters.snapshot().waiting["llm"] == 1
    counters(started(1, what="another task"))
    assert counters.snapshot().waiting["llm"] == 1
    counters(started(1, attempt=2))
    assert counters.snapshot().waiting["llm"] == 0


def test_searches_that_are_made_again_one_by_one_wait_no_longer() -> None:
    counters = counted(planned(1, "search", "search_many"), started(1, "search", "price"))
    assert counters.snapshot().waiting["search"] == 0
    counters(started(1, "search", "food"))
    assert counters.snapshot().waiting["search"] == 0


@pytest.mark.parametrize("end", [failed(1, "run"), RunEnded(1, 30.0, RunStats())], ids=["item", "run"])
def test_nothing_is_in_flight_or_waits_after_its_item_or_run_is_over(end: Event) -> None:
    counters = counted(ItemStarted(1, 1.0, 1), started(1), started(1), planned(1, what="other"), end)
    counts = counters.snapshot()
    assert (counts.in_flight["llm"], counts.waiting["llm"], counts.open_items) == (0, 0, 0)
    assert counts.calls == {("llm", "cancelled"): 2}
    counters(RunEnded(1, 31.0, RunStats()))
    assert counters.snapshot().calls == counts.calls


def test_an_answer_that_comes_after_its_item_was_cancelled_is_not_counted_again() -> None:
    late = LLMResponse("late", prompt_tokens=7, model="m")
    counts = counted(started(1), failed(1, "llm"), ended(1, reply=late)).snapshot()
    assert (counts.calls, counts.in_flight["llm"]) == ({("llm", "cancelled"): 1}, 0)
    assert counts.prompt_tokens == {"m": 7}  # but it was paid for


def test_a_refused_item_does_not_close_the_open_one_of_the_same_name() -> None:
    counters = counted(ItemStarted(1, 1.0, 1), started(1), failed(1, "input", ConfigurationError("twice")))
    counts = counters.snapshot()
    assert (counts.open_items, counts.in_flight["llm"], counts.failed) == (1, 1, {"input": 1})
    counters(ended(1, reply=LLMResponse("yes")))
    counters(ItemEnded(1, 20.0, Success(1, None)))
    counts = counters.snapshot()
    assert (counts.open_items, counts.calls) == (0, {("llm", "answered"): 1})


def test_an_item_without_a_name_is_counted() -> None:
    assert counted(failed(None, "input")).snapshot().failed == {"input": 1}


def test_a_run_that_was_going_on_before_it_was_watched_is_left_out() -> None:
    counters = RunMetrics()
    for event in (ended(1), ItemEnded(1, 20.0, Success(1, None)), RunEnded(1, 30.0, RunStats())):
        counters(event)
    assert counters.snapshot() == RunMetrics().snapshot()


@pytest.mark.parametrize("strategy", EVERY_STAGE, ids=str)
def test_a_stream_that_is_left_early_leaves_nothing_in_flight(strategy: Strategy) -> None:
    counters = RunMetrics()
    runner = BatchRunner(
        llm=FakeLLM(),
        search=FakeSearch({number: ["맛있어요"] for number in range(20)}),
        strategy=strategy,
        observers=[counters],
    )
    with runner.stream(SummarizeAspects(), range(20)) as outcomes:
        next(outcomes)
    counts = counters.snapshot()
    assert (counts.runs_ended, counts.open_items) == (1, 0)
    assert not any(counts.in_flight.values())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.floats(0, 300)), max_size=30))
def test_buckets_hold_every_call_once_and_at_its_place(calls: list[tuple[int, int, float]]) -> None:
    counters = counted()
    for item, weight, seconds in calls:
        counters(started(item, weight=weight))
        counters(ended(item, weight=weight)._replace(seconds=seconds))
    times = counters.snapshot().latency["llm"]
    assert times.count == len(calls)
    for place, bound in enumerate(times.bounds):
        assert sum(times.counts[: place + 1]) == sum(seconds <= bound for *_, seconds in calls)


def test_prometheus_reads_the_same_counts() -> None:
    counters = counted(
        ItemStarted(1, 1.0, 1),
        started(1),
        ended(1, error=RateLimited("later")),
        planned(1),
        started(1, attempt=2),
        ended(
            1, attempt=2, reply=LLMResponse("yes", prompt_tokens=9, completion_tokens=4, model='a"b\\c\nd')
        ),
        ItemEnded(1, 20.0, Success(1, None)),
    )
    found = samples(counters.prometheus())
    assert found["items_total", 'outcome="ok",stage=""'] == 1
    assert found["calls_total", 'stage="llm",outcome="rate_limited"'] == 1
    assert found["calls_total", 'stage="llm",outcome="answered"'] == 1
    assert found["retries_total", 'stage="llm"'] == 1
    assert found["tokens_total", r'model="a\"b\\c\nd",kind="prompt"'] == 9
    assert found["tokens_total", r'model="a\"b\\c\nd",kind="completion"'] == 4
    assert found["call_seconds_count", 'stage="llm"'] == 2
    assert found["call_seconds_sum", 'stage="llm"'] == 4.0
    assert found["queue_seconds_sum", 'stage="llm"'] == 1.0


def test_prometheus_buckets_add_up_to_the_count() -> None:
    counters = counted()
    for item, seconds in enumerate((0.001, 0.05, 3.0, 1e6)):
        counters(started(item))
        counters(ended(item)._replace(seconds=seconds))
    found = samples(counters.prometheus())
    buckets = [
        value for (name, labels), value in found.items() if name == "call_seconds_bucket" and "llm" in labels
    ]
    assert all(low <= high for low, high in pairwise(buckets))
    assert buckets[0] == 1
    assert buckets[-2] == 3
    assert buckets[-1] == found["call_seconds_count", 'stage="llm"'] == 4


def test_counters_stand_at_zero_before_anything_happens() -> None:
    found = samples(RunMetrics().prometheus())
    assert found["items_total", 'outcome="failed",stage="llm"'] == 0
    assert found["calls_total", 'stage="search",outcome="cancelled"'] == 0
    assert found["rate_limited_total", 'stage="llm"'] == 0
    assert not any(found.values())


def test_own_buckets_replace_the_usual_ones() -> None:
    counters = RunMetrics(buckets=(1, 10))
    assert counters.snapshot().latency["llm"].bounds == (1.0, 10.0)


@pytest.mark.parametrize("buckets", [(), (1, 1), (2, 1), (1, float("inf")), (float("nan"),)])
def test_buckets_that_cannot_work_are_refused(buckets: Sequence[float]) -> None:
    with pytest.raises(ConfigurationError, match=r"buckets must be .* for example buckets="):
        RunMetrics(buckets=buckets)


def test_runs_may_be_counted_from_many_threads_at_once() -> None:
    counters = RunMetrics()

    def events(run: int) -> Iterator[Event]:
        yield RunStarted(run, 0.0, 300)
        for item in range(300):
            of_item: list[Any] = [ItemStarted(run, 1.0, item), started(item), ended(item)]
            yield from (event._replace(run=run) for event in of_item)
            yield ItemEnded(run, 3.0, Success(item, None))
        yield RunEnded(run, 4.0, RunStats())

    def watch(run: int) -> None:
        for event in events(run):
            counters(event)

    threads = [Thread(target=watch, args=(run,)) for run in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        samples(counters.prometheus())
    for thread in threads:
        thread.join()
    counts = counters.snapshot()
    assert (counts.succeeded, counts.calls, counts.runs_ended) == (2400, {("llm", "answered"): 2400}, 8)
    assert not any(counts.in_flight.values())


def test_what_is_over_is_let_go() -> None:
    counters = RunMetrics()
    search = EmbeddedSearch()
    search.index_reviews({"restaurant_id": n, "id": n, "content": "The food was great."} for n in range(20))
    runner = BatchRunner(llm=OfflineLLM(), search=search, observers=[counters])
    runner.run(SummarizeAspects(), range(20))
    assert not counters._runs

"""Every outcome says what its item has taken, and a run says how long its calls took; all on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import (
    BatchReport,
    BatchRunner,
    Hit,
    Limits,
    LLMRequest,
    LLMResponse,
    Price,
    RetryPolicy,
    SearchQuery,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._engine.latency import LatencyHistogram
from restaurant_llm_batch.simulation import SimulatedServer
from restaurant_llm_batch.steps import Flow, complete, gather, search_all
from restaurant_llm_batch.testing import FakeLLM

REQUEST = LLMRequest("ask", ({"role": "user", "content": "맛은?"},), max_tokens=100)
PATIENT = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)


def ask(item: int) -> Flow[str]:
    return (yield from complete(REQUEST)).text


class Model:
    """Replies at once, with tokens, or raises what `fault` returns for a request and its attempt."""

    def __init__(
        self,
        fault: Callable[[int], Exception | None] = lambda attempt: None,
        model: str = "m",
        prompt: int = 10,
    ) -> None:
        self.fault, self.model, self.prompt = fault, model, prompt
        self.attempts = 0

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.attempts += 1
        error = self.fault(self.attempts)
        if error is not None:
            raise error
        return LLMResponse("맛있다", "stop", self.prompt, 2, self.model)

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return self.complete(request)


class Search:
    def search(self, query: SearchQuery) -> list[Hit]:
        return [Hit("r", "text", 1.0, query.restaurant_id)]


def simulated(task: Any, items: int, seconds: float, **options: Any) -> BatchReport[Any]:
    """Run on virtual time, with calls of constant duration."""
    runner = BatchRunner(llm=FakeLLM(), search=Search(), strategy=Strategy.stage(4), **options)
    server = SimulatedServer(latency=seconds, search_seconds=0.5)
    return runner.simulate(task, range(items), server).report


def test_an_item_that_waits_for_a_slot_says_so() -> None:
    report = simulated(ask, 6, 5.0, limits=Limits(llm=2))

    assert [(one.spent.seconds, one.spent.waited) for one in report.outcomes] == [
        (5.0, 0.0),
        (5.0, 0.0),
        (10.0, 5.0),
        (10.0, 5.0),
        (15.0, 10.0),
        (15.0, 10.0),
    ]


def test_seconds_count_from_the_window_and_not_from_the_start_of_the_run() -> None:
    report = simulated(ask, 3, 5.0, limits=Limits(llm=1, open_items=1))

    assert [one.spent.seconds for one in report.outcomes] == [5.0, 5.0, 5.0]
    assert report.stats.wall_seconds == 15.0


def test_searches_and_calls_of_an_item_are_counted_apart() -> None:
    def task(item: int) -> Flow[str]:
        yield from search_all([SearchQuery(item, "a"), SearchQuery(item, "b")])
        yield from gather(complete(REQUEST), complete(REQUEST))
        return (yield from complete(REQUEST)).text

    report = simulated(task, 2, 4.0)

    for outcome in report.outcomes:
        assert (outcome.spent.searches, outcome.spent.calls, outcome.spent.tries) == (2, 3, 1)
        assert outcome.spent.seconds == pytest.approx(0.5 + 8.0)
    assert report.stats.latency["search"].p50 == 0.5
    assert report.stats.latency["llm"].count == 6


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(4), Strategy.threaded()])
def test_attempts_refusals_and_tokens_of_an_item_are_its_own(strategy: Strategy) -> None:
    def fault(attempt: int) -> Exception | None:
        return errors.TransientBackendError("lost") if attempt in (1, 2) else None

    runner = BatchRunner(
        llm=Model(fault), strategy=strategy, llm_retry=PATIENT, limits=Limits(llm=1, open_items=1)
    )
    first, second = runner.run(ask, [1, 2]).outcomes

    assert (first.spent.calls, first.spent.tries, first.spent.tokens) == (3, 3, 12)
    assert (second.spent.calls, second.spent.tries, second.spent.tokens) == (1, 1, 12)
    assert first.spent.waited > 0
    assert 0 <= second.spent.waited <= second.spent.seconds


def test_a_failure_says_what_it_took() -> None:
    def fault(attempt: int) -> Exception | None:
        return errors.TransientBackendError("down", retry_after=0.001)

    report = BatchRunner(llm=Model(fault), llm_retry=PATIENT).run(ask, [1])
    (failure,) = report.failures

    assert (failure.spent.calls, failure.spent.tries, failure.attempts) == (3, 3, 3)
    assert failure.spent.waited >= 0.002
    assert report.stats.latency["llm"].count == 0, "a failed call was answered by no one"


def test_an_item_that_is_refused_or_never_started_has_taken_nothing() -> None:
    report = BatchRunner(llm=Model()).run(ask, iter([1, {"no": "id"}]))

    assert report.failures[0].spent == (0.0, 0.0, 0, 0, 0, 0, 0, None, 0)


def test_an_item_whose_time_is_up_in_the_queue_has_waited_all_of_it() -> None:
    report = simulated(ask, 2, 7.0, limits=Limits(llm=1), time_limits=TimeLimits(item=10.0))

    assert [one.ok for one in report.outcomes] == [True, False]
    assert report.failures[0].spent.waited == pytest.approx(7.0)
    report = simulated(ask, 3, 7.0, limits=Limits(llm=1), time_limits=TimeLimits(item=10.0))
    assert report.outcomes[2].spent.waited == pytest.approx(10.0)
    assert report.outcomes[2].spent.calls == 0


@pytest.mark.parametrize(
    ("prices", "model", "prompt", "cost"),
    [
        (None, "m", 10, None),
        ({"m": Price(1_000_000, 500_000)}, "m", 10, 11.0),
        ({"m": Price(1_000_000, 500_000)}, "other", 10, None),
        ({"": Price(1_000_000, 0)}, "other", 10, 10.0),
        ({"m": Price(1_000_000, 500_000)}, "m", 0, None),
    ],
)
def test_the_cost_of_an_item_is_that_of_its_reported_tokens_or_unknown(
    prices: dict[str, Price] | None, model: str, prompt: int, cost: float | None
) -> None:
    report = BatchRunner(llm=Model(model=model, prompt=prompt), prices=prices).run(ask, [1, 2])

    assert [one.spent.cost for one in report.outcomes] == [cost, cost]
    assert report.stats.cost == (None if cost is None else 2 * cost)


def test_one_unknown_cost_makes_the_cost_of_its_item_unknown_and_of_no_other() -> None:
    class Changing(Model):
        def complete(self, request: LLMRequest) -> LLMResponse:
            self.prompt = 0 if self.attempts == 1 else 10
            return super().complete(request)

    def twice(item: int) -> Flow[str]:
        yield from complete(REQUEST)
        return (yield from complete(REQUEST)).text

    report = BatchRunner(llm=Changing(), prices={"m": Price(1, 1)}).run(twice, [1, 2])

    assert [one.spent.cost is None for one in report.outcomes] == [True, False]


def test_a_reply_of_the_store_costs_nothing_and_is_counted(tmp_path: Path) -> None:
    options: dict[str, Any] = {"store": tmp_path / "run.db", "prices": {"m": Price(1, 1)}}
    BatchRunner(llm=Model(), **options).run(ask, [1])
    (found,) = BatchRunner(llm=Model(), **options).run(ask, [1]).outcomes

    assert (found.spent.cache_hits, found.spent.calls, found.spent.tokens) == (1, 0, 0)
    assert (found.spent.cost, found.spent.tries) == (0.0, 0)


def test_equal_results_are_equal_whatever_they_took() -> None:
    fast, slow = (BatchRunner(llm=Model()).run(ask, range(3)) for _ in range(2))

    assert fast.outcomes == slow.outcomes
    assert fast.outcomes[0].spent.calls == 1


def test_what_the_items_took_adds_up_to_what_the_run_took() -> None:
    report = simulated(ask, 50, 3.0, limits=Limits(llm=4), prices={"": Price(1, 1)})
    spent, stats = [one.spent for one in report.outcomes], report.stats

    assert sum(one.calls for one in spent) == stats.calls["llm"]
    assert sum(one.prompt_tokens for one in spent) == stats.prompt_tokens
    assert sum(one.completion_tokens for one in spent) == stats.completion_tokens
    assert sum(one.cost or 0 for one in spent) == pytest.approx(stats.cost)


def test_latencies_of_a_simulation_are_exact_when_they_are_equal() -> None:
    latency = simulated(ask, 20, 0.8).stats.latency["llm"]

    assert latency.count == 20
    assert [latency.mean, latency.p50, latency.p95, latency.max] == pytest.approx([0.8] * 4, rel=1e-9)


@given(st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=300))
def test_a_quantile_is_that_of_the_nearest_rank_to_half_a_percent(seconds: list[float]) -> None:
    histogram = LatencyHistogram()
    for one in seconds:
        histogram.add(one)
    found, ordered = histogram.summary(), sorted(seconds)

    assert found.count == len(seconds)
    assert found.max == ordered[-1]
    for share, quantile in ((0.5, found.p50), (0.95, found.p95)):
        assert quantile == pytest.approx(ordered[ceil(share * len(seconds)) - 1], rel=0.005)


def test_a_million_durations_take_no_more_memory_than_a_thousand() -> None:
    histogram = LatencyHistogram()
    for number in range(200_000):
        histogram.add(0.5 + number % 1000 / 1000)

    assert len(histogram._counts) < 200
    assert len(histogram.recent) < 1024
    assert histogram.summary().p50 == pytest.approx(1.0, rel=0.005)


def test_no_call_has_no_latency() -> None:
    assert LatencyHistogram().summary().count == 0
    assert BatchRunner(llm=Model()).run(ask, []).stats.latency == {}

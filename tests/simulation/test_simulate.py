"""Tests of `BatchRunner.simulate`: the real engine on virtual time, against a simulated server."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from restaurant_llm_batch import (
    AdaptiveLimit,
    AnalyzeSentiment,
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    StopConditions,
    Store,
    Strategy,
    SummarizeAspects,
    TimeLimits,
)
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.errors import ConfigurationError, DeadlineExceeded
from restaurant_llm_batch.events import CallStarted, RunEnded
from restaurant_llm_batch.models import LLMRequest
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.simulation import (
    LogNormal,
    SimulatedServer,
    Simulation,
    TokenSpeed,
    simulate_together,
)
from restaurant_llm_batch.steps import complete, sleep
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

STAGES = [Strategy.stage(1), Strategy.stage(2), Strategy.stage(3), Strategy.stage(4), Strategy.threaded()]
CONCURRENT = [Strategy.stage(4), Strategy.threaded()]


class NeverCalled:
    """A model that must not be called."""

    def complete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")

    async def acomplete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")


def dish(item: int, tokens: int = 50) -> Generator[Any, Any, str]:
    message = {"role": "user", "content": f"Name dish {item}."}
    reply = yield from complete(LLMRequest("dish", (message,), max_tokens=tokens))
    return str(reply.text)


def runner(strategy: Strategy = CONCURRENT[0], **arguments: Any) -> BatchRunner:
    return BatchRunner(llm=NeverCalled(), strategy=strategy, **arguments)


@pytest.mark.parametrize("strategy", STAGES)
def test_the_time_is_exactly_that_of_the_limits(strategy: Strategy) -> None:
    simulation = runner(strategy, limits=Limits(llm=8)).simulate(
        dish, range(100), SimulatedServer(latency=0.5)
    )

    assert simulation.seconds == pytest.approx(6.5 if strategy.restaurant_async else 50)
    assert simulation.server.peak == (8 if strategy.restaurant_async else 1)
    assert simulation.report.stats.wall_seconds == simulation.seconds
    assert len(simulation.report.results) == simulation.server.answered == 100


@pytest.mark.parametrize("strategy", CONCURRENT)
def test_a_server_with_fewer_slots_lets_calls_wait(strategy: Strategy) -> None:
    simulation = runner(strategy, limits=Limits(llm=8)).simulate(
        dish, range(100), SimulatedServer(latency=0.5, slots=5)
    )

    assert simulation.seconds == pytest.approx(10)
    assert (simulation.server.peak, simulation.server.peak_queue) == (5, 3)
    assert simulation.server.busy_share == pytest.approx(1)


@pytest.mark.parametrize("strategy", CONCURRENT)
def test_a_server_that_refuses_is_asked_again(strategy: Strategy) -> None:
    server = SimulatedServer(latency=0.5, slots=5, overload="refuse", retry_after=1.0)
    simulation = runner(strategy, limits=Limits(llm=8)).simulate(dish, range(100), server)

    assert simulation.server.refused == simulation.report.stats.rate_limited > 0
    assert simulation.server.peak == 5
    assert len(simulation.report.results) == 100
    assert simulation.seconds > 10


def test_an_adaptive_limit_finds_the_slots() -> None:
    limits = Limits(llm=AdaptiveLimit())
    server = SimulatedServer(latency=LogNormal(0.8, 0.3), slots=24, overload="refuse")
    simulation = runner(limits=limits).simulate(dish, range(2000), server)

    assert simulation.server.peak == 24
    assert simulation.server.busy_share > 0.85
    assert simulation.server.refused < 0.02 * simulation.server.calls


def test_limits_per_minute_are_kept_on_virtual_time() -> None:
    simulation = runner(limits=Limits(llm=50, requests_per_minute=60)).simulate(
        dish, range(180), SimulatedServer(latency=0.1, requests_per_minute=60)
    )

    assert simulation.server.refused == 0
    assert 115 < simulation.seconds < 185


def test_a_minute_that_is_used_up_is_refused() -> None:
    simulation = runner(limits=Limits(llm=50)).simulate(
        dish, range(100), SimulatedServer(latency=0.1, requests_per_minute=60, retry_after=5)
    )

    assert simulation.server.refused > 0
    assert len(simulation.report.results) == 100
    assert simulation.seconds > 40


def all_but_memory(simulation: Simulation[Any]) -> list[str]:
    """Return the events in words, without the memory of this process."""
    *events, ended = simulation.events
    assert isinstance(ended, RunEnded)
    return [*map(str, events), str(ended._replace(stats=replace(ended.stats, peak_memory_mib=None)))]


def test_equal_seeds_give_equal_runs_to_the_event() -> None:
    server = SimulatedServer(
        latency=LogNormal(0.4, 0.8), slots=7, overload="refuse", faults={"server_error": 0.1, "reset": 0.05}
    )

    def play(seed: int) -> Any:
        limits = Limits(llm=AdaptiveLimit(), open_items=20)
        return runner(limits=limits).simulate(dish, range(150), server, seed=seed)

    first, again, other = play(3), play(3), play(4)

    assert all_but_memory(first) == all_but_memory(again)
    assert first.server == again.server
    assert first.seconds != other.seconds


def test_calls_by_tokens_take_what_reading_and_writing_take() -> None:
    server = SimulatedServer(
        latency=TokenSpeed(prefill=1000, decode=50, batch_slowdown=0.5, overhead=0.25), answer_tokens=40
    )
    alone = runner(count_tokens=lambda text: 500).simulate(dish, [1], server)
    both = runner(count_tokens=lambda text: 500).simulate(dish, [1, 2], server)

    assert alone.seconds == pytest.approx(0.5 + 0.25 + 40 / 50)
    # The first begins to write when the second prompt has been read, and writes 12.5 tokens until the second begins
    # too. From then on, both write at 50 / 1.5 tokens a second until the first ends: it has 27.5 tokens left, which
    # takes 0.825 s. Then the second has 12.5 tokens left, at 50 a second.
    assert both.seconds == pytest.approx(1.0 + 0.25 + 0.825 + 12.5 / 50)


def test_a_system_message_is_read_once_by_a_server_that_caches_prefixes() -> None:
    def twice(item: int) -> Any:
        messages = ({"role": "system", "content": "rules"}, {"role": "user", "content": "a dish"})
        for _ in range(2):
            yield from complete(LLMRequest("dish", messages, max_tokens=50))

    counts = {"rules": 900, "a dish": 100}
    speed = TokenSpeed(prefill=1000, decode=50)
    times, cached = {}, {}
    for caches in (False, True):
        server = SimulatedServer(latency=speed, answer_tokens=25, prefix_cache=caches)
        simulation = runner(count_tokens=lambda text: counts[text]).simulate(twice, [1], server)
        times[caches], cached[caches] = simulation.seconds, simulation.report.stats.cached_tokens

    assert times == {False: pytest.approx(2 * 1.5), True: pytest.approx(1.5 + 0.6)}
    assert cached == {False: 0, True: 900}


def test_a_memory_that_holds_hardly_two_calls_comes_to_an_end() -> None:
    server = SimulatedServer(latency=TokenSpeed(1000, 50), kv_tokens=230, answer_tokens=100)
    simulation = runner(count_tokens=lambda text: 90, limits=Limits(llm=16)).simulate(
        lambda item: dish(item, 200), range(16), server
    )

    assert len(simulation.report.results) == 16
    assert simulation.seconds < 16 * (0.09 + 2.0) * 2


def test_a_full_cache_stops_the_latest_and_computes_it_again() -> None:
    server = SimulatedServer(latency=TokenSpeed(10_000, 50), kv_tokens=500, answer_tokens=100)
    simulation = runner(count_tokens=lambda text: 100, limits=Limits(llm=16)).simulate(
        lambda item: dish(item, 200), range(16), server
    )

    assert simulation.server.preemptions > 0
    assert len(simulation.report.results) == 16
    assert simulation.server.completion_tokens == 1600


def test_a_prompt_beyond_the_memory_is_too_long() -> None:
    server = SimulatedServer(latency=0.1, kv_tokens=400)
    simulation = runner(count_tokens=lambda text: 500).simulate(dish, [1], server)

    assert [type(failure.error).__name__ for failure in simulation.report.failures] == ["PromptTooLong"]


@pytest.mark.parametrize("strategy", STAGES)
def test_an_item_that_takes_too_long_fails_on_time(strategy: Strategy) -> None:
    limits = TimeLimits(item=5)
    simulation = runner(strategy, time_limits=limits).simulate(dish, [1], SimulatedServer(latency=60))

    (failure,) = simulation.report.failures
    assert type(failure.error) is DeadlineExceeded
    # Stage 1 cannot end a call that blocks; it is late all the same.
    assert simulation.seconds == (60 if strategy == STAGES[0] else 5)


def test_a_run_stops_by_its_conditions() -> None:
    stop = StopConditions(max_tokens=1000)
    server = SimulatedServer(latency=0.5, answer_tokens=40)
    simulation = runner(stop=stop, limits=Limits(llm=2)).simulate(dish, iter(range(1000)), server)

    assert simulation.report.stats.stopped_because is not None
    assert len(simulation.report.results) < 40


def test_sleeps_and_retries_take_no_real_time() -> None:
    def tired(item: int) -> Any:
        yield from sleep(3600)
        return (yield from dish(item))

    simulation = runner().simulate(tired, range(3), SimulatedServer(latency=1, faults={"server_error": 0.5}))

    assert simulation.seconds > 3600


@pytest.mark.parametrize("strategy", STAGES)
def test_replies_in_the_store_are_found_and_none_gets_into_it(strategy: Strategy, tmp_path: Path) -> None:
    store = Store(tmp_path / "run.db")
    real = BatchRunner(llm=FakeLLM(), strategy=strategy, store=store)
    real.run(dish, [1, 2])
    before = store.stats().entries
    simulated = real.simulate(dish, [1, 2, 3, 4], SimulatedServer(latency=1))
    after = store.stats().entries

    assert simulated.report.stats.cache_hits == 2
    assert simulated.server.calls == 2
    assert before == after == 2


def test_the_limiters_of_the_runner_are_left_as_they_are() -> None:
    gpu = ConcurrencyLimiter(AdaptiveLimit(start=4))
    runner(limits=Limits(llm=gpu)).simulate(dish, range(500), SimulatedServer(latency=0.5))

    assert (gpu.limit, gpu.statistics().peak) == (4, 0)


def test_runners_that_share_a_limit_share_it_in_a_simulation() -> None:
    gpu = ConcurrencyLimiter(6)
    first, second = (runner(strategy, limits=Limits(llm=gpu)) for strategy in CONCURRENT)
    server = SimulatedServer(latency=0.5)
    both = simulate_together([(first, dish, range(30)), (second, dish, range(30))], server)

    assert both[0].server.peak == 6
    assert max(simulation.seconds for simulation in both) == pytest.approx(5)
    assert [len(simulation.report.results) for simulation in both] == [30, 30]


def test_a_sequential_runner_goes_beside_a_concurrent_one() -> None:
    server = SimulatedServer(latency=0.5, slots=3)
    both = simulate_together([(runner(STAGES[0]), dish, range(10)), (runner(), dish, range(20))], server)

    assert [len(simulation.report.results) for simulation in both] == [10, 20]
    with pytest.raises(ConfigurationError, match="at most one"):
        simulate_together([(runner(STAGES[0]), dish, [1]), (runner(STAGES[0]), dish, [2])])


def test_it_needs_no_thread_and_no_event_loop_of_its_own() -> None:
    before = set(threading.enumerate())

    async def within_a_loop() -> float:
        return runner().simulate(dish, range(20), SimulatedServer(latency=0.5)).seconds

    assert anyio.run(within_a_loop) == 1.5
    assert set(threading.enumerate()) <= before  # a thread that an earlier test left may end meanwhile


def test_searches_are_made_by_the_runners_own_search() -> None:
    search = EmbeddedSearch()
    search.index_reviews([{"restaurant_id": 1, "review_id": "a", "content": "직원분들이 정말 친절해요."}])
    simulation = runner(search=search).simulate(
        SummarizeAspects(), [1, 2], SimulatedServer(latency=1, search_seconds=0.25), answers=OfflineLLM()
    )

    first, second = simulation.report.results
    assert first.categories["service"].evidence[0].review_id == "a"
    assert {aspect.status for aspect in second.categories.values()} == {"no_reviews"}
    assert simulation.seconds == pytest.approx(1.25)


def test_without_a_search_reviews_are_made_up() -> None:
    simulation = runner(search=FakeSearch({})).simulate(SummarizeAspects(mode="split"), range(3))
    made_up = BatchRunner(llm=NeverCalled(), strategy=STAGES[3]).simulate(
        SummarizeAspects(mode="split"), range(3)
    )

    assert simulation.server.calls == 0
    assert made_up.server.calls == 12
    assert {aspect.status for result in made_up.report.results for aspect in result.categories.values()} == {
        "ok"
    }


def test_answers_made_from_the_form_are_right_for_every_task() -> None:
    reviews = [f"음식이 맛있어요 {number}" for number in range(250)]
    simulation = runner().simulate(AnalyzeSentiment(), [{"restaurant_id": 1, "reviews": reviews}])

    (result,) = simulation.report.results
    assert (result.failed_count, result.total_count) == (0, 250)


@pytest.mark.parametrize(
    ("kind", "calls", "fails"),
    [("truncated", 4, False), ("malformed", 1, False), ("empty", 1, True), ("content_filter", 1, True)],
)
def test_spoilt_answers_are_read_as_those_of_a_service(kind: Any, calls: int, fails: bool) -> None:
    server = SimulatedServer(latency=0.1, faults={kind: 1.0})
    simulation = runner().simulate(SummarizeAspects(), [1], server)

    assert simulation.server.faults[kind] == simulation.server.calls >= calls
    assert bool(simulation.report.failures) == fails


def test_outcomes_that_are_handed_over_are_not_kept() -> None:
    seen: list[Any] = []
    simulation = runner().simulate(dish, iter(range(50)), on_outcome=seen.append)

    assert len(seen) == 50
    assert (simulation.report.outcomes, simulation.events) == ([], ())
    assert simulation.report.stats.succeeded == 50


def test_events_have_virtual_times() -> None:
    simulation = runner(limits=Limits(llm=1)).simulate(dish, range(4), SimulatedServer(latency=10))

    assert [event.time for event in simulation.events if isinstance(event, CallStarted)] == [0, 10, 20, 30]


def test_an_error_of_the_items_comes_out() -> None:
    def broken() -> Any:
        yield 1
        raise LookupError("no more rows")

    with pytest.raises(LookupError, match="no more rows"):
        runner().simulate(dish, broken())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"latency": -1}, "latency must be a number"),
        ({"latency": "fast"}, "latency must be a number"),
        ({"slots": 0}, "slots must be a whole number"),
        ({"overload": "drop", "slots": 3}, "overload must be 'queue' or 'refuse'"),
        ({"overload": "refuse"}, "needs slots"),
        ({"faults": {"explosion": 0.1}}, "is no kind of fault"),
        ({"faults": {"reset": 0.8, "empty": 0.3}}, "must add up to 1"),
        ({"faults": [("reset", 0.1)]}, "must map kinds to shares"),
        ({"kv_tokens": 2.5}, "kv_tokens must be a whole number"),
        ({"search_seconds": float("nan")}, "search_seconds must be a number"),
    ],
)
def test_a_server_that_cannot_be_is_refused(arguments: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        SimulatedServer(**arguments)


def test_wrong_arguments_say_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match="server must be a SimulatedServer"):
        runner().simulate(dish, [1], 0.8)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="answers must be a backend"):
        runner().simulate(dish, [1], answers="text")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="at least one"):
        simulate_together([])
    with pytest.raises(
        ConfigurationError,
        match=r"must be a number .* for example latency=0.5, or latency=LogNormal\(median=",
    ):
        SimulatedServer(latency="1 s")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"; for example SimulatedServer\(search_seconds=0\.5\)$"):
        SimulatedServer(search_seconds=-1)
    with pytest.raises(
        ConfigurationError, match=r"faults\['reset'\] must be .*; for example faults=\{'reset': 0\.5\}$"
    ):
        SimulatedServer(faults={"reset": -1})
    with pytest.raises(ConfigurationError, match=r"TokenSpeed\.decode must be a number above 0"):
        TokenSpeed(prefill=100, decode=0)

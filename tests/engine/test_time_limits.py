"""Deadlines of calls, items and runs."""

from __future__ import annotations

import gc
import threading
import time
from time import monotonic
from typing import Any

import anyio
import pytest
import trio.testing
from tests.support.run_methods import STRATEGIES, each_strategy, strategies

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    Success,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._engine.call import Call
from restaurant_llm_batch.steps import complete, once

IMPATIENT = RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.002)
CONCURRENT = [strategy for strategy in STRATEGIES if strategy.restaurant_async]


class Model:
    """Takes as long as the request says, and notes who was cancelled."""

    def __init__(self) -> None:
        self.calls = self.cancelled = self.in_flight = self.peak = 0
        self._lock = threading.Lock()

    def _enter(self, by: int) -> None:
        with self._lock:
            self.calls += by > 0
            self.in_flight += by
            self.peak = max(self.peak, self.in_flight)

    def complete(self, request: LLMRequest) -> LLMResponse:
        self._enter(1)
        try:
            time.sleep(request.inputs["seconds"])
        finally:
            self._enter(-1)
        return LLMResponse("done")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        self._enter(1)
        try:
            await anyio.sleep(request.inputs["seconds"])
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self._enter(-1)
        return LLMResponse("done")


def take(seconds: float) -> LLMRequest:
    return LLMRequest("t", (), inputs={"seconds": seconds})


def slow_third(item: int) -> Any:
    """Ask once; the third item takes long, and the others no time."""
    return (yield from complete(take(1.5 if item == 3 else 0))).text


@pytest.mark.parametrize("strategy", strategies(CONCURRENT))
def test_a_late_call_ends_alone(strategy: Strategy) -> None:
    model = Model()
    runner = BatchRunner(llm=model, strategy=strategy, time_limits=TimeLimits(call=0.3), llm_retry=IMPATIENT)
    report = runner.run(slow_third, range(6))

    assert model.in_flight == (0 if strategy.llm_async else 1), "the run did not wait for its thread"
    assert [outcome.index for outcome in report.outcomes if outcome.ok] == [0, 1, 2, 4, 5]
    (failure,) = report.failures
    if strategy.llm_async:
        # cancelled, and so tried again
        assert (type(failure.error), failure.attempts, model.cancelled) == (
            errors.TransientBackendError,
            2,
            2,
        )
    else:
        # a thread cannot be ended, so the call may still be paid for: never made again
        assert (type(failure.error), failure.attempts, model.calls) == (errors.DeadlineExceeded, 1, 6)
    assert "no response within 0.3 s" in str(failure.error)


def test_the_slot_of_a_late_blocking_call_is_free_when_its_thread_returns() -> None:
    model = Model()
    runner = BatchRunner(
        llm=model, strategy=Strategy.threaded(), limits=Limits(llm=1), time_limits=TimeLimits(call=0.1)
    )

    def flow(item: int) -> Any:
        return (yield from complete(take(0.3 if item == 0 else 0.01))).text

    began = monotonic()
    report = runner.run(flow, range(2))

    assert monotonic() - began >= 0.3
    assert [outcome.ok for outcome in report.outcomes] == [False, True]
    assert model.peak == 1


@pytest.mark.parametrize("strategy", strategies(CONCURRENT))
@pytest.mark.sample(1)
def test_time_in_the_queue_is_not_a_calls_time(strategy: Strategy) -> None:
    runner = BatchRunner(
        llm=Model(), strategy=strategy, limits=Limits(llm=1), time_limits=TimeLimits(call=1.0)
    )

    def flow(item: int) -> Any:
        return (yield from complete(take(0.15))).text

    assert runner.run(flow, range(8)).results == ["done"] * 8


@pytest.mark.parametrize("strategy", strategies(CONCURRENT))
@pytest.mark.sample(1)
def test_time_in_the_queue_is_an_items_time(strategy: Strategy) -> None:
    model = Model()
    runner = BatchRunner(llm=model, strategy=strategy, limits=Limits(llm=1), time_limits=TimeLimits(item=1.0))

    def flow(item: int) -> Any:
        return (yield from complete(take(0.4))).text

    report = runner.run(flow, range(8))
    done = [outcome.index for outcome in report.outcomes if outcome.ok]

    assert done in ([0], [0, 1])
    for failure in report.failures:
        assert type(failure.error) is errors.DeadlineExceeded
        assert failure.stage == "llm"
    assert model.calls <= 3


@pytest.mark.timeout(40)  # less than the item's time, and than the wait
@each_strategy
def test_an_item_does_not_wait_for_a_try_that_would_come_too_late(strategy: Strategy) -> None:
    class Down:
        calls = 0

        def complete(self, request: LLMRequest) -> LLMResponse:
            self.calls += 1
            raise errors.TransientBackendError("down", retry_after=60)

        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            return self.complete(request)

    model = Down()
    runner = BatchRunner(
        llm=model,
        strategy=strategy,
        time_limits=TimeLimits(item=55),
        llm_retry=RetryPolicy(wait_max=120),
    )
    (failure,) = runner.run(lambda item: complete(take(0)), [1]).failures

    assert (type(failure.error), failure.stage, failure.attempts) == (errors.DeadlineExceeded, "llm", 1)
    assert isinstance(failure.error.__cause__, errors.TransientBackendError)
    assert model.calls == 1


@each_strategy
@pytest.mark.sample(1)
def test_at_a_runs_time_limit_finished_items_are_returned_and_the_rest_not_run(strategy: Strategy) -> None:
    model = Model()
    runner = BatchRunner(
        llm=model, strategy=strategy, limits=Limits(llm=2, open_items=10), time_limits=TimeLimits(run=0.5)
    )

    def flow(item: int) -> Any:
        return (yield from complete(take(0.03))).text

    report = runner.run(flow, range(1000))

    assert 1 <= len(report.results) <= 60
    assert report.stats.stopped_because == "the run's 0.5 s are up"
    assert {type(failure.error) for failure in report.failures} <= {
        errors.RunStopped,
        errors.DeadlineExceeded,
    }


def test_at_a_runs_time_limit_async_calls_are_cancelled() -> None:
    model = Model()
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), time_limits=TimeLimits(run=0.5))
    report = runner.run(lambda item: complete(take(30)), range(3))

    assert model.cancelled == 3
    assert model.in_flight == 0
    assert [type(failure.error) for failure in report.failures] == [errors.RunStopped] * 3


def test_an_item_whose_time_is_up_hands_on_what_it_ran_for_all() -> None:
    model = Model()
    runs: list[int] = []

    def shared(item: int) -> Any:
        runs.append(item)
        return (yield from complete(take(5 if item == 0 else 0.01)))

    def flow(item: int) -> Any:
        if item == 1:
            return (yield from complete(take(0.6))).text  # when it ends, item 2 enters, with time of its own
        return (yield from once("key", lambda: shared(item))).text

    limits, deadlines = Limits(open_items=2), TimeLimits(item=1.2)
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=limits, time_limits=deadlines)
    report = runner.run(flow, range(3))

    assert [type(outcome) is Success for outcome in report.outcomes] == [False, True, True]
    assert type(report.failures[0].error) is errors.DeadlineExceeded
    assert runs == [0, 2]


def calls_alive() -> int:
    """Count the calls that something still refers to; garbage of earlier tests is not among them."""
    gc.collect()
    return sum(type(one) is Call for one in gc.get_objects())


@pytest.mark.slow
def test_calls_that_have_come_back_are_not_kept_until_their_time_would_be_up() -> None:
    async def main() -> list[int]:
        limits, deadlines = Limits(llm=50), TimeLimits(item=1e6)
        async with BatchRunner(
            llm=Model(), strategy=Strategy.stage(4), time_limits=deadlines, limits=limits
        ) as runner:
            outcomes = runner.astream(lambda item: complete(take(0.01)), iter(range(4000)))
            return [calls_alive() async for outcome in outcomes if outcome.index % 500 == 499]

    before = calls_alive()
    counted = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(counted) == 8
    assert max(counted) - before < 2000


@pytest.mark.parametrize("field", ["call", "item", "run"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), "60", True])
def test_a_time_limit_out_of_bounds_is_named(field: str, value: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"TimeLimits.{field} must be"):
        TimeLimits(**{field: value})

"""A run on trio's MockClock lives on virtual time: every duration below is exact, and none takes real time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchReport,
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    RateLimitInfo,
    RateLimitStatus,
    RetryPolicy,
    StopConditions,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch.events import CallEnded, CallStarted, Event, RetryScheduled, RunStarted, Stalled
from restaurant_llm_batch.steps import Flow, complete, sleep

REQUEST = LLMRequest("ask", ({"role": "user", "content": "맛은?"},), max_tokens=100)


class Model:
    """Replies after some virtual seconds, or raises what `fault` returns for the number of the call."""

    def __init__(
        self,
        seconds: float,
        fault: Callable[[int], Exception | None] = lambda number: None,
        rate_limit: RateLimitInfo | None = None,
    ) -> None:
        self.seconds = seconds
        self.fault = fault
        self.rate_limit = rate_limit
        self.started: list[float] = []

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        number = len(self.started)
        self.started.append(trio.current_time())
        await anyio.sleep(self.seconds)
        error = self.fault(number)
        if error is not None:
            raise error
        return LLMResponse("맛있다", rate_limit=self.rate_limit)


def ask(item: int) -> Flow[str]:
    reply = yield from complete(REQUEST)
    return reply.text


def virtually(
    model: Model, items: int, task: Callable[[Any], Flow[Any]] = ask, **options: Any
) -> tuple[BatchReport[Any], list[Event], float]:
    """Run on virtual time; return the report, the events, and the virtual seconds that it took."""
    events: list[Event] = []
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), observers=[events.append], **options)

    async def main() -> tuple[BatchReport[Any], float]:
        started = trio.current_time()
        report = await runner.arun(task, range(items))
        return report, trio.current_time() - started

    report, seconds = run_on(main)
    return report, events, seconds


def run_on(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_run_takes_exactly_the_bound_of_its_limit_and_says_so_in_its_statistics() -> None:
    report, events, seconds = virtually(Model(5.0), 50, limits=Limits(llm=8))

    assert seconds == pytest.approx(35.0)  # ceil(50 / 8) rounds of 5 s
    assert report.stats.wall_seconds == pytest.approx(35.0)
    assert {round(event.seconds, 6) for event in events if isinstance(event, CallEnded)} == {5.0}
    first = next(event for event in events if isinstance(event, RunStarted))
    waits = sorted({round(event.queue_seconds) for event in events if isinstance(event, CallStarted)})
    assert waits[0] == 0
    assert all(event.time >= first.time for event in events)


def test_a_call_that_is_late_is_cancelled_at_its_deadline_and_retried_after_the_back_off() -> None:
    model = Model(100.0)
    policy = RetryPolicy(attempts=2, wait_initial=4.0, wait_max=4.0)
    report, events, seconds = virtually(model, 1, time_limits=TimeLimits(call=10.0), llm_retry=policy)

    (retry,) = [event for event in events if isinstance(event, RetryScheduled)]
    assert 2.0 <= retry.wait <= 4.0
    assert seconds == pytest.approx(10.0 + retry.wait + 10.0)
    assert model.started[1] - model.started[0] == pytest.approx(10.0 + retry.wait)
    assert isinstance(report.failures[0].error, errors.TransientBackendError)


def test_an_item_fails_at_its_deadline_also_while_its_call_is_queued() -> None:
    report, _, seconds = virtually(Model(7.0), 3, limits=Limits(llm=1), time_limits=TimeLimits(item=10.0))

    assert [outcome.ok for outcome in report.outcomes] == [True, False, False]
    assert seconds == pytest.approx(10.0)


def test_a_run_ends_at_its_time_limit() -> None:
    report, _, seconds = virtually(Model(1.0), 10, limits=Limits(llm=1), time_limits=TimeLimits(run=3.5))

    assert (report.stats.succeeded, report.stats.failed) == (3, 7)
    assert seconds == pytest.approx(3.5)
    assert report.stats.stopped_because == "the run's 3.5 s are up"


def test_calls_keep_to_a_rate_per_minute() -> None:
    model = Model(0.0)
    _, _, seconds = virtually(model, 121, limits=Limits(llm=50, requests_per_minute=60))

    assert seconds == pytest.approx(120.0, rel=0.03)  # the bucket lends one call, then one a second
    gaps = [after - before for before, after in zip(model.started, model.started[1:], strict=False)]
    assert min(gaps) >= 0.98


def test_calls_keep_to_a_rate_that_the_service_reports() -> None:
    left = RateLimitInfo(requests=RateLimitStatus(limit=60, remaining=0, reset=30.0))
    model = Model(0.1, rate_limit=left)
    virtually(model, 3, limits=Limits(llm=1))

    assert model.started[1] - model.started[0] >= 0.4  # not at once: the service said that nothing is left


def test_an_adaptive_limit_is_cut_by_refusals_and_dates_its_changes() -> None:
    def refuse(number: int) -> Exception | None:
        return errors.RateLimited("slow down") if 20 <= number < 24 else None

    report, _, seconds = virtually(
        Model(2.0, refuse), 100, limits=Limits(llm=AdaptiveLimit(min=1, start=4, max=64))
    )

    history = report.stats.limit_history
    assert [change.reason for change in history[:2]] == ["start", "slow_start"]
    assert "rate_limited" in {change.reason for change in history}
    times = [change.seconds for change in history]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= seconds
    assert report.stats.rate_limited == 4
    assert report.stats.succeeded == 100


def test_a_run_stops_after_exactly_the_seconds_of_nothing_but_refusals() -> None:
    model = Model(1.0, lambda number: errors.RateLimited("no"))
    report, _, seconds = virtually(
        model,
        4,
        limits=Limits(llm=2),
        llm_retry=RetryPolicy(wait_initial=1.0, wait_max=8.0, max_rate_limit_attempts=1000),
        stop=StopConditions(max_rate_limited_seconds=60.0),
    )

    assert report.stats.stopped_because == "the model refused everything for 60 s"
    assert 60.0 <= seconds <= 62.0


def test_a_stall_is_reported_after_the_given_seconds_and_then_after_twice_as_many() -> None:
    _, events, _ = virtually(Model(400.0), 1, time_limits=TimeLimits(stall_warning_after=60.0))

    stalls = [event for event in events if isinstance(event, Stalled)]
    assert [round(stall.seconds / 60) for stall in stalls] == [1, 2, 4]
    assert stalls[0].waits[0].reason == "response"


def test_a_task_sleeps_without_a_slot() -> None:
    def pausing(item: int) -> Flow[str]:
        yield from sleep(100.0)
        return (yield from ask(item))

    _, _, seconds = virtually(Model(1.0), 8, pausing, limits=Limits(llm=4))

    assert seconds == pytest.approx(102.0)

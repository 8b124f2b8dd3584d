"""
The time limits of items and runs bound whatever an item does, in every stage; what is late fails.

All on virtual time: on trio's MockClock, and for the drivers that block, on a clock that goes on when they wait.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from restaurant_llm_batch import (
    BatchReport,
    BatchRunner,
    ConcurrencyLimiter,
    Hit,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    SearchQuery,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._engine import mailbox
from restaurant_llm_batch._limits.wait_queue import CallbackTicket
from restaurant_llm_batch.steps import Flow, complete, gather, once, search_all, sleep

REQUEST = LLMRequest("ask", ({"role": "user", "content": "맛은?"},))
STAGES = {
    "stage 1": Strategy.stage(1),
    "stage 2": Strategy.stage(2),
    "stage 4": Strategy.stage(4),
    "threaded": Strategy.threaded(),
}
each_stage = pytest.mark.parametrize("stage", STAGES)


class Clock:
    """A clock that goes on when the driver of a blocking run waits, or when a blocking backend says so."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time

    def run_pending(self, of: mailbox.ThreadMailbox, timeout: float | None = None) -> None:
        """Do as `ThreadMailbox.run_pending`; if nothing is posted, let the time pass instead of waiting."""
        seconds = mailbox.POLL_INTERVAL if timeout is None else min(timeout, mailbox.POLL_INTERVAL)
        try:
            action = of.posted.popleft()
        except IndexError:
            self.time += seconds
            return
        action()


class Model:
    """Takes some virtual seconds for an answer."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds = seconds
        self.clock = clock
        self.calls = 0

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.calls += 1
        self.clock.time += self.seconds
        return LLMResponse("답")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        self.calls += 1
        await trio.sleep(self.seconds)
        return LLMResponse("답")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("restaurant_llm_batch._runner.runner.thread_clock", clock)
    monkeypatch.setattr(
        mailbox.ThreadMailbox, "run_pending", lambda self, timeout=None: clock.run_pending(self, timeout)
    )
    return clock


def run(
    stage: str, clock: Clock, task: Any, items: int = 1, llm: Any = None, **options: Any
) -> tuple[BatchReport[Any], float]:
    """Run on virtual time; return the report, and the seconds that it took."""
    runner = BatchRunner(llm=llm or Model(0.0, clock), strategy=STAGES[stage], **options)
    if stage in ("stage 1", "threaded"):
        started = clock()
        report = runner.run(task, range(items))
        return report, clock() - started

    async def main() -> tuple[BatchReport[Any], float]:
        started = trio.current_time()
        report = await runner.arun(task, range(items))
        return report, trio.current_time() - started

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def nap(seconds: float) -> Any:
    def flow(item: int) -> Flow[str]:
        yield from sleep(seconds)
        return "rested"

    return flow


def kinds(report: BatchReport[Any]) -> list[str]:
    return [type(failure.error).__name__ for failure in report.failures]


@each_stage
@pytest.mark.parametrize("seconds", [3.0, 1e9])
def test_an_item_that_sleeps_fails_at_its_deadline(stage: str, seconds: float, clock: Clock) -> None:
    report, took = run(stage, clock, nap(seconds), time_limits=TimeLimits(item=0.5))

    assert kinds(report) == ["DeadlineExceeded"]
    assert report.failures[0].stage == "task"
    assert took == pytest.approx(0.5)


@each_stage
@pytest.mark.parametrize("seconds", [3.0, 1e9])
def test_a_run_whose_items_sleep_ends_at_its_time_limit(stage: str, seconds: float, clock: Clock) -> None:
    report, took = run(stage, clock, nap(seconds), 3, time_limits=TimeLimits(run=0.5))

    assert set(kinds(report)) == {"RunStopped"}
    assert report.stats.stopped_because == "the run's 0.5 s are up"
    assert took == pytest.approx(0.5)


@each_stage
def test_a_sleep_that_ends_in_time_is_not_touched(stage: str, clock: Clock) -> None:
    report, took = run(stage, clock, nap(0.4), time_limits=TimeLimits(item=0.5, run=0.6))

    assert report.results == ["rested"]
    assert took == pytest.approx(0.4)


@each_stage
def test_sleeps_within_other_steps_are_bounded_too(stage: str, clock: Clock) -> None:
    def flow(item: int) -> Flow[list[str]]:
        shared = yield from once("key", lambda: nap(0.2)(item))
        gathered = yield from gather(nap(0.1)(item), nap(9.0)(item))
        return [shared, *(type(result).__name__ for result in gathered)]

    report, took = run(stage, clock, flow, time_limits=TimeLimits(item=1.0))

    assert report.results == [["rested", "str", "DeadlineExceeded"]]
    assert took == pytest.approx(1.0)


def test_a_call_that_comes_back_too_late_fails_its_item_in_stage_one(clock: Clock) -> None:
    model = Model(2.0, clock)
    report, _ = run(
        "stage 1", clock, lambda item: complete(REQUEST), 2, model, time_limits=TimeLimits(item=1.5)
    )

    assert kinds(report) == ["DeadlineExceeded"] * 2
    assert report.failures[0].stage == "llm"
    assert model.calls == 2  # each was made once: the model was paid
    assert report.stats.calls["llm"] == 2


def test_a_call_that_comes_back_after_the_end_of_its_run_fails_in_stage_one(clock: Clock) -> None:
    model = Model(1.0, clock)
    report, _ = run(
        "stage 1", clock, lambda item: complete(REQUEST), 9, model, time_limits=TimeLimits(run=2.5)
    )

    assert [outcome.ok for outcome in report.outcomes] == [True, True, False]
    assert kinds(report) == ["RunStopped"]
    assert model.calls == 3


@pytest.mark.parametrize(
    ("limit", "error"), [({"item": 2.0}, "DeadlineExceeded"), ({"run": 2.0}, "RunStopped")]
)
@pytest.mark.parametrize("stage", ["stage 1", "threaded"])
def test_waiting_for_a_slot_that_another_run_holds_is_bounded(
    stage: str, limit: dict[str, float], error: str, clock: Clock
) -> None:
    limiter = ConcurrencyLimiter(1)
    limiter.enqueue(CallbackTicket(lambda: None))  # of another run, which does not give it back
    report, took = run(
        stage,
        clock,
        lambda item: complete(REQUEST),
        limits=Limits(llm=limiter),
        time_limits=TimeLimits(**limit),
    )

    assert kinds(report) == [error]
    assert took == pytest.approx(2.0)
    assert limiter.statistics().waiting == 0


def test_an_item_that_waits_for_the_flow_of_another_one_fails_at_its_deadline(clock: Clock) -> None:
    def flow(item: int) -> Flow[str]:
        if item == 0:
            yield from sleep(6.0)  # so that the other one, which enters later, runs the shared flow
        elif item == 1:
            yield from sleep(5.0)
            return "left"
        rested: str = yield from once("key", lambda: nap(8.0)(item))
        return rested

    report, took = run(
        "stage 4", clock, flow, 3, limits=Limits(open_items=2), time_limits=TimeLimits(item=10.0)
    )

    assert [outcome.ok for outcome in report.outcomes] == [False, True, True]
    assert kinds(report) == ["DeadlineExceeded"]
    assert took == pytest.approx(13.0)


@each_stage
def test_the_wait_after_a_failed_round_trip_of_searches_is_bounded(stage: str, clock: Clock) -> None:
    class Search:
        def search(self, query: SearchQuery) -> list[Hit]:
            return []

        async def asearch(self, query: SearchQuery) -> list[Hit]:
            return []

        def search_many(self, queries: Any) -> list[list[Hit]]:
            raise errors.TransientBackendError("busy", retry_after=60)

        async def asearch_many(self, queries: Any) -> list[list[Hit]]:
            raise errors.TransientBackendError("busy", retry_after=60)

    def flow(item: int) -> Flow[Any]:
        return (yield from search_all([SearchQuery(1, "맛"), SearchQuery(1, "값")]))

    options: dict[str, Any] = {"search": Search(), "search_retry": RetryPolicy(wait_max=90)}
    report, took = run(stage, clock, flow, time_limits=TimeLimits(item=5), **options)
    assert took <= 5
    assert kinds(report) == (
        ["DeadlineExceeded"] if stage in ("stage 2", "stage 4") else []
    )  # the others use no round trip

    report, took = run(stage, clock, flow, time_limits=TimeLimits(run=5), **options)
    assert took <= 5

"""Events tell calls apart, and say what each waited for, what it asked, and how the limits changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Limits,
    LLMRequest,
    RetryPolicy,
    SearchQuery,
    Strategy,
    SummarizeAspects,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._config.limits import make_limiters
from restaurant_llm_batch._limits.limiters import LimitWatch
from restaurant_llm_batch._limits.wait_queue import CallbackTicket
from restaurant_llm_batch.events import (
    CacheHit,
    CallEnded,
    CallStarted,
    Event,
    ItemStarted,
    LateReply,
    LimitChanged,
    RetryScheduled,
    RunEnded,
    RunStarted,
)
from restaurant_llm_batch.simulation import SimulatedServer
from restaurant_llm_batch.steps import Flow, complete, gather, sleep
from restaurant_llm_batch.testing import FakeLLM, FakeSearch


class Watch(list[Event]):
    """An observer that keeps all events, and perhaps wants requests."""

    def __init__(self, *, wants_requests: bool = False) -> None:
        super().__init__()
        self.wants_requests = wants_requests

    __call__ = list.append

    def of(self, kind: type) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


def twins(item: int) -> Flow[list[Any]]:
    """Make two calls at once that look alike."""
    request = LLMRequest("dish", ({"role": "user", "content": "Name a dish."},))
    return (yield from gather(complete(request), complete(request)))


@each_strategy
def test_every_attempt_of_a_call_has_its_number_and_no_other_call_has(strategy: Strategy) -> None:
    watch = Watch()
    failing: list[int] = []

    def answer(request: LLMRequest) -> str:
        failing.append(1)
        if len(failing) % 3 == 1:
            raise errors.TransientBackendError("down")
        return "국수"

    at_once = RetryPolicy(attempts=9, wait_initial=0.0, wait_max=0.0)
    BatchRunner(llm=FakeLLM(answer=answer), strategy=strategy, llm_retry=at_once, observers=[watch]).run(
        twins, range(5)
    )
    started = [(event.call, event.attempt) for event in watch.of(CallStarted)]

    assert len(set(started)) == len(started)
    assert sorted((event.call, event.attempt) for event in watch.of(CallEnded)) == sorted(started)
    assert {call for call, _ in started} == set(range(1, 11))
    for event in watch.of(RetryScheduled):
        assert (event.call, event.attempt + 1) in started
    assert sorted(event.position for event in watch.of(ItemStarted)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("wants", [False, True])
def test_requests_and_hits_are_passed_to_those_who_want_them(wants: bool, tmp_path: Path) -> None:
    search = FakeSearch({1: ["맛있어요"]})
    key = None
    for hits in (0, 1):
        watch = Watch(wants_requests=wants)
        BatchRunner(llm=FakeLLM(), search=search, store=tmp_path / "s.db", observers=[watch]).run(
            SummarizeAspects(), [1]
        )
        by_stage = {event.stage: event for event in watch.of(CallStarted)}
        assert isinstance(by_stage["search"].request, SearchQuery) is wants
        ended = {event.stage: event for event in watch.of(CallEnded)}
        assert (ended["search"].hits is not None) is wants
        if hits:
            (hit,) = watch.of(CacheHit)
            assert (hit.request is not None) is wants
            assert hit.call not in {event.call for event in watch.of(CallStarted)}
            assert hit.key == key
        else:
            key = by_stage["llm"].key
            assert isinstance(by_stage["llm"].request, LLMRequest) is wants
            assert isinstance(key, bytes)
            assert by_stage["search"].key is None


def test_without_a_store_a_call_has_no_key() -> None:
    watch = Watch()
    BatchRunner(llm=FakeLLM(), observers=[watch]).run(twins, [1])
    assert {event.key for event in watch.of(CallStarted)} == {None}


@pytest.mark.parametrize(
    ("limits", "minute", "slot"),
    [
        (Limits(llm=1, open_items=8), False, True),
        (Limits(llm=8, open_items=8, requests_per_minute=2), True, False),
        (Limits(llm=2, open_items=8, requests_per_minute=3), True, True),
    ],
)
def test_the_wait_for_a_minute_is_told_from_the_wait_for_a_slot(
    limits: Limits, minute: bool, slot: bool
) -> None:
    watch = Watch()
    runner = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4), limits=limits)
    runner.simulate(twins, range(4), SimulatedServer(latency=1.0), observers=[watch])
    waits = [
        (event.rate_seconds, event.queue_seconds - event.rate_seconds) for event in watch.of(CallStarted)
    ]

    assert any(rate > 1.0 for rate, _ in waits) is minute
    assert any(of_slot > 0.5 for _, of_slot in waits) is slot
    assert all(rate >= 0.0 and of_slot >= -1e-9 for rate, of_slot in waits)


def test_a_reply_that_comes_too_late_is_an_event_of_its_own() -> None:
    watch = Watch()

    def patient(item: int) -> Flow[Any]:
        found = yield from gather(complete(LLMRequest("dish", ({"role": "user", "content": "?"},))))
        yield from sleep(0.3)
        return str(found)

    BatchRunner(
        llm=FakeLLM(seconds=0.15),
        strategy=Strategy.threaded(),
        time_limits=TimeLimits(call=0.03),
        observers=[watch],
    ).run(patient, [1])
    (late,) = watch.of(LateReply)
    (ended,) = watch.of(CallEnded)

    assert (late.call, late.attempt, late.item_id) == (ended.call, ended.attempt, 1)
    assert late.reply.text
    assert isinstance(watch[-1], RunEnded)


@pytest.mark.parametrize("slots", [3, 12, 1000])
def test_the_changes_of_an_adaptive_limit_are_those_of_the_statistics(slots: int) -> None:
    watch = Watch()
    runner = BatchRunner(
        llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(llm=AdaptiveLimit(start=2, max=40))
    )
    server = SimulatedServer(latency=1.0, slots=slots, overload="refuse")
    report = runner.simulate(twins, range(60), server, observers=[watch]).report
    changes = [(event.limiter, event.limit, event.reason) for event in watch.of(LimitChanged)]

    assert changes == [(one.limiter, one.limit, one.reason) for one in report.stats.limit_history]
    assert isinstance(watch[0], RunStarted)
    assert isinstance(watch[1], LimitChanged)
    assert isinstance(watch[-1], RunEnded)


def test_a_limit_that_is_a_number_has_no_changes() -> None:
    watch = Watch()
    BatchRunner(llm=FakeLLM(), observers=[watch]).run(twins, [1])
    assert watch.of(LimitChanged) == []


def test_a_watch_of_limits_returns_each_change_once_in_order() -> None:
    limiters = make_limiters(Limits(llm=AdaptiveLimit(start=2, max=9), batches=AdaptiveLimit(start=3)))
    watch = LimitWatch(limiters)
    assert [(name, change.limit, change.reason) for name, change in watch.changes()] == [
        ("llm", 2, "start"),
        ("batches", 3, "start"),
    ]
    assert list(watch.changes()) == []
    (limiter, *_), clock = limiters.llm, iter(range(100))
    for _ in range(3):
        tickets = [CallbackTicket(lambda: True) for _ in range(limiter.limit)]
        for ticket in tickets:
            limiter.enqueue(ticket)
        limiter.release(tickets[-1], "success", lambda: float(next(clock)))
        for ticket in tickets:
            limiter.release(ticket, "other", lambda: 0.0)
    assert [change.limit for _, change in watch.changes()] == [3, 4, 5]
    assert list(watch.changes()) == []

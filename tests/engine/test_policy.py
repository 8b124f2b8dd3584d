"""The policy flows, without loop, clock or fake: steps in, steps out."""

from __future__ import annotations

from collections.abc import Generator
from random import Random
from typing import Any

import pytest

from restaurant_llm_batch import (
    ConcurrencyLimiter,
    Hit,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    SearchQuery,
    errors,
    estimate_tokens,
)
from restaurant_llm_batch._engine.call import Call
from restaurant_llm_batch._engine.items import FunctionTask, RunItem
from restaurant_llm_batch._engine.packer import BatchPacker
from restaurant_llm_batch._engine.plan import BackendMethod, ExecutionPlan
from restaurant_llm_batch._engine.policy import run_item
from restaurant_llm_batch._engine.run import RunConfig, RunState
from restaurant_llm_batch._limits.limiters import LimiterSet
from restaurant_llm_batch._limits.rate import RateLimiter
from restaurant_llm_batch.steps import Gather, Sleep, complete, gather, search, search_all, sleep

REQUEST = LLMRequest("t", ())
QUERIES = [SearchQuery(1, "a"), SearchQuery(1, "b"), SearchQuery(1, "c")]
HITS = [Hit("r", "text", 1.0, 1)]
REPLY = LLMResponse("yes")


def line(name: str) -> BackendMethod:
    return BackendMethod(lambda argument: name, is_async=False)


def open_flow(
    function: Any,
    *,
    side_by_side: bool = True,
    many: bool = False,
    searches: bool = True,
    search_limit: int = 50,
) -> tuple[Generator[Any, Any, Any], RunState, RunItem]:
    plan = ExecutionPlan(
        search=line("search") if searches else None,
        search_many=line("search_many") if many else None,
        llm=line("llm"),
        concurrent_searches=side_by_side,
        concurrent_flows=side_by_side,
        concurrent_items=False,
    )
    gates = LimiterSet(
        ConcurrencyLimiter(search_limit),
        ConcurrencyLimiter(8),
        ConcurrencyLimiter(20),
        ConcurrencyLimiter(10),
        None,
        RateLimiter(None, None),
    )
    retry = RetryPolicy(attempts=3, wait_initial=1.0, max_rate_limit_attempts=4)
    retries: Any = {"search": retry, "llm": retry}
    packer = BatchPacker(Limits(), estimate_tokens)
    config = RunConfig(plan, gates, packer, retries, iter(range(9)).__next__)
    run = RunState(1, FunctionTask(function), config, lambda: 0.0, Random(0))
    entry = RunItem(0, 1, 5, 1)
    return run_item(entry, run), run, entry


def ended(flow: Generator[Any, Any, Any], answer: Any) -> Any:
    with pytest.raises(StopIteration) as stop:
        flow.send(answer)
    return stop.value.value


def ask_once(item: int) -> Any:
    reply = yield from complete(REQUEST)
    return reply.text


def test_a_transient_error_is_followed_by_a_pause_and_another_try() -> None:
    flow, _, entry = open_flow(ask_once)
    first = next(flow)
    rest = flow.throw(errors.TransientBackendError("lost"))
    second = flow.send(None)

    assert (first.spec.stage, first.attempt, second.attempt) == ("llm", 1, 2)
    assert isinstance(rest, Sleep)
    assert 0.5 <= rest.seconds <= 1.0
    assert first is not second
    assert ended(flow, REPLY) == "yes"
    assert entry.retried == [(REPLY, 2)]


def test_after_the_last_attempt_the_error_reaches_the_task() -> None:
    flow, _, entry = open_flow(ask_once)
    next(flow)
    for _ in range(2):
        flow.throw(errors.TransientBackendError("lost"))
        flow.send(None)
    with pytest.raises(errors.TransientBackendError, match="the third") as raised:
        flow.throw(errors.TransientBackendError("the third"))

    assert entry.errors == [(raised.value, "llm", 3)]


def test_refusals_use_up_no_attempt() -> None:
    flow, _, _ = open_flow(ask_once)
    call = next(flow)
    for _ in range(3):
        assert isinstance(flow.throw(errors.RateLimited("429")), Sleep)
        call = flow.send(None)
    for _ in range(2):
        assert isinstance(flow.throw(errors.TransientBackendError("500")), Sleep)
        call = flow.send(None)

    assert call.attempt == 6
    assert ended(flow, REPLY) == "yes"


def test_a_permanent_error_and_a_bug_are_not_tried_again() -> None:
    for error in (errors.PermanentBackendError("400"), KeyError("a bug")):
        flow, _, _ = open_flow(ask_once)
        next(flow)
        with pytest.raises(type(error)):
            flow.throw(error)


@pytest.mark.parametrize("error", [errors.AuthenticationFailed("401"), errors.QuotaExhausted("credit")])
def test_authentication_and_quota_stop_the_run(error: Exception) -> None:
    flow, run, _ = open_flow(ask_once)
    next(flow)
    with pytest.raises(type(error)):
        flow.throw(error)
    other, _, _ = open_flow(ask_once)

    assert run.stopped is error
    assert isinstance(next(other), Call)
    stopped = run_item(RunItem(1, 2, 0, 2), run)
    with pytest.raises(errors.RunStopped) as raised:
        next(stopped)
    assert raised.value.__cause__ is error


def test_calls_carry_priority_sequence_and_their_limiters() -> None:
    def both(item: int) -> Any:
        yield from complete(REQUEST)
        yield from complete(REQUEST, limiter="batches")

    flow, run, entry = open_flow(both)
    run.enter_window(entry)
    first = next(flow)
    second = flow.send(REPLY)

    assert (first.priority, first.sequence) == (5, entry.sequence)
    assert [gate.limit for gate in first._limiters] == [8, 10]
    assert [gate.limit for gate in second._limiters] == [20, 10]


def find_all(item: int) -> Any:
    return (yield from search_all(QUERIES))


def test_searches_are_concurrent_or_sequential_as_the_plan_says() -> None:
    flow, _, _ = open_flow(find_all)
    step = next(flow)
    assert isinstance(step, Gather)
    assert [next(child).argument for child in step.flows] == QUERIES

    flow, _, _ = open_flow(find_all, side_by_side=False)
    asked = [next(flow), flow.send(HITS), flow.throw(errors.PermanentBackendError("b"))]
    assert [call.argument for call in asked] == QUERIES
    found = ended(flow, HITS)
    assert found[0] == found[2] == HITS
    assert isinstance(found[1], errors.PermanentBackendError)


def test_several_searches_go_out_as_one_round_trip_of_as_many_slots() -> None:
    flow, _, _ = open_flow(find_all, many=True)
    call = next(flow)

    assert (call.label, call.spec.permits, call.argument) == ("search_many", 3, tuple(QUERIES))
    assert ended(flow, [HITS, [], HITS]) == [HITS, [], HITS]


def test_a_round_trip_is_never_wider_than_the_limit() -> None:
    flow, _, _ = open_flow(find_all, many=True, search_limit=2)
    step = next(flow)
    calls = [next(child) for child in step.flows]

    assert [call.spec.permits for call in calls] == [2, 1]


@pytest.mark.parametrize("answer", [errors.TransientBackendError("down"), [HITS]])
def test_a_failed_or_short_round_trip_falls_back_to_single_searches(answer: Any) -> None:
    flow, _, _ = open_flow(find_all, many=True)
    next(flow)
    step = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
    if isinstance(answer, Exception):
        assert isinstance(step, Sleep)
        step = flow.send(None)

    assert [next(child).label for child in step.flows] == ["search"] * 3


def test_a_refused_round_trip_waits_as_long_as_it_was_told() -> None:
    flow, _, _ = open_flow(find_all, many=True)
    next(flow)
    step = flow.throw(errors.RateLimited("429", retry_after=7.0))

    assert isinstance(step, Sleep)
    assert step.seconds >= 7.0


def test_gather_of_something_else_says_what_to_write() -> None:
    def lists(item: int) -> Any:
        return (yield from gather([complete(REQUEST)]))  # type: ignore[arg-type]

    flow, _, _ = open_flow(lists)
    with pytest.raises(errors.ConfigurationError, match=r"gather\(complete"):
        next(flow)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), None, "1"])
def test_a_pause_of_no_length_of_time_is_refused(seconds: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="number of seconds"):
        Sleep(seconds)


def test_gather_is_sequential_where_nothing_is_concurrent() -> None:
    def both(item: int) -> Any:
        return (yield from gather(complete(REQUEST), sleep(2.0), complete(REQUEST)))

    flow, _, _ = open_flow(both, side_by_side=False)
    assert isinstance(next(flow), Call)
    assert flow.throw(KeyError("first")) == Sleep(2.0)
    assert isinstance(flow.send(None), Call)
    results = ended(flow, REPLY)

    assert isinstance(results[0], KeyError)
    assert results[1:] == [None, REPLY]


def test_closing_closes_the_tasks_flow() -> None:
    closed = []

    def careful(item: int) -> Any:
        try:
            yield from complete(REQUEST)
        finally:
            closed.append(item)

    flow, _, _ = open_flow(careful)
    next(flow)
    flow.close()

    assert closed == [1]


def test_searching_without_a_search_backend_says_what_to_write() -> None:
    def find(item: int) -> Any:
        return (yield from search(QUERIES[0]))

    flow, _, _ = open_flow(find, searches=False)
    with pytest.raises(errors.ConfigurationError, match=r"BatchRunner\(search="):
        next(flow)


def test_yielding_something_else_says_what_to_write() -> None:
    def lost(item: int) -> Any:
        yield "hello"

    flow, _, _ = open_flow(lost)
    with pytest.raises(errors.ConfigurationError, match="not a step"):
        next(flow)
    plain, _, _ = open_flow(lambda item: 3)
    with pytest.raises(errors.ConfigurationError, match="generator function"):
        next(plain)

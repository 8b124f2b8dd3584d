"""Tests of the advice of a plan: warnings of what will fail, and limits that suit a server better."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, ConcurrencyLimiter, Limits, LLMRequest, Strategy
from restaurant_llm_batch.simulation import Plan, SimulatedServer, TokenSpeed
from restaurant_llm_batch.steps import complete


class NeverCalled:
    """A model that must not be called."""

    model = "never"

    def complete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")

    async def acomplete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")


def dish(item: int) -> Generator[Any, Any, str]:
    message = {"role": "user", "content": f"Name dish {item}."}
    reply = yield from complete(LLMRequest("dish", (message,), max_tokens=100))
    return str(reply.text)


def plan(limits: Limits = Limits(), items: int = 60, **arguments: Any) -> Plan:
    strategy = arguments.pop("strategy", Strategy.stage(4))
    runner = BatchRunner(llm=NeverCalled(), strategy=strategy, limits=limits, count_tokens=lambda text: 500)
    return runner.plan(dish, range(items), **arguments)


def said(plan: Plan, words: str) -> bool:
    return any(words in warning for warning in plan.warnings)


@pytest.mark.sample(1)
@pytest.mark.parametrize("slots", [4, 16])
def test_limits_that_drown_a_server_are_said_and_its_slots_suggested(slots: int) -> None:
    server = SimulatedServer(latency=0.5, slots=slots, overload="refuse")
    found = plan(Limits(llm=60), server=server)

    assert said(found, "the limits drown the server")
    assert found.suggested_limits.llm == slots
    better = plan(found.suggested_limits, server=server)
    assert better.seconds <= found.seconds
    assert not said(better, "drown")


def test_calls_that_wait_at_the_server_are_said() -> None:
    found = plan(Limits(llm=60), server=SimulatedServer(latency=0.5, slots=10))

    assert said(found, "60 calls go, but the server works on 10 at once")
    assert found.suggested_limits.llm == 10


@pytest.mark.sample(1)
@pytest.mark.parametrize("limit", [2, AdaptiveLimit(max=2, start=2), ConcurrencyLimiter(2)])
def test_limits_that_leave_a_server_idle_are_said(limit: Any) -> None:
    server = SimulatedServer(latency=0.5, slots=16)
    found = plan(Limits(llm=limit), server=server)

    assert said(found, "leave the server idle: double the calls in flight take 50%")
    assert plan(found.suggested_limits, server=server).seconds < 0.2 * found.seconds


def test_limits_that_suit_the_server_are_kept() -> None:
    limits = Limits(llm=16, batches=16, llm_total=16)
    found = plan(limits, server=SimulatedServer(latency=0.5, slots=16))

    assert found.suggested_limits == limits
    assert not said(found, "limits")


def test_without_a_server_nothing_is_said_of_the_limits() -> None:
    found = plan(Limits(llm=3))

    assert found.suggested_limits == Limits(llm=3)
    assert not said(found, "limits")
    assert "a call taken to last 0.8 s" in str(found)


def test_items_that_fail_at_the_server_are_counted() -> None:
    server = SimulatedServer(latency=0.1, faults={"bad_request": 0.3})

    assert said(plan(server=server), "that were played fail at the given server")


def test_limits_per_minute_of_the_server_are_suggested() -> None:
    server = SimulatedServer(latency=0.1, requests_per_minute=60, tokens_per_minute=100_000)
    suggested = plan(server=server).suggested_limits

    assert (suggested.requests_per_minute, suggested.tokens_per_minute) == (60, 100_000)


def test_a_cache_that_overflows_is_said() -> None:
    server = SimulatedServer(latency=TokenSpeed(20_000, 50), kv_tokens=4_000, answer_tokens=None)
    found = plan(Limits(llm=40), server=server)

    assert found.kv_tokens == 4_000
    assert found.tokens_in_flight.high > 4_000
    assert said(found, "the server's cache holds 4,000: set tokens_in_flight=4000")
    assert found.suggested_limits.tokens_in_flight == 4_000
    fits = plan(Limits(llm=40, tokens_in_flight=4_000), server=server)
    assert fits.tokens_in_flight.high <= 4_000
    assert not said(fits, "hold")


def test_a_budget_of_tokens_smaller_than_a_call_is_said() -> None:
    assert said(plan(Limits(tokens_in_flight=300)), "and the budget of calls in flight is 300: it runs alone")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("context", "over", "no_room"), [(400, 60, 0), (507, 60, 0), (550, 0, 60), (8_192, 0, 0), (None, 0, 0)]
)
def test_prompts_over_the_context_are_counted(context: int | None, over: int, no_room: int) -> None:
    found = plan(context=context)

    assert (found.over_context, found.no_room) == (over, no_room)
    assert said(found, "will be refused") == bool(over)
    assert said(found, "do not fit") == bool(no_room)


def test_the_context_is_the_least_of_what_is_known() -> None:
    class Told(NeverCalled):
        context_length = 400

    told = BatchRunner(llm=Told(), count_tokens=lambda text: 500).plan(dish, [1])
    assert (told.context, told.over_context) == (400, 1)
    assert plan(context=9_000, server=SimulatedServer(kv_tokens=5_000), items=1).context == 5_000
    assert plan(context=100, items=1).suggested_limits.max_tokens_per_batch == 100


@pytest.mark.sample(2)
@pytest.mark.parametrize(("stage", "warns"), [(1, True), (2, True), (3, True), (4, False)])
def test_a_strategy_that_runs_one_item_after_the_other_is_said(stage: Any, warns: bool) -> None:
    found = plan(strategy=Strategy.stage(stage), items=20)

    assert said(found, "Strategy.stage(4) would take 2.4 s instead of 16 s") == warns
    assert not said(plan(strategy=Strategy.stage(stage), items=1), "Strategy")


@pytest.mark.parametrize(("longest", "named"), [(20_000, True), (2_100, False), (500, False)])
def test_a_prompt_that_is_much_larger_than_all_others_is_named(longest: int, named: bool) -> None:
    def ask(item: int) -> Generator[Any, Any, str]:
        message = {"role": "user", "content": "x" * (longest if item == 7 else 400)}
        reply = yield from complete(LLMRequest("dish", (message,), max_tokens=100))
        return str(reply.text)

    runner = BatchRunner(llm=NeverCalled(), strategy=Strategy.stage(4), count_tokens=len)
    found = runner.plan(ask, range(40))

    assert said(found, "the largest prompt of dish has") is named

"""A flow that is run once per run, for all items that ask for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.run_methods import (
    STRATEGIES,
    RunMethod,
    by_run,
    comparable,
    each_run_method,
    each_strategy,
    strategy_name,
)

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, RetryPolicy, Strategy, errors
from restaurant_llm_batch._engine import memo as engine_once
from restaurant_llm_batch.steps import complete, gather, once, sleep
from restaurant_llm_batch.testing import FakeLLM

IMPATIENT = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)


def ask(text: Any) -> LLMRequest:
    return LLMRequest("ask", ({"role": "user", "content": str(text)},), inputs={"text": text})


def shared(item: int) -> Any:
    """Ask what all items of a kind share, then what is this item's own."""
    common = yield from once(("kind", item % 3), lambda: complete(ask(f"kind {item % 3}")))
    own = yield from complete(ask(item))
    return common.text, own.text


def echo(request: LLMRequest) -> str:
    return str(request.inputs["text"])


@each_run_method
@each_strategy
def test_it_is_run_once_for_all_in_every_mode(strategy: Strategy, way: RunMethod) -> None:
    llm = FakeLLM(answer=echo)
    outcomes = comparable(
        way(BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=4)), shared, list(range(12)))
    )

    assert outcomes == [(n, n, (f"kind {n % 3}", str(n))) for n in range(12)]
    assert llm.calls == 12 + 3


@each_strategy
def test_its_failure_is_everyones_with_stage_and_attempts(strategy: Strategy) -> None:
    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        return errors.TransientBackendError("down") if request.inputs["text"] == "kind 1" else None

    llm = FakeLLM(answer=echo, fault=fault)
    runner = BatchRunner(llm=llm, strategy=strategy, llm_retry=IMPATIENT)
    outcomes = comparable(by_run(runner, shared, list(range(6))))

    assert [row for row in outcomes if len(row) == 5] == [  # type: ignore[arg-type]
        (n, n, errors.TransientBackendError, "llm", 3) for n in (1, 4)
    ]
    assert llm.calls == 4 + 2 + 3


def test_two_flows_of_one_item_share_it_too() -> None:
    def both(item: int) -> Any:
        return (yield from gather(*(once("key", lambda: complete(ask("k"))) for _ in range(3))))

    for strategy in STRATEGIES:
        llm = FakeLLM(answer=echo)
        (result,) = BatchRunner(llm=llm, strategy=strategy).run(both, [1]).results
        assert [reply.text for reply in result] == ["k", "k", "k"]
        assert llm.calls == 1


@each_strategy
def test_a_flow_that_asks_for_its_own_key_is_reported(strategy: Strategy) -> None:
    def loop(item: int) -> Any:
        return (yield from once("key", lambda: loop(item)))

    def around(item: int) -> Any:
        """Ask for the key in a part of the flow that runs for it."""
        (result,) = yield from gather(once("key", lambda: around(item)))
        if isinstance(result, Exception):
            raise result
        return result

    for flow in (loop, around):
        (failure,) = BatchRunner(llm=FakeLLM(), strategy=strategy).run(flow, [1]).failures

        assert isinstance(failure.error, errors.ConfigurationError)
        assert "own key" in str(failure.error)


@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=strategy_name)
def test_two_items_that_would_wait_for_each_other_end(strategy: Strategy) -> None:
    def flow(item: int) -> Any:
        outer, inner = ("a", "b") if item % 2 else ("b", "a")

        def make() -> Any:
            yield from complete(ask(outer))
            return (yield from once(inner, lambda: complete(ask(inner))))

        return (yield from once(outer, make)).text

    report = BatchRunner(llm=FakeLLM(answer=echo, seconds=0.01), strategy=strategy).run(flow, range(6))

    assert len(report.outcomes) == 6
    assert {type(failure.error) for failure in report.failures} <= {errors.ConfigurationError}


def test_a_shared_failure_keeps_nothing_of_those_who_share_it() -> None:
    def fail(item: int) -> Any:
        yield from once("key", lambda: complete(ask("x")))

    fault = errors.PermanentBackendError("no", status=400)
    llm = FakeLLM(fault=lambda request, attempt: fault)
    report = BatchRunner(llm=llm, strategy=Strategy.stage(4)).run(fail, range(300))
    depths = []
    for failure in report.failures:
        trace, depth = failure.error.__traceback__, 0
        while trace is not None:
            trace, depth = trace.tb_next, depth + 1
        depths.append(depth)

    assert llm.calls == 1
    assert {(type(f.error), f.error.status, f.stage, f.attempts) for f in report.failures} == {  # type: ignore[attr-defined]
        (errors.PermanentBackendError, 400, "llm", 1)
    }
    assert max(depths) < 30


def test_a_key_that_cannot_be_hashed_is_reported() -> None:
    def flow(item: int) -> Any:
        return (yield from once(["a", "list"], lambda: sleep(0)))  # type: ignore[arg-type]

    (failure,) = BatchRunner(llm=FakeLLM()).run(flow, [1]).failures

    assert "needs a hashable key" in str(failure.error)


@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=strategy_name)
def test_a_stop_of_the_run_ends_those_who_wait_as_well(strategy: Strategy) -> None:
    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        return errors.QuotaExhausted("spent") if request.inputs["text"] == "kind 0" else None

    runner = BatchRunner(llm=FakeLLM(answer=echo, fault=fault, seconds=0.01), strategy=strategy)
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(12):
            taken.append(item)
            yield item

    report = runner.run(shared, items())

    assert report.stats.stopped_because == "QuotaExhausted: spent"
    assert [outcome.item_id for outcome in report.outcomes] == taken  # on a slow machine, fewer than 12
    failed = {failure.item_id: type(failure.error) for failure in report.failures}
    assert {failed[n] for n in taken if n % 3 == 0} <= {errors.QuotaExhausted, errors.RunStopped}


@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=strategy_name)
def test_a_stream_that_is_left_leaves_nobody_waiting(strategy: Strategy) -> None:
    llm = FakeLLM(answer=echo, seconds=0.02)
    before = threading.active_count()
    with BatchRunner(llm=llm, strategy=strategy) as runner:
        stream = runner.stream(shared, iter(range(1000)))
        next(stream)
        stream.close()
        assert runner.run(shared, [0, 3]).results == [("kind 0", "0"), ("kind 0", "3")]

    assert threading.active_count() < before + 100


def test_results_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_once, "MAX_KEPT", 2)
    llm = FakeLLM(answer=echo)
    BatchRunner(llm=llm).run(shared, [0, 1, 2, 3, 6])

    # kind 0 was dropped when kind 2 came, and asked for again by item 3; item 6 found it
    assert llm.calls == 5 + 4


@pytest.mark.sample(1)
@each_strategy
def test_thousands_of_steps_that_need_no_waiting_are_fine(strategy: Strategy) -> None:
    def nothing(number: int) -> Any:
        yield from ()
        return number

    def flow(item: int) -> Any:
        total = 0
        for number in range(3000):
            total += yield from once(("number", number % 1500), lambda: nothing(number))  # noqa: B023
            total += sum((yield from gather(nothing(1), nothing(2))))  # type: ignore[arg-type]
        return total

    report = BatchRunner(llm=FakeLLM(), strategy=strategy).run(flow, [1, 2])

    assert report.results == [2 * sum(range(1500)) + 9000] * 2

"""Faults, stops and cancellations at any moment: no slot is lost, and no item has two outcomes or none."""

from __future__ import annotations

import threading
from typing import Any

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.patience import wait_until
from tests.support.run_methods import STRATEGIES

from restaurant_llm_batch import (
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    RetryPolicy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

FAULTS = [
    None,
    errors.TransientBackendError("500"),
    errors.RateLimited("429", retry_after=0.002),
    errors.PermanentBackendError("400"),
    errors.QuotaExhausted("no credit"),
    ValueError("a bug"),
]
chaotic = settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
plans = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(STRATEGIES),
        "mode": st.sampled_from(["single", "split"]),
        "items": st.integers(0, 25),
        "faults": st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 5]), min_size=7, max_size=7),
        "limits": st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9)),
        "seconds": st.sampled_from([0.0, 0.0005, 0.002]),
        "leave_after": st.integers(0, 30),
        "how": st.sampled_from(["read", "stop", "close", "stop from a thread"]),
        "lazy": st.booleans(),
    }
)


def make(plan: dict[str, Any]) -> tuple[BatchRunner, list[ConcurrencyLimiter], FakeLLM, FakeSearch]:
    def fault(request: Any, attempt: int) -> Exception | None:
        number = getattr(request, "restaurant_id", None)
        number = request.inputs["restaurant_id"] if number is None else number + 3
        return FAULTS[plan["faults"][number % 7]] if attempt == 1 else None

    search_limit, llm_limit, window = plan["limits"]
    gates = [ConcurrencyLimiter(search_limit), ConcurrencyLimiter(llm_limit)]
    llm = FakeLLM(seconds=plan["seconds"], fault=fault)
    search = FakeSearch(lambda name: ["맛있어요"], seconds=plan["seconds"], fault=fault)
    quick = RetryPolicy(wait_initial=0.001)
    limits = Limits(search=gates[0], llm=gates[1], open_items=window)
    runner = BatchRunner(
        llm=llm, search=search, strategy=plan["strategy"], limits=limits, search_retry=quick, llm_retry=quick
    )
    return runner, gates, llm, search


def check_outcomes_and_slots(
    outcomes: list[Any], taken: int, gates: list[ConcurrencyLimiter], llm: FakeLLM, search: FakeSearch
) -> None:
    assert sorted(outcome.index for outcome in outcomes) == list(range(taken))
    # Threads that were given up end by themselves, a little later.
    wait_until(lambda: not any(gate.statistics().in_flight for gate in gates))
    assert llm.in_flight == search.in_flight == 0
    for gate in gates:
        assert (gate.statistics().in_flight, gate.statistics().waiting) == (0, 0)
        assert gate.statistics().peak <= gate.limit


@chaotic
@given(plans)
def test_blocking_runs(plan: dict[str, Any]) -> None:
    runner, gates, llm, search = make(plan)
    taken: list[int] = []

    def items() -> Any:
        for item in range(plan["items"]):
            taken.append(item)
            yield item

    stream = runner.stream(
        SummarizeAspects(mode=plan["mode"]), items() if plan["lazy"] else range(plan["items"])
    )
    outcomes: list[Any] = []
    for outcome in stream:
        outcomes.append(outcome)
        if len(outcomes) == plan["leave_after"]:
            if plan["how"] == "stop":
                stream.stop()
            elif plan["how"] == "stop from a thread":
                threading.Thread(target=stream.stop).start()
            elif plan["how"] == "close":
                outcomes += stream.close()

    check_outcomes_and_slots(outcomes, len(taken) if plan["lazy"] else len(outcomes), gates, llm, search)


@chaotic
@given(plans, st.sampled_from(["asyncio", "trio"]))
def test_awaited_runs(plan: dict[str, Any], backend: str) -> None:
    runner, gates, llm, search = make(plan)
    taken: list[int] = []
    outcomes: list[Any] = []

    def items() -> Any:
        for item in range(plan["items"]):
            taken.append(item)
            yield item

    async def main() -> None:
        async with runner:
            stream = runner.astream(SummarizeAspects(mode=plan["mode"]), items())
            async for outcome in stream:
                outcomes.append(outcome)
                if len(outcomes) == plan["leave_after"]:
                    if plan["how"].startswith("stop"):
                        stream.stop()
                    elif plan["how"] == "close":
                        break
            else:
                assert sorted(outcome.index for outcome in outcomes) == taken

    anyio.run(main, backend=backend)
    check_outcomes_and_slots([], 0, gates, llm, search)
    assert len({outcome.index for outcome in outcomes}) == len(outcomes)


@chaotic
@given(plans, st.sampled_from(["asyncio", "trio"]), st.sampled_from([0.0, 0.001, 0.004]))
def test_cancelled_aruns(plan: dict[str, Any], backend: str, after: float) -> None:
    runner, gates, llm, search = make(plan)
    task = SummarizeAspects(mode=plan["mode"])

    async def main() -> None:
        with anyio.move_on_after(after):
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(runner.arun, task, range(number, plan["items"]))

    anyio.run(main, backend=backend)
    check_outcomes_and_slots([], 0, gates, llm, search)

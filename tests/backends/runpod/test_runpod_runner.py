"""Through the runner: the same outcomes in every mode, and no job left when a run is cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import anyio
import pytest
from tests.support.local_server import Say, Seen
from tests.support.patience import wait_until
from tests.support.run_methods import (
    RUN_METHODS,
    STRATEGIES,
    RunMethod,
    by_arun,
    by_run,
    comparable,
    strategy_name,
)
from tests.support.runpod_server import KEY, LOST, Dispatcher, End, Fault, Work, asking, completion

from restaurant_llm_batch import BatchRunner, Limits, RetryPolicy, Strategy
from restaurant_llm_batch.backends.runpod.llm import OperationLimit, PollingPolicy, RunPodLimits, RunPodLLM
from restaurant_llm_batch.steps import Flow, complete

ITEMS = list(range(50))
QUICK = PollingPolicy(wait_initial=0.002, multiplier=1.5, wait_max=0.02)
MANY = RunPodLimits(
    run=OperationLimit(100_000, 1000),
    status=OperationLimit(100_000, 1000),
    cancel=OperationLimit(100_000, 1000),
)
PATIENT = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)
EVERY_WAY = [(strategy, by_run) for strategy in STRATEGIES] + [
    (strategy, way)
    for strategy in (Strategy.stage(2), Strategy.stage(4))
    for way in RUN_METHODS
    if way is not by_run
]


def flow(item: int) -> Flow[str]:
    """Ask one thing."""
    reply = yield from complete(asking(item))
    return f"{reply.text} {reply.finish_reason}"


class Misfortunes:
    """What goes wrong, by what is asked and how often it was asked before; never by the order of calls."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.made: Counter[str] = Counter()

    def script(self, work: Work) -> End:
        """Say how a job ends."""
        question = work.question
        self.made[question] += 1
        if question == "3" and self.made[question] < 3:
            return End("FAILED", more={"error": "vLLM returned HTTP 503: busy"})
        if question == "5":
            return End("FAILED", more={"error": "vLLM returned HTTP 400: maximum context length"})
        if question in ("11", "13"):
            return End("CANCELLED" if question == "11" else "TIMED_OUT")
        if question == "17":
            return End("FAILED", more={"error": "vLLM server process is not running"})
        return End(more={"output": [completion(question, reason="length" if question == "15" else "stop")]})

    def faults(self, operation: str, count: int, seen: Seen) -> Fault | None:
        """Say what happens to a request."""
        if operation == "status" and count % 13 == 0:
            return Fault(Say(b"bad gateway", 502))
        if operation != "run":
            return None
        question = seen.json["input"]["openai_input"]["messages"][-1]["content"]
        if question == "9":
            return LOST
        if question == "7" and self.refused[question] < 4:
            self.refused[question] += 1
            return Fault(Say({"error": "slow down"}, 429))
        return Fault(Say(b"", 503)) if question == "19" else None


def outcomes(strategy: Strategy, way: RunMethod) -> list[object]:
    """Run all items once, on a fresh dispatcher."""
    misfortunes = Misfortunes()
    with Dispatcher(misfortunes.script, misfortunes.faults) as dispatcher:
        llm = RunPodLLM("ep", api_key=KEY, base_url=dispatcher.base_url, polling=QUICK, limits=MANY)
        runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=12), llm_retry=PATIENT)
        rows = comparable(way(runner, flow, ITEMS))
        llm.close()
        assert dispatcher.alive() == []
        assert dispatcher.doubled == []
        assert dispatcher.submissions["9"] == 1
    return rows


@pytest.mark.parametrize(
    ("strategy", "way"),
    EVERY_WAY,
    ids=lambda it: strategy_name(it) if isinstance(it, Strategy) else it.__name__,
)
@pytest.mark.sample(1)
def test_outcomes_are_equal_in_every_mode(strategy: Strategy, way: RunMethod) -> None:
    rows: dict[Any, Any] = {row[1]: row[2:] for row in outcomes(strategy, way) if isinstance(row, tuple)}

    failed = {item: (row[0].__name__, *row[1:]) for item, row in rows.items() if len(row) == 3}
    assert failed == {
        5: ("PromptTooLong", "llm", 1),
        9: ("SubmissionUnknown", "llm", 1),
        11: ("PermanentBackendError", "llm", 1),
        13: ("PermanentBackendError", "llm", 1),
        17: ("TransientBackendError", "llm", 3),
        19: ("TransientBackendError", "llm", 3),
    }
    assert {item: row[0] for item, row in rows.items() if len(row) == 1} == {
        item: f"{item} {'length' if item == 15 else 'stop'}" for item in ITEMS if item not in failed
    }


def wait_until_let_go(llm: RunPodLLM) -> None:
    """Wait for worker threads that nobody waits for."""
    wait_until(lambda: not llm._sync_runner._live_jobs._jobs)


CANCELLED = [*map(Strategy.stage, (1, 2, 3, 4)), Strategy.threaded()]


@pytest.mark.parametrize("natively", [False, True], ids=["by its scope", "by asyncio"])
@pytest.mark.parametrize("strategy", CANCELLED, ids=strategy_name)
@pytest.mark.sample(1)
def test_cancelling_a_run_at_any_moment_leaves_no_job(strategy: Strategy, natively: bool) -> None:
    random = Random(str(strategy))
    with Dispatcher(
        lambda work: End(after=60 if random.random() < 0.1 else 0.02, more={"output": completion()}),
        latency=0.003,
    ) as dispatcher:
        llm = RunPodLLM("ep", api_key=KEY, base_url=dispatcher.base_url, polling=QUICK, limits=MANY)
        runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=10))

        async def main() -> None:
            for seconds in sorted(random.random() * 0.2 for _ in range(6)):
                task = asyncio.create_task(runner.arun(flow, ITEMS))
                await asyncio.wait([task], timeout=seconds)
                while natively and not task.done():
                    task.cancel()
                    await asyncio.sleep(0.002)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

        async def by_scope() -> None:
            for seconds in sorted(random.random() * 0.2 for _ in range(6)):
                with anyio.move_on_after(seconds):
                    await runner.arun(flow, ITEMS)

        anyio.run(main if natively else by_scope)
        # Worker threads are let go, and cancel their jobs after the run has ended.
        wait_until_let_go(llm)
        assert dispatcher.alive() == []
        assert dispatcher.asked["cancel"] >= 1
        llm.close()


@pytest.mark.sample(2)
@pytest.mark.parametrize("strategy", CANCELLED, ids=strategy_name)
def test_leaving_a_stream_leaves_no_job(strategy: Strategy) -> None:
    with Dispatcher(lambda work: End(after=0.02, more={"output": completion()})) as dispatcher:
        llm = RunPodLLM("ep", api_key=KEY, base_url=dispatcher.base_url, polling=QUICK, limits=MANY)
        with BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=10)) as runner:
            for outcome in runner.stream(flow, iter(ITEMS)):
                assert outcome.ok
                break
        wait_until_let_go(llm)
        assert dispatcher.alive() == []
        llm.close()


def test_two_runners_share_a_backend_although_one_closes_it() -> None:
    with Dispatcher(lambda work: End(after=0.01, more={"output": completion()})) as dispatcher:
        llm = RunPodLLM("ep", api_key=KEY, base_url=dispatcher.base_url, polling=QUICK, limits=MANY)
        one, other = (BatchRunner(llm=llm, strategy=Strategy.stage(4)) for _ in range(2))

        async def main() -> None:
            async def again_and_again() -> None:
                for _ in range(20):
                    async with one:
                        assert not (await one.arun(flow, [1])).failures

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(again_and_again)
                report = await other.arun(flow, range(100, 200))
                assert not report.failures

        anyio.run(main)
        llm.close()
        assert by_arun(one, flow, [1])[0].ok
        assert dispatcher.doubled == []

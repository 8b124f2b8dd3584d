"""A real vLLM server that is too small: it refuses, preempts, and at last dies."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic
from typing import Any

import anyio
import pytest

from restaurant_llm_batch import BatchRunner, Limits, RetryPolicy, Strategy, Success, errors

from .conftest import StartVLLM
from .servers import Server, engine_processes
from .workload import PATIENT, TASK, Bounded, free, sample

QUEUE = 10


@pytest.fixture(scope="module")
def small(vllm_server: StartVLLM) -> Iterator[Server]:
    """Run a server that takes 10 requests at once, and has memory for about 3 of them."""
    flags = (
        "--max-num-queued-reqs",
        str(QUEUE),
        "--num-gpu-blocks-override",
        "14",
        "--max-model-len",
        "1536",
    )
    with vllm_server(*flags) as running:
        yield running


def test_a_full_queue_is_a_refusal_with_its_status(small: Server) -> None:
    llm = small.llm()

    def ask(number: int) -> object:
        try:
            return llm.complete(free(f"{number}", tokens=40)).finish_reason
        except errors.RateLimited as error:
            return type(error), error.status

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))

    assert set(answers) <= {"length", "stop", (errors.RateLimited, 503)}
    assert (errors.RateLimited, 503) in answers
    assert llm.metrics().rejections > 0


@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=["stage 4", "threaded"])
def test_a_runner_that_asks_for_too_much_loses_nothing(small: Server, strategy: Strategy) -> None:
    search, restaurants = sample()
    llm = small.llm()
    before = llm.metrics().rejections
    runner = BatchRunner(
        llm=Bounded(llm), search=search, strategy=strategy, limits=Limits(llm=30), llm_retry=PATIENT
    )
    report = runner.run(TASK, restaurants)

    assert [outcome.item_id for outcome in report.outcomes] == restaurants
    assert all(isinstance(outcome, Success) for outcome in report.outcomes)
    assert report.stats.retries > 0
    assert llm.metrics().rejections > before


def test_preempted_requests_are_answered_in_full(small: Server) -> None:
    llm = small.llm()
    before = llm.metrics()
    assert before.kv_tokens is not None
    requests = [
        replace(free(f"{number} 맛 " * 40, temperature=0.0), max_tokens=700) for number in range(QUEUE)
    ]

    async def main() -> list[Any]:
        replies: list[Any] = [None] * len(requests)

        async def one(number: int) -> None:
            replies[number] = await llm.acomplete(requests[number])

        async with anyio.create_task_group() as tasks:
            for number in range(len(requests)):
                tasks.start_soon(one, number)
        await llm.aclose()
        return replies

    replies = anyio.run(main)

    assert llm.metrics().preemptions > before.preemptions
    assert sum(reply.prompt_tokens + reply.completion_tokens for reply in replies) > before.kv_tokens
    assert [(reply.finish_reason, reply.completion_tokens) for reply in replies] == [("length", 700)] * QUEUE


def test_when_the_engine_dies_every_restaurant_is_told_so_and_the_run_ends(small: Server) -> None:
    """The last test of this file: the server does not survive it."""
    search, restaurants = sample()
    unlimited = replace(TASK, max_tokens=1000)
    impatient = RetryPolicy(attempts=2, wait_initial=0.05, wait_max=0.1)
    runner = BatchRunner(
        llm=small.llm(),
        search=search,
        strategy=Strategy.stage(4),
        limits=Limits(llm=8),
        llm_retry=impatient,
    )

    engine = engine_processes(small.process.pid)
    assert engine

    async def main() -> Any:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_kill_when_busy, small, engine)
            return await runner.arun(unlimited, restaurants)

    began = monotonic()
    report = anyio.run(main)

    assert monotonic() - began < 60
    assert [outcome.item_id for outcome in report.outcomes] == restaurants
    killed = [
        failure for failure in report.failures if isinstance(failure.error, errors.TransientBackendError)
    ]
    assert len(killed) >= 40  # a few may have been cut off at their limit before
    assert {failure.attempts for failure in killed} == {2}


async def _kill_when_busy(server: Server, engine: list[Any]) -> None:
    llm = server.llm()
    with anyio.fail_after(30):
        while (await llm.ametrics()).running < 3:
            await anyio.sleep(0.02)
    await llm.aclose()
    for process in engine:
        process.kill()  # as the kernel does when memory runs out

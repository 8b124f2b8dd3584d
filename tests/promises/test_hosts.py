"""`run` and `arun` work in a notebook, under uvloop, in a running loop, in a web service, after a fork."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.support.patience import PATIENCE
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.testing import FakeLLM, FakeSearch


def reviews(restaurant_id: object) -> list[str]:
    return ["맛있어요", "친절해요"]


def make(strategy: Strategy, seconds: float = 0.0) -> BatchRunner:
    llm, search = FakeLLM(seconds=seconds), FakeSearch(reviews)
    return BatchRunner(llm=llm, search=search, strategy=strategy, limits=Limits(llm=4))


CELL = """
import asyncio
assert asyncio.get_event_loop().is_running()
from restaurant_llm_batch import BatchRunner, Strategy, SummarizeAspects
from restaurant_llm_batch.testing import FakeLLM, FakeSearch
counts = []
for strategy in [Strategy.stage(n) for n in (1, 2, 3, 4)] + [Strategy.threaded()]:
    runner = BatchRunner(llm=FakeLLM(), search=FakeSearch(lambda name: ["맛있어요"]), strategy=strategy)
    counts.append(len(runner.run(SummarizeAspects(), range(5)).results))
    counts.append(len([o for o in runner.stream(SummarizeAspects(), range(5)) if o.ok]))
    counts.append(len((await runner.arun(SummarizeAspects(), range(5))).results))
    async with runner:
        counts.append(len([o async for o in runner.astream(SummarizeAspects(), range(5))]))
print(counts)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_sync_and_async_code_of_every_stage_runs_in_a_notebook_cell(kernel: Any) -> None:
    said: list[str] = []

    def hear(message: Any) -> None:
        content = message["content"]
        said.append(content.get("text") or "\n".join(content.get("traceback", [])))

    kernel.execute_interactive(CELL, output_hook=hear, timeout=50)

    assert "".join(said).strip() == str([5] * 20)


@each_strategy
def test_run_works_inside_a_running_loop(strategy: Strategy) -> None:
    async def main() -> int:
        return len(make(strategy).run(SummarizeAspects(), range(5)).results)

    assert anyio.run(main) == 5
    assert anyio.run(main, backend="trio") == 5


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is for POSIX")
@each_strategy
def test_everything_works_under_uvloop(strategy: Strategy) -> None:
    runner = make(strategy)

    async def main() -> list[int]:
        counts = [len((await runner.arun(SummarizeAspects(), range(5))).results)]
        counts.append(len(runner.run(SummarizeAspects(), range(5)).results))
        async with runner:
            counts.append(len([o async for o in runner.astream(SummarizeAspects(), range(5))]))
        return counts

    assert anyio.run(main, backend_options={"use_uvloop": True}) == [5, 5, 5]


def test_one_runner_serves_all_requests_of_a_web_service_within_its_limits() -> None:
    runner = make(Strategy.stage(4), seconds=0.002)
    app = FastAPI()

    @app.get("/awaited")
    async def awaited() -> int:
        return len((await runner.arun(SummarizeAspects(), range(10))).results)

    @app.get("/blocking")
    def blocking() -> int:
        return len(runner.run(SummarizeAspects(), range(10)).results)

    answers: list[int] = []
    with TestClient(app) as client:

        def ask(path: str) -> None:
            answers.append(client.get(path).json())

        threads = [threading.Thread(target=ask, args=(path,)) for path in ["/awaited", "/blocking"] * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    llm = runner._resources._backends[0]
    assert answers == [10] * 8
    assert isinstance(llm, FakeLLM)
    assert llm.peak <= 4


def test_a_stream_of_a_request_belongs_to_the_service_and_not_to_another_request() -> None:
    """The runner is opened once, in the service's lifespan; requests stream from it in their own tasks."""
    runner = make(Strategy.stage(4), seconds=0.001)

    async def request(counts: list[int]) -> None:
        counts.append(len([o async for o in runner.astream(SummarizeAspects(), range(8))]))

    async def short(counts: list[int]) -> None:
        async with runner:
            await request(counts)

    async def main() -> list[int]:
        counts: list[int] = []
        async with runner, anyio.create_task_group() as tasks:
            tasks.start_soon(short, counts)
            for _ in range(3):
                tasks.start_soon(request, counts)
        return counts

    for backend in ("asyncio", "trio"):
        assert anyio.run(main, backend=backend) == [8] * 4


def _in_child(runner: BatchRunner, answers: Any) -> None:
    answers.put(len(runner.run(SummarizeAspects(), range(5)).results))


@pytest.mark.sample(1)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@each_strategy
def test_a_runner_survives_a_fork(strategy: Strategy) -> None:
    """Workers fork after the application was imported, and perhaps after it was used."""
    context = multiprocessing.get_context("fork")
    runner = make(strategy)
    with runner:
        runner.run(SummarizeAspects(), range(5))
        answers = context.Queue()
        child = context.Process(target=_in_child, args=(runner, answers))
        child.start()
        assert answers.get(timeout=PATIENCE) == 5
        child.join()

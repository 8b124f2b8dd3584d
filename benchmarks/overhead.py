"""
Our own cost: CPU microseconds per LLM call with backends that do nothing, in stage 4.

    python benchmarks/overhead.py [--calls 20000] [--rounds 5]

Each shape is run in turn with a bare anyio skeleton of the same shape (a task per restaurant, a task per
search, a semaphore per stage, nothing else: no retries, no order, no events, no outcomes), and the medians
of the rounds are compared. Prompts and parsing of `SummarizeAspects` are measured apart.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

from restaurant_llm_batch import (
    BatchRunner,
    Hit,
    Limits,
    LLMRequest,
    LLMResponse,
    RestaurantRef,
    SearchQuery,
    Strategy,
    SummarizeAspects,
)
from restaurant_llm_batch.steps import Flow, complete, gather, search_all
from restaurant_llm_batch.testing import FakeLLM

REPLY = LLMResponse("text")
REQUEST = LLMRequest("nothing", ())
HITS = [Hit("r", "text", 1.0, 1)]


class Search:
    """Finds the same at once, after one turn of the loop as any real call would take."""

    async def asearch(self, query: SearchQuery) -> Sequence[Hit]:
        """Search."""
        await anyio.lowlevel.checkpoint()
        return HITS


class SearchMany(Search):
    """The same with one round trip for several queries."""

    async def asearch_many(self, queries: Sequence[SearchQuery]) -> list[Sequence[Hit]]:
        """Search."""
        await anyio.lowlevel.checkpoint()
        return [HITS for _ in queries]


class Model:
    """Says the same at once, after one turn of the loop."""

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Answer."""
        await anyio.lowlevel.checkpoint()
        return REPLY


def one_call(item: int) -> Flow[int]:
    """One LLM call."""
    yield from complete(REQUEST)
    return item


def _queries(item: int) -> list[SearchQuery]:
    return [SearchQuery(item, "a"), SearchQuery(item, "b"), SearchQuery(item, "c")]


def search_and_call(item: int) -> Flow[int]:
    """Three searches, one LLM call: the shape of the main job's single mode."""
    yield from search_all(_queries(item))
    yield from complete(REQUEST)
    return item


def search_and_split(item: int) -> Flow[int]:
    """Three searches, three LLM calls, one more: the shape of its split mode."""
    yield from search_all(_queries(item))
    yield from gather(complete(REQUEST), complete(REQUEST), complete(REQUEST))
    yield from complete(REQUEST)
    return item


async def skeleton(items: int, searches: int, calls: int, last: int) -> None:
    """Do the same with nothing but anyio."""
    search, model = Search(), Model()
    search_slots, llm_slots, window = anyio.Semaphore(50), anyio.Semaphore(8), anyio.Semaphore(200)

    async def one_search(item: int) -> None:
        async with search_slots:
            await search.asearch(SearchQuery(item, "a"))

    async def one_answer() -> None:
        async with llm_slots:
            await model.acomplete(REQUEST)

    async def restaurant(item: int) -> None:
        try:
            if searches:
                async with anyio.create_task_group() as tasks:
                    for _ in range(searches):
                        tasks.start_soon(one_search, item)
            if calls:
                async with anyio.create_task_group() as tasks:
                    for _ in range(calls):
                        tasks.start_soon(one_answer)
            for _ in range(last):
                await one_answer()
        finally:
            window.release()

    async with anyio.create_task_group() as tasks:
        for item in range(items):
            await window.acquire()
            tasks.start_soon(restaurant, item)


def cpu_microseconds(job: Callable[[], Any], calls: int) -> float:
    """Return the CPU time of a job per call."""
    gc.collect()
    began = time.process_time()
    job()
    return (time.process_time() - began) / calls * 1e6


def measure(
    name: str,
    flow: Callable[[int], Flow[int]],
    shape: tuple[int, int, int],
    search: Any,
    calls: int,
    rounds: int,
) -> None:
    """Measure one shape against its skeleton and print the medians."""
    per_item = shape[1] + shape[2]
    items = calls // per_item
    ours, bare = [], []

    def run() -> None:
        runner = BatchRunner(llm=Model(), search=search, strategy=Strategy.stage(4))
        report = anyio.run(runner.arun, flow, range(items))
        assert report.stats.succeeded == items
        assert report.stats.calls["llm"] == items * per_item

    for _ in range(rounds):
        ours.append(cpu_microseconds(run, calls))
        bare.append(cpu_microseconds(lambda: anyio.run(skeleton, items, *shape), calls))
    middle, floor = statistics.median(ours), statistics.median(bare)
    print(f"{name:46} {middle:9.1f} {floor:9.1f} {middle / floor:7.2f}x")


TEXT = "이 집은 국물이 진하고 면이 쫄깃하며 직원이 친절하다. "
ANSWER = LLMResponse(TEXT * 12, "stop", 1200, 150, "model")


class Answers:
    """Gives an answer of usual length at once, after one turn of the loop."""

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Answer."""
        await anyio.lowlevel.checkpoint()
        return ANSWER


def ask(item: int) -> Flow[int]:
    """One LLM call with a prompt of its own."""
    message = {"role": "user", "content": f"{item} {TEXT * 40}"}
    yield from complete(LLMRequest("nothing", (message,)))
    return item


def stored_calls(path: str | None, calls: int) -> None:
    """Make calls, 64 in flight, with the store at a path or without one."""
    runner = BatchRunner(llm=Answers(), strategy=Strategy.stage(4), limits=Limits(llm=64), store=path)
    assert anyio.run(runner.arun, ask, range(calls)).stats.succeeded == calls


def measure_store(calls: int, rounds: int) -> None:
    """Measure what a call costs without a store, with one, and when its answer is there; print the medians."""
    costs: dict[str, list[float]] = {"without a store": [], "with a store": [], "found in the store": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, store in zip(costs, (None, "run.db", "run.db"), strict=True):
                path = None if store is None else f"{folder}/{store}"
                costs[name].append(cpu_microseconds(partial(stored_calls, path, calls), calls))
    for name, found in costs.items():
        print(f"{'one LLM call, 64 in flight, ' + name:46} {statistics.median(found):9.1f}")


def prompts_and_parsing(rounds: int) -> float:
    """Return what `SummarizeAspects` itself costs per restaurant, driven by hand."""
    task = SummarizeAspects()
    hits = [Hit(f"r{place}", "음식이 맛있고 직원분도 친절했어요.", 1.0, 1) for place in range(10)]
    llm = FakeLLM()
    began: Any = task.flow(RestaurantRef(restaurant_id=1))
    next(began)
    reply = llm.complete(began.send([hits, hits, hits]).request)
    costs = []
    for _ in range(rounds):

        def run() -> None:
            for item in range(1000):
                flow = task.flow(RestaurantRef(restaurant_id=item))
                next(flow)
                flow.send([hits, hits, hits])
                with contextlib.suppress(StopIteration):
                    flow.send(reply)

        costs.append(cpu_microseconds(run, 1000))
    return statistics.median(costs)


def main() -> None:
    """Measure all shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rest = (arguments.calls, arguments.rounds)
    print(f"CPU microseconds per LLM call, {arguments.calls:,} calls, medians of {arguments.rounds} rounds")
    print(f"{'shape':46} {'ours':>9} {'bare':>9} {'ratio':>8}")
    measure("one LLM call", one_call, (0, 0, 1), None, *rest)
    measure("3 searches, 3 + 1 LLM calls (split)", search_and_split, (3, 3, 1), Search(), *rest)
    measure("3 searches in one round trip, 1 LLM call", search_and_call, (1, 0, 1), SearchMany(), *rest)
    measure("3 searches, 1 LLM call (single)", search_and_call, (3, 0, 1), Search(), *rest)
    measure_store(arguments.calls // 4, arguments.rounds)
    cost = prompts_and_parsing(arguments.rounds)
    print(f"prompts and parsing of SummarizeAspects, 3 x 10 reviews: {cost:.0f} per restaurant, apart")


if __name__ == "__main__":
    main()

"""
Actors of Ray: whether N of them do N times the work of one process, and what a long tail costs. It needs Ray.

    python benchmarks/ray_actors.py [--actors 2] [--rows 2000] [--calls 800]

Work that needs the CPU: `AnalyzeSentiment` with `OfflineLLM`, once by a runner in this process, once by `RayBatch` with
actors that share no limit. Each row says which process has made it, when, and after how much CPU time of the process.
Reported are rows a second from the first row to the last, and CPU time a row, of the actors' processes. If the machine
has fewer cores than actors, or is busy, only the second says something.

A long tail: one call in twenty takes ten times as long, at a server of 8 slots. `RayBatch` with 4 actors and one shared
limit is compared with actors of which each runs batch after batch with a quarter of the slots, and with the bound: all
slots busy until the last call.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import ray
import ray.data

from restaurant_llm_batch import AnalyzeSentiment, BatchRunner, Limits, LLMRequest, Strategy
from restaurant_llm_batch.backends import OfflineLLM, VLLMServerLLM
from restaurant_llm_batch.integrations.ray import RayBatch
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing.server import Faults, FaultServer

SLOTS = 8
TEXTS = [
    "국물이 진하고 맛있어요",
    "너무 오래 기다렸어요",
    "직원이 친절해요",
    "가격이 비싸고 양이 적어요",
    "또 가고 싶어요",
]
TASK = AnalyzeSentiment()


def labelled(row: Mapping[str, Any]) -> Flow[dict[str, Any]]:
    """Judge the reviews of a row, and say who did it."""
    reviews = [f"{TEXTS[(row['id'] + n) % 5]} {row['id']}-{n}" for n in range(20)]
    result = yield from TASK.flow(TASK.parse_item({"restaurant_id": row["id"], "reviews": reviews}))
    return {
        "reviews": result.total_count,
        "process": os.getpid(),
        "cpu": time.process_time(),
        "at": time.time(),
    }


def offline(**options: Any) -> BatchRunner:
    """Make a runner whose model is this machine's CPU."""
    return BatchRunner(llm=OfflineLLM(), strategy=Strategy.stage(4), **options)


def rates(rows: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Return rows a second of all processes together, and milliseconds of CPU time a row."""
    found = sorted(rows, key=lambda row: row["at"])
    by_process: dict[int, list[Mapping[str, Any]]] = {}
    for row in found:
        by_process.setdefault(row["process"], []).append(row)
    cpu = sum(of[-1]["cpu"] - of[0]["cpu"] for of in by_process.values())
    timed = sum(len(of) - 1 for of in by_process.values())
    # All processes together: from when the last one has begun to when the first one ends.
    since = max(of[0]["at"] for of in by_process.values())
    until = min(of[-1]["at"] for of in by_process.values())
    within = sum(since < row["at"] <= until for row in found)
    return within / max(until - since, 1e-9), 1000 * cpu / max(timed, 1)


def work(actors: int, count: int) -> None:
    """Measure work that needs the CPU."""
    with offline() as runner:
        report = runner.run(labelled, [{"id": number} for number in range(count)])
    one, one_cpu = rates(report.results)
    dataset = ray.data.range(count, override_num_blocks=8 * actors)
    with RayBatch(offline, labelled) as batch:
        rows = batch.map(dataset, concurrency=actors, batch_size=32).take_all()
    many, many_cpu = rates(rows)
    print(f"one process: {one:.0f} rows a second, {one_cpu:.2f} ms of CPU a row")
    print(
        f"{actors} actors, {os.cpu_count()} cores: {many:.0f} rows a second, {many / one / actors:.0%} of {actors} "
        f"times one process; {many_cpu:.2f} ms of CPU a row, {many_cpu / one_cpu:.0%} of one process"
    )


def ask(row: Mapping[str, Any]) -> Flow[str]:
    """Make one call."""
    reply = yield from complete(
        LLMRequest("ask", ({"role": "user", "content": f"about {row['id']}"},), max_tokens=20)
    )
    return reply.text


def calling(url: str, **options: Any) -> BatchRunner:
    """Make a runner that calls a server."""
    return BatchRunner(llm=VLLMServerLLM(url, "tiny"), strategy=Strategy.stage(4), **options)


class BatchByBatch:
    """Actors as they are written by hand: each batch is a run, with a share of the slots."""

    def __init__(self, url: str, actors: int) -> None:
        self._runner = calling(url, limits=Limits(llm=SLOTS // actors))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[int]]:
        """Run a batch."""
        report = self._runner.run(ask, [{"id": int(number)} for number in batch["id"]])
        return {"id": [int(str(one.item_id)) for one in report.outcomes]}


def tail(actors: int, count: int) -> None:
    """Measure a long tail."""
    total = [0.0]

    def slow(draw: random.Random) -> float:
        seconds = 0.15 * draw.uniform(0.5, 1.5) * (10 if draw.random() < 0.05 else 1)
        total[0] += seconds
        return seconds

    dataset = ray.data.range(count, override_num_blocks=6 * actors)
    for name in ("RayBatch", "batch by batch"):
        total[0] = 0.0
        with FaultServer(Faults(limit=SLOTS, latency=slow)) as server, watched(server) as seconds:
            if name == "RayBatch":
                with RayBatch(partial(calling, server.url), ask, limits=Limits(llm=SLOTS)) as batch:
                    batch.map(dataset, concurrency=actors, batch_size=16).take_all()
            else:
                dataset.map_batches(
                    BatchByBatch,
                    fn_constructor_args=(server.url, actors),
                    compute=ray.data.ActorPoolStrategy(size=actors),
                    batch_size=16,
                    num_cpus=0.5,
                ).take_all()
        print(
            f"a long tail, {name}: {seconds[0]:.1f} s, {seconds[0] / (total[0] / SLOTS):.0%} of the bound; "
            f"{server.counts.refused} refused"
        )


class watched:  # noqa: N801  # as a context manager
    """Measures the seconds from a server's first call to its last answer."""

    def __init__(self, server: FaultServer) -> None:
        self._server = server
        self._seconds = [0.0]

    def __enter__(self) -> list[float]:
        import threading

        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self._seconds

    def _watch(self) -> None:
        began: float | None = None
        while not self._over.wait(0.01):
            counts = self._server.counts
            if counts.in_flight:
                began = began or time.monotonic()
                self._seconds[0] = time.monotonic() - began

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=800)
    given = parser.parse_args()
    ray.init(
        num_cpus=max(4, given.actors), include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray").setLevel(logging.ERROR)
    work(given.actors, given.rows)
    tail(4, given.calls)


if __name__ == "__main__":
    main()

"""A real vLLM server whose cache is small, and limits that follow its own word."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import pytest

from restaurant_llm_batch import AdaptiveLimit, BatchReport, BatchRunner, Limits, Strategy
from restaurant_llm_batch.steps import Flow, complete

from .conftest import StartVLLM
from .servers import Server
from .workload import PATIENT, free

CALLS = 400
ANSWER = 200
"""Tokens of an answer, which takes two blocks of the cache with its prompt."""
FIXED = (8, 10, 12)
"""Limits to compare with: the cache holds ten calls."""
ROUNDS = 2


@pytest.fixture(scope="module")
def narrow(vllm_server: StartVLLM) -> Iterator[Server]:
    """Run a server with more slots than its memory has room for: that of ten calls."""
    with vllm_server(
        "--num-gpu-blocks-override", "22", "--max-num-seqs", "64", "--max-model-len", "1024"
    ) as running:
        yield running


def ask(item: str) -> Flow[int]:
    reply = yield from complete(free(f"{item}번 식당은 어때요?", tokens=ANSWER))
    return reply.completion_tokens


class Readings(threading.Thread):
    """Reads the load of a server by itself every two seconds, as a reading takes the server some time."""

    def __init__(self, llm: Any) -> None:
        super().__init__(daemon=True)
        self.llm, self.loads, self.ended = llm, list[Any](), threading.Event()

    def run(self) -> None:
        """Read."""
        while not self.ended.wait(2.0):
            self.loads.append(self.llm.metrics())

    def end(self) -> None:
        """End it."""
        self.ended.set()
        self.join()


class Measured(NamedTuple):
    """A run: its tokens a second, its report, the server's figures before and after, and its load meanwhile."""

    speed: float
    report: BatchReport[int]
    before: Any
    after: Any
    loads: list[Any]


def run(server: Server, limit: int | AdaptiveLimit, mark: str, watch: float | None = None) -> Measured:
    """Ask what the server has not been asked before."""
    llm = server.llm()
    runner = BatchRunner(
        llm=server.llm(),
        strategy=Strategy.stage(4),
        limits=Limits(llm=limit, open_items=CALLS),
        llm_retry=PATIENT,
        watch_server=watch,
    )
    before, readings = llm.metrics(), Readings(llm)
    readings.start()
    report = runner.run(ask, [f"{mark} {number}" for number in range(CALLS)])
    readings.end()
    assert len(report.results) == CALLS
    speed = sum(report.results) / report.stats.wall_seconds
    return Measured(speed, report, before, llm.metrics(), readings.loads)


@pytest.mark.timeout(900)
def test_limits_follow_the_servers_word_without_a_queue_and_a_preemption(narrow: Server) -> None:
    """Those of the fixed limits are compared with at which nothing is preempted. They take turns: machines vary."""
    fixed: dict[int, list[float]] = {}
    watched: list[float] = []
    for number in range(ROUNDS):
        for limit in FIXED:
            one = run(narrow, limit, f"fixed {limit} {number}")
            if one.after.preemptions == one.before.preemptions:
                fixed.setdefault(limit, []).append(one.speed)
        one = run(narrow, AdaptiveLimit(start=4, max=64), f"watched {number}", 0.5)
        said, seen = one.report.stats.servers["llm"], (one.report.stats.limit_history, one.loads)
        watched.append(one.speed)
        assert median(load.waiting for load in one.loads) == 0, seen
        assert said.preemptions == one.after.preemptions - one.before.preemptions == 0, seen
        assert said.kv_tokens == one.after.kv_tokens
        assert said.failed_readings == 0
        assert said.peak_kv_usage is not None
        # It reads four times as often, and calls that begin together fill their second blocks together.
        assert max(load.kv_usage for load in one.loads) - 0.1 <= said.peak_kv_usage <= 1

    best = max(fixed.values(), key=median)
    assert median(watched) >= 0.95 * median(best), (fixed, watched)

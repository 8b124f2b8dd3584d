"""A real vLLM server whose cache is small, and limits that follow its own word."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from statistics import median
from typing import Any

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
        run(running, 8, "warm")
        yield running


def ask(item: str) -> Flow[int]:
    reply = yield from complete(free(f"{item}번 식당은 어때요?", tokens=ANSWER))
    return reply.completion_tokens


def run(
    server: Server, limit: Any, mark: str, calls: int = CALLS, watch: float | None = None
) -> BatchReport[int]:
    """Ask what the server has not been asked before."""
    runner = BatchRunner(
        llm=server.llm(),
        strategy=Strategy.stage(4),
        limits=Limits(llm=limit, open_items=CALLS),
        llm_retry=PATIENT,
        watch_server=watch,
    )
    report = runner.run(ask, [f"{mark} {number}" for number in range(calls)])
    assert len(report.results) == calls
    return report


def speed(report: BatchReport[int]) -> float:
    """Return the tokens a second that were written."""
    return sum(report.results) / report.stats.wall_seconds


class Readings(threading.Thread):
    """Reads the load of a server by itself, twice a second, until it is ended."""

    def __init__(self, llm: Any) -> None:
        super().__init__(daemon=True)
        self.llm, self.loads, self.ended = llm, list[Any](), threading.Event()

    def run(self) -> None:
        """Read."""
        while not self.ended.wait(0.5):
            self.loads.append(self.llm.metrics())

    def end(self) -> None:
        """End it."""
        self.ended.set()
        self.join()


def test_limits_follow_the_servers_word_without_a_queue_and_a_preemption(narrow: Server) -> None:
    """Those of the fixed limits are compared with at which nothing is preempted. They take turns: machines vary."""
    fixed: dict[int, list[float]] = {}
    watched: list[float] = []
    for number in range(ROUNDS):
        for limit in FIXED:
            before = narrow.llm().metrics().preemptions
            report = run(narrow, limit, f"fixed {limit} {number}")
            if narrow.llm().metrics().preemptions == before:
                fixed.setdefault(limit, []).append(speed(report))
        watched.append(speed(_watched(narrow, f"watched {number}")))

    best = max(fixed, key=lambda limit: median(fixed[limit]))
    assert median(watched) >= 0.95 * median(fixed[best]), (fixed, watched)


def _watched(server: Server, mark: str) -> BatchReport[int]:
    readings = Readings(server.llm())
    before = server.llm().metrics()
    readings.start()
    report = run(server, AdaptiveLimit(start=4, max=64), mark, watch=0.5)
    readings.end()
    after = server.llm().metrics()
    said, history = report.stats.servers["llm"], report.stats.limit_history
    assert median(load.waiting for load in readings.loads) == 0, (said, history)
    assert said.preemptions == after.preemptions - before.preemptions == 0, (said, history)
    assert said.kv_tokens == after.kv_tokens
    assert said.failed_readings == 0
    assert said.peak_kv_usage is not None
    assert said.peak_kv_usage == pytest.approx(max(load.kv_usage for load in readings.loads), abs=0.2)
    assert {"llm", "tokens_in_flight"} <= {change.limiter for change in history}
    return report

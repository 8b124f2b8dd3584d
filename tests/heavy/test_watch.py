"""`watch_server` against a real vLLM server whose KV cache is smaller than what its slots take."""

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

CALLS = 160
ANSWER = 200
"""Tokens of an answer, which takes two blocks of the cache with its prompt."""
FIXED = (4, 8, 10, 12)
"""Limits to compare with; the cache holds about ten calls."""
ROUNDS = 2


@pytest.fixture(scope="module")
def narrow(vllm_server: StartVLLM) -> Iterator[Server]:
    """Run a server with 16 slots and memory for about ten calls."""
    with vllm_server("--num-gpu-blocks-override", "22", "--max-model-len", "1024") as running:
        yield running


def asked(mark: str) -> list[str]:
    """Return items whose prompts the server has not seen."""
    return [f"{mark} {number}" for number in range(CALLS)]


def ask(item: str) -> Flow[int]:
    reply = yield from complete(free(f"{item}번 식당은 어때요?", tokens=ANSWER))
    return reply.completion_tokens


def speed(report: BatchReport[int]) -> float:
    """Return the tokens a second that were written."""
    assert len(report.results) == CALLS
    return sum(report.results) / report.stats.wall_seconds


class Readings(threading.Thread):
    """Reads the load of a server by itself, twice a second, until it is ended."""

    def __init__(self, llm: Any) -> None:
        super().__init__(daemon=True)
        self.loads: list[Any] = []
        self._llm = llm
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.5):
            self.loads.append(self._llm.metrics())

    def end(self) -> None:
        self._ended.set()
        self.join()


def test_limits_follow_the_servers_word_without_a_queue_and_a_preemption(narrow: Server) -> None:
    fixed: dict[int, float] = {}
    for limit in FIXED:
        runner = BatchRunner(
            llm=narrow.llm(), strategy=Strategy.stage(4), limits=Limits(llm=limit), llm_retry=PATIENT
        )
        fixed[limit] = speed(runner.run(ask, asked(f"fixed {limit}")))

    watched: list[float] = []
    for number in range(ROUNDS):
        llm = narrow.llm()
        readings = Readings(narrow.llm())
        readings.start()
        runner = BatchRunner(
            llm=llm,
            strategy=Strategy.stage(4),
            limits=Limits(llm=AdaptiveLimit(start=4, max=64)),
            llm_retry=PATIENT,
            watch_server=0.5,
        )
        before = narrow.llm().metrics()
        report = runner.run(ask, asked(f"watched {number}"))
        readings.end()
        after = narrow.llm().metrics()
        watched.append(speed(report))
        said = report.stats.servers["llm"]
        seen = f"{fixed} {watched} {said} {report.stats.limit_history}"
        assert median(load.waiting for load in readings.loads) <= 1, seen
        assert said.preemptions == after.preemptions - before.preemptions == 0, seen
        assert said.kv_tokens == after.kv_tokens
        assert said.failed_readings == 0
        assert said.peak_kv_usage is not None
        assert said.peak_kv_usage == pytest.approx(max(load.kv_usage for load in readings.loads), abs=0.2)
    assert max(watched) >= 0.95 * max(fixed.values()), (fixed, watched)

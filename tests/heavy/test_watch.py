"""`watch_server` against a real vLLM server whose KV cache is smaller than what its slots take."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, Strategy
from restaurant_llm_batch.steps import Flow, complete

from .conftest import StartVLLM
from .servers import Server
from .workload import PATIENT, free

CALLS = 160
ANSWER = 200
"""Tokens of an answer, which takes two blocks of the cache with its prompt."""


@pytest.fixture(scope="module")
def narrow(vllm_server: StartVLLM) -> Iterator[Server]:
    """Run a server with 16 slots and memory for about ten calls."""
    with vllm_server("--num-gpu-blocks-override", "22", "--max-model-len", "1024") as running:
        yield running


def ask(item: str) -> Flow[int]:
    reply = yield from complete(free(f"{item}번 식당은 어때요?", tokens=ANSWER))
    return reply.completion_tokens


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


def test_calls_do_not_queue_at_the_server_and_its_figures_are_in_the_statistics(narrow: Server) -> None:
    readings = Readings(narrow.llm())
    runner = BatchRunner(
        llm=narrow.llm(),
        strategy=Strategy.stage(4),
        limits=Limits(llm=AdaptiveLimit(start=4, max=64)),
        llm_retry=PATIENT,
        watch_server=0.5,
    )
    before = narrow.llm().metrics()
    readings.start()
    report = runner.run(ask, [f"watched {number}" for number in range(CALLS)])
    readings.end()
    after = narrow.llm().metrics()

    assert len(report.results) == CALLS
    said = report.stats.servers["llm"]
    assert median(load.waiting for load in readings.loads) <= 1, (said, report.stats.limit_history)
    assert said.preemptions == after.preemptions - before.preemptions
    assert said.kv_tokens == after.kv_tokens
    assert said.failed_readings == 0
    assert said.peak_kv_usage is not None
    assert said.peak_kv_usage == pytest.approx(max(load.kv_usage for load in readings.loads), abs=0.2)
    assert report.stats.calls["llm"] == CALLS  # a queue that is never full refuses nothing
    limiters = {change.limiter for change in report.stats.limit_history}
    assert {"llm", "tokens_in_flight"} <= limiters

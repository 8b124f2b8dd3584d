"""
How long simulations take, and how much memory: a million items of one call, 10,000 of 3 + 1, and 10,000 restaurants.

    python benchmarks/simulation.py [--share 1.0]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Generator, Iterator
from typing import Any

from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.models import LLMRequest
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer
from restaurant_llm_batch.steps import complete, gather

SERVER = SimulatedServer(latency=LogNormal(0.8, 0.5), slots=64)


def _request(text: str) -> LLMRequest:
    return LLMRequest("dish", ({"role": "user", "content": text},), max_tokens=100)


def one(item: int) -> Generator[Any, Any, str]:
    """Make one call."""
    reply = yield from complete(_request(f"Name dish {item}."))
    return str(reply.text)


def four(item: int) -> Generator[Any, Any, str]:
    """Make three calls side by side, then one."""
    parts = yield from gather(*(complete(_request(f"Name {part} of {item}.")) for part in range(3)))
    reply = yield from complete(_request(f"Sum {len(parts)} parts of {item} up."))
    return str(reply.text)


def measure(name: str, task: Any, count: int, **arguments: Any) -> None:
    """Simulate and print the time, the processor's time, and the growth of memory."""
    runner = BatchRunner(llm=OfflineLLM(), strategy=Strategy.stage(4), limits=Limits(llm=64))
    items: Iterator[int] = iter(range(count))
    before, began, used = _peak_mib(), time.perf_counter(), time.process_time()
    simulation = runner.simulate(task, items, SERVER, on_outcome=lambda outcome: None, **arguments)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    print(
        f"{name:32} {seconds:7.1f} s, {used:7.1f} s of CPU, {used / count * 1e6:7.0f} us an item, "
        f"+{_peak_mib() - before:5.1f} MiB; simulated: {simulation}"
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="share of the items")
    share = parser.parse_args().share
    measure("warm-up", one, 1000)
    measure("1,000,000 of one call", one, round(1_000_000 * share))
    measure("10,000 of 3 + 1 calls", four, round(10_000 * share))
    measure("10,000 restaurants, split", SummarizeAspects(mode="split"), round(10_000 * share))


if __name__ == "__main__":
    main()

"""
Foresight from records: how far a simulation is off that learned its server from one recorded night.

    python benchmarks/foresight.py [--seeds 10]

Nights are simulated, so the truth is known: the median of several nights at the same server. Each is recorded with an
`AdaptiveLimit` from 2 to 12 calls in flight, a server is learned from the record, and the time is foretold of such a
night, and of one with 24 in flight. Beside what `SimulatedServer.from_record` chooses, the same server is tried with
the mean of all calls, and with `LogNormal.fitted`.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, LLMRequest, Strategy
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.simulation import (
    LogNormal,
    SampledLatency,
    SampledNumbers,
    SimulatedServer,
    TokenSpeed,
)
from restaurant_llm_batch.steps import complete, gather

SLOW_FEW = SampledNumbers(0.4, factors=(0.8,) * 60 + (1.0,) * 36 + (4.0, 5.0, 6.0, 8.0))
BY_TOKENS = SampledNumbers(0.2, 0.0005, 0.02, (0.7, 0.9, 1.0, 1.1, 1.3))
SERVERS = {
    "lognormal, sigma 0.4": SimulatedServer(latency=LogNormal(0.8, 0.4)),
    "lognormal, sigma 0.9": SimulatedServer(latency=LogNormal(0.8, 0.9)),
    "4 of 100 calls slow": SimulatedServer(latency=SampledLatency({}, SLOW_FEW)),
    "by tokens": SimulatedServer(latency=SampledLatency({}, BY_TOKENS)),
    "slowed by others": SimulatedServer(latency=SampledLatency({}, BY_TOKENS, slowdown=0.2)),
    "6 slots, queueing": SimulatedServer(latency=LogNormal(0.5, 0.4), slots=6),
    "6 slots, refusing": SimulatedServer(latency=LogNormal(0.5, 0.4), slots=6, overload="refuse"),
    "batching, a GPU": SimulatedServer(latency=TokenSpeed(4000, 50, 0.05, 0.05)),
    "batching, one core": SimulatedServer(latency=TokenSpeed(400, 80, 0.6, 0.02)),
}
NIGHT, OTHER = AdaptiveLimit(1, 2, 12), 24


def course(item: int) -> Any:
    """Make three calls side by side, then one, with prompts and answers of several lengths."""
    yield from gather(*(_say("part", 30 + 40 * number, item) for number in range(3)))
    yield from _say("whole", 60 + item % 7 * 30, item)


def _say(kind: str, words: int, item: int) -> Any:
    message = {"role": "user", "content": f"Dish {item}. " + "word " * words}
    return (yield from complete(LLMRequest(kind, (message,), max_tokens=300)))


def runner(limit: Any) -> BatchRunner:
    """Return a runner."""
    return BatchRunner(llm=OfflineLLM(), strategy=Strategy.stage(4), limits=Limits(llm=limit, open_items=40))


def seconds(limit: Any, server: SimulatedServer, items: int, seeds: range) -> float:
    """Return the seconds of a night, in the median."""
    return median(runner(limit).simulate(course, range(items), server, seed=seed).seconds for seed in seeds)


def learned(server: SimulatedServer, items: int, seed: int, folder: str) -> dict[str, SimulatedServer]:
    """Record a night, and return the servers that are learned from it."""
    path = Path(folder) / "night.db"
    path.unlink(missing_ok=True)
    runner(NIGHT).simulate(course, range(items), server, seed=seed, record=path)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE runs SET simulated = 0")  # as if it were real
    connection.close()
    found = SimulatedServer.from_record(path)
    taken = [call.seconds or 0.0 for call in open_record(path).calls() if call.outcome == "ok"]
    plain = replace(found, slots=None, overload="queue") if found.overload == "queue" else found
    return {
        "chosen": found,
        "mean": replace(plain, latency=fmean(taken)),
        "lognormal": replace(plain, latency=LogNormal.fitted(taken)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args()
    print(f"{'server':22} {'calls':>6}  {'mean error: the same night':^32}  {'with 24 in flight':^32}")
    with tempfile.TemporaryDirectory() as folder:
        for name, server in SERVERS.items():
            for items in (15, 60, 250):
                truth = {limit: seconds(limit, server, items, range(100, 109)) for limit in (NIGHT, OTHER)}
                errors: defaultdict[tuple[Any, str], list[float]] = defaultdict(list)
                for seed in range(asked.seeds):
                    for how, one in learned(server, items, seed, folder).items():
                        for limit, true in truth.items():
                            off = seconds(limit, one, items, range(3)) / true - 1
                            errors[limit, how].append(abs(off))
                cells = "  ".join(
                    " ".join(
                        f"{how} {fmean(errors[limit, how]):4.0%}" for how in ("chosen", "mean", "lognormal")
                    )
                    for limit in truth
                )
                print(f"{name:22} {4 * items:6}  {cells}", flush=True)


if __name__ == "__main__":
    main()

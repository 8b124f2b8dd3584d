"""
Simulation beside reality: the same runs against the fault server, in a process of its own, and on virtual time.

    python benchmarks/simulated_vs_real.py [--seeds 5] [--only "refusing, stage 4"]
    python benchmarks/simulated_vs_real.py --seeds 1 --latency 2 --restaurants 40    # on a machine that is busy

200 restaurants in split mode (3 + 1 calls each), a server of 16 slots whose calls take 200 ms (lognormal, sigma 0.4).
It queues or refuses what is beyond its slots. Times and refusals are medians over the seeds. Client and server share
this machine, so what a call takes beside its latency, and how long a refusal takes, is measured first, with 160 calls
each; the simulated server has both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import exp
from statistics import mean, median
from typing import Any, Literal, NamedTuple

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Limits,
    LLMRequest,
    RetryPolicy,
    Strategy,
    SummarizeAspects,
)
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.events import CallEnded, Event
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeSearch

SLOTS, LATENCY, SIGMA = 16, 0.2, 0.4
TASK = SummarizeAspects(mode="split")
REVIEWS = ["음식이 정말 맛있어요.", "직원분들이 친절합니다.", "가격이 조금 비싸요."]


class Case(NamedTuple):
    """A run: how the server meets overload, the strategy, the limits and the number of restaurants."""

    overload: Literal["queue", "refuse"]
    strategy: Strategy
    limit: int | AdaptiveLimit
    restaurants: int = 200
    open_items: int = 200
    latency: float = LATENCY

    def runner(self, llm: Any) -> BatchRunner:
        """Return the runner."""
        search = FakeSearch(dict.fromkeys(range(self.restaurants), REVIEWS))
        limits = Limits(llm=self.limit, open_items=self.open_items)
        return BatchRunner(llm=llm, search=search, strategy=self.strategy, limits=limits)


CASES: dict[str, Case] = {
    "queueing, stage 4, 24 in flight": Case("queue", Strategy.stage(4), 24),
    "queueing, threaded, 24 in flight": Case("queue", Strategy.threaded(), 24),
    "refusing, stage 4, 20 in flight": Case("refuse", Strategy.stage(4), 20, open_items=12),
    "refusing, threaded, 20 in flight": Case("refuse", Strategy.threaded(), 20, open_items=12),
    "refusing, stage 4, adaptive": Case("refuse", Strategy.stage(4), AdaptiveLimit()),
    "refusing, threaded, adaptive": Case("refuse", Strategy.threaded(), AdaptiveLimit()),
    "queueing, stage 2, 30 restaurants": Case("queue", Strategy.stage(2), 24, 30),
}


class Costs(NamedTuple):
    """Mean seconds of a call beside its latency, and of a refusal, while as many are in flight as in the run."""

    call: float
    refusal: float


class Figures(NamedTuple):
    """Seconds and refusals of a run, or their medians."""

    seconds: float
    refused: float


@contextmanager
def fault_server(*flags: object) -> Iterator[str]:
    """Run the fault server in a process of its own, and yield its address."""
    command = [sys.executable, "-m", "restaurant_llm_batch.testing.server", *map(str, flags)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0]
    finally:
        process.terminate()
        process.communicate()


def dish(item: int) -> Any:
    """Make one call."""
    message = {"role": "user", "content": f"Name dish {item}."}
    return (yield from complete(LLMRequest("dish", (message,), max_tokens=100))).text


def measure_costs(case: Case) -> Costs:
    """Measure what calls cost beside their latency."""

    def seconds(limit: int, *flags: object) -> float:
        with fault_server(*flags) as url:
            runner = BatchRunner(
                llm=VLLMServerLLM(url),
                strategy=case.strategy if case.strategy.restaurant_async else Strategy.threaded(),
                limits=Limits(llm=limit),
                llm_retry=RetryPolicy(max_rate_limit_attempts=1),
                observers=[events.append],
            )
            with runner:
                runner.run(dish, range(160 + 2 * limit))
        ended = [event.seconds for event in events if isinstance(event, CallEnded)]
        events.clear()
        return mean(ended[limit:-limit])

    events: list[Event] = []
    above = case.limit - SLOTS if isinstance(case.limit, int) else 1
    return Costs(
        seconds(SLOTS, "--latency", LATENCY) - LATENCY,
        seconds(above, "--fault", "rate_limited=1", "--tries", 0),
    )


def real(case: Case, seed: int) -> Figures:
    """Run for real."""
    flags = ["--seed", seed, "--latency", case.latency, "--spread", exp(SIGMA)]
    flags += ["--limit" if case.overload == "refuse" else "--max-running", SLOTS]
    with fault_server(*flags) as url:
        llm = VLLMServerLLM(url)
        with case.runner(llm) as runner:
            report = runner.run(TASK, range(case.restaurants))
        with urllib.request.urlopen(f"{url}/_counts") as counts:
            refused = json.load(counts)["refused"]
    assert len(report.results) == case.restaurants
    return Figures(report.stats.wall_seconds, refused)


def simulated(case: Case, seed: int, costs: Costs) -> Figures:
    """Run on virtual time."""
    server = SimulatedServer(
        latency=LogNormal(case.latency + costs.call, SIGMA),
        slots=SLOTS,
        overload=case.overload,
        refusal_seconds=costs.refusal,
        search_seconds=0.0,
    )
    simulation = case.runner(VLLMServerLLM("http://127.0.0.1:1")).simulate(
        TASK, range(case.restaurants), server, seed=seed
    )
    return Figures(simulation.seconds, simulation.server.refused)


def median_of(figures: Sequence[Figures]) -> Figures:
    """Return the medians of both columns."""
    return Figures(*(median(column) for column in zip(*figures, strict=True)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", action="append", help="a part of a case's name; may be given several times")
    parser.add_argument("--latency", type=float, default=LATENCY, help="median seconds of a call")
    parser.add_argument("--restaurants", type=int, default=200, help="at most")
    asked = parser.parse_args()
    print(f"{'run':34} {'real':>8} {'simulated':>10} {'ratio':>6} {'refused':>8} {'simulated':>10}")
    for name, case in CASES.items():
        if asked.only and not any(part in name for part in asked.only):
            continue
        case = case._replace(latency=asked.latency, restaurants=min(case.restaurants, asked.restaurants))
        costs = measure_costs(case)
        told = median_of([real(case, seed) for seed in range(asked.seeds)])
        foretold = median_of([simulated(case, seed, costs) for seed in range(4 * asked.seeds)])
        print(
            f"{name:34} {told.seconds:6.2f} s {foretold.seconds:8.2f} s {foretold.seconds / told.seconds:6.3f} "
            f"{told.refused:8.0f} {foretold.refused:10.0f}   {1e3 * costs.call:.1f} and {1e3 * costs.refusal:.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()

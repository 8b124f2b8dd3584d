"""
What the missing barrier is worth: strengths of 100 restaurants, two steps each, with heavy-tailed latencies.

    python benchmarks/strengths.py [--restaurants 100] [--slots 32] [--seeds 20]

Time is simulated (trio's MockClock), so nothing is measured of this machine. Each call's latency is drawn by its
restaurant and step, so both ways meet the same ones. `barrier` runs all first steps, then all second ones. The
bound is max(work / slots, longest restaurant): no order of calls can be faster.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from random import Random
from statistics import median
from typing import Any

import anyio
import trio
import trio.testing

from restaurant_llm_batch import BatchRunner, ExtractStrengths, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.steps import complete

LATENCIES: dict[str, Callable[[Random], float]] = {
    "lognormal, sigma 0.6": lambda random: random.lognormvariate(0, 0.6),
    "lognormal, sigma 1.0": lambda random: random.lognormvariate(0, 1.0),
    "Pareto, alpha 1.5": lambda random: random.paretovariate(1.5),
}
ANSWER = json.dumps({"comparison_summary": "x", "target_restaurant_strength": "y"})


class Simulated:
    """A model whose every call takes its own time."""

    def __init__(self, seconds: dict[tuple[str, int], float]) -> None:
        self._seconds = seconds

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Wait, and say nothing much."""
        await anyio.sleep(self._seconds[request.task, request.inputs["restaurant_id"]])
        return LLMResponse(ANSWER)


def item(number: int, **reviews: list[str]) -> dict[str, Any]:
    """Return a restaurant to compare, with a comparison set of its own."""
    return {
        "target_restaurant_id": number,
        "target_reviews": ["맛있어요"],
        "comparison_reviews": [f"{number}"],
        **reviews,
    }


def simulate(seconds: dict[tuple[str, int], float], slots: int, *, barrier: bool) -> float:
    """Return how long all restaurants take, in simulated seconds."""
    restaurants = sorted({number for _, number in seconds})
    runner = BatchRunner(
        llm=Simulated(seconds),
        strategy=Strategy.stage(4),
        limits=Limits(batches=slots, open_items=len(restaurants)),
    )

    async def main() -> float:
        began = trio.current_time()
        if barrier:
            await runner.arun(first_step, restaurants)
            second = [item(number, comparison_reviews=[]) for number in restaurants]
            await runner.arun(ExtractStrengths(), second)
        else:
            report = await runner.arun(ExtractStrengths(), [item(number) for number in restaurants])
            report.raise_for_failures()
        return trio.current_time() - began

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def first_step(number: int) -> Any:
    """Ask for the comparison summary alone."""
    request = LLMRequest("comparison_summary", (), inputs={"restaurant_id": number})
    return (yield from complete(request, limiter="batches"))


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--restaurants", type=int, default=100)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()

    print(f"{arguments.restaurants} restaurants, {arguments.slots} slots, medians of {arguments.seeds} seeds")
    print(
        f"{'latencies':22} {'ours':>8} {'barrier':>8} {'bound':>8} {'of barrier':>11} {'of bound':>9} {'worst':>6}"
    )
    for name, draw in LATENCIES.items():
        rows = []
        for seed in range(arguments.seeds):
            random = Random(seed)
            seconds = {
                (step, number): draw(random)
                for number in range(arguments.restaurants)
                for step in ("comparison_summary", "strength")
            }
            work = sum(seconds.values()) / arguments.slots
            path = max(
                seconds["comparison_summary", number] + seconds["strength", number]
                for number in range(arguments.restaurants)
            )
            ours = simulate(seconds, arguments.slots, barrier=False)
            barrier = simulate(seconds, arguments.slots, barrier=True)
            rows.append((ours, barrier, max(work, path), ours / barrier, ours / max(work, path)))
        columns = [median(column) for column in zip(*rows, strict=True)]
        worst = max(row[4] for row in rows)
        print(
            f"{name:22} {columns[0]:8.2f} {columns[1]:8.2f} {columns[2]:8.2f} {columns[3]:10.2f}x {columns[4]:8.2f}x "
            f"{worst:5.2f}x"
        )


if __name__ == "__main__":
    main()

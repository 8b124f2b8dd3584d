"""A simulation foretells the time of a real run: against the fault server, and against vLLM that was measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, Limits, Strategy
from restaurant_llm_batch.simulation import SimulatedServer

from .servers import Server
from .workload import TASK, Bounded, sample

SEEDS = 5
ROUNDS = 3
"""Runs, each between two measurements: what else a machine does changes within minutes."""


def _load_benchmark() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "simulated_vs_real.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCHMARK = _load_benchmark()


@pytest.mark.parametrize("name", list(BENCHMARK.CASES))
def test_time_and_refusals_against_the_fault_server_are_foretold(name: str) -> None:
    case = BENCHMARK.CASES[name]
    costs = BENCHMARK.measure_costs(case)
    foretold = BENCHMARK.median_of([BENCHMARK.simulated(case, seed, costs) for seed in range(4 * SEEDS)])
    told = BENCHMARK.median_of([BENCHMARK.real(case, seed) for seed in range(SEEDS)])

    assert foretold.seconds == pytest.approx(told.seconds, rel=0.05), (costs, foretold, told)
    # Of a dozen refusals, chance alone makes two more or less.
    assert foretold.refused == pytest.approx(told.refused, rel=0.2, abs=2), (costs, foretold, told)


@pytest.mark.parametrize("strategy", [Strategy.stage(2), Strategy.stage(4)], ids=["stage 2", "stage 4"])
def test_the_time_of_40_restaurants_on_vllm_is_foretold_within_a_fifth(
    server: Server, strategy: Strategy
) -> None:
    llm = server.llm()
    ratios, seen = [], []
    for number in range(ROUNDS):
        # No prompt is asked twice, because the server remembers them.
        search, restaurants = sample(f"{strategy} {number}")
        runner = BatchRunner(
            llm=Bounded(llm),
            search=search,
            strategy=strategy,
            limits=Limits(llm=16),
            count_tokens=llm.count_tokens,
        )

        def foretold(mark: str, runner: BatchRunner = runner) -> float:
            known, items = sample(mark)
            measured = SimulatedServer.measured(
                Bounded(llm), calls=40, task=TASK, items=items, search=known, slots=16, search_seconds=0.002
            )
            seen.append(measured)
            return median(runner.simulate(TASK, items[:40], measured, seed=seed).seconds for seed in range(5))

        before = foretold(f"{strategy} {number} before")
        report = runner.run(TASK, restaurants[:40])
        after = foretold(f"{strategy} {number} after")
        assert len(report.results) == 40
        ratios.append((before + after) / 2 / report.stats.wall_seconds)

    assert median(ratios) == pytest.approx(1, rel=0.2), (ratios, seen)

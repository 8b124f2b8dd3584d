"""A run against a real server takes about as long as its simulation, if the server was measured before."""

from __future__ import annotations

from statistics import median

import pytest

from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.simulation import SimulatedServer
from restaurant_llm_batch.testing import FakeSearch
from tests.real.conftest import SLOTS
from tests.real.test_smollm2 import REVIEWS

RESTAURANTS, ROUNDS = range(8), 3
TASK = SummarizeAspects(language="en", mode="split", limit=2, max_tokens=60)


def search_of(mark: object) -> FakeSearch:
    """Return a search whose reviews begin with a mark, so that no two prompts are the same, which servers remember."""
    return FakeSearch(
        {item: [f"Table {mark} {item}: {review}" for review in REVIEWS[item % 5 :]] for item in RESTAURANTS}
    )


def test_the_time_of_a_run_is_foretold_within_a_fifth(llm: VLLMServerLLM) -> None:
    ratios = []
    for number in range(ROUNDS):
        runner = BatchRunner(
            llm=llm, search=search_of(number), strategy=Strategy.stage(4), limits=Limits(llm=SLOTS)
        )

        def foretold(mark: str, runner: BatchRunner = runner) -> float:
            server = SimulatedServer.measured(
                llm,
                calls=20,
                task=TASK,
                items=RESTAURANTS,
                search=search_of(mark),
                slots=SLOTS,
                search_seconds=0.0,
            )
            return median(runner.simulate(TASK, RESTAURANTS, server, seed=seed).seconds for seed in range(5))

        before = foretold(f"{number} before")
        real = runner.run(TASK, RESTAURANTS).stats.wall_seconds
        after = foretold(f"{number} after")
        ratios.append((before + after) / 2 / real)

    assert median(ratios) == pytest.approx(1, rel=0.2), ratios

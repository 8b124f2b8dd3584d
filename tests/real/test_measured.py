"""A run against a real server takes about as long as its simulation, if the server was measured before."""

from __future__ import annotations

from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.simulation import SampledLengths, SimulatedServer
from restaurant_llm_batch.testing import FakeSearch
from tests.real.conftest import SLOTS
from tests.real.test_smollm2 import REVIEWS

SAMPLE, RESTAURANTS = range(100, 102), range(8)
TASK = SummarizeAspects(language="en", mode="split", limit=2, max_tokens=60)


def test_the_time_of_a_run_is_foretold_within_a_fifth(llm: VLLMServerLLM) -> None:
    lengths = SampledLengths()
    # No two have the same prompt, which the server would remember.
    reviews = {
        item: [f"Table {item}: {review}" for review in REVIEWS[item % 5 :]]
        for item in (*SAMPLE, *RESTAURANTS)
    }
    search = FakeSearch(reviews)
    runner = BatchRunner(llm=llm, search=search, strategy=Strategy.stage(4), limits=Limits(llm=SLOTS))
    BatchRunner(llm=llm, search=search, limits=Limits(llm=1), observers=[lengths]).run(TASK, SAMPLE)
    server = SimulatedServer.measured(llm, calls=20, slots=SLOTS, search_seconds=0.0)
    simulation = runner.simulate(TASK, RESTAURANTS, server, answers=lengths)
    report = runner.run(TASK, RESTAURANTS)

    ratio = simulation.seconds / report.stats.wall_seconds
    told = f"{ratio:.2f}: {server}, {simulation}, {report.stats}"
    assert 0.8 < ratio < 1.2, told

"""A run against a real server takes about as long as its simulation, if the server was measured before."""

from __future__ import annotations

from statistics import median

import pytest

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, SearchQuery, Strategy
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.simulation import SimulatedServer
from restaurant_llm_batch.steps import Flow, complete, gather, search
from restaurant_llm_batch.testing import FakeSearch
from tests.real.conftest import SLOTS
from tests.real.test_smollm2 import REVIEWS

RESTAURANTS, ROUNDS = range(8), 3
ASPECTS = ("service", "price", "food")


def say(task: str, text: str) -> Flow[str]:
    """Ask for prose, which a limit of tokens may cut: what `SummarizeAspects` then asks again is not foretold."""
    messages = ({"role": "user", "content": f"Say what guests think of the {task}.\n\n{text}"},)
    return (yield from complete(LLMRequest(task, messages, max_tokens=60))).text


def describe(item: int) -> Flow[str]:
    """Make calls of the shape of `SummarizeAspects` in split mode: three side by side, and one from their answers."""
    hits = yield from search(SearchQuery(item, "food"))
    reviews = "\n".join(hit.content for hit in hits)
    said = yield from gather(*(say(aspect, reviews) for aspect in ASPECTS))
    return (yield from say("restaurant", "\n".join(map(str, said))))


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
                task=describe,
                items=RESTAURANTS,
                search=search_of(mark),
                slots=SLOTS,
                search_seconds=0.0,
            )
            return median(
                runner.simulate(describe, RESTAURANTS, server, seed=seed).seconds for seed in range(5)
            )

        before = foretold(f"{number} before")
        real = runner.run(describe, RESTAURANTS).stats.wall_seconds
        after = foretold(f"{number} after")
        ratios.append((before + after) / 2 / real)

    assert median(ratios) == pytest.approx(1, rel=0.2), ratios

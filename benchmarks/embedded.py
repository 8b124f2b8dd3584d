"""
Embedded search: CPU microseconds of a restaurant's searches, of a restaurant of `SummarizeAspects`, and among others.

    python benchmarks/embedded.py --data reviews.jsonl [--sizes 10000 30000] [--rounds 5]

A restaurant is three searches in one round trip and one LLM call, with a model that answers at once; stage 4. A search
with ``scope="others"`` ranks the reviews of all other restaurants; its cost is given for growing collections.

To compare two versions, run the script by turns with each on ``PYTHONPATH``, and take the median of the ratios:

    for i in 1 2 3 4 5; do
        PYTHONPATH=old/src python benchmarks/embedded.py; PYTHONPATH=src python benchmarks/embedded.py
    done
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    SearchQuery,
    Strategy,
    SummarizeAspects,
)
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.tasks.aspects import SEEDS
from restaurant_llm_batch.testing import FakeLLM

HELD_OUT = Path(__file__).parent / "data" / "aspects_heldout.jsonl"
REVIEWS = 30  # of one restaurant
SEARCHED = 300  # restaurants of one round
TEXTS = [" ".join(words[:10]) for words in list(SEEDS["ko"].values())[:3]]


class AtOnce:
    """A model that gives the first answer to every request, without work of its own."""

    def __init__(self) -> None:
        self._first: LLMResponse | None = None

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Answer."""
        if self._first is None:
            self._first = FakeLLM().complete(request)
        return self._first


def microseconds(job: Callable[[], Any], count: int, rounds: int) -> float:
    """Return the median CPU time of a job, per element."""
    costs = []
    for _ in range(rounds):
        began = time.process_time()
        job()
        costs.append((time.process_time() - began) / count * 1e6)
    return statistics.median(costs)


def index(texts: list[str], size: int) -> EmbeddedSearch:
    """Return a collection of a size."""
    search = EmbeddedSearch()
    search.index_reviews(
        {"restaurant_id": i // REVIEWS, "id": i, "content": text}
        for i, text in enumerate(islice(cycle(texts), size))
    )
    return search


def among_others(search: EmbeddedSearch) -> None:
    """Search among the others, one restaurant after the other."""
    for restaurant in range(20):
        search.search(SearchQuery(restaurant, TEXTS[0], scope="others"))


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=HELD_OUT)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = [json.loads(line)["content"] for line in options.data.read_text(encoding="utf-8").splitlines()]
    for size in options.sizes:
        search = index(texts, size)
        runner = BatchRunner(
            llm=AtOnce(), search=search, strategy=Strategy.stage(4), limits=Limits(search=50, llm=64)
        )

        def searches(search: EmbeddedSearch = search) -> None:
            for restaurant in range(SEARCHED):
                search.search_many([SearchQuery(restaurant, text) for text in TEXTS])

        def run(runner: BatchRunner = runner) -> None:
            assert runner.run(SummarizeAspects(), range(SEARCHED)).stats.succeeded == SEARCHED

        with runner:
            run()
            print(f"{size:,} reviews")
            print(f"  3 searches of a restaurant   {microseconds(searches, SEARCHED, options.rounds):9.0f}")
            print(f"  SummarizeAspects, restaurant {microseconds(run, SEARCHED, options.rounds):9.0f}")
        others = microseconds(lambda search=search: among_others(search), 20, options.rounds)  # type: ignore[misc]
        print(f"  a search among the others    {others:9.0f}")


if __name__ == "__main__":
    main()

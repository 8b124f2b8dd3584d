"""How often an engine is asked where many reviews are alike."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import pytest

from restaurant_llm_batch.models import Hit, SearchQuery
from restaurant_llm_batch.protocols import Embedding, SparseVector
from restaurant_llm_batch.search._fusion import PreparedQuery, Ranking, RankRequest, run_hybrid
from restaurant_llm_batch.search._hybrid import FoundReview, scope_of
from restaurant_llm_batch.steps import drive

VECTOR = Embedding([1.0], SparseVector([1], [1.0]))


class Alike:
    """An engine in which all reviews are equal, and which gives the last ones first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[int] = []

    def __call__(self, rankings: Sequence[RankRequest]) -> list[Ranking]:
        self.asked.append(max(one.limit for one in rankings))
        return [self._best(one.limit) for one in rankings]

    def _best(self, limit: int) -> Ranking:
        last = range(self.size - 1, max(-1, self.size - 1 - limit), -1)
        reviews: dict[Hashable, FoundReview | None] = {
            str(n): FoundReview(n, "맛있어요", f"r{n}") for n in last
        }
        return Ranking([(point, 0.5) for point in reviews], reviews)


def found(engine: Alike, among: Literal["restaurant", "others"], limit: int = 3) -> list[Hit]:
    """Search for one query."""
    query = SearchQuery("me", "맛", limit, scope=among)
    [hits] = drive(run_hybrid([PreparedQuery(query, scope_of(query), VECTOR)]), engine)
    return hits


@pytest.mark.parametrize("size", [20, 21, 500, 5_000])
def test_a_restaurants_own_equals_are_all_looked_at(size: int) -> None:
    hits = found(Alike(size), "restaurant")

    assert [(hit.review_id, hit.restaurant_id) for hit in hits] == [(0, "me"), (1, "me"), (2, "me")]


@pytest.mark.parametrize("size", [20, 21, 1_000])
def test_up_to_a_thousand_equals_of_others_are_all_looked_at(size: int) -> None:
    hits = found(Alike(size), "others")

    assert [(hit.review_id, hit.restaurant_id) for hit in hits] == [(0, "r0"), (1, "r1"), (2, "r2")]


@pytest.mark.sample(2)
@pytest.mark.parametrize("limit", [3, 20, 100, 900, 1_500])
def test_of_a_million_equal_reviews_of_others_a_few_thousand_are_fetched(limit: int) -> None:
    engine = Alike(1_000_000)

    hits = found(engine, "others", limit)

    assert len(hits) == limit
    assert sum(engine.asked) < 6_000
    assert len(engine.asked) <= 4

"""Searches among the others: the lists of all restaurants are made once, and give what a filter gives."""

from __future__ import annotations

import random
from typing import Any

import pytest

from restaurant_llm_batch import Hit, SearchQuery
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.search.embedded._others import OthersCache

WORDS = [
    *("맛있어요", "친절해요", "국수", "빵", "비싸요", "가성비", "분위기"),
    *("조용해요", "넓어요", "커피", "noodles", "waiter", "cheap"),
]


def reviews(count: int, restaurants: int, seed: int = 1) -> list[dict[str, Any]]:
    """Return random short reviews, many of them equal."""
    chance = random.Random(seed)
    return [
        {
            "restaurant_id": chance.choice([0, *range(restaurants)]),
            "id": i,
            "content": " ".join(chance.choices(WORDS, k=chance.randint(1, 3))),
            "category": chance.choice([None, "noodle", 3]),
        }
        for i in range(count)
    ]


def filtered(
    monkeypatch: pytest.MonkeyPatch, search: EmbeddedSearch, queries: list[SearchQuery]
) -> list[list[Hit]]:
    """Search with the engine's filter instead of the cache."""
    with monkeypatch.context() as patch:
        patch.setattr(OthersCache, "rank", lambda self, ranking, make: None)
        return search.search_many(queries)


@pytest.mark.parametrize("restaurants", [1, 2, 40])
@pytest.mark.sample(1)
@pytest.mark.slow
def test_the_hits_are_those_of_a_filter(monkeypatch: pytest.MonkeyPatch, restaurants: int) -> None:
    search = EmbeddedSearch()
    search.index_reviews(reviews(500, restaurants))
    queries = [
        SearchQuery(restaurant, text, limit, bound, scope="others", category=category)
        for restaurant in (0, 1, "1", 7, "unknown")
        for text in ("맛있어요 국수", "cheap noodles")
        for limit in (1, 10, 70)
        for bound in (0.0, 0.3)
        for category in (None, "noodle", "3", "none")
    ]

    assert search.search_many(queries) == filtered(monkeypatch, search, queries)


@pytest.mark.slow
def test_a_restaurant_with_all_of_the_best_reviews_leaves_the_others_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = EmbeddedSearch()
    search.index_reviews([{"restaurant_id": 1, "id": i, "content": f"국수 국수 {i}"} for i in range(5_000)])
    search.index_reviews([{"restaurant_id": 2, "id": i, "content": f"국수 빵 커피 {i}"} for i in range(3)])
    query = SearchQuery(1, "국수", scope="others")

    hits = search.search(query)

    assert [hits] == filtered(monkeypatch, search, [query])
    assert {hit.restaurant_id for hit in hits} == {2}


def test_a_new_review_is_found_at_once() -> None:
    search = EmbeddedSearch()
    search.index_reviews([{"restaurant_id": 2, "id": 1, "content": "국수 빵"}])
    query = SearchQuery(1, "국수", scope="others")
    assert [hit.review_id for hit in search.search(query)] == [1]

    search.index_reviews([{"restaurant_id": 3, "id": 2, "content": "국수"}])
    search.index_reviews([{"restaurant_id": 2, "id": 1, "content": "커피"}])

    assert [hit.review_id for hit in search.search(query)][:1] == [2]
    assert "국수 빵" not in [hit.content for hit in search.search(query)]


def test_the_ranking_over_all_restaurants_is_made_once_for_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    search = EmbeddedSearch()
    search.index_reviews(reviews(400, 40))
    from restaurant_llm_batch.search.embedded import _shard

    rank_all = _shard._rank_all

    def counted(engine: Any, ranking: Any, limit: int) -> Any:
        made.append(ranking.using)
        return rank_all(engine, ranking, limit)

    monkeypatch.setattr(_shard, "_rank_all", counted)
    for restaurant in range(1, 40):
        search.search(SearchQuery(restaurant, "커피 waiter", scope="others"))

    assert len(made) <= 4

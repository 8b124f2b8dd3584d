"""What `FakeSearch` finds."""

from __future__ import annotations

from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.testing import FakeSearch

REVIEWS = {0: ["a", "b"], 1: ["c"], "2": ["d", "e"], 3: []}


def found(search: FakeSearch, query: SearchQuery) -> list[tuple[object, object, str]]:
    """Return restaurant, review and text of each hit."""
    return [(hit.restaurant_id, hit.review_id, hit.content) for hit in search.search(query)]


def test_the_others_are_found_one_after_another_up_to_the_limit() -> None:
    search = FakeSearch(REVIEWS)

    assert found(search, SearchQuery(0, "?", among="others")) == [
        (1, "1-0", "c"),
        ("2", "2-0", "d"),
        ("2", "2-1", "e"),
    ]
    assert found(search, SearchQuery("1", "?", 3, among="others")) == [
        (0, "0-0", "a"),
        (0, "0-1", "b"),
        ("2", "2-0", "d"),
    ]
    assert found(search, SearchQuery(2, "?", 2)) == []
    assert found(search, SearchQuery("2", "?", 1)) == [("2", "2-0", "d")]


def test_hits_are_ordered_by_score() -> None:
    scores = [hit.score for hit in FakeSearch(REVIEWS).search(SearchQuery(1, "?", among="others"))]

    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_a_category_counts_where_restaurants_have_one() -> None:
    query = SearchQuery(0, "?", among="others", category=7)

    assert found(FakeSearch(REVIEWS, categories={0: 7, "2": "7", 1: 8}), query) == [
        ("2", "2-0", "d"),
        ("2", "2-1", "e"),
    ]
    assert len(found(FakeSearch(REVIEWS), query)) == 3


def test_a_function_knows_no_others() -> None:
    search = FakeSearch(lambda restaurant_id: [f"of {restaurant_id}"])

    assert found(search, SearchQuery(1, "?", among="others")) == []
    assert found(search, SearchQuery(1, "?")) == [(1, "1-0", "of 1")]

"""What `FakeSearch` finds, and what both doubles say to arguments that cannot work."""

from __future__ import annotations

from typing import Any

import pytest

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import LLMRequest, SearchQuery
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

REVIEWS = {0: ["a", "b"], 1: ["c"], "2": ["d", "e"], 3: []}


def found(search: FakeSearch, query: SearchQuery) -> list[tuple[object, object, str]]:
    """Return restaurant, review and text of each hit."""
    return [(hit.restaurant_id, hit.review_id, hit.content) for hit in search.search(query)]


def test_the_others_are_found_one_after_another_up_to_the_limit() -> None:
    search = FakeSearch(REVIEWS)

    assert found(search, SearchQuery(0, "?", scope="others")) == [
        (1, "1-0", "c"),
        ("2", "2-0", "d"),
        ("2", "2-1", "e"),
    ]
    assert found(search, SearchQuery("1", "?", 3, scope="others")) == [
        (0, "0-0", "a"),
        (0, "0-1", "b"),
        ("2", "2-0", "d"),
    ]
    assert found(search, SearchQuery(2, "?", 2)) == []
    assert found(search, SearchQuery("2", "?", 1)) == [("2", "2-0", "d")]


def test_hits_are_ordered_by_score() -> None:
    scores = [hit.score for hit in FakeSearch(REVIEWS).search(SearchQuery(1, "?", scope="others"))]

    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_a_category_counts_where_restaurants_have_one() -> None:
    query = SearchQuery(0, "?", scope="others", category=7)

    assert found(FakeSearch(REVIEWS, categories={0: 7, "2": "7", 1: 8}), query) == [
        ("2", "2-0", "d"),
        ("2", "2-1", "e"),
    ]
    assert len(found(FakeSearch(REVIEWS), query)) == 3


def test_a_function_knows_no_others() -> None:
    search = FakeSearch(lambda restaurant_id: [f"of {restaurant_id}"])

    assert found(search, SearchQuery(1, "?", scope="others")) == []
    assert found(search, SearchQuery(1, "?")) == [(1, "1-0", "of 1")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"answer": "text"}, r"answer must be a function .* for example answer=lambda request: 'text'"),
        ({"seconds": "1"}, "seconds must be a number of at least 0, got '1'"),
        ({"seconds": -1}, "seconds must be a number of at least 0, got -1"),
        ({"seconds": float("nan")}, "seconds must be a number"),
        (
            {"fault": ConfigurationError("x")},
            "fault must be a function of the query or request and the attempt",
        ),
        ({"requests": 3}, r"requests must be a list, .* for example requests=\[\]"),
    ],
)
def test_a_model_says_what_to_write_instead(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        FakeLLM(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"reviews": ["맛있어요"]},
            r'reviews must map .* got list; for example reviews=\{1: \["맛있어요"\]\}',
        ),
        (
            {"reviews": {7: "맛있어요"}},
            r'reviews of 7 must be a list .* got str; for example \{7: \["맛있어요"\]\}',
        ),
        ({"reviews": {7: None}}, "reviews of 7 must be a list of texts, got NoneType"),
        (
            {"reviews": {}, "categories": [7]},
            r"categories must map restaurants .* for example categories=\{1: 7\}",
        ),
        ({"reviews": {}, "fault": "down"}, "fault must be a function"),
        ({"reviews": {}, "seconds": None}, "seconds must be a number"),
    ],
)
def test_a_search_says_what_to_write_instead(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        FakeSearch(**arguments)


def test_a_function_that_returns_the_wrong_thing_is_reported_of_it() -> None:
    llm = FakeLLM(answer=lambda request: {"labels": []})  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigurationError, match=r"got dict for 't'; for example json\.dumps"):
        llm.complete(LLMRequest("t", ()))

    with pytest.raises(ConfigurationError, match="reviews of 1 must be a list of texts, got str"):
        FakeSearch(lambda name: "맛있어요").search(SearchQuery(1, "?"))

"""Searches among the other restaurants: never the restaurant itself, of one category, alike in each search."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any, TypeAlias

import anyio
import pytest
from tests.support.qdrant_server import Engine, door

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import Hit, ItemId, Review, SearchQuery
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch
from restaurant_llm_batch.search.qdrant.search import QdrantSearch

Search: TypeAlias = EmbeddedSearch | QdrantSearch
PLACES = ["embedded", "memory", "rest", "grpc"]
HOUSES: list[ItemId] = [0, 1, 10, "2", "other"]


@pytest.fixture(params=PLACES)
def search(request: pytest.FixtureRequest) -> Iterator[Search]:
    """Return an empty search of each kind."""
    if request.param == "embedded":
        yield EmbeddedSearch()
        return
    with door(request.param) as search:
        yield search


def review(restaurant_id: ItemId, review_id: ItemId, content: str, category: ItemId | None = None) -> Review:
    """Return a review."""
    return Review(content, review_id, restaurant_id, category=category)


def others(restaurant_id: ItemId, text: str = "맛", limit: int = 50, **more: Any) -> SearchQuery:
    """Return a query among the others."""
    return SearchQuery(restaurant_id, text, limit, scope="others", **more)


def named(hits: Sequence[Hit]) -> list[tuple[str, ItemId]]:
    """Return what was found: restaurants as text, since a collection does not remember "2" from 2."""
    return [(str(hit.restaurant_id), hit.review_id) for hit in hits]


@pytest.mark.parametrize("restaurant_id", [0, "0", 1, "1", 10, 2, "other"])
@pytest.mark.sample(1)
def test_the_restaurant_itself_is_never_among_the_others(search: Search, restaurant_id: ItemId) -> None:
    search.index_reviews(review(house, n, "맛있어요") for house in HOUSES for n in range(3))

    hits = search.search(others(restaurant_id))

    assert sorted({str(hit.restaurant_id) for hit in hits}) == sorted(
        {str(house) for house in HOUSES} - {str(restaurant_id)}
    )
    assert len(hits) == 12


@pytest.mark.sample(2)
def test_hits_tell_their_own_restaurant(search: Search) -> None:
    search.index_reviews([review(0, 1, "맛있어요"), review(7, 2, "맛있어요"), review("ko-1", 3, "맛있어요")])

    assert [(hit.review_id, hit.restaurant_id) for hit in search.search(others("x"))] == [
        (1, 0),
        (2, 7),
        (3, "ko-1"),
    ]


@pytest.mark.parametrize("limit", [1, 5, 30])
@pytest.mark.sample(2)
def test_equals_are_ordered_by_review_and_then_by_restaurant_wherever_they_are_cut(
    search: Search, limit: int
) -> None:
    houses: list[ItemId] = ["b", "10", 9, "a", *range(20, 30)]
    search.index_reviews(review(house, n, "맛있어요") for n in (2, 1) for house in houses)

    hits = search.search(others(20, limit=limit))

    order = ["9", "10", *map(str, range(21, 30)), "a", "b"]
    assert named(hits) == [(house, n) for n in (1, 2) for house in order][:limit]


@pytest.mark.parametrize("category", [3, "3"])
@pytest.mark.sample(2)
def test_a_category_matches_whichever_type_it_has(search: Search, category: ItemId) -> None:
    search.index_reviews(
        [review(1, 1, "맛있어요", 3), review(2, 2, "맛있어요", "3"), review(3, 3, "맛있어요", 30)]
    )
    search.index_reviews(
        [
            {"restaurant_id": 4, "id": 4, "content": "맛있어요", "category": 3},
            {"restaurant_id": 5, "id": 5, "content": "맛있어요", "food_category_id": "3"},
            {"restaurant_id": 6, "id": 6, "content": "맛있어요", "category": " "},
            {"restaurant_id": 7, "id": 7, "content": "맛있어요"},
        ]
    )

    found = search.search_many(
        [others(1, category=category), SearchQuery(2, "맛", category=category), others(1)]
    )

    assert [[hit.review_id for hit in hits] for hits in found] == [[2, 4, 5], [2], [2, 3, 4, 5, 6, 7]]


@pytest.mark.sample(2)
def test_a_category_is_one_more_condition_and_0_and_words_are_categories(search: Search) -> None:
    search.index_reviews(
        [review(1, 1, "맛있어요", 0), review(2, 2, "맛있어요", "국밥"), review(3, 3, "맛있어요")]
    )

    found = search.search_many(
        [
            others("x", category=0),
            others("x", category="국밥"),
            others(2, category="국밥"),
            others("x", category="none"),
            SearchQuery(1, "맛", category="국밥"),
            SearchQuery(1, "맛", category="0"),
        ]
    )

    assert [[hit.review_id for hit in hits] for hits in found] == [[1], [2], [], [], [], [1]]


@pytest.mark.sample(2)
def test_a_review_that_is_indexed_again_has_its_new_category(search: Search) -> None:
    search.index_reviews([review(1, 1, "맛있어요", "a"), review(1, 2, "맛있어요", "a")])
    search.index_reviews([review(1, 1, "맛있어요", "b"), review(1, 2, "맛있어요")])

    found = search.search_many([others(2, category="a"), others(2, category="b"), others(2)])

    assert [[hit.review_id for hit in hits] for hits in found] == [[], [1], [1, 2]]


@pytest.mark.sample(2)
def test_many_queries_own_and_others_are_answered_as_one_by_one(search: Search) -> None:
    search.index_reviews(
        review(house, n, text, house % 2)
        for house in range(4)
        for n, text in enumerate(["직원이 친절해요", "음식이 맛있어요", "가격이 비싸요"])
    )
    queries = [
        SearchQuery(0, "직원 친절"),
        others(0, "직원 친절", limit=2),
        others(0, ""),
        others("nobody", "음식", min_score=0.3),
        SearchQuery("nobody", "음식"),
        others(3, "가격", category=1),
    ]

    found = search.search_many(queries)

    assert found == [search.search(query) for query in queries]
    assert [len(hits) for hits in found] == [3, 2, 0, 4, 0, 3]


@pytest.mark.sample(1)
def test_the_bound_on_the_similarity_holds_among_the_others(search: Search) -> None:
    texts = ["직원이 친절해요", "직원이 나와서 가격을 물어보니 말이 없고 음식은 차갑고 접시가 더러워요"]
    search.index_reviews(review(house, n, text) for house in range(30) for n, text in enumerate(texts))

    free, bound = search.search_many([others(0, "직원 친절"), others(0, "직원 친절", min_score=0.5)])

    assert {hit.review_id for hit in free} == {0, 1}
    assert {hit.review_id for hit in bound} == {0}
    assert "0" not in {str(hit.restaurant_id) for hit in (*free, *bound)}


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (SearchQuery(1, "맛", scope="other"), 'scope must be "restaurant" or "others", got \'other\''),  # type: ignore[arg-type]
        (others(True), "restaurant_id must be an integer or a string"),
        (others(1, category=1.5), "category must be an integer or a string"),
        (others(1, category=" "), "category is blank: leave it out"),
    ],
)
@pytest.mark.sample(2)
def test_a_query_that_names_nothing_to_look_among_is_refused(
    search: Search, query: SearchQuery, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        search.search(query)


@pytest.mark.parametrize("category", [1.5, True, ["a"], 2**70])
@pytest.mark.sample(2)
def test_a_category_that_is_no_id_is_named(search: Search, category: Any) -> None:
    reviews: list[Any] = [
        review(1, 1, "맛있어요"),
        {"restaurant_id": 1, "content": "맛", "food_category_id": category},
    ]

    with pytest.raises(ConfigurationError, match=r"reviews\[1\]\.category "):
        search.index_reviews(reviews)


def sample() -> list[dict[str, Any]]:
    """Return the shipped reviews of twenty restaurants, Korean and English, with their cuisines."""
    text = (files("restaurant_llm_batch") / "data" / "sample_reviews.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()[:20]]
    return [
        {**one, "restaurant_id": row["restaurant_id"], "category": row["cuisine"]}
        for row in rows
        for one in row["reviews"]
    ]


@pytest.fixture(scope="module")
def expected() -> list[tuple[SearchQuery, list[Hit]]]:
    """Return queries with what is found in this process."""
    reviews = sample()
    kinds = {one["restaurant_id"]: one["category"] for one in reviews}
    queries = [
        replace(query, limit=limit, min_score=min_score)
        for name, kind in [*kinds.items(), ("nobody", "italian")][::5]
        for text in ("직원 친절 서비스", "음식 맛 pasta soup")
        for query in (others(name, text), others(name, text, category=kind), SearchQuery(name, text))
        for limit, min_score in ((20, 0.0), (4, 0.15))
    ]
    search = EmbeddedSearch()
    search.index_reviews(reviews)
    return list(zip(queries, search.search_many(queries), strict=True))


@pytest.fixture(scope="module", params=["memory", "rest", "grpc"])
def stocked(request: pytest.FixtureRequest) -> Iterator[QdrantSearch]:
    """Return a search behind each door, with the sample in it."""
    with door(request.param) as search:
        search.index_reviews(sample())
        yield search


@pytest.mark.parametrize("mode", ["blocking", "asyncio", "trio"])
@pytest.mark.slow
def test_qdrant_agrees_with_the_embedded_search(
    stocked: QdrantSearch, expected: list[tuple[SearchQuery, list[Hit]]], mode: str
) -> None:
    queries = [query for query, _ in expected]

    async def main() -> list[list[Hit]]:
        try:
            return await stocked.asearch_many(queries)
        finally:
            await stocked.aclose()

    found = stocked.search_many(queries) if mode == "blocking" else anyio.run(main, backend=mode)

    # The sample's ids of numbers are numbers, so that even those agree.
    assert [[(hit.restaurant_id, hit.review_id, hit.content) for hit in hits] for hits in found] == [
        [(hit.restaurant_id, hit.review_id, hit.content) for hit in hits] for _, hits in expected
    ]
    for ours, (_, theirs) in zip(found, expected, strict=True):
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs])
    assert sum(len(hits) for query, hits in expected if query.scope == "others") > 200


def test_own_and_others_go_out_in_one_round_trip() -> None:
    engine = Engine(strict=True)
    with door("rest", engine) as search:
        search.index_reviews(review(house, n, f"음식 {n} 맛있어요") for house in range(3) for n in range(3))
        search.search_many([SearchQuery(1, "음식"), others(1, "음식")])

    assert [len(batch) for batch in engine.batches] == [4]

"""Deleting reviews and restaurants: what was deleted is found no more, by all searches alike, and nothing else goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from qdrant_client import QdrantClient, models
from tests.support.qdrant_server import Engine, door
from tests.support.reviews import review

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch
from restaurant_llm_batch.search.qdrant import _flows
from restaurant_llm_batch.search.qdrant._layout import CollectionSchema
from restaurant_llm_batch.search.qdrant.search import QdrantSearch


@pytest.fixture(params=["embedded", "memory", "rest", "grpc"])
def search(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a search with three restaurants: 1 and "2" with three reviews each, "mapo" with one."""
    if request.param == "embedded":
        made: Any = EmbeddedSearch()
        made.index_reviews(rows())
        yield made
        return
    with door(request.param, *([Engine(strict=True)] if request.param in ("rest", "grpc") else [])) as made:
        made.index_reviews(rows())
        yield made


def rows() -> list[Any]:
    return [
        *[review(1, number, f"국수 {number}") for number in range(3)],
        *[review("2", f"r{number}", f"국수 {number}") for number in range(3)],
        review("mapo", 0, "국수"),
    ]


def found(search: Any, restaurant: int | str, scope: Any = "restaurant") -> list[Any]:
    hits = search.search(SearchQuery(restaurant, "국수", scope=scope))
    return sorted((hit.review_id for hit in hits), key=str)


@pytest.mark.sample(2)
def test_a_deleted_review_is_found_no_more(search: Any) -> None:
    assert search.delete_reviews(1, [0, 2, 99]) == 2
    assert found(search, 1) == [1]
    assert found(search, 2) == ["r0", "r1", "r2"]
    assert search.count() == 5


@pytest.mark.sample(2)
def test_ids_of_both_forms_are_one(search: Any) -> None:
    assert search.delete_reviews("1", ["0"]) == 1
    assert search.delete_reviews(2, ["r1", "r1"]) == 1
    assert (found(search, 1), found(search, 2)) == ([1, 2], ["r0", "r2"])


@pytest.mark.sample(2)
def test_a_deleted_restaurant_is_listed_no_more_nor_found_among_others(search: Any) -> None:
    assert len(found(search, "mapo", "others")) == 6
    assert search.delete_restaurant(2) == 3
    assert search.restaurant_ids() == [1, "mapo"]
    assert found(search, "mapo", "others") == [0, 1, 2]
    assert search.delete_restaurant(2) == 0


@pytest.mark.sample(2)
def test_what_is_not_there_is_no_error(search: Any) -> None:
    assert search.delete_reviews(1, []) == 0
    assert search.delete_reviews("nobody", [1]) == 0
    assert search.delete_restaurant("nobody") == 0
    assert search.count() == 7


@pytest.mark.sample(2)
def test_a_review_without_an_id_goes_by_the_id_that_a_search_gave_it(search: Any) -> None:
    search.index_reviews([{"restaurant_id": 9, "content": "국수"}])
    (hit,) = search.search(SearchQuery(9, "국수"))
    assert search.delete_reviews(9, [hit.review_id]) == 1
    assert found(search, 9) == []


@pytest.mark.sample(2)
def test_deleted_reviews_can_be_indexed_again(search: Any) -> None:
    search.delete_restaurant(1)
    search.index_reviews(rows()[:1])
    assert found(search, 1) == [0]


@pytest.mark.sample(2)
def test_what_is_no_list_of_ids_is_refused_by_name(search: Any) -> None:
    for ids in ("r1", b"r1", {"r1": 1}, 7, None, [None], [1.5]):
        with pytest.raises(ConfigurationError, match="review_ids"):
            search.delete_reviews(1, ids)
    with pytest.raises(ConfigurationError, match="restaurant_id"):
        search.delete_restaurant([1])
    assert search.count() == 7


def test_a_folder_remembers_it(tmp_path: Path) -> None:
    with EmbeddedSearch(tmp_path / "index") as search:
        search.index_reviews(rows())
        search.delete_restaurant(1)
    with EmbeddedSearch(tmp_path / "index") as again:
        assert again.restaurant_ids() == ["2", "mapo"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="index"):
        EmbeddedSearch(tmp_path / "index").delete_restaurant(1)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("mode", ["asyncio", "trio"])
def test_awaited_as_well(mode: str) -> None:
    async def main() -> None:
        async with QdrantSearch("reviews", url=":memory:") as search:
            search.index_reviews(rows())
            assert await search.adelete_reviews(1, [1]) == 1
            assert await search.adelete_restaurant("2") == 3
            assert await search.acount() == 3

    anyio.run(main, backend=mode)


def test_a_restaurant_of_many_requests_goes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_flows, "_SCROLLED", 4)
    monkeypatch.setattr(_flows, "_DELETED", 3)
    with door("grpc") as search:
        search.index_reviews([*rows(), *[review(1, number, "국수") for number in range(100, 119)]])
        assert search.delete_reviews(1, range(100, 110)) == 10
        assert search.delete_restaurant(1) == 12
        assert search.count() == 4


def test_reviews_of_a_collection_made_elsewhere_go_by_their_own_ids() -> None:
    client = QdrantClient(":memory:")
    client.create_collection(
        "reviews", vectors_config={"dense": models.VectorParams(size=384, distance=models.Distance.COSINE)}
    )
    payloads: list[dict[str, Any]] = [{"id": 5}, {"review_id": "a", "id": 6}, {}, {"review_id": 5}]
    client.upsert(
        "reviews",
        [
            models.PointStruct(
                id=number,
                vector={"dense": [1.0] * 384},
                payload={"restaurant_id": 1, "content": "국수", **payload},
            )
            for number, payload in enumerate(payloads, 10)
        ],
    )
    search = QdrantSearch("reviews", client=client, schema=CollectionSchema(sparse=None))
    # 6 is not the id of the second: it has a "review_id".
    assert search.delete_reviews(1, [6]) == 0
    assert search.delete_reviews(1, [5]) == 2
    assert search.delete_reviews(1, ["12"]) == 1
    assert search.delete_restaurant("1") == 1

"""Points that hold no review, as other writers of a collection leave them: left out, counted and named once."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

import pytest
from qdrant_client import QdrantClient

from restaurant_llm_batch import SearchQuery, errors
from restaurant_llm_batch.search import EmbeddedSearch, QdrantSearch
from restaurant_llm_batch.search.embedders import HashingEmbedder

TEXTS = [f"맛있어요 국수 {i}" for i in range(6)]

ODD: dict[str, dict[str, Any]] = {
    "no text": {"restaurant_id": "1", "review_id": 99},
    "null text": {"restaurant_id": "1", "review_id": 99, "content": None},
    "a number": {"restaurant_id": "1", "review_id": 99, "content": 5},
    "a list": {"restaurant_id": "1", "review_id": 99, "content": ["맛있어요"]},
    "an object": {"restaurant_id": "1", "review_id": 99, "content": {"text": "맛있어요"}},
}


def odd_points(client: QdrantClient, payload: dict[str, Any], count: int = 1) -> None:
    """Write points that rank first for the query "맛있어요"."""
    from qdrant_client.models import PointStruct, SparseVector

    vector = HashingEmbedder().embed_query("맛있어요")
    sparse = SparseVector(indices=list(vector.sparse.indices), values=list(vector.sparse.values))
    client.upsert(
        "reviews",
        [
            PointStruct(id=1_000 + i, vector={"dense": list(vector.dense), "sparse": sparse}, payload=payload)
            for i in range(count)
        ],
    )


def indexed(client: QdrantClient) -> QdrantSearch:
    """Return a search over six reviews of restaurant 1 and one of restaurant 2."""
    search = QdrantSearch("reviews", client=client)
    search.index_reviews([{"restaurant_id": 1, "id": i, "content": text} for i, text in enumerate(TEXTS)])
    search.index_reviews([{"restaurant_id": 2, "id": 50, "content": "맛있어요 빵"}])
    return search


@pytest.mark.parametrize("count", [1, 60])
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.sample(2)
def test_points_without_a_text_are_left_out_and_named_once(
    kind: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(QdrantClient(":memory:")) as client:
        search = indexed(client)
        whole = search.search(SearchQuery(1, "맛있어요"))
        odd_points(client, ODD[kind], count)
        caplog.set_level(logging.WARNING)

        found = [search.search(SearchQuery(1, "맛있어요")) for _ in range(3)]

    for hits in found:
        assert sorted(hit.content for hit in hits) == sorted(hit.content for hit in whole) == TEXTS
    assert [record.message for record in caplog.records if "left out" in record.message] == [
        next(record.message for record in caplog.records if "has no text" in record.message)
    ]


@pytest.mark.parametrize("restaurant", [None, True, ["7"], 1.5, {"id": 7}])
def test_a_point_of_no_restaurant_is_left_out_among_the_others(restaurant: object) -> None:
    with closing(QdrantClient(":memory:")) as client:
        search = indexed(client)
        odd_points(client, {"restaurant_id": restaurant, "content": "맛있어요"})

        hits = search.search(SearchQuery(1, "맛있어요", scope="others"))

    assert [(hit.review_id, hit.restaurant_id) for hit in hits] == [(50, 2)]


@pytest.mark.sample(2)
@pytest.mark.parametrize("review_id", [None, 1.5, ["a"], {}, "", True])
def test_a_review_without_an_id_has_that_of_its_point(review_id: object) -> None:
    with closing(QdrantClient(":memory:")) as client:
        search = indexed(client)
        odd_points(client, {"restaurant_id": 1, "review_id": review_id, "content": "맛있어요"})

        hits = search.search(SearchQuery(1, "맛있어요"))

    assert len(hits) == 7
    assert 1_000 in {hit.review_id for hit in hits}


def test_a_point_without_one_of_its_vectors_is_found_by_the_other() -> None:
    from qdrant_client.models import PointStruct, SparseVector

    vector = HashingEmbedder().embed_query("맛있어요")
    sparse = SparseVector(indices=list(vector.sparse.indices), values=list(vector.sparse.values))
    with closing(QdrantClient(":memory:")) as client:
        search = indexed(client)
        points = [
            PointStruct(id=1_000, vector={"sparse": sparse}, payload={"restaurant_id": "1", "content": "a"}),
            PointStruct(
                id=1_001,
                vector={"dense": list(vector.dense)},
                payload={"restaurant_id": "1", "content": "b"},
            ),
        ]
        client.upsert("reviews", points)

        contents = [hit.content for hit in search.search(SearchQuery(1, "맛있어요"))]

    assert sorted(contents) == sorted([*TEXTS, "a", "b"])


def test_a_collection_with_no_text_in_any_point_is_a_mistake_of_the_schema() -> None:
    with closing(QdrantClient(":memory:")) as client:
        indexed(client)
        ids = [point.id for point in client.scroll("reviews")[0]]
        client.overwrite_payload("reviews", {"restaurant_id": "1", "text": "맛있어요"}, points=ids)

        with pytest.raises(errors.PermanentBackendError, match="no text in its payload field 'content'"):
            QdrantSearch("reviews", client=client).search(SearchQuery(1, "맛있어요"))


@pytest.mark.parametrize("scope", ["restaurant", "others"])
def test_a_damaged_point_of_an_index_folder_is_left_out(scope: Any, caplog: pytest.LogCaptureFixture) -> None:
    from qdrant_edge import UpdateOperation

    search = EmbeddedSearch()
    search.index_reviews([{"restaurant_id": 1, "id": i, "content": text} for i, text in enumerate(TEXTS)])
    query = SearchQuery(1 if scope == "restaurant" else 2, "맛있어요", limit=3, scope=scope)
    before = search.search(query)
    prepared = search._prepare(query)
    assert prepared is not None
    with search._shard._lease() as engine:
        [damaged] = search._shard._rank(engine, [prepared.ranking("dense", 1)])
        point: Any = damaged.points[0][0]
        engine.update(UpdateOperation.delete_payload([point], ["content"]))

    found = [search.search(query) for _ in range(2)]

    for hits in found:
        assert len(hits) == len(before) == 3
        assert all(hit.content in TEXTS for hit in hits)
    assert len([record for record in caplog.records if "holds no review" in record.message]) == 1

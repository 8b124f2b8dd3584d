"""Making a collection, checking one that is there, and writing reviews into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import anyio
import pytest
from qdrant_client import QdrantClient, models
from tests.support.local_server import LocalServer, Say, Seen
from tests.support.qdrant_server import Collections, Engine, Points, grpc_server, rest

from restaurant_llm_batch.errors import ConfigurationError, PermanentBackendError
from restaurant_llm_batch.models import Review, SearchQuery
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder
from restaurant_llm_batch.search.qdrant.search import CollectionSchema, IndexReport, QdrantSearch

DENSE = models.VectorParams(size=384, distance=models.Distance.COSINE)
SPARSE = {"sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)}
KEYWORD = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)


@pytest.fixture
def engine() -> Engine:
    """Return what is behind the server, which refuses what has no index."""
    return Engine(strict=True)


@pytest.fixture
def url(engine: Engine) -> Iterator[str]:
    """Return the server's address."""
    with LocalServer(rest(engine)) as server:
        yield server.url


def make(engine: Engine, vectors: Any, sparse: Any = SPARSE, **more: Any) -> None:
    """Make a collection, as somebody else would."""
    engine.do("create", "reviews", models.CreateCollection(vectors=vectors, sparse_vectors=sparse, **more))


def complaint(search: QdrantSearch) -> str:
    """Return what is said about a collection, which is the same whether one makes, fills or searches it."""
    ways: list[Any] = [
        search.create_collection,
        lambda: search.index_reviews([]),
        lambda: search.search(SearchQuery(1, "맛")),
    ]
    said = set()
    for way in ways:
        with pytest.raises(ConfigurationError) as caught:
            way()
        said.add(str(caught.value))
    [one] = said
    return one


def test_making_a_collection_twice_makes_it_once(engine: Engine, url: str) -> None:
    for _ in range(2):
        with QdrantSearch("reviews", url=url) as search:
            search.create_collection()

    info = engine.do("info", "reviews")
    assert info.config.params.vectors == {"dense": DENSE}
    assert info.config.params.sparse_vectors == SPARSE
    assert {name: index.params for name, index in info.payload_schema.items()} == {
        "restaurant_id": KEYWORD,
        "food_category_id": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    }
    assert engine.calls.count("index") == 2


def test_a_collection_is_made_over_grpc_as_over_rest(engine: Engine, url: str) -> None:
    other = Engine()

    async def create() -> None:
        async with QdrantSearch("reviews", url=url) as search:
            await search.acreate_collection()

    anyio.run(create)
    with grpc_server(Points(other), Collections(other)) as port:
        search = QdrantSearch("reviews", url="http://127.0.0.1:1", prefer_grpc=True, grpc_port=port)
        search.create_collection()
        search.close()

    one, two = engine.do("info", "reviews"), other.do("info", "reviews")
    assert one.config == two.config
    assert set(one.payload_schema) == set(two.payload_schema)


def test_whoever_comes_second_uses_what_the_first_one_made(engine: Engine) -> None:
    handle = rest(engine)

    def racing(seen: Seen) -> Say:
        if seen.method == "PUT" and seen.path == "/collections/reviews":
            make(engine, {"dense": DENSE})  # another process, just before
        return handle(seen)

    with LocalServer(racing) as server, QdrantSearch("reviews", url=server.url) as search:
        search.index_reviews([Review("맛있어요", 1, 1)])
        assert search.count() == 1


def test_a_name_that_the_server_refuses_is_not_taken_for_one_that_is_there() -> None:
    def refusing(seen: Seen) -> Say:
        status = 404 if seen.method == "GET" else 400
        return Say({"status": {"error": "collection name cannot contain : char"}}, status)

    with (
        LocalServer(refusing) as server,
        QdrantSearch("a:b", url=server.url) as search,
        pytest.raises(PermanentBackendError, match="cannot contain") as caught,
    ):
        search.create_collection()

    assert caught.value.status == 400


def test_whoever_may_not_look_does_not_make_a_collection() -> None:
    with LocalServer(lambda seen: Say({}, 403)) as server, QdrantSearch("reviews", url=server.url) as search:
        with pytest.raises(PermanentBackendError, match="403"):
            search.create_collection()

        assert [seen.method for seen in server.seen] == ["GET"]


@pytest.mark.parametrize(
    ("vectors", "sparse", "said"),
    [
        (
            DENSE,
            SPARSE,
            r"has no vector named 'dense', only ['']; name it with schema=CollectionSchema(dense=",
        ),
        ({"text": DENSE}, SPARSE, "has no vector named 'dense', only ['text']"),
        ({"dense": DENSE}, None, "has no sparse vector named 'sparse', only []"),
        (
            {"dense": models.VectorParams(size=768, distance=models.Distance.COSINE)},
            SPARSE,
            "are of size 768, but embedder is 'hashing-v1-384' of size 384",
        ),
        (
            {"dense": models.VectorParams(size=384, distance=models.Distance.EUCLID)},
            SPARSE,
            "are compared by Euclid",
        ),
    ],
)
@pytest.mark.sample(2)
def test_a_collection_that_does_not_fit_says_what_to_write(
    engine: Engine, url: str, vectors: Any, sparse: Any, said: str
) -> None:
    make(engine, vectors, sparse)

    with QdrantSearch("reviews", url=url) as search:
        assert said in complaint(search)


def test_a_collection_remembers_whose_vectors_it_holds() -> None:
    class Other(HashingEmbedder):
        name = "other"

    with closing(QdrantClient(":memory:")) as client:
        QdrantSearch("reviews", client=client).create_collection()
        said = complaint(QdrantSearch("reviews", client=client, embedder=Other()))

    assert "are by 'hashing-v1-384', but embedder is 'other'" in said


@pytest.mark.parametrize("value", [7, "7"])
def test_reviews_of_somebody_else_are_indexed_by_restaurant_as_they_are(
    engine: Engine, url: str, value: int | str
) -> None:
    make(engine, DENSE, None)
    vector = list(HashingEmbedder().embed_query("맛있어요").dense)
    payload = {"restaurant_id": value, "text": "맛있어요"}
    engine.do("upsert", "reviews", [models.PointStruct(id=3, vector=vector, payload=payload)])
    names = CollectionSchema(dense="", sparse=None, content="text")

    with QdrantSearch("reviews", url=url, schema=names) as search:
        search.index_reviews([Review("맛없어요", 4, "7")])
        found = search.search_many([SearchQuery(7, "맛있다"), SearchQuery("7", "맛있다")])

        assert [[hit.review_id for hit in hits] for hits in found] == [[3, 4]] * 2
        assert search.restaurant_ids() == [7]
        if isinstance(value, int):
            with pytest.raises(ConfigurationError, match=r"'ko-1' does not fit .* indexed for integers"):
                search.index_reviews([Review("맛있어요", 5, "ko-1")])


def test_what_is_written_with_a_condition_is_found_with_it(engine: Engine, url: str) -> None:
    for category in (0, 1):
        with QdrantSearch("reviews", url=url, where={"meta.food_category_id": category}) as search:
            search.index_reviews([Review("맛있어요", category, 1)])
    with QdrantSearch("reviews", url=url, where={"meta.food_category_id": "0"}) as search:
        found = search.search(SearchQuery(1, "맛"))

    assert [hit.review_id for hit in found] == [0]
    [point], _ = engine.do("scroll", "reviews")
    assert set(point.payload) == {"restaurant_id", "review_id", "content", "meta"}


def test_the_categories_of_somebody_else_are_indexed_as_they_are(engine: Engine, url: str) -> None:
    make(engine, {"dense": DENSE})
    vector: dict[str, Any] = {"dense": list(HashingEmbedder().embed_query("맛있어요").dense)}
    payloads: list[dict[str, Any]] = [{}, {"food_category_id": None}, {"food_category_id": 3}]
    points = [
        models.PointStruct(
            id=n, vector=vector, payload={"restaurant_id": n, "content": "맛있어요", **payload}
        )
        for n, payload in enumerate(payloads)
    ]
    engine.do("upsert", "reviews", points)

    with QdrantSearch("reviews", url=url) as search:
        search.index_reviews([Review("맛있어요", 4, 4, category="3")])
        found = search.search(SearchQuery(4, "맛", scope="others", category="3"))
        own = search.search(SearchQuery(4, "맛", category=3))

        assert [hit.review_id for hit in found] == [2]
        assert [hit.review_id for hit in own] == [4]
        with pytest.raises(ConfigurationError, match=r"category '국밥' does not fit .* indexed for integers"):
            search.index_reviews([Review("맛있어요", 5, 5, category="국밥")])


def test_a_collection_without_categories_is_left_without(engine: Engine, url: str) -> None:
    with QdrantSearch("reviews", url=url, schema=CollectionSchema(category=None)) as search:
        search.index_reviews([Review("맛있어요", 1, 1, category=3)])

    [point], _ = engine.do("scroll", "reviews")
    assert set(point.payload) == {"restaurant_id", "review_id", "content"}
    assert set(engine.do("info", "reviews").payload_schema) == {"restaurant_id"}


def test_a_review_of_another_category_than_the_condition_says_is_refused(url: str) -> None:
    with QdrantSearch("reviews", url=url, where={"food_category_id": 3}) as search:
        search.index_reviews([Review("맛있어요", 1, 1), Review("맛있어요", 2, 2, category="3")])
        with pytest.raises(ConfigurationError, match=r"review 3 of restaurant '1' has the category '4', but"):
            search.index_reviews([Review("맛있어요", 3, 1, category=4)])

        found = search.search_many(
            [SearchQuery(9, "맛", scope="others", category=kind) for kind in (3, 4, None)]
        )

    assert [[hit.review_id for hit in hits] for hits in found] == [[1, 2], [], [1, 2]]


@pytest.mark.sample(1)
@pytest.mark.parametrize("mode", ["blocking", "asyncio", "trio"])
def test_indexing_means_what_it_means_to_the_embedded_search(url: str, mode: str) -> None:
    search = QdrantSearch("reviews", url=url)
    reviews: list[Any] = [
        Review("맛없어요", 5, 1),
        Review(" \n", 6, 1),
        {"restaurant_id": "1", "review_id": "5", "content": "친절해요", "stars": 5},
        {"restaurant_id": 2, "content": "최고 \ud83d"},
        {"restaurant_id": 2, "content": "최고 \ud83d"},
        {"restaurant_id": 0, "id": 0, "content": "ㅋㅋㅋ"},
    ]
    progress: list[int] = []

    async def index() -> IndexReport:
        try:
            return await search.aindex_reviews(reviews, batch_size=2, on_progress=progress.append)
        finally:
            await search.aclose()

    with search:
        done = (
            search.index_reviews(reviews, batch_size=2, on_progress=progress.append)
            if mode == "blocking"
            else anyio.run(index, backend=mode)
        )

        assert (done, progress) == (IndexReport(reviews=5, blank=1), [1, 3, 5])
        assert search.count() == 3
        assert [(h.review_id, h.content) for h in search.search(SearchQuery(1, "친절"))] == [
            ("5", "친절해요")
        ]
        assert search.search(SearchQuery(2, "최고"))[0].content == "최고 \ufffd"
        assert search.restaurant_ids() == [0, 1, 2]


def test_a_review_that_cannot_be_used_is_named_and_what_came_before_is_written(url: str) -> None:
    with QdrantSearch("reviews", url=url) as search:
        with pytest.raises(ConfigurationError, match=r"reviews\[2\].content must be text"):
            search.index_reviews(
                [Review("a", 1, 1), Review("b", 2, 1), {"restaurant_id": 1, "content": 5}], batch_size=2
            )
        with pytest.raises(ConfigurationError, match="batch_size must be 1 or more"):
            search.index_reviews([], batch_size=0)

        assert search.count() == 2

"""What `QdrantSearch` sends, looked at with respx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest
import respx
from pydantic import SecretStr

from restaurant_llm_batch.errors import ConfigurationError, PermanentBackendError
from restaurant_llm_batch.models import ItemId, SearchQuery
from restaurant_llm_batch.search.qdrant.search import CollectionSchema, QdrantSearch

URL = "http://qdrant.test:6333"
COLLECTION = f"{URL}/collections/reviews"


def said(result: Any) -> httpx.Response:
    """Return an answer as Qdrant wraps it."""
    return httpx.Response(200, json={"result": result, "status": "ok", "time": 0.0})


def info(**indexes: str) -> dict[str, Any]:
    """Describe a collection whose payload has these indexes."""
    return {
        "status": "green",
        "optimizer_status": "ok",
        "segments_count": 1,
        "payload_schema": {name: {"data_type": kind, "points": 1} for name, kind in indexes.items()},
        "config": {
            "params": {
                "vectors": {"dense": {"size": 384, "distance": "Cosine"}},
                "sparse_vectors": {"sparse": {"modifier": "idf"}},
            },
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
        },
    }


def empty(request: httpx.Request) -> httpx.Response:
    """Find nothing, for as many searches as there are."""
    return said([{"points": []} for _ in json.loads(request.content)["searches"]])


@pytest.fixture
def server() -> Iterator[respx.MockRouter]:
    """Return a server with an empty collection, indexed as the source service indexes it."""
    with respx.mock(assert_all_called=False) as router:
        router.get(COLLECTION, name="info").mock(return_value=said(info(restaurant_id="keyword")))
        router.post(f"{COLLECTION}/points/query/batch", name="query").mock(side_effect=empty)
        yield router


def searches(server: respx.MockRouter, search: QdrantSearch, *queries: SearchQuery) -> list[dict[str, Any]]:
    """Search, and return what was asked in the one round trip there was."""
    search.search_many(queries)
    [call] = server["query"].calls
    asked: list[dict[str, Any]] = json.loads(call.request.content)["searches"]
    return asked


def condition(search: dict[str, Any]) -> Any:
    """Return the one condition of a search."""
    [only] = search["filter"]["must"]
    return only


def match(value: ItemId, key: str = "restaurant_id") -> dict[str, Any]:
    """Return a condition on the restaurant, or on another field."""
    return {"key": key, "match": {"value": value}}


def test_filter_and_limit_are_in_every_list_that_is_asked_for(server: respx.MockRouter) -> None:
    queries = [SearchQuery(number, "직원 친절", limit=30) for number in (1, 2, 3)]

    asked = searches(server, QdrantSearch("reviews", url=URL), *queries)

    assert [(one["using"], condition(one)) for one in asked] == [
        (using, match(restaurant)) for restaurant in ("1", "2", "3") for using in ("dense", "sparse")
    ]
    # One more than wanted, to see whether equals lie beyond the cut.
    assert {one["limit"] for one in asked} == {31}
    assert all(one["query"]["nearest"] for one in asked)


def test_only_the_payload_that_is_needed_is_asked_for(server: respx.MockRouter) -> None:
    asked = searches(server, QdrantSearch("reviews", url=URL), SearchQuery(1, "맛"))

    assert [one["with_payload"] for one in asked] == [["review_id", "id", "content"]] * 2
    assert all(one.get("with_vector") is None for one in asked)


@pytest.mark.parametrize("restaurant_id", [0, "0", 7, "7", -3])
@pytest.mark.parametrize("index", [None, "keyword", "integer"])
@pytest.mark.sample(3)
def test_an_id_is_looked_for_in_the_form_that_the_index_serves(
    server: respx.MockRouter, restaurant_id: ItemId, index: str | None
) -> None:
    indexes = {"restaurant_id": index} if index else {}
    server["info"].mock(return_value=said(info(**indexes)))

    asked = searches(server, QdrantSearch("reviews", url=URL), SearchQuery(restaurant_id, "맛"))

    either = {"should": [match(str(restaurant_id)), match(int(restaurant_id))]}
    expected = {None: either, "keyword": match(str(restaurant_id)), "integer": match(int(restaurant_id))}
    assert [condition(one) for one in asked] == [expected[index]] * 2


@pytest.mark.sample(2)
@pytest.mark.parametrize("restaurant_id", ["ko-1", "007", "1_000", "٣", str(2**64), "-", "１"])
def test_a_name_that_is_not_written_like_a_number_has_one_form(
    server: respx.MockRouter, restaurant_id: str
) -> None:
    server["info"].mock(return_value=said(info()))

    asked = searches(server, QdrantSearch("reviews", url=URL), SearchQuery(restaurant_id, "맛"))

    assert [condition(one) for one in asked] == [match(restaurant_id)] * 2


def test_the_collection_is_looked_at_once(server: respx.MockRouter) -> None:
    search = QdrantSearch("reviews", url=URL)

    for _ in range(3):
        search.search_many([SearchQuery(1, "맛"), SearchQuery(2, "맛")])

    assert (server["info"].call_count, server["query"].call_count) == (1, 3)


def test_whoever_may_not_look_at_the_collection_may_still_search(server: respx.MockRouter) -> None:
    server["info"].respond(403, json={"status": {"error": "Forbidden"}})

    asked = searches(server, QdrantSearch("reviews", url=URL), SearchQuery(1, "맛"))

    assert [condition(one) for one in asked] == [{"should": [match("1"), match(1)]}] * 2


def test_what_a_review_must_have_besides_is_in_every_filter(server: respx.MockRouter) -> None:
    server["info"].mock(return_value=said(info(restaurant_id="keyword", food_category_id="integer")))
    search = QdrantSearch("reviews", url=URL, where={"food_category_id": 0})

    asked = searches(server, search, SearchQuery(1, "맛"))

    category = {"key": "food_category_id", "match": {"value": 0}}
    assert [one["filter"]["must"] for one in asked] == [[match("1"), category]] * 2


@pytest.mark.parametrize("restaurant_id", [0, "0", 7, "7"])
@pytest.mark.parametrize("index", [None, "keyword", "integer"])
@pytest.mark.sample(2)
def test_the_others_are_everyone_but_the_restaurant_in_each_form_that_the_index_serves(
    server: respx.MockRouter, restaurant_id: ItemId, index: str | None
) -> None:
    server["info"].mock(return_value=said(info(**({"restaurant_id": index} if index else {}))))
    query = SearchQuery(restaurant_id, "직원", limit=30, scope="others")

    asked = searches(server, QdrantSearch("reviews", url=URL), query)

    text, number = match(str(restaurant_id)), match(int(restaurant_id))
    forms = {None: [text, number], "keyword": [text], "integer": [number]}
    assert [one["filter"] for one in asked] == [{"must_not": forms[index]}] * 2
    assert [one["limit"] for one in asked] == [31, 31]
    assert [one["with_payload"] for one in asked] == [["review_id", "id", "content", "restaurant_id"]] * 2


@pytest.mark.parametrize("category", [3, "3"])
@pytest.mark.parametrize("index", [None, "keyword", "integer"])
@pytest.mark.parametrize("among", ["restaurant", "others"])
@pytest.mark.sample(1)
def test_a_category_is_looked_for_in_the_form_that_its_index_serves(
    server: respx.MockRouter, category: ItemId, index: str | None, among: Any
) -> None:
    indexes = {"restaurant_id": "keyword", "kind": index} if index else {"restaurant_id": "keyword"}
    server["info"].mock(return_value=said(info(**indexes)))
    search = QdrantSearch("reviews", url=URL, schema=CollectionSchema(category="kind"))

    asked = searches(server, search, SearchQuery(1, "맛", scope=among, category=category))

    text, number = match("3", "kind"), match(3, "kind")
    kind = {None: {"should": [text, number]}, "keyword": text, "integer": number}[index]
    own = {"must": [match("1"), kind]}
    others = {"must": [kind], "must_not": [match("1")]}
    assert [one["filter"] for one in asked] == [own if among == "restaurant" else others] * 2


def test_the_category_of_a_query_is_a_condition_besides_that_of_all_searches(
    server: respx.MockRouter,
) -> None:
    server["info"].mock(return_value=said(info(restaurant_id="keyword", food_category_id="integer")))
    search = QdrantSearch("reviews", url=URL, where={"food_category_id": 0})

    asked = searches(server, search, SearchQuery(1, "맛", scope="others", category="3"))

    both = [match(3, "food_category_id"), match(0, "food_category_id")]
    assert [one["filter"] for one in asked] == [{"must": both, "must_not": [match("1")]}] * 2


def test_a_category_is_refused_where_none_has_a_name(server: respx.MockRouter) -> None:
    search = QdrantSearch("reviews", url=URL, schema=CollectionSchema(category=None))

    with pytest.raises(ConfigurationError, match=r'schema=CollectionSchema\(category="food_category_id"\)'):
        search.search(SearchQuery(1, "맛", category=3))


@pytest.mark.parametrize(
    ("stored", "expected"), [("7", 7), (7, 7), (0, 0), ("007", "007"), ("ko-1", "ko-1"), ("-", "-")]
)
def test_a_hit_among_the_others_has_the_restaurant_of_its_payload(
    server: respx.MockRouter, stored: ItemId, expected: ItemId
) -> None:
    point = {"id": 5, "version": 1, "score": 0.5, "payload": {"content": "맛", "shop": {"id": stored}}}
    server["query"].mock(return_value=said([{"points": [point]}, {"points": []}]))
    search = QdrantSearch("reviews", url=URL, schema=CollectionSchema(restaurant="shop.id"))

    [hit] = search.search(SearchQuery(1, "맛", scope="others"))

    assert hit.restaurant_id == expected


@pytest.mark.parametrize(
    "payload", [{}, {"restaurant_id": None}, {"restaurant_id": True}, {"restaurant_id": ["7"]}]
)
def test_a_review_of_no_restaurant_is_a_clear_error_among_the_others(
    server: respx.MockRouter, payload: dict[str, Any]
) -> None:
    point = {"id": 5, "version": 1, "score": 0.5, "payload": {"content": "맛", **payload}}
    server["query"].mock(return_value=said([{"points": [point]}, {"points": []}]))

    with pytest.raises(PermanentBackendError, match="point 5 has no restaurant's id in its payload field"):
        QdrantSearch("reviews", url=URL).search(SearchQuery(1, "맛", scope="others"))


def test_other_names_are_used_wherever_they_belong(server: respx.MockRouter) -> None:
    names = CollectionSchema(
        dense="", sparse=None, restaurant="metadata.shop", review="metadata.key", content="page_content"
    )
    described = info(**{"metadata.shop": "integer"})
    described["config"]["params"] = {"vectors": {"size": 384, "distance": "Cosine"}}
    server["info"].mock(return_value=said(described))
    payload = {"page_content": "맛있어요", "metadata": {"key": "r1"}}
    point = {"id": 5, "version": 1, "score": 0.5, "payload": payload}
    server["query"].mock(return_value=said([{"points": [point]}]))

    [hit] = QdrantSearch("reviews", url=URL, schema=names).search(SearchQuery("4", "맛"))

    [asked] = json.loads(server["query"].calls[0].request.content)["searches"]
    assert asked.get("using") is None
    assert condition(asked) == {"key": "metadata.shop", "match": {"value": 4}}
    assert asked["with_payload"] == ["metadata.key", "id", "page_content"]
    assert (hit.review_id, hit.content, hit.restaurant_id) == ("r1", "맛있어요", "4")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"review_id": 0, "id": 9}, 0),
        ({"id": "r9"}, "r9"),
        ({"review_id": None, "id": 9}, 9),
        ({"review_id": True}, 5),
        ({"review_id": {"x": 1}}, 5),
        ({}, 5),
    ],
)
@pytest.mark.sample(3)
def test_a_review_is_named_by_its_payload_or_else_by_its_point(
    server: respx.MockRouter, payload: dict[str, Any], expected: ItemId
) -> None:
    point = {"id": 5, "version": 1, "score": 0.5, "payload": {"content": "맛", **payload}}
    server["query"].mock(return_value=said([{"points": [point]}, {"points": []}]))

    [hit] = QdrantSearch("reviews", url=URL).search(SearchQuery(1, "맛"))

    assert hit.review_id == expected


@pytest.mark.parametrize("key", ["k-123456", SecretStr("k-123456"), " k-123456\n"])
@pytest.mark.parametrize("backend", ["blocking", "asyncio", "trio"])
@pytest.mark.sample(3)
def test_the_key_is_sent_and_nothing_is_said_about_plain_http(
    server: respx.MockRouter, key: str | SecretStr, backend: str
) -> None:
    search = QdrantSearch("reviews", url=URL, api_key=key)

    if backend == "blocking":
        search.search(SearchQuery(1, "맛"))
    else:
        anyio.run(search.asearch, SearchQuery(1, "맛"), backend=backend)

    assert {call.request.headers["api-key"] for call in server.calls} == {"k-123456"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "say where the collection is, once"),
        ({"url": URL, "path": "folder"}, "say where the collection is, once"),
        ({"url": "localhost:6333"}, 'for example url="http://localhost:6333"'),
        ({"url": "http://"}, 'for example url="http://localhost:6333"'),
        ({"url": "http://h:99999999"}, 'for example url="http://localhost:6333"'),
        ({"url": "http://user:k-123456@host"}, "pass the key as api_key="),
        ({"url": "http://host/?api_key=k-123456"}, "pass the key as api_key="),
        ({"url": ":memory:", "api_key": "k-123456"}, "are for url= of a server"),
        ({"path": "folder", "prefer_grpc": True}, "are for url= of a server"),
        ({"url": URL, "api_key": "k-123456 \u2603"}, "api_key holds characters"),
        ({"url": URL, "timeout": 0}, "timeout must be a number of seconds above 0"),
        ({"url": URL, "timeout": "30"}, "timeout must be a number of seconds above 0"),
        ({"url": URL, "pool_size": 0}, "pool_size must be a whole number of at least 1"),
        ({"url": URL, "grpc_port": "6334"}, "grpc_port must be a whole number of at least 1"),
        ({"url": URL, "where": {"food_category_id": 1.5}}, r"where\['food_category_id'\] must be"),
        ({"url": URL, "collection": ""}, "collection must be a name"),
    ],
)
def test_what_cannot_work_is_refused_at_once(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        QdrantSearch(**{"collection": "reviews", **arguments})

    assert "k-123456" not in str(caught.value)


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"CollectionSchema\.content must be a name"):
        CollectionSchema(content="")

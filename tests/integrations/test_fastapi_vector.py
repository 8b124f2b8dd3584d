"""Search for similar reviews, and uploads: forms, bounds, one upload at a time, and what others get meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.integrations.test_fastapi import labelled, make, post
from tests.integrations.test_fastapi_disconnect import Caller, until
from tests.integrations.test_fastapi_forms import ODD, REVIEWS, SIMILAR, UPLOAD, old
from tests.support.patience import PATIENCE

from restaurant_llm_batch import BatchRunner, Limits, SearchQuery, Strategy
from restaurant_llm_batch.errors import ConfigurationError, PermanentBackendError, TransientBackendError
from restaurant_llm_batch.integrations._fastapi.vector import WAITING_UPLOADS
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.search import EmbeddedSearch, QdrantSearch
from restaurant_llm_batch.search.embedded.search import IndexReport
from restaurant_llm_batch.search.embedders import HashingEmbedder
from restaurant_llm_batch.testing import FakeLLM, FakeSearch


def serving(search: Any, uploads: bool = True, **options: Any) -> FastAPI:
    runner = BatchRunner(llm=FakeLLM(answer=labelled), search=search, strategy=Strategy.stage(4))
    app = FastAPI()
    app.include_router(batch_router(runner, uploads=uploads, **options))
    return app


# Search


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with an index."""
    search = EmbeddedSearch()
    search.index_reviews(
        {"restaurant_id": name, "id": f"{name}-{n}", "content": text, "category": name % 2}
        for name, texts in REVIEWS.items()
        for n, text in enumerate(texts)
    )
    with TestClient(serving(search)) as one:
        yield one


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("form", "found"),
    [
        ({}, {"3-0", "1-0", "1-1"}),
        ({"restaurant_id": None, "limit": 100}, {"1-0", "1-1", "1-2", "2-0", "3-0"}),
        ({"restaurant_id": 1, "limit": None}, {"1-0", "1-1", "1-2"}),
        ({"restaurant_id": "1", "limit": 1}, {"1-0"}),
        ({"restaurant_id": 0}, set()),
        ({"restaurant_id": "nobody"}, set()),
        ({"category": 1, "limit": 9}, {"1-0", "1-1", "1-2", "3-0"}),
        ({"min_score": 1}, {"1-0"}),
        ({"query_text": " "}, set()),
    ],
)
def test_similar_reviews_are_found_in_every_form(client: TestClient, form: Any, found: set[str]) -> None:
    answer = client.post(SIMILAR, json={"query_text": "맛있어요"} | form).json()

    assert set(answer) == {"results", "total"}
    if form:
        assert {one["review"]["id"] for one in answer["results"]} == found
    assert len(answer["results"]) == answer["total"] == len(found)
    for one in answer["results"]:
        assert set(one) == {"review", "score"}
        assert set(one["review"]) == {"id", "restaurant_id", "content"}
    scores = [one["score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)


def test_numbers_of_candidates_are_named_as_without_effect(client: TestClient) -> None:
    form = {"fallback_min_score": 0.2, "dense_prefetch_limit": 200, "sparse_prefetch_limit": 300}
    warnings = client.post(SIMILAR, json={"query_text": "맛", **form}).json()["warnings"]

    assert [warning.split('"')[1] for warning in warnings] == list(form)


def test_a_search_passes_the_runners_limit_and_its_retries() -> None:
    tries: list[int] = []

    def fault(query: SearchQuery, tried: int) -> Exception | None:
        tries.append(tried)
        return TransientBackendError("no", retry_after=0.001) if tried == 1 else None

    search = FakeSearch(REVIEWS, seconds=0.02, fault=fault)
    runner = BatchRunner(llm=FakeLLM(), search=search, strategy=Strategy.stage(4), limits=Limits(search=2))
    app = FastAPI()
    app.include_router(batch_router(runner))
    with TestClient(app) as client:
        threads = [
            threading.Thread(
                target=client.post, args=(SIMILAR,), kwargs={"json": {"query_text": "a", "restaurant_id": n}}
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert search.peak == 2
    assert sorted(tries) == [1] * 8 + [2] * 8


def test_a_search_that_fails_says_nothing_of_its_service() -> None:
    search = FakeSearch(
        REVIEWS, fault=lambda query, tried: PermanentBackendError("http://10.0.0.7", status=400)
    )
    answer = post(make(search=search), SIMILAR, {"query_text": "a"})

    assert answer.status_code == 502
    assert answer.json()["message"].endswith("refused the call (status 400)")


@pytest.mark.anyio
@pytest.mark.sample(1)
async def test_a_client_that_goes_away_cancels_its_search() -> None:
    search = FakeSearch(REVIEWS, seconds=3600)
    caller = Caller(make(search=search), "application/json", path=SIMILAR, body={"query_text": "a"})
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller)
            await until(lambda: search.in_flight == 1)
            caller.hang_up.set()

    assert search.cancelled == 1


# Uploads


class Index(FakeSearch):
    """Keeps what is indexed."""

    def __init__(self) -> None:
        super().__init__({})
        self.rows: list[Any] = []

    def index_reviews(self, rows: Any) -> IndexReport:
        new = list(rows)
        self.rows += new
        return IndexReport(len(new), 0)


@cache
def indexing() -> tuple[FastAPI, Index]:
    """An application whose uploads are kept, for the tests that need no search."""
    index = Index()
    return serving(index, max_reviews=1000), index


TEXT = "직원이 친절해요"
FORMS: list[Any] = [
    {
        "reviews": [{"id": 1, "restaurant_id": 7, "content": TEXT, "created_at": "2026-01-31"}],
        "restaurants": None,
    },
    {"reviews": [old(1, TEXT) | {"restaurant_id": 7}]},
    {"reviews": None, "restaurants": [{"id": 7, "name": "너울", "reviews": [{"id": 1, "content": TEXT}]}]},
    {
        "reviews": [],
        "restaurants": [
            {"id": None, "name": "너울", "reviews": [{"id": 1, "restaurant_id": 7, "content": TEXT}]}
        ],
    },
    {
        "restaurants": [
            {"restaurant_id": 7, "reviews": [old(1, TEXT) | {"restaurant_id": 99}]},
            {"id": 8, "name": "B"},
        ]
    },
    {"data": {"restaurants": [{"restaurant_id": 7, "restaurant_name": "너울", "reviews": [old(1, TEXT)]}]}},
    {
        "restaurants": [
            {"id": None, "restaurant_id": 7, "reviews": [{"id": None, "review_id": 1, "content": TEXT}]}
        ]
    },
    {"data": {"reviews": [{"review_id": 1, "restaurant_id": 7, "content": TEXT}]}},
]


@pytest.mark.sample(2)
@pytest.mark.parametrize("form", FORMS)
def test_an_upload_is_indexed_in_every_form(form: Any) -> None:
    app, index = indexing()
    index.rows.clear()
    answer = post(app, UPLOAD, form)

    assert answer.json() == {"message": "indexed 1 review", "points_count": 1, "collection_name": "Index"}
    (row,) = index.rows
    assert (row["restaurant_id"], row["review_id"], row["content"]) == (7, 1, TEXT)


def test_what_was_uploaded_is_found() -> None:
    with TestClient(serving(EmbeddedSearch())) as client:
        answers = [client.post(UPLOAD, json=form).json() for form in FORMS]
        found = client.post(SIMILAR, json={"query_text": "친절", "restaurant_id": 7}).json()

    assert {answer["collection_name"] for answer in answers} == {"EmbeddedSearch"}
    assert [one["review"] for one in found["results"]] == [{"id": 1, "restaurant_id": 7, "content": TEXT}]


@pytest.mark.slow
def test_the_forms_of_an_upload_may_be_mixed() -> None:
    search = QdrantSearch("places", url=":memory:")
    mixed = {
        "reviews": [{"id": n, "restaurant_id": 1, "content": f"좋아요 {n}"} for n in range(3)],
        "restaurants": [{"id": 2, "category": 5, "reviews": ["text", {"id": "x", "content": "맛있어요"}]}],
        "data": {"restaurants": [{"restaurant_id": 3, "reviews": [old(1, "별로예요")]}]},
    }
    with TestClient(serving(search)) as client:
        answer = client.post(UPLOAD, json=mixed).json()
        again = client.post(UPLOAD, json=mixed).json()
        found = client.post(SIMILAR, json={"query_text": "맛있어요", "category": 5, "limit": 9}).json()

    assert answer == again == {"message": "indexed 6 reviews", "points_count": 6, "collection_name": "places"}
    assert search.count() == 6  # an equal id replaces
    assert {one["review"]["restaurant_id"] for one in found["results"]} == {2}


def test_what_is_not_indexed_is_said() -> None:
    given = [{"id": n, "restaurant_id": 1, "content": text} for n, text in enumerate(("a", " ", ""))]
    answer = post(
        serving(EmbeddedSearch()), UPLOAD, {"reviews": given, "restaurants2": [], "data": {"x": 1}}
    ).json()

    assert answer["points_count"] == 1
    assert answer["warnings"] == [
        '"restaurants2" is not a field of this request and was ignored; did you mean "restaurants"?',
        '"x" in data is not a field of this request and was ignored',
        "reviews without text were not indexed: 2",
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "reviews"),
        ({"reviews": [{"id": 1, "content": "a"}]}, "reviews[0].restaurant_id"),
        ({"reviews": ["a"]}, "reviews[0].restaurant_id"),
        ({"restaurants": [{"name": "A", "reviews": ["a"]}]}, "restaurants[0].reviews[0].restaurant_id"),
        ({"data": {"restaurants": [{"reviews": ["a"]}]}}, "data.restaurants[0].reviews[0].restaurant_id"),
        ({"reviews": [{"restaurant_id": 2**63, "content": "a"}]}, "reviews[0].restaurant_id"),
        ({"reviews": [{"restaurant_id": 1, "id": 2**63, "content": "a"}]}, "reviews[0].id"),
        ({"reviews": [{"restaurant_id": 1, "review_id": 1.5, "content": "a"}]}, "reviews[0].review_id"),
        (
            {"reviews": [{"restaurant_id": 1, "content": "a", "food_category_id": []}]},
            "reviews[0].food_category_id",
        ),
        ({"reviews": [{"restaurant_id": 1, "review": 5}]}, "reviews[0].review"),
        ({"restaurants": {"7": []}}, "restaurants"),
        ({"data": []}, "data"),
    ],
)
@pytest.mark.sample(6)
def test_a_wrong_upload_is_reported_which_field_is_wrong_and_nothing_is_indexed(
    body: Any, field: str
) -> None:
    app, index = indexing()
    index.rows.clear()
    answer = post(app, UPLOAD, body)

    assert answer.status_code == 422
    assert field in [detail["field"] for detail in answer.json()["details"]]
    assert not index.rows


def test_an_odd_upload_is_an_error_of_the_client() -> None:
    app, index = indexing()
    index.rows.clear()
    with TestClient(app) as client:
        for body in ODD:
            content = json.dumps(body)
            answer = client.post(UPLOAD, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 422, content
            assert answer.json()["details"][0]["loc"][0] == "body"
    assert not index.rows


@cache
def small() -> FastAPI:
    return serving(Index(), max_reviews=20, max_items=3)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reviews": ["a"] * 21}, "reviews"),
        ({"restaurants": [{"id": n, "reviews": ["a"] * 11} for n in range(2)]}, "restaurants[1].reviews"),
        (
            {"reviews": ["a"] * 20, "data": {"restaurants": [{"reviews": ["a"]}]}},
            "data.restaurants[0].reviews",
        ),
        ({"data": {"restaurants": [{}] * 4}}, "data.restaurants"),
        ({"restaurants": [{}] * 4}, "restaurants"),
        ({"data": {"data": {"restaurants": []}, "unknown": [1] * 21}}, "data.unknown"),
    ],
)
@pytest.mark.sample(3)
def test_the_bounds_of_a_request_hold_for_uploads(body: Any, field: str) -> None:
    answer = post(small(), UPLOAD, body)

    assert answer.status_code == 413
    assert answer.json()["details"][0]["field"] == field


def test_uploads_are_off_unless_they_are_switched_on_and_the_answer_says_how() -> None:
    search = Index()
    app = serving(search, uploads=False)
    bodies: list[Any] = [FORMS[0], {}]
    for body in bodies:
        answer = post(app, UPLOAD, body, **{"X-Request-Id": "mine"})
        assert answer.status_code == 403
        assert answer.json()["request_id"] == "mine"
        assert "uploads=True" in answer.json()["message"]
        assert "serve --uploads" in answer.json()["message"]
    with TestClient(app) as client:
        assert UPLOAD not in client.get("/openapi.json").json()["paths"]
        # What is refused is not read.
        assert (
            client.post(UPLOAD, content=b"{" * 100, headers={"content-type": "text/plain"}).status_code == 403
        )
    assert not search.rows


@pytest.mark.parametrize("search", [None, FakeSearch({})])
def test_uploads_need_a_search_that_can_index(search: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="uploads=True needs a runner whose search can index reviews"
    ):
        serving(search)
    with pytest.raises(ConfigurationError, match="uploads must be a bool"):
        serving(EmbeddedSearch(), uploads="yes")  # type: ignore[arg-type]


def test_an_index_that_cannot_be_written_is_an_error_without_its_path(tmp_path: Path) -> None:
    class Broken(EmbeddedSearch):
        def index_reviews(self, *given: Any, **more: Any) -> Any:
            raise PermanentBackendError(f"the disk of {tmp_path} is full")

    answer = post(serving(Broken(tmp_path / "index")), UPLOAD, FORMS[0])

    assert answer.status_code == 502
    assert str(tmp_path) not in answer.text


class Slow(HashingEmbedder):
    """Embeds when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.batches = 0
        self.running = self.peak = 0

    def embed_documents(self, texts: Any, /) -> Any:
        self.batches += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        self.go.wait(20)
        self.running -= 1
        return super().embed_documents(texts)


def upload(name: int, count: int = 2) -> dict[str, Any]:
    return {"reviews": [{"id": n, "restaurant_id": name, "content": f"좋아요 {n}"} for n in range(count)]}


@pytest.mark.anyio
@pytest.mark.sample(1)
async def test_uploads_go_one_at_a_time_and_others_are_answered_meanwhile() -> None:
    embedder = Slow()
    app = serving(EmbeddedSearch(embedder=embedder))
    uploads = [
        Caller(app, "application/json", path=UPLOAD, body=upload(n)) for n in range(WAITING_UPLOADS + 1)
    ]
    one_too_many = Caller(app, "application/json", path=UPLOAD, body=upload(99))
    empty: Any = {"restaurants": []}
    other = Caller(app, "application/json", path="/api/v1/sentiment/analyze/batch", body=empty)
    async with anyio.create_task_group() as tasks:
        for caller in uploads:
            tasks.start_soon(caller)
        await until(lambda: embedder.batches == 1)
        await other()
        await until_full(one_too_many)
        embedder.go.set()

    assert json.loads(other.text) == {"results": [], "failures": []}
    assert one_too_many.sent[0]["status"] == 503
    assert (b"retry-after", b"5") in one_too_many.sent[0]["headers"]
    assert [json.loads(caller.text)["points_count"] for caller in uploads] == [2] * len(uploads)
    assert embedder.peak == 1


async def until_full(caller: Caller) -> None:
    """Send a request when all others wait."""
    await anyio.wait_all_tasks_blocked()
    await caller()


@pytest.mark.anyio
@pytest.mark.sample(1)
async def test_an_upload_whose_client_goes_away_ends_after_the_batch() -> None:
    embedder = Slow()
    search = EmbeddedSearch(embedder=embedder)
    caller = Caller(serving(search), "application/json", path=UPLOAD, body=upload(1, 300))
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller)
            await until(lambda: embedder.batches == 1)
            caller.hang_up.set()
            await anyio.wait_all_tasks_blocked()
            embedder.go.set()

    assert embedder.batches == 1
    assert search.count() == 256
    assert not caller.text

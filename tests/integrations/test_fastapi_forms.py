"""The request forms of the other service's clients, each answered in its shape; and what is said about the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from math import inf, nan
from typing import Any
from unicodedata import normalize

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.integrations.test_fastapi import LINES, SENTIMENTS, STRENGTHS, SUMMARIES, lines, make, post

from restaurant_llm_batch import BatchRunner, LLMRequest, SearchQuery, Strategy
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ContentRefused,
    DeadlineExceeded,
    OutputTruncated,
    PermanentBackendError,
    PromptTooLong,
    RateLimited,
    SubmissionUnknown,
    TransientBackendError,
)
from restaurant_llm_batch.integrations._fastapi.error_responses import failed
from restaurant_llm_batch.integrations._fastapi.serialize import as_json
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.testing import FakeLLM, FakeSearch, answer_from_schema

SUMMARY, SENTIMENT, STRENGTH = (path.removesuffix("/batch") for path in (SUMMARIES, SENTIMENTS, STRENGTHS))
COMPARISON = "/api/v1/llm/comparison"
COMPARISONS = f"{COMPARISON}/batch"
SIMILAR = "/api/v1/vector/search/similar"
UPLOAD = "/api/v1/vector/upload"
SINGLES = (SUMMARY, SENTIMENT, STRENGTH, COMPARISON)
BATCHES = (SUMMARIES, SENTIMENTS, STRENGTHS, COMPARISONS)
REVIEWS = {1: ["맛있어요", "친절해요", "별로예요"], 2: ["그저 그래요"], 3: ["좋아요"]}
DEBUG = {"X-Debug": "true"}


def judge(request: LLMRequest) -> str:
    """Label by the word "별로"; say "text" to anything that is no question for labels."""
    if request.task not in ("sentiment", "aspect_sentiment"):
        return json.dumps(answer_from_schema(request.schema or {}))
    labels = [
        {"id": one["id"], "label": "negative" if "별로" in one["content"] else "positive"}
        for one in request.inputs["reviews"]
        if "?" not in one["content"]
    ]
    return json.dumps({"labels": labels})


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with three restaurants."""
    with TestClient(make(FakeLLM(answer=judge), FakeSearch(REVIEWS))) as one:
        yield one


@cache
def bounded(**bounds: int) -> FastAPI:
    """An application with bounds; made once for all tests with the same ones."""
    return make(FakeLLM(answer=judge), FakeSearch(REVIEWS), **bounds)


def review(number: int, text: str) -> dict[str, Any]:
    return {"id": number, "restaurant_id": 1, "content": text, "created_at": "2026-01-31T12:00:00"}


def old(number: int, text: str) -> dict[str, Any]:
    return {"review_id": number, "review": text, "datetime": "2026-01-31", "group": 2, "version": 1}


# Shapes

RATIOS = {"positive_ratio": 67, "negative_ratio": 33}
COUNTS = {
    "positive_count": 2,
    "negative_count": 1,
    "neutral_count": 0,
    "failed_count": 0,
    "total_count": 3,
    "positive_ratio": 67,
    "negative_ratio": 33,
    "neutral_ratio": 0,
}
TEXTS = REVIEWS[1]
ID_FORMS: list[dict[str, Any]] = [{"restaurant_id": 1}, {"restaurant_id": 1, "restaurant_name": "A"}]
SENTIMENT_FORMS: list[dict[str, Any]] = [
    {"restaurant_id": 1},
    {"restaurant_id": 1, "reviews": None},
    {"restaurant_id": 1, "reviews": TEXTS},
    {"restaurant_id": 1, "reviews": [review(n, text) for n, text in enumerate(TEXTS)]},
    {"restaurant_id": 1, "reviews": [old(n, text) for n, text in enumerate(TEXTS)]},
    {"restaurant_id": 1, "reviews": [TEXTS[0], review(7, TEXTS[1]), old(7, TEXTS[2])]},
    {"restaurant_id": 1, "reviews": [{"content": None, "review": text, "id": None} for text in TEXTS]},
]


@pytest.mark.sample(1)
@pytest.mark.parametrize("form", SENTIMENT_FORMS)
def test_sentiment_is_answered_in_its_shape_whatever_form_the_reviews_have(
    client: TestClient, form: dict[str, Any]
) -> None:
    name = {"restaurant_name": "너울"}
    for extra in ({}, name):
        body = form | extra
        assert client.post(SENTIMENT, json=body).json() == {"restaurant_id": 1} | extra | RATIOS
        full = client.post(SENTIMENT, json=body, headers=DEBUG).json()
        assert full.pop("debug")["model_version"] == "fake"
        assert full == {"restaurant_id": 1} | extra | COUNTS
        batch = client.post(SENTIMENTS, json={"restaurants": [body], "max_tokens_per_batch": 4000}).json()
        assert batch == {"results": [{"restaurant_id": 1} | extra | COUNTS], "failures": []}


def test_restaurants_with_reviews_and_without_are_judged_in_one_request(client: TestClient) -> None:
    body = {
        "restaurants": [*({**form, "restaurant_id": n} for n, form in enumerate(SENTIMENT_FORMS[2:], 10))]
    }
    body["restaurants"][2:2] = [{"restaurant_id": 1}, {"restaurant_id": 3}]
    results = client.post(SENTIMENTS, json=body).json()["results"]

    assert [result["restaurant_id"] for result in results] == [10, 11, 1, 3, 12, 13, 14]
    assert [result["total_count"] for result in results] == [3, 3, 3, 1, 3, 3, 3]


@pytest.mark.parametrize("form", [{}, {"limit": 5}, {"limit": None, "min_score": None}, {"min_score": 0}])
@pytest.mark.sample(2)
def test_a_summary_has_its_shape_at_the_root(client: TestClient, form: dict[str, Any]) -> None:
    for one in ID_FORMS:
        body = client.post(SUMMARY, json=one | form).json()
        assert one.items() <= body.items()
        assert list(body) == [*one, "overall_summary", "categories"]
        assert list(body["categories"]) == ["service", "price", "food"]
        assert set(body["categories"]["price"]) == {"summary", "bullets", "evidence", "status"}
        full = client.post(f"{SUMMARY}?debug=true", json=one | form).json()
        assert full["debug"]["tokens_used"] > 0
        assert set(full) - set(body) == {
            "positive_reviews",
            "negative_reviews",
            "positive_count",
            "negative_count",
            "debug",
        }


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({"positive_reviews": ["a", old(1, "b")], "negative_reviews": [review(1, "c")]}, (2, 1)),
        ({"positive_reviews": ["a"]}, (1, 0)),
        ({"negative_reviews": ["a"], "positive_reviews": None}, (0, 1)),
    ],
)
def test_a_summary_of_given_reviews_is_one_result_too(
    client: TestClient, given: dict[str, Any], counts: tuple[int, int]
) -> None:
    single = client.post(SUMMARY, json={"restaurant_id": "res_1234", **given}).json()
    batch = client.post(SUMMARIES, json={"restaurants": [{"restaurant_id": "res_1234", **given}]}).json()

    assert single == batch["results"][0]
    assert (single["positive_count"], single["negative_count"]) == counts
    assert single["categories"] is None


@pytest.mark.parametrize(
    ("form", "target", "others"),
    [
        (
            {"target_restaurant_id": 1, "target_reviews": ["a"], "comparison_reviews": ["b", old(3, "c")]},
            1,
            2,
        ),
        ({"target_restaurant_id": 1}, 3, 2),
        ({"restaurant_id": 1}, 3, 2),
        ({"restaurant_id": 1, "target_restaurant_id": None}, 3, 2),
        ({"restaurant_id": 1, "top_k": 1}, 1, 1),
        ({"restaurant_id": 1, "top_k": 50, "limit": 2}, 2, 2),
        ({"target_restaurant_id": 1, "comparison_restaurant_ids": None, "limit": 1, "query": "맛"}, 1, 1),
        ({"target_restaurant_id": 1, "target_reviews": ["a"], "query": " ", "min_score": 0.1}, 1, 2),
    ],
)
def test_strengths_are_one_result_in_every_form(
    client: TestClient, form: dict[str, Any], target: int, others: int
) -> None:
    body = client.post(STRENGTH, json=form).json()
    batch = client.post(STRENGTHS, json={"restaurants": [form], "max_tokens_per_batch": 4000}).json()

    assert batch == {"results": [body], "failures": []}
    assert list(body) == [
        "restaurant_id",
        "comparison_summary",
        "target_restaurant_strength",
        "target_reviews",
        "comparison_reviews",
        "target_count",
        "comparison_count",
        "failed_count",
    ]
    assert (body["target_count"], body["comparison_count"]) == (target, others)
    assert all("content" in one for one in body["target_reviews"] + body["comparison_reviews"])


def test_a_comparison_has_its_shape(client: TestClient) -> None:
    single = client.post(COMPARISON, json={"restaurant_id": 1, "restaurant_name": "A"}).json()
    batch = client.post(
        COMPARISONS,
        json={"restaurants": [{"restaurant_id": 1}, {"restaurant_id": 9}], "all_average_data_path": None},
    ).json()

    lift = pytest.approx(100 * (2 / 3 - 1), abs=0.1)
    assert single == {
        "restaurant_id": 1,
        "restaurant_name": "A",
        "comparisons": [
            {"category": "service", "lift_percentage": lift},
            {"category": "price", "lift_percentage": lift},
        ],
        "total_candidates": 6,
        "validated_count": 2,
        "category_lift": {"service": lift, "price": lift},
        "comparison_display": single["comparison_display"],
    }
    assert len(single["comparison_display"]) == 2
    assert set(batch) == {"results", "failures"}
    nothing = {"comparisons": [], "total_candidates": 0, "validated_count": 0}
    assert batch["results"][1] == {
        "restaurant_id": 9,
        **nothing,
        "category_lift": None,
        "comparison_display": None,
    }
    debug = client.post(COMPARISON, json={"restaurant_id": 1}, headers=DEBUG).json()["debug"]
    assert debug["warnings"] == []


@pytest.mark.parametrize(
    ("chosen", "limit", "found"),
    [
        ([2, 3], 20, ["2-0", "3-0"]),
        ([3, 2], 1, ["3-0"]),
        ([3, "3", 1, 9], 20, ["3-0"]),
        ([1], 20, []),
        ([], 20, ["2-0", "3-0"]),
        (None, 20, ["2-0", "3-0"]),
    ],
)
def test_strengths_are_over_the_restaurants_that_are_chosen(
    client: TestClient, chosen: Any, limit: int, found: list[str]
) -> None:
    one = {"restaurant_id": 1, "comparison_restaurant_ids": chosen, "limit": limit}
    single = client.post(STRENGTH, json=one).json()
    given = client.post(
        STRENGTHS, json={"restaurants": [one | {"comparison_reviews": ["a"]}, {"restaurant_id": 2}]}
    )

    assert [hit["id"] for hit in single["comparison_reviews"]] == found
    assert "warnings" not in single
    assert given.json()["results"][0]["comparison_reviews"] == [{"content": "a"}]


@pytest.mark.parametrize("chosen", [[None], ["x", 1.5], {"2": 1}, 2, "2", [1] * 101])
@pytest.mark.sample(3)
def test_chosen_restaurants_are_ids(client: TestClient, chosen: Any) -> None:
    answer = client.post(STRENGTH, json={"restaurant_id": 1, "comparison_restaurant_ids": chosen})

    assert answer.status_code == 422
    assert answer.json()["details"][0]["field"].startswith("comparison_restaurant_ids")


# Labels


@pytest.mark.parametrize("flag", [True, False, None])
def test_labels_are_there_if_they_are_asked_for_and_in_the_order_of_the_reviews(
    client: TestClient, flag: bool | None
) -> None:
    given = [review(5, "좋아요"), "별로예요", old(4, "  "), "?", {"content": "좋아요", "id": "x"}]
    body = {"restaurants": [{"restaurant_id": 1, "reviews": given}], "labels": flag}
    result = client.post(SENTIMENTS, json=body).json()["results"][0]
    single = client.post(SENTIMENT, json={"restaurant_id": 1, "reviews": given, "labels": flag}).json()

    labels = [
        {"id": 5, "label": "positive"},
        {"id": 1, "label": "negative"},
        {"id": 4, "label": None},
        {"id": 3, "label": None},
        {"id": "x", "label": "positive"},
    ]
    assert (result.get("labels"), single.get("labels")) == ((labels, labels) if flag else (None, None))
    assert result["failed_count"] == single["failed_count"] == 2


def test_reviews_that_a_search_found_are_labelled_by_their_ids(client: TestClient) -> None:
    single = client.post(SENTIMENT, json={"restaurant_id": 1, "labels": True}).json()

    assert [one["id"] for one in single["labels"]] == ["1-0", "1-1", "1-2"]


# What a restaurant may say about itself


@pytest.mark.parametrize("name", ["너울", "", None, '"\n<b>'])
@pytest.mark.sample(1)
def test_the_name_of_a_restaurant_comes_back_where_it_was_sent_and_only_there(
    client: TestClient, name: str | None
) -> None:
    for path in SINGLES:
        answer = client.post(path, json={"restaurant_id": 1, "restaurant_name": name}).json()
        assert list(answer.items())[:2] == [("restaurant_id", 1), ("restaurant_name", name)]
        assert "restaurant_name" not in client.post(path, json={"restaurant_id": 1}).json()
    body = {"restaurants": [{"restaurant_id": 2}, {"restaurant_id": 1, "restaurant_name": name}]}
    for path in BATCHES:
        unnamed, named = client.post(path, json=body).json()["results"]
        assert "restaurant_name" not in unnamed
        assert named["restaurant_name"] == name
        *entries, _ = lines(client.post(path, json=body, headers=LINES))
        assert sorted("restaurant_name" in entry["result"] for entry in entries) == [False, True]


class Watched(FakeSearch):
    """Keeps the queries."""

    def __init__(self) -> None:
        super().__init__(REVIEWS)
        self.queries: list[SearchQuery] = []

    async def asearch(self, query: SearchQuery, /) -> Any:
        self.queries.append(query)
        return await super().asearch(query)


@pytest.mark.parametrize("path", [*SINGLES, *BATCHES])
@pytest.mark.sample(1)
def test_priority_query_and_category_of_a_restaurant_reach_its_calls(path: str) -> None:
    search, requests = Watched(), list[LLMRequest]()
    one = {"restaurant_id": 1, "priority": -7, "query": "조용한 자리", "category": 7}
    body = {"restaurants": [one, {"restaurant_id": 2}]} if path in BATCHES else one
    answer = post(make(FakeLLM(answer=judge, requests=requests), search), path, body)

    assert answer.status_code == 200, answer.text
    mine = [request.priority for request in requests if request.inputs["restaurant_id"] == 1]
    assert mine
    assert set(mine) == {-7}
    assert {request.priority for request in requests if request.inputs["restaurant_id"] == 2} <= {0}
    words = [query.text for query in search.queries if query.restaurant_id == 1]
    if "comparison" not in path:
        assert all("조용한 자리" in text for text in words)
        assert all("조용한" not in query.text for query in search.queries if query.restaurant_id == 2)
    if "sentiment" not in path:
        assert 7 in {query.category for query in search.queries}
        assert 7 not in {query.category for query in search.queries if query.restaurant_id == 2}


# Warnings

UNKNOWN = '"limt" is not a field of this request and was ignored; did you mean "limit"?'


@pytest.mark.parametrize("path", [*SINGLES, *BATCHES])
@pytest.mark.sample(4)
def test_what_is_not_known_is_ignored_and_named(client: TestClient, path: str) -> None:
    one = {"restaurant_id": 1}
    body: dict[str, Any] = {"restaurants": [one, one | {"restaurant_id": 2}]} if path in BATCHES else one
    plain = client.post(path, json=body).json()
    answer = client.post(path, json=body | {"colour": {"deep": [1]}, "Priority": 1}).json()

    assert "warnings" not in plain
    assert answer.pop("warnings")[0] == '"colour" is not a field of this request and was ignored'
    assert answer == plain


def test_a_field_of_many_restaurants_is_named_once(client: TestClient) -> None:
    body = {"restaurants": [{"restaurant_id": n, "limt": 3} for n in range(4)] + [{"restaurant_id": 9}]}
    expected = UNKNOWN.replace(" is not", " in restaurants[0] and 3 more is not")
    assert client.post(SUMMARIES, json=body).json()["warnings"] == [expected]
    *entries, last = lines(client.post(SUMMARIES, json=body, headers=LINES))
    assert last == {"done": {"results": 5, "failures": 0}, "warnings": [expected]}
    assert not any("warnings" in entry["result"] for entry in entries)


@pytest.mark.parametrize(
    "name",
    [
        "\x1b[31mred",
        "a\nb",
        "\u202egnirts",
        '"quoted"',
        "\\",
        "",
        "x" * 5000,
        "𝄞" * 50,
        "model_extra",
        "each",
    ],
)
@pytest.mark.sample(4)
def test_a_name_is_quoted_safely_and_in_short(client: TestClient, name: str) -> None:
    answer = client.post(SUMMARIES, json={"restaurants": [{"restaurant_id": 1, name: 1}], name: 2})
    warnings = answer.json()["warnings"]

    assert answer.status_code == 200
    assert len(warnings) == 2
    for warning in warnings:
        assert warning.isprintable()
        assert len(warning) < 400
        assert warning.startswith('"')


def test_warnings_have_a_bound(client: TestClient) -> None:
    body = {
        "restaurants": [{"restaurant_id": 1, **{f"b{n}": 0 for n in range(50)}}],
        **{f"a{n}": 0 for n in range(50)},
    }
    warnings = client.post(SENTIMENTS, json=body).json()["warnings"]

    assert len(warnings) == 21
    assert warnings[-1] == "and 80 more of these"


@pytest.mark.parametrize(
    ("path", "field", "value", "reason"),
    [
        (SENTIMENT, "score_threshold", 0.8, "no score"),
        (SENTIMENT, "category", 3, "own reviews"),
        (COMPARISON, "all_average_data_path", "/data.json", "averages"),
    ],
)
def test_a_field_without_effect_is_named_with_the_reason(
    client: TestClient, path: str, field: str, value: Any, reason: str
) -> None:
    (warning,) = client.post(path, json={"restaurant_id": 1, field: value}).json()["warnings"]
    assert warning.startswith(f'"{field}" was ignored: ')
    assert reason in warning
    assert "warnings" not in client.post(path, json={"restaurant_id": 1, field: None}).json()


def test_fields_that_reviews_may_have_are_no_reason_for_a_warning(client: TestClient) -> None:
    one = {"restaurant_id": 1, "reviews": [old(1, "좋아요") | {"anything": 1}]}
    assert "warnings" not in client.post(SENTIMENT, json=one).json()


@pytest.mark.parametrize(
    ("budget", "said"),
    [(500, True), (999, True), (1000, False), (8000, False), (8001, True), (128_000, True), (None, False)],
)
def test_a_token_budget_outside_the_usual_is_used_with_a_warning(
    client: TestClient, budget: int | None, said: bool
) -> None:
    answer = client.post(SENTIMENT, json={"restaurant_id": 1, "max_tokens_per_batch": budget})
    expected = (
        [f'"max_tokens_per_batch" is {budget}, which is used, but 1000 to 8000 is usual'] if said else None
    )
    assert answer.status_code == 200
    assert answer.json().get("warnings") == expected


@pytest.mark.parametrize("budget", [499, 0, -4000, 1_000_001, 10**30, 4000.5, "4000", True, [4000]])
@pytest.mark.sample(4)
def test_a_token_budget_that_cannot_be_meant_is_refused(client: TestClient, budget: Any) -> None:
    bodies: dict[str, dict[str, Any]] = {
        SENTIMENT: {"restaurant_id": 1},
        STRENGTHS: {"restaurants": []},
        SUMMARY: {"restaurant_id": 1, "positive_reviews": ["a"]},
    }
    for path, body in bodies.items():
        answer = client.post(path, json=body | {"max_tokens_per_batch": budget})
        assert answer.status_code == 422
        assert answer.json()["details"][0]["field"] == "max_tokens_per_batch"


# One restaurant that fails


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (RateLimited("no", retry_after=7.2), 503, "8"),
        (RateLimited("no", retry_after=10**9), 503, "3600"),
        (TransientBackendError("no", status=503), 503, "5"),
        (TransientBackendError("no", retry_after=0), 503, "1"),
        (PromptTooLong("no"), 422, None),
        (ContentRefused("no"), 422, None),
        (AuthenticationFailed("no", status=401), 503, None),
        (PermanentBackendError("no", status=404), 502, None),
        (SubmissionUnknown("no"), 502, None),
        (OutputTruncated("no"), 502, None),
        (DeadlineExceeded("no"), 504, None),
        (ConfigurationError("no"), 503, None),
        (ConfigurationError("max_tokens_per_batch=500 leaves no room"), 422, None),
        (KeyError("no"), 500, None),
    ],
)
def test_the_status_of_a_failure_says_who_can_do_something_about_it(
    error: Exception, status: int, retry: str | None
) -> None:
    response = failed(error)
    assert response.status_code == status
    assert (response.headers or {}).get("Retry-After") == retry
    assert "no" not in str(response.detail).split()[1:2]


@pytest.mark.parametrize("path", SINGLES)
@pytest.mark.sample(2)
def test_a_restaurant_that_fails_is_an_error_response(path: str) -> None:
    secret = "http://10.0.0.7/v1"
    fault = PermanentBackendError(secret, status=400)
    app = make(FakeLLM(answer=judge, fault=lambda request, tried: fault), FakeSearch(REVIEWS))
    answer = post(app, path, {"restaurant_id": 1}, **{"X-Request-Id": "mine"}, **LINES)

    assert answer.status_code == 502
    assert answer.headers["x-request-id"] == "mine"
    assert answer.json() == {
        "code": 502,
        "message": "PermanentBackendError: a service behind this one refused the call (status 400)",
        "details": None,
        "request_id": "mine",
    }


def test_a_service_that_is_overloaded_says_when_to_ask_again() -> None:
    fault = TransientBackendError("busy", status=503, retry_after=0.001)
    app = make(FakeLLM(answer=judge, fault=lambda request, tried: fault), FakeSearch(REVIEWS))
    answer = post(app, SENTIMENT, {"restaurant_id": 1})

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", SINGLES)
@pytest.mark.sample(2)
def test_one_restaurant_is_never_answered_in_lines(client: TestClient, path: str) -> None:
    answer = client.post(path, json={"restaurant_id": 1}, headers=LINES)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["restaurant_id"] == 1


@cache
def searchless() -> FastAPI:
    return make(FakeLLM(answer=judge), None)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("path", "status"), [(SUMMARY, 422), (SENTIMENT, 422), (STRENGTH, 422), (COMPARISON, 501), (SIMILAR, 501)]
)
def test_without_a_search_it_is_said_what_is_missing(path: str, status: int) -> None:
    app = searchless()
    answer = post(app, path, {"restaurant_id": 1, "query_text": "a"})

    assert answer.status_code == status
    assert "search" in answer.json()["message"]
    if path in SINGLES:
        assert post(app, f"{path}/batch", {"restaurants": []}).json() == {"results": [], "failures": []}
        assert post(app, f"{path}/batch", {"restaurants": [{"restaurant_id": 1}]}).status_code == status


# Bounds, and bodies that no client sends on purpose


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (SENTIMENT, {"restaurant_id": 1, "reviews": ["a"] * 21}, "reviews"),
        (
            SUMMARY,
            {"restaurant_id": 1, "positive_reviews": ["a"] * 11, "negative_reviews": ["a"] * 10},
            "negative_reviews",
        ),
        (
            STRENGTH,
            {"restaurant_id": 1, "target_reviews": ["a"] * 21, "comparison_reviews": []},
            "target_reviews",
        ),
        (STRENGTH, {"restaurant_id": 1, "comparison_restaurant_ids": [1] * 21}, "comparison_restaurant_ids"),
        (COMPARISON, {"restaurant_id": 1, "unknown": [0] * 21}, "unknown"),
        (COMPARISONS, {"restaurants": [{"restaurant_id": n} for n in range(4)]}, "restaurants"),
        (SIMILAR, {"query_text": "a", "unknown": [0] * 21}, "unknown"),
    ],
)
@pytest.mark.sample(4)
def test_the_bounds_of_a_request_hold_for_one_restaurant_too(path: str, body: Any, field: str) -> None:
    answer = post(bounded(max_reviews=20, max_items=3), path, body)

    assert answer.status_code == 413
    assert answer.json()["details"][0]["field"] == field


@pytest.mark.parametrize("path", [*SINGLES, *BATCHES, SIMILAR])
@pytest.mark.sample(2)
def test_the_fields_and_bytes_of_a_request_have_bounds_everywhere(path: str) -> None:
    app = bounded(max_body_bytes=4000)
    assert post(app, path, {f"f{n}": 0 for n in range(65)}).status_code == 422
    assert post(app, path, {"a": "x" * 4000}).status_code == 413


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (SENTIMENT, {"restaurant_id": 1, "reviews": ["맛있어요 " * 60] * 40}, "body"),
        (SENTIMENTS, {"restaurants": [{"restaurant_id": n} for n in range(20)]}, "restaurants"),
        (STRENGTHS, {"restaurants": [{"restaurant_id": n, "limit": 100} for n in range(10)]}, "restaurants"),
        (SENTIMENT, {"restaurant_id": 1, "reviews": ["a" * 60] * 400}, "body"),
    ],
)
@pytest.mark.sample(2)
def test_calls_have_a_bound_also_where_the_reviews_are_not_known_yet(
    path: str, body: Any, field: str
) -> None:
    app = bounded(max_calls=10)
    answer = post(app, path, body | {"max_tokens_per_batch": 1000})

    assert answer.status_code == 413
    assert answer.json()["details"][0]["field"] == field
    assert "max_calls" in answer.json()["message"]


def test_comparisons_have_a_bound_of_calls() -> None:
    app = bounded(max_calls=10)
    body = {"restaurants": [{"restaurant_id": n} for n in range(10)]}

    assert post(app, COMPARISONS, body).status_code == 413
    assert post(app, COMPARISON, {"restaurant_id": 1}).status_code == 200


def test_samples_and_summaries_of_found_reviews_count_as_calls_too() -> None:
    app = bounded(max_calls=10)
    categories = {"restaurants": [{"restaurant_id": n, "category": n} for n in range(3)]}
    kinds = {"restaurants": [{"restaurant_id": n if n % 2 else f"{n}"} for n in range(3)]}
    alike = {"restaurants": [{"restaurant_id": n} for n in range(2)]}
    many = {"restaurants": [{"restaurant_id": n} for n in range(11)]}

    assert post(app, COMPARISONS, categories).status_code == 413
    assert post(app, COMPARISONS, kinds).status_code == 413
    assert post(app, COMPARISONS, alike).status_code == 200
    assert post(app, SUMMARIES, many).status_code == 413


def test_a_restaurant_in_both_unicode_forms_is_named_as_a_duplicate() -> None:
    forms = [{"restaurant_id": normalize(form, "카페"), "reviews": ["맛있어요"]} for form in ("NFC", "NFD")]
    answer = post(bounded(), SENTIMENTS, {"restaurants": forms})

    assert answer.status_code == 422
    assert answer.json()["details"][0]["field"] == "restaurants[1].restaurant_id"


@pytest.mark.parametrize("path", [SENTIMENT, COMPARISON])
def test_an_integer_that_no_index_can_hold_is_no_id(path: str) -> None:
    answer = post(bounded(), path, {"restaurant_id": 2**63})

    assert answer.status_code == 422
    assert answer.json()["details"][0]["field"] == "restaurant_id"


def test_a_body_may_begin_with_a_byte_order_mark() -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"restaurant_id": 1, "reviews": ["맛있어요"]}).encode()
    client = TestClient(bounded())

    answer = client.post(SENTIMENT, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


def test_numbers_that_json_has_no_form_for_are_null_also_beside_half_an_emoji() -> None:
    body = as_json({"text": "\ud800", "numbers": [inf, nan, 1.5]})

    assert json.loads(body) == {"text": "?", "numbers": [None, None, 1.5]}
    assert b"NaN" not in body


ODD: list[Any] = [
    None,
    True,
    0,
    "text",
    [],
    [{}],
    {},
    {"restaurant_id": None},
    {"restaurant_id": []},
    {"restaurant_id": {"$oid": 1}},
    {"restaurant_id": 1, "limit": "ten", "query_text": 5},
    {"restaurant_id": 1, "limit": 10**400, "query_text": ""},
    {"restaurant_id": 1, "min_score": -1, "query_text": "a"},
    {"restaurant_id": 1, "priority": 1.5, "query": 5, "query_text": "x" * 1001},
    {"restaurant_id": 1, "priority": 2**70, "limit": 0},
    {"restaurant_id": 1, "query": "x" * 1001, "query_text": []},
    {"restaurant_id": 1, "restaurant_name": ["a"], "category": 1.5},
    {"restaurant_id": 1, "category": {}, "all_average_data_path": {}, "limit": True},
    {"restaurant_id": 1, "reviews": "맛있어요", "target_reviews": "a", "positive_reviews": 5, "limit": []},
    {"restaurant_id": 1, "reviews": [[]], "target_reviews": [None], "negative_reviews": [1], "limit": -1},
    {
        "restaurant_id": 1,
        "reviews": [{}],
        "target_reviews": [{"id": 1}],
        "negative_reviews": [{}],
        "limit": 101,
    },
    {"restaurant_id": 1, "reviews": {"0": "a"}, "top_k": 51, "limit": 1.5, "priority": "high"},
    {"restaurants": {"0": {}}, "data": [], "reviews": 5},
    {"restaurants": [None], "data": "x", "reviews": [5]},
]


@pytest.mark.parametrize("path", [*SINGLES, *BATCHES, SIMILAR])
@pytest.mark.sample(2)
def test_an_odd_body_is_an_error_of_the_client_that_names_a_field(client: TestClient, path: str) -> None:
    for body in ODD:
        content = json.dumps(body)
        answer = client.post(path, content=content, headers={"content-type": "application/json"})
        if answer.status_code == 200:  # the oddity is in a field that this endpoint does not read
            assert "warnings" in answer.json(), content
            continue
        assert answer.status_code in (413, 422), content
        error = answer.json()
        assert set(error) == {"code", "message", "details", "request_id"}
        assert error["details"][0]["loc"][0] == "body"
        assert all(set(one) == {"field", "message", "loc", "msg", "type"} for one in error["details"])
        assert len(answer.content) < 12_000


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(3), Strategy.threaded()])
@pytest.mark.sample(1)
def test_every_strategy_answers_one_restaurant(strategy: Strategy) -> None:
    runner = BatchRunner(llm=FakeLLM(answer=judge), search=FakeSearch(REVIEWS), strategy=strategy)
    app = FastAPI()
    app.include_router(batch_router(runner))
    for path in SINGLES:
        assert post(app, path, {"restaurant_id": 1, "query": "맛"}).json()["restaurant_id"] == 1
    assert len(post(app, SIMILAR, {"query_text": "맛", "restaurant_id": 1}).json()["results"]) == 3

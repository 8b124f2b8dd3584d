"""The paths of the batch router, as clients see them."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import anyio.lowlevel
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, Strategy, SummarizeAspects
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    ConfigurationError,
    PermanentBackendError,
    QuotaExhausted,
)
from restaurant_llm_batch.integrations._fastapi import openapi as documents
from restaurant_llm_batch.integrations._fastapi import serialize as answers
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

SUMMARIES = "/api/v1/llm/summarize/batch"
SENTIMENTS = "/api/v1/sentiment/analyze/batch"
STRENGTHS = "/api/v1/llm/extract/strengths/batch"
LINES = {"Accept": "application/x-ndjson"}
SECRET = "sk-not-for-you"


def labelled(request: LLMRequest) -> str:
    """Label every review positive; say "text" to anything else."""
    if request.task in ("sentiment", "aspect_sentiment"):
        return json.dumps(
            {"labels": [{"id": r["id"], "label": "positive"} for r in request.inputs["reviews"]]}
        )
    wanted = request.schema["properties"] if request.schema else {}
    return json.dumps({name: _any(schema) for name, schema in wanted.items()})


def _any(schema: Mapping[str, Any]) -> Any:
    if schema.get("type") == "object":
        return {name: _any(inner) for name, inner in schema["properties"].items()}
    return [] if schema.get("type") == "array" else "text"


def make(llm: Any = None, search: Any = "some", **options: Any) -> FastAPI:
    found = FakeSearch(lambda name: ["맛있어요", "친절해요"]) if search == "some" else search
    runner = BatchRunner(llm=llm or FakeLLM(answer=labelled), search=found, strategy=Strategy.stage(4))
    app = FastAPI()
    app.include_router(batch_router(runner, **options))
    return app


@cache
def ready() -> FastAPI:
    """An application for the tests that need nothing special of it."""
    return make()


def post(app: FastAPI, path: str, body: Any, **headers: str) -> Any:
    with TestClient(app) as client:
        return client.post(path, json=body, headers=headers)


def ids(*names: Any) -> dict[str, Any]:
    return {"restaurants": [{"restaurant_id": name} for name in names]}


def lines(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def failing(error: Exception, *names: Any) -> Callable[[Any, int], Exception | None]:
    return lambda request, tried: error if request.inputs["restaurant_id"] in names else None


# What the contract says


def test_summaries_by_search_have_the_shape_of_the_contract() -> None:
    answer = post(ready(), SUMMARIES, documents.SUMMARY_REQUESTS["search"]["value"])

    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["results", "failures"]
    assert [result["restaurant_id"] for result in body["results"]] == [1, 2]
    result = body["results"][0]
    assert set(result) == {"restaurant_id", "overall_summary", "categories"}
    assert list(result["categories"]) == ["service", "price", "food"]
    assert set(result["categories"]["service"]) == {"summary", "bullets", "evidence", "status"}


def test_evidence_names_reviews_by_text_whatever_their_ids_are() -> None:
    def cite(request: LLMRequest) -> str:
        aspect = {"summary": "good", "bullets": ["fast"], "evidence": [2]}
        return json.dumps({"categories": {"service": aspect}, "overall_summary": "all good"})

    app = make(FakeLLM(answer=cite), summary=SummarizeAspects(aspects=("service",)))
    body = post(app, SUMMARIES, ids(7)).json()

    evidence = {"review_id": "7-1", "snippet": "친절해요", "rank": 1}
    assert body["results"][0]["categories"]["service"]["evidence"] == [evidence]


def test_summaries_of_given_reviews_have_the_fields_of_the_older_shape() -> None:
    body = post(ready(), SUMMARIES, documents.SUMMARY_REQUESTS["reviews"]["value"]).json()

    assert body["failures"] == []
    result = body["results"][0]
    assert result["restaurant_id"] == 1
    assert result["categories"] is None
    assert (result["positive_summary"], result["negative_summary"]) == ("text", "text")
    assert (result["positive_count"], result["negative_count"], result["failed_count"]) == (1, 1, 0)


def test_sentiment_answers_the_example_of_the_contract() -> None:
    answer = post(ready(), SENTIMENTS, documents.SENTIMENT_REQUESTS["reviews"]["value"])

    assert answer.json() == documents.SENTIMENT_ANSWER


def test_strengths_echo_the_reviews_as_they_were_given() -> None:
    asked = documents.STRENGTH_REQUESTS["reviews"]["value"]
    result = post(ready(), STRENGTHS, asked).json()["results"][0]

    given = asked["restaurants"][0]
    assert result["restaurant_id"] == given["target_restaurant_id"]
    assert result["target_reviews"] == given["target_reviews"]
    assert result["comparison_reviews"] == given["comparison_reviews"]
    assert (result["comparison_summary"], result["target_restaurant_strength"]) == ("text", "text")
    assert (result["target_count"], result["comparison_count"], result["failed_count"]) == (1, 1, 0)


def test_strengths_show_the_reviews_that_a_search_found() -> None:
    search = FakeSearch({1: ["맛있어요"], 2: ["그저 그래요"]})
    asked = {"restaurants": [{"target_restaurant_id": 1}]}
    result = post(make(search=search), STRENGTHS, asked).json()["results"][0]

    assert [review["content"] for review in result["target_reviews"]] == ["맛있어요"]
    assert [review["restaurant_id"] for review in result["comparison_reviews"]] == [2]


def test_the_fields_of_a_request_reach_the_task() -> None:
    queries: list[tuple[Any, int, float]] = []

    class Watched(FakeSearch):
        async def asearch(self, query: Any, /) -> Any:
            queries.append((query.restaurant_id, query.limit, query.min_score))
            return await super().asearch(query)

    asked = {
        "restaurants": [{"restaurant_id": 1, "limit": 3}, {"restaurant_id": 2}],
        "limit": 4,
        "min_score": 0.5,
    }
    post(make(search=Watched({1: ["a"], 2: ["b"]})), SUMMARIES, asked)

    assert Counter(queries) == {(1, 3, 0.5): 3, (2, 4, 0.5): 3}


def test_the_token_budget_of_a_request_goes_before_the_services() -> None:
    requests: list[LLMRequest] = []
    reviews = [{"content": "음식이 맛있고 직원분이 친절해요. " * 20} for _ in range(12)]
    asked: dict[str, Any] = {"restaurants": [{"restaurant_id": 1, "reviews": reviews}]}

    post(make(FakeLLM(answer=labelled, requests=requests)), SENTIMENTS, asked)
    with_default, requests[:] = len(requests), []
    post(
        make(FakeLLM(answer=labelled, requests=requests)), SENTIMENTS, asked | {"max_tokens_per_batch": 1000}
    )

    assert len(requests) > with_default


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", [0, -1, "ko-1", "0", "너울솥국밥"])
def test_ids_come_back_as_they_were_given(name: Any) -> None:
    review = {"content": "좋아요"}
    for path, restaurant in {
        SUMMARIES: {"restaurant_id": name},
        SENTIMENTS: {"restaurant_id": name, "reviews": [review]},
        STRENGTHS: {"target_restaurant_id": name, "target_reviews": [review], "comparison_reviews": []},
    }.items():
        assert (
            post(ready(), path, {"restaurants": [restaurant]}).json()["results"][0]["restaurant_id"] == name
        )


def test_no_restaurants_give_no_results() -> None:
    for path in (SUMMARIES, SENTIMENTS, STRENGTHS):
        answer = post(ready(), path, {"restaurants": []})
        assert (answer.status_code, answer.json()) == (200, {"results": [], "failures": []})


def test_a_restaurant_without_reviews_is_a_result_and_says_so() -> None:
    body = post(make(search=FakeSearch({})), SUMMARIES, ids(1)).json()

    statuses = {category["status"] for category in body["results"][0]["categories"].values()}
    assert statuses == {"no_reviews"}


# Failures


def test_a_failing_restaurant_stands_beside_the_others_results() -> None:
    refused = PermanentBackendError(f"http://10.0.0.7/v1 refused {SECRET}", status=400)
    app = make(FakeLLM(answer=labelled, fault=failing(refused, 2)))
    answer = post(app, SUMMARIES, ids(1, 2, 3))

    assert answer.status_code == 200
    body = answer.json()
    assert [result["restaurant_id"] for result in body["results"]] == [1, 3]
    assert body["failures"] == [
        {
            "restaurant_id": 2,
            "stage": "llm",
            "error": "PermanentBackendError: a service behind this one refused the call (status 400)",
            "attempts": 1,
        }
    ]


def all_is_long(text: str) -> int:
    """Find the instructions beyond any budget."""
    return 5000


def lines_are_long(text: str) -> int:
    """Find the smallest line beyond any budget, and instructions within it."""
    return 5000 if len(text) < 100 else 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("count", [all_is_long, lines_are_long])
def test_a_budget_that_is_too_small_is_named_to_the_client(count: Any) -> None:
    app = FastAPI()
    app.include_router(
        batch_router(
            BatchRunner(llm=FakeLLM(answer=labelled), count_tokens=count, strategy=Strategy.stage(4))
        )
    )
    review = {"content": "맛있어요"}
    given = {"positive_reviews": [review], "negative_reviews": []}
    compared = {"target_reviews": [review], "comparison_reviews": [review]}
    for path, restaurant in {
        SUMMARIES: {"restaurant_id": 1, **given},
        SENTIMENTS: {"restaurant_id": 1, "reviews": [review]},
        STRENGTHS: {"target_restaurant_id": 1, **compared},
    }.items():
        answer = post(app, path, {"restaurants": [restaurant], "max_tokens_per_batch": 1000})
        (failure,) = answer.json()["failures"]
        assert failure["error"] == (
            "ConfigurationError: max_tokens_per_batch is too small for the instructions, a review and the answer; "
            "send a larger one"
        )


def test_what_a_service_said_is_in_the_log_and_not_in_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    app = make(FakeLLM(answer=labelled, fault=failing(RuntimeError("the text of a bug"), 1)))
    with caplog.at_level(logging.WARNING, "restaurant_llm_batch"):
        answer = post(app, SUMMARIES, ids(1), **{"X-Request-Id": "trace-me"})

    assert answer.json()["failures"][0]["error"] == "internal error"
    assert "the text of a bug" not in answer.text
    assert "trace-me" in caplog.text
    assert "the text of a bug" in caplog.text


def test_results_and_failures_are_in_the_order_of_the_request() -> None:
    """Restaurants end in the reverse of the order in which they were given."""
    done: list[int] = []

    class Backwards(FakeLLM):
        async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
            mine = request.inputs["restaurant_id"]
            while len(done) < 6 - mine:
                await anyio.lowlevel.checkpoint()
            done.append(mine)
            if mine % 2:
                raise PermanentBackendError("no")
            return await super().acomplete(request)

    body = post(make(Backwards(answer=labelled)), SUMMARIES, ids(*range(1, 7))).json()

    assert done == [6, 5, 4, 3, 2, 1]
    assert [result["restaurant_id"] for result in body["results"]] == [2, 4, 6]
    assert [failure["restaurant_id"] for failure in body["failures"]] == [1, 3, 5]


@pytest.mark.parametrize("headers", [{}, LINES], ids=["json", "lines"])
@pytest.mark.parametrize(
    "error", [AuthenticationFailed(SECRET, status=401), QuotaExhausted(SECRET, status=429)]
)
@pytest.mark.sample(1)
def test_a_service_that_turns_us_away_is_503_and_says_nothing_of_our_account(
    error: Exception, headers: dict[str, str]
) -> None:
    app = make(FakeLLM(answer=labelled, fault=lambda request, tried: error))
    answer = post(app, SUMMARIES, ids(*range(20)), **headers)

    assert answer.status_code == 503
    assert set(answer.json()) == {"code", "message", "details", "request_id"}
    assert answer.json()["details"] is None
    assert answer.json()["message"].startswith(type(error).__name__)
    assert SECRET not in answer.text


@pytest.mark.sample(1)
@pytest.mark.parametrize("headers", [{}, LINES], ids=["json", "lines"])
def test_what_was_done_before_the_quota_ran_out_is_returned_and_all_else_is_accounted_for(
    headers: dict[str, str],
) -> None:
    llm = FakeLLM(answer=labelled)
    llm._fault = lambda request, tried: QuotaExhausted(SECRET) if llm.calls > 30 else None
    runner = BatchRunner(llm=llm, search=FakeSearch(lambda name: ["a"]), strategy=Strategy.stage(1))
    app = FastAPI()
    app.include_router(batch_router(runner))
    answer = post(app, SUMMARIES, ids(*range(100)), **headers)

    assert answer.status_code == 200
    assert SECRET not in answer.text
    if headers:
        *entries, last = lines(answer)
        results = [entry["result"] for entry in entries if "result" in entry]
        failures = [entry["failure"] for entry in entries if "failure" in entry]
        assert last == {"done": {"results": 30, "failures": 70}}
    else:
        results, failures = answer.json()["results"], answer.json()["failures"]
    assert [result["restaurant_id"] for result in results] == list(range(30))
    assert [failure["restaurant_id"] for failure in failures] == list(range(30, 100))
    assert failures[0]["error"].startswith("QuotaExhausted")
    assert failures[-1] == {
        "restaurant_id": 99,
        "stage": "run",
        "error": "RunStopped: not run to its end: QuotaExhausted: a service behind this one has no quota left",
        "attempts": 0,
    }


@pytest.mark.parametrize("headers", [{}, LINES], ids=["json", "lines"])
def test_a_bug_is_500_without_its_text(headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: BatchRunner, task: Any, items: Any) -> Any:
        raise KeyError(SECRET)

    app = make()
    monkeypatch.setattr(BatchRunner, "arun", broken)
    monkeypatch.setattr(BatchRunner, "astream", broken)
    answer = post(app, SUMMARIES, ids(1), **headers)

    assert answer.status_code == 500
    assert answer.json() == {
        "code": 500,
        "message": "internal error",
        "details": None,
        "request_id": answer.headers["x-request-id"],
    }


def test_a_bug_in_the_middle_of_the_lines_is_said_in_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    summary = answers.summary

    def second_breaks(value: Any, debug: Any) -> Any:
        shown.append(value)
        if len(shown) == 2:
            raise KeyError(SECRET)
        return summary(value, debug)

    monkeypatch.setattr(answers, "summary", second_breaks)
    first, last = lines(post(ready(), SUMMARIES, ids(1, 2), **LINES))

    assert list(first) == ["result"]
    assert last["error"]["code"] == 500
    assert SECRET not in str(last)


def test_half_an_emoji_of_a_model_does_not_break_an_answer() -> None:
    def half(request: LLMRequest) -> str:
        return json.dumps(
            {"positive_summary": "\ud83d", "negative_summary": "맛", "overall_summary": "good \ud83d!"}
        )

    asked = documents.SUMMARY_REQUESTS["reviews"]["value"]
    answer = post(make(FakeLLM(answer=half)), SUMMARIES, asked)

    assert answer.status_code == 200
    assert answer.json()["results"][0]["overall_summary"] == "good \ufffd!"


# Refusals


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (SUMMARIES, {}, "restaurants"),
        (SUMMARIES, [], "body"),
        (SUMMARIES, {"restaurants": {}}, "restaurants"),
        (SUMMARIES, {"restaurants": [1]}, "restaurants[0]"),
        (SUMMARIES, ids(True), "restaurants[0].restaurant_id"),
        (SUMMARIES, ids(""), "restaurants[0].restaurant_id"),
        (SUMMARIES, ids(1.5), "restaurants[0].restaurant_id"),
        (SUMMARIES, ids(2**63 + 1), "restaurants[0].restaurant_id"),
        (SUMMARIES, ids("x" * 201), "restaurants[0].restaurant_id"),
        (SUMMARIES, ids(1) | {"limit": 0}, "limit"),
        (SUMMARIES, ids(1) | {"limit": 101}, "limit"),
        (SUMMARIES, ids(1) | {"limit": "10"}, "limit"),
        (SUMMARIES, ids(1) | {"min_score": 1.1}, "min_score"),
        (SUMMARIES, ids(1) | {"max_tokens_per_batch": 499}, "max_tokens_per_batch"),
        (SUMMARIES, ids(1) | {"max_tokens_per_batch": 10**9}, "max_tokens_per_batch"),
        (SUMMARIES, {"restaurants": [{"restaurant_id": 1, "limit": 0}]}, "restaurants[0].limit"),
        (SUMMARIES, ids(1, 2, 1), "restaurants[2].restaurant_id"),
        (
            SUMMARIES,
            {
                "restaurants": [
                    {"restaurant_id": 1, "positive_reviews": [], "negative_reviews": []},
                    {"restaurant_id": 2},
                ]
            },
            "restaurants[1].positive_reviews",
        ),
        (
            SUMMARIES,
            {"restaurants": [{"restaurant_id": 1, "positive_reviews": [5], "negative_reviews": []}]},
            "restaurants[0].positive_reviews[0]",
        ),
        (SENTIMENTS, {"restaurants": [], "max_tokens_per_batch": "4000"}, "max_tokens_per_batch"),
        (SENTIMENTS, {"restaurants": [], "labels": "yes"}, "labels"),
        (
            SENTIMENTS,
            {"restaurants": [{"restaurant_id": 1, "restaurant_name": 5}]},
            "restaurants[0].restaurant_name",
        ),
        (
            SENTIMENTS,
            {"restaurants": [{"restaurant_id": 1, "reviews": [{"content": "a"}, {"id": 3}]}]},
            "restaurants[0].reviews[1].content",
        ),
        (STRENGTHS, {"restaurants": [{"target_reviews": []}]}, "restaurants[0].target_restaurant_id"),
        (
            STRENGTHS,
            {"restaurants": [{"target_restaurant_id": 1}] * 2},
            "restaurants[1].target_restaurant_id",
        ),
    ],
)
def test_a_wrong_request_is_reported_which_field_is_wrong(path: str, body: Any, field: str) -> None:
    answer = post(ready(), path, body)

    assert answer.status_code == 422
    error = answer.json()
    assert error["code"] == 422
    assert error["request_id"] == answer.headers["x-request-id"]
    details = {detail["field"]: detail for detail in error["details"]}
    assert error["message"].startswith(f"{field}: ") or "duplicate" in error["message"]
    assert details[field]["loc"] == as_loc(field)
    assert details[field]["msg"] == details[field]["message"]
    assert details[field]["type"]


def as_loc(field: str) -> list[str | int]:
    """Return the path of a field as FastAPI reports it."""
    parts = [part for part in re.split(r"[.\[\]]", field) if part]
    return ["body", *(int(part) if part.isdecimal() else part for part in parts if part != "body")]


UNREAD = [
    "restaurant_id",
    "member_id",
    "group_id",
    "subgroup_id",
    "is_recommended",
    "created_at",
    "updated_at",
]


@pytest.mark.sample(3)
@pytest.mark.parametrize("value", [1, 0, "", 1.5, 1700000000, None, {"$date": 1}, [1], "x" * 500])
def test_fields_that_nobody_reads_are_no_reason_to_refuse_a_review(value: Any) -> None:
    review = {"content": "좋아요", **dict.fromkeys(UNREAD, value)}
    given = {"positive_reviews": [review], "negative_reviews": []}
    compared = {"target_reviews": [review], "comparison_reviews": [review]}
    for path, restaurant in {
        SUMMARIES: {"restaurant_id": 1, **given},
        SENTIMENTS: {"restaurant_id": 1, "reviews": [review]},
        STRENGTHS: {"target_restaurant_id": 1, **compared},
    }.items():
        answer = post(ready(), path, {"restaurants": [restaurant]}, **{"X-Debug": "1"})
        assert answer.status_code == 200, answer.text
        (result,) = answer.json()["results"]
        for field in {"positive_reviews", "target_reviews", "comparison_reviews"} & result.keys():
            assert result[field] == [review]


def test_a_number_of_any_length_is_answered() -> None:
    long = (
        b'{"restaurants": [{"target_restaurant_id": 1, "target_reviews": [{"content": "a", "created_at": %b}]'
    )
    long += b', "comparison_reviews": []}]}'
    with TestClient(ready()) as client:
        for digits in (b"9" * 4000, b"9" * 5000, b"[" * 150 + b"]" * 150):
            headers = {"Content-Type": "application/json"}
            answer = client.post(STRENGTHS, content=long % digits, headers=headers)
            assert answer.status_code in (200, 422), answer.text


def test_the_description_says_what_unread_fields_are_for() -> None:
    with TestClient(ready()) as client:
        reviews = client.get("/openapi.json").json()["components"]["schemas"]["ReviewModel"]["properties"]

    for field in UNREAD:
        assert reviews[field]["description"].startswith("Not used: ")
        assert len(reviews[field]["examples"]) == 2
        assert "type" not in reviews[field]


def test_a_mix_of_both_summary_shapes_is_told_to_choose() -> None:
    given = {"restaurant_id": 1, "positive_reviews": [], "negative_reviews": []}
    error = post(ready(), SUMMARIES, {"restaurants": [given, {"restaurant_id": 2}]}).json()

    assert "the reviews of all its restaurants, or of none" in error["message"]


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    review = {"content": 5, "id": SECRET, SECRET * 100: SECRET}
    asked = {"restaurants": [{"restaurant_id": 1, "reviews": [review]}, {SECRET * 100: SECRET}]}
    answer = post(ready(), SENTIMENTS, asked | {SECRET * 100: 1})

    assert answer.status_code == 422
    assert len(answer.content) < 1500


def test_many_wrong_restaurants_are_one_complaint() -> None:
    answer = post(ready(), SUMMARIES, ids(*[None] * 150))

    assert answer.status_code == 422
    assert len(answer.json()["details"]) == 1


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"", "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b"[" * 10_000, "application/json", 422),
        (b'{"restaurants": [], "min_score": NaN}', "application/json", 422),
        (b'{"restaurants": [{"restaurant_id": "\\ud83d"}]}', "application/json", 422),
        (b'{"restaurants": []}', "text/plain", 415),
        (b'{"restaurants": []}', "", 415),
        (b'{"restaurants": []}', "application/json; charset=utf-8", 200),
        (b'{"restaurants": []}', "application/problem+json", 200),
    ],
)
def test_a_body_must_be_json_and_say_so(content: bytes, kind: str, status: int) -> None:
    with TestClient(ready()) as client:
        answer = client.post(SUMMARIES, content=content, headers={"Content-Type": kind})

    assert answer.status_code == status
    if status != 200:
        assert answer.json()["code"] == status


def test_a_body_that_is_too_large_is_413_wherever_that_is_noticed() -> None:
    body = json.dumps(ids(*range(100))).encode()

    def pieces() -> Any:
        yield from (body[at : at + 100] for at in range(0, len(body), 100))

    headers = {"Content-Type": "application/json"}
    with TestClient(make(max_body_bytes=len(body) - 1)) as client:
        for content in (body, pieces()):
            answer = client.post(SUMMARIES, content=content, headers=headers)
            assert answer.status_code == 413
            assert answer.json()["code"] == 413
    with TestClient(make(max_body_bytes=len(body))) as client:
        for content in (body, pieces()):
            assert client.post(SUMMARIES, content=content, headers=headers).status_code == 200


def test_too_many_restaurants_are_413() -> None:
    answer = post(make(max_items=3), SUMMARIES, ids(1, 2, 3, 4))

    assert answer.status_code == 413
    assert [(one["field"], one["message"]) for one in answer.json()["details"]] == [
        ("restaurants", "At most 3")
    ]
    assert post(make(max_items=3), SUMMARIES, ids(1, 2, 3)).status_code == 200


def test_a_service_without_search_says_what_to_send_instead() -> None:
    app = make(search=None)

    answer = post(app, SUMMARIES, ids(1))
    assert answer.status_code == 422
    assert "send positive_reviews and negative_reviews" in answer.json()["message"]
    answer = post(app, STRENGTHS, {"restaurants": [{"target_restaurant_id": 1, "target_reviews": []}]})
    assert answer.json()["details"][0]["field"] == "restaurants[0].comparison_reviews"
    for headers in ({}, LINES):
        answer = post(app, SUMMARIES, {"restaurants": []}, **headers)
        assert answer.status_code == 200
    assert post(app, SUMMARIES, documents.SUMMARY_REQUESTS["reviews"]["value"]).status_code == 200
    assert post(app, STRENGTHS, documents.STRENGTH_REQUESTS["reviews"]["value"]).status_code == 200


def test_another_method_is_405_in_the_same_shape() -> None:
    with TestClient(ready()) as client:
        answer = client.get(SUMMARIES, headers={"X-Request-Id": "mine"})

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json() == {
        "code": 405,
        "message": "Method Not Allowed",
        "details": None,
        "request_id": "mine",
    }


# Headers


@pytest.mark.parametrize("body", [ids(1), {}], ids=["answer", "error"])
def test_a_sane_request_id_comes_back(body: Any) -> None:
    for headers in ({}, LINES):
        answer = post(ready(), SUMMARIES, body, **{"X-Request-Id": "a.B:1/2-3_4"}, **headers)
        assert answer.headers["x-request-id"] == "a.B:1/2-3_4"


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a\tb", '"><script>', "a;b", "é"])
def test_another_request_id_is_replaced(name: str) -> None:
    with TestClient(ready()) as client:
        headers = {"X-Request-Id": name.encode("latin-1")}
        answer = client.post(SUMMARIES, json={}, headers=headers)  # type: ignore[arg-type]

    assert answer.headers["x-request-id"] not in ("", name)
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("query", "headers", "wanted"),
    [
        ("", {"X-Debug": "true"}, True),
        ("", {"X-Debug": "1"}, True),
        ("", {"X-Debug": "YES"}, True),
        ("?debug=true", {}, True),
        ("", {"X-Debug": "0"}, False),
        ("?debug=false", {}, False),
        ("", {}, False),
    ],
)
def test_debug_fields_are_there_when_they_are_asked_for(
    query: str, headers: dict[str, str], wanted: bool
) -> None:
    asked = {
        SUMMARIES: documents.SUMMARY_REQUESTS["reviews"]["value"],
        SENTIMENTS: documents.SENTIMENT_REQUESTS["reviews"]["value"],
        STRENGTHS: documents.STRENGTH_REQUESTS["reviews"]["value"],
    }
    for path, body in asked.items():
        answer = post(ready(), path + query, body, **headers)
        assert ("debug" in answer.json()["results"][0]) == wanted


def test_debug_says_what_an_answer_took_and_what_is_doubtful() -> None:
    def cite(request: LLMRequest) -> str:
        aspect = {"summary": "good", "bullets": [], "evidence": [1, 99]}
        return json.dumps({"categories": {"food": aspect}, "overall_summary": "all good"})

    app = make(FakeLLM(answer=cite), summary=SummarizeAspects(aspects=("food",)))
    answer = post(app, SUMMARIES, ids(1), **{"X-Debug": "1"})

    result = answer.json()["results"][0]
    assert result["positive_reviews"] == result["negative_reviews"] == []
    debug = result["debug"]
    assert debug["request_id"] == answer.headers["x-request-id"]
    assert debug["processing_time_ms"] >= 0
    assert debug["tokens_used"] > 0
    assert debug["model_version"] == "fake"
    assert debug["warnings"] == ["food: reviews cited that the model was never shown: 1"]


@pytest.mark.parametrize(
    ("accept", "streamed"),
    [
        ("application/x-ndjson", True),
        ("application/x-ndjson, application/json;q=0.5", True),
        ("application/json, application/x-ndjson", True),
        ("application/json, application/x-ndjson;q=0.5", False),
        ("application/x-ndjson;q=0", False),
        ("application/x-ndjson;q=nonsense", False),
        ("application/json", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_lines_are_sent_to_those_who_ask_for_them(accept: str, streamed: bool) -> None:
    answer = post(ready(), SUMMARIES, ids(1), Accept=accept)

    kind = "application/x-ndjson" if streamed else "application/json"
    assert answer.headers["content-type"] == kind


def test_all_lines_of_what_is_accepted_are_read() -> None:
    several = [("Accept", "text/plain"), ("Accept", "application/x-ndjson")]
    with TestClient(ready()) as client:
        answer = client.post(SUMMARIES, json=ids(1), headers=several)

    assert answer.headers["content-type"] == "application/x-ndjson"


def test_lines_hold_what_the_plain_answer_holds() -> None:
    app = make(FakeLLM(answer=labelled, fault=failing(PermanentBackendError("no"), 2)))
    plain = post(app, SUMMARIES, ids(1, 2, 3)).json()
    *entries, last = lines(post(app, SUMMARIES, ids(1, 2, 3), **LINES))

    assert last == {"done": {"results": 2, "failures": 1}}
    by_id = {next(iter(entry.values()))["restaurant_id"]: entry for entry in entries}
    assert [by_id[1]["result"], by_id[3]["result"]] == plain["results"]
    assert [by_id[2]["failure"]] == plain["failures"]


# Inside an application


class Closing(FakeLLM):
    """Counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_the_runner_is_open_while_the_application_is_up() -> None:
    llm = Closing(answer=labelled)
    app = make(llm)
    for startup in (1, 2):
        with TestClient(app) as client:
            for _ in range(3):
                assert client.post(SUMMARIES, json=ids(1)).status_code == 200
                assert client.post(SUMMARIES, json=ids(1), headers=LINES).status_code == 200
            assert llm.closed == startup - 1
        assert llm.closed == startup


def test_the_applications_own_lifespan_goes_on_beside_the_routers() -> None:
    said: list[str] = []
    llm = Closing(answer=labelled)
    runner = BatchRunner(llm=llm, search=FakeSearch(lambda name: ["a"]), strategy=Strategy.stage(4))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with runner:  # opened twice is as good as once
            said.append("up")
            yield
            said.append("down")

    app = FastAPI(lifespan=lifespan)
    app.include_router(batch_router(runner))
    assert post(app, SUMMARIES, ids(1)).status_code == 200
    assert said == ["up", "down"]
    assert llm.closed == 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("headers", [{}, LINES], ids=["json", "lines"])
def test_it_works_where_nobody_runs_the_routers_lifespan(headers: dict[str, str]) -> None:
    outer = FastAPI()
    outer.mount("/inner", make())
    client = TestClient(outer)

    answer = client.post(f"/inner{SUMMARIES}", json=ids(1), headers=headers)
    assert answer.status_code == 200
    assert "restaurant_id" in answer.text


@pytest.mark.sample(1)
@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(2), Strategy.threaded()])
def test_every_strategy_serves(strategy: Strategy) -> None:
    search = FakeSearch(lambda name: ["a"])
    app = FastAPI()
    app.include_router(
        batch_router(BatchRunner(llm=FakeLLM(answer=labelled), search=search, strategy=strategy))
    )

    for headers in ({}, LINES):
        assert post(app, SUMMARIES, ids(1, 2), **headers).text.count('"overall_summary"') == 2


def test_the_applications_handlers_stay_what_they_are() -> None:
    app = make()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("the application's own", 400)

    @app.post("/own")
    async def own(number: int) -> int:
        return number

    with TestClient(app) as client:
        assert client.post("/own").text == "the application's own"
        assert client.get("/nowhere").json() == {"detail": "Not Found"}
        assert client.post(SUMMARIES, json={}).json()["code"] == 422


def test_what_the_applications_dependencies_refuse_has_the_shape_of_errors_too() -> None:
    class Mine(Exception):
        pass

    def guard(request: Request) -> None:
        if "authorization" not in request.headers:
            raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Bearer"})
        if request.headers["authorization"] == "mine":
            raise Mine

    runner = BatchRunner(llm=FakeLLM(answer=labelled), strategy=Strategy.stage(4))
    app = FastAPI()
    app.include_router(batch_router(runner), dependencies=[Depends(guard)])

    @app.exception_handler(Mine)
    async def mine(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("the application's own", 418)

    answer = post(app, SENTIMENTS, {"restaurants": []}, **{"X-Request-Id": "me"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json() == {
        "code": 401,
        "message": "who are you?",
        "details": None,
        "request_id": "me",
    }
    assert post(app, SENTIMENTS, {"restaurants": []}, Authorization="mine").status_code == 418
    assert post(app, SENTIMENTS, {"restaurants": []}, Authorization="ok").status_code == 200


def test_two_routers_in_one_application_keep_their_own_bounds() -> None:
    runner = BatchRunner(llm=FakeLLM(), search=FakeSearch(lambda name: ["a"]), strategy=Strategy.stage(4))
    app = FastAPI()
    app.include_router(batch_router(runner, max_items=1, prefix="/small"))
    app.include_router(batch_router(runner, max_items=2), prefix="/large")

    assert post(app, "/small/llm/summarize/batch", ids(1, 2)).status_code == 413
    assert post(app, f"/large{SUMMARIES}", ids(1, 2)).status_code == 200
    with TestClient(app) as client:
        assert len(client.get("/openapi.json").json()["paths"]) == 2 * 9


def test_what_cannot_work_is_said_when_the_router_is_made() -> None:
    runner = BatchRunner(llm=FakeLLM())

    with pytest.raises(ConfigurationError, match="max_items must be a whole number"):
        batch_router(runner, max_items=0)
    with pytest.raises(ConfigurationError, match="max_body_bytes must be a whole number"):
        batch_router(runner, max_body_bytes=True)
    with pytest.raises(ConfigurationError, match="runner must be a BatchRunner"):
        batch_router(FakeLLM())  # type: ignore[arg-type]


def test_the_examples_on_the_openapi_page_are_answered() -> None:
    app = FastAPI()
    search = EmbeddedSearch()
    runner = BatchRunner(llm=FakeLLM(answer=labelled), search=search, strategy=Strategy.stage(4))
    app.include_router(batch_router(runner, uploads=True))
    with TestClient(app) as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert len(paths) == 10
        for path, operations in sorted(paths.items(), reverse=True):  # uploads first
            content = operations["post"]["requestBody"]["content"]["application/json"]
            assert content["examples"]
            for example in content["examples"].values():
                answer = client.post(path, json=example["value"])
                assert answer.status_code == 200, answer.text
                body = answer.json()
                assert "warnings" not in body
                assert body.get("failures", []) == []
                answers = operations["post"]["responses"]["200"]["content"]["application/json"]["example"]
                assert body.keys() <= answers.keys() | OPTIONAL or path.startswith("/api/v1/llm/summarize")


OPTIONAL = {"labels", "restaurant_name"}

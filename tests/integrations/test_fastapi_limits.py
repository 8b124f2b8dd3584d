"""What one request may cost the service: everything is counted before it is read, and large bodies block nobody."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import TypeAdapter
from tests.integrations.test_fastapi import (
    LINES,
    SENTIMENTS,
    STRENGTHS,
    SUMMARIES,
    ids,
    labelled,
    make,
    post,
)
from tests.integrations.test_fastapi_served import served
from tests.support.growth import assert_linear
from tests.support.patience import PATIENCE

from restaurant_llm_batch import AnalyzeSentiment, BatchRunner
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.integrations._fastapi import bounds as limits
from restaurant_llm_batch.integrations._fastapi.bounds import Bounds, OpenBody, count_values
from restaurant_llm_batch.integrations._fastapi.error_responses import APIError
from restaurant_llm_batch.integrations._fastapi.request import BatchRequest, BatchRoute
from restaurant_llm_batch.integrations._fastapi.requests import SentimentAnalysisBatchRequest
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.testing import FakeLLM

BOUNDS = Bounds(body_bytes=2**23, items=200, reviews=10_000, calls=1_000, body_seconds=60)
JSON = {"Content-Type": "application/json"}


def reviews(count: int, text: str = "a") -> list[dict[str, str]]:
    return [{"content": text}] * count


def send(app: FastAPI, path: str, content: str) -> Any:
    with TestClient(app) as client:
        return client.post(path, content=content.encode(), headers=JSON)


# Reviews and restaurants


@pytest.mark.parametrize(
    ("path", "restaurants", "field"),
    [
        (SENTIMENTS, [{"restaurant_id": 1, "reviews": reviews(21)}], "restaurants[0].reviews"),
        (
            SENTIMENTS,
            [{"restaurant_id": i, "reviews": reviews(3)} for i in range(8)],
            "restaurants[6].reviews",
        ),
        (
            SUMMARIES,
            [{"restaurant_id": 1, "positive_reviews": reviews(11), "negative_reviews": reviews(10)}],
            "restaurants[0].negative_reviews",
        ),
        (
            STRENGTHS,
            [{"target_restaurant_id": 1, "target_reviews": [], "comparison_reviews": reviews(21)}],
            "restaurants[0].comparison_reviews",
        ),
        (SENTIMENTS, [{"restaurant_id": 1, "reviews": [], "unknown": [0] * 21}], "restaurants[0].unknown"),
    ],
)
@pytest.mark.sample(2)
def test_more_reviews_than_allowed_are_413_whichever_restaurant_has_them(
    path: str, restaurants: list[Any], field: str
) -> None:
    answer = post(make(max_reviews=20), path, {"restaurants": restaurants})

    assert answer.status_code == 413
    (detail,) = answer.json()["details"]
    assert (detail["field"], detail["message"]) == (field, "At most 20 reviews in a request")
    assert "max_reviews" in answer.json()["message"]


def test_as_many_reviews_as_allowed_are_done() -> None:
    body = {"restaurants": [{"restaurant_id": i, "reviews": reviews(10)} for i in range(2)]}

    assert post(make(max_reviews=20), SENTIMENTS, body).status_code == 200


def test_half_a_million_reviews_are_refused_without_a_call() -> None:
    llm = FakeLLM(answer=labelled)
    answer = send(
        make(llm),
        SENTIMENTS,
        '{"restaurants":[{"restaurant_id":1,"reviews":['
        + '{"content":"a"},' * 499_999
        + '{"content":"a"}]}]}',
    )

    assert answer.status_code == 413
    assert llm.calls == 0


# Values, fields and depth


@pytest.mark.parametrize(
    "content",
    [
        "{" + ",".join(f'"{i:x}":0' for i in range(200_000)) + "}",
        '{"restaurants":[' + ",".join(["[]"] * 200_000) + "]}",
        '{"restaurants":[{"restaurant_id":1,"reviews":[' + ",".join(["0"] * 200_000) + "]}]}",
        '{"restaurants":[{"restaurant_id":1,"reviews":[{"content":"a","x":'
        + "[" * 190_000
        + "]" * 190_000
        + "}]}]}",
        "[" * 200_000,
    ],
    ids=["keys", "lists", "numbers", "depth in a field", "depth"],
)
@pytest.mark.sample(2)
def test_more_values_than_the_reviews_allowed_have_are_413_before_they_are_decoded(content: str) -> None:
    answer = send(make(), SENTIMENTS, content)

    assert answer.status_code == 413
    (detail,) = answer.json()["details"]
    assert detail["field"] == "body"
    assert "max_reviews" in answer.json()["message"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("depth", [300, 30_000])
def test_nesting_too_deep_is_422(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    answer = send(
        make(),
        SENTIMENTS,
        '{"restaurants":[{"restaurant_id":1,"reviews":[{"content":"a","restaurant_id":' + deep + "}]}]}",
    )

    assert answer.status_code == 422
    assert "recursion" in answer.json()["details"][0]["message"]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({f"f{i}": 0 for i in range(65)}, "body"),
        ({"restaurants": [{"restaurant_id": 1}, {f"f{i}": 0 for i in range(5000)}]}, "restaurants[1]"),
    ],
)
def test_more_fields_than_any_request_has_are_one_complaint(body: Any, field: str) -> None:
    answer = post(make(), SUMMARIES, body)

    assert answer.status_code == 422
    (detail,) = answer.json()["details"]
    assert (detail["field"], detail["message"]) == (field, "At most 64 fields")


def test_a_review_may_have_as_many_fields_as_its_record_has() -> None:
    review = {"content": "a", **{f"column_{i}": i for i in range(500)}}
    body = {"restaurants": [{"restaurant_id": 1, "reviews": [review] * 3}]}

    assert post(make(), SENTIMENTS, body).status_code == 200


@pytest.mark.parametrize(
    "text", ["plain, with, commas", '[{"not": "counted"}]', '\\"', "\\", '"', "\\\\\\", "é[,한"]
)
def test_what_stands_in_strings_is_not_counted(text: str) -> None:
    body = json.dumps([text] * 50, ensure_ascii=False).encode()

    assert count_values(body, 10**9) == 51


def _value(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(7 if depth else 4)
    if kind < 4:
        return [
            None,
            draw.randrange(-9, 9),
            draw.choice(['"', "\\", "a,[", "", '\\"{']) * draw.randrange(9),
            True,
        ][kind]
    members = [_value(draw, depth - 1) for _ in range(draw.randrange(5))]
    return members if kind < 6 else {f'k"{i}\\': member for i, member in enumerate(members)}


def _size(value: Any) -> tuple[int, int]:
    """Return the numbers of values, and of empty containers among them."""
    if not isinstance(value, (list, dict)):
        return 1, 0
    sizes = [_size(member) for member in (value.values() if isinstance(value, dict) else value)]
    return 1 + sum(n for n, _ in sizes), (not sizes) + sum(empty for _, empty in sizes)


@pytest.mark.hardening(small=60, full=20_000)
def test_values_are_counted_wherever_a_slice_ends(trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(trials):
        draw = random.Random(seed)
        value = _value(draw, 4)
        monkeypatch.setattr(limits, "SLICE", draw.randrange(1, 40))
        values, empty = _size(value)
        for indent in (None, 1):
            assert count_values(json.dumps(value, indent=indent).encode(), 10**9) == values + empty, seed


def _decode(content: str) -> Callable[[str], object]:
    request = BatchRequest(
        {"type": "http", "headers": []},
        lambda: None,  # type: ignore[arg-type,return-value]
        BOUNDS,
        TypeAdapter(SentimentAnalysisBatchRequest),
    )

    def work(text: str) -> object:
        try:
            return request._decode(content.replace("?", text).encode())
        except APIError as error:
            return error

    return work


@pytest.mark.parametrize(
    "unit", ['"', "\\", '\\"', ",", "[", "{", "0", '{"a":0},', '"a":0,', "é", '{"content":"a"},']
)
@pytest.mark.parametrize("content", ["?", '{"restaurants":[{"restaurant_id":1,"reviews":[?]}]}', '{"x":"?"}'])
@pytest.mark.slow
def test_checking_a_body_takes_time_in_proportion_to_its_size(content: str, unit: str) -> None:
    assert_linear(_decode(content), unit, 200_000)


# Calls of the model


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("path", "restaurant"),
    [
        (SENTIMENTS, {"restaurant_id": 1, "reviews": reviews(40, "맛있어요 " * 60)}),
        (
            SUMMARIES,
            {
                "restaurant_id": 1,
                "positive_reviews": reviews(20, "맛있어요 " * 60),
                "negative_reviews": reviews(20, "맛있어요 " * 60),
            },
        ),
        (
            STRENGTHS,
            {
                "target_restaurant_id": 1,
                "target_reviews": reviews(30, "맛있어요 " * 60),
                "comparison_reviews": reviews(10, "맛있어요 " * 60),
            },
        ),
    ],
)
def test_a_request_that_needs_more_calls_than_allowed_is_413(path: str, restaurant: Any) -> None:
    app = make(max_calls=10)
    refused = post(app, path, {"restaurants": [restaurant], "max_tokens_per_batch": 1000})

    assert refused.status_code == 413
    assert refused.json()["details"][0]["field"] == "restaurants"
    assert "max_calls" in refused.json()["message"]
    assert post(app, path, {"restaurants": [restaurant]}).status_code == 200


@pytest.mark.parametrize("count", [1, 7, 101, 1000])
@pytest.mark.parametrize("text", ["a", "맛있어요 " * 40, "delicious food, " * 30, "x " * 9000])
@pytest.mark.sample(1)
def test_the_estimate_is_near_the_calls_that_are_made(count: int, text: str) -> None:
    count = min(count, 100_000 // len(text))
    llm = FakeLLM(answer=labelled)
    body = {"restaurants": [{"restaurant_id": 1, "reviews": reviews(count, text)}]}
    assert post(make(llm), SENTIMENTS, body).status_code == 200

    estimated = limits._estimated_calls([text] * count, 3500, 100)
    assert llm.calls / 2 <= estimated <= 2 * llm.calls
    assert limits._most_calls([text] * count, 3500, 100) >= min(estimated, llm.calls)


def test_a_library_user_may_do_what_the_service_refuses() -> None:
    llm = FakeLLM(answer=labelled)
    item = {"restaurant_id": 1, "reviews": reviews(12_000)}
    report = BatchRunner(llm=llm).run(AnalyzeSentiment(), [item])

    assert report.results[0].positive_count == 12_000
    assert llm.calls == 120


# Time and memory


def routes(app: FastAPI) -> list[BatchRoute]:
    found: list[BatchRoute] = []
    pending: list[Any] = [app.router]
    while pending:
        one = pending.pop()
        if isinstance(one, BatchRoute):
            found.append(one)
        pending.extend(getattr(one, "routes", ()))
        pending.extend(filter(None, [getattr(one, "original_router", None)]))
    return found


def test_other_requests_are_answered_while_a_large_body_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    checked: list[bool] = []
    check = Bounds.check_decoded

    def wait_for_others(self: Bounds, decoded: Any) -> None:
        checked.append(answered.wait(PATIENCE))
        check(self, decoded)

    app = make()
    app.get("/health")(lambda: {"status": "ok"})
    body = {"restaurants": [{"restaurant_id": 1, "reviews": reviews(2, "a" * 50_000)}]}
    with TestClient(app) as client:
        monkeypatch.setattr(Bounds, "check_decoded", wait_for_others)
        large = threading.Thread(target=client.post, args=(SENTIMENTS,), kwargs={"json": body})
        large.start()
        assert client.get("/health").status_code == 200
        answered.set()
        large.join()

    assert checked == [True]


@pytest.mark.sample(1)
@pytest.mark.parametrize("text", ["a", "a" * 100_000], ids=["small", "large"])
def test_a_dependency_of_the_application_reads_the_body_as_it_was_sent(text: str) -> None:
    seen: list[Any] = []

    async def read(request: Request) -> None:
        seen.append(await request.json())

    runner = BatchRunner(llm=FakeLLM(answer=labelled))
    app = FastAPI()
    app.include_router(batch_router(runner), dependencies=[Depends(read)])
    body = {"restaurants": [{"restaurant_id": 1, "reviews": [{"content": text, "more": [1]}]}]}

    assert post(app, SENTIMENTS, body).status_code == 200
    assert seen == [body]


def test_fastapi_takes_the_body_as_it_was_validated_in_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[object] = []
    validate = TypeAdapter.validate_python

    def note(self: TypeAdapter[Any], value: object, **options: Any) -> Any:
        models.append(validate(self, value, **options))
        return models[-1]

    monkeypatch.setattr(TypeAdapter, "validate_python", note)
    body = {"restaurants": [{"restaurant_id": 1, "reviews": reviews(2)}]}

    assert post(make(), SENTIMENTS, body).status_code == 200
    assert len(models) == 2
    assert models[0] is models[1]


def test_bodies_that_are_open_at_once_have_a_bound_and_small_ones_always_pass() -> None:
    bounds = Bounds(body_bytes=2**20, items=1, reviews=1, calls=1, body_seconds=1)
    large: list[OpenBody] = []
    with pytest.raises(APIError) as refusal:
        while True:
            large.append(OpenBody(bounds._open))
            large[-1].add(2**20)
    assert len(large) == limits.OPEN_BODIES + 1  # the first bytes of each are not counted
    assert refusal.value.status_code == 503
    assert refusal.value.headers == {"Retry-After": "5"}

    with bounds.open_body() as small:
        small.add(limits.INLINE_BYTES)
    for body in large:
        body.close()
    assert bounds._open.bytes == 0


@pytest.mark.sample(1)
@pytest.mark.parametrize("headers", [{}, LINES], ids=["json", "lines"])
def test_the_bytes_of_a_request_are_given_back_whatever_becomes_of_it(headers: Mapping[str, str]) -> None:
    app = make(max_body_bytes=200_000)
    large = "a" * 100_000
    with TestClient(app) as client:
        for body in (
            {"restaurants": [{"restaurant_id": 1, "reviews": [{"content": large}]}]},
            {"restaurants": [{"restaurant_id": 1, "reviews": [{"content": large, "id": []}]}]},
            {"restaurants": [{"restaurant_id": 1, "reviews": [{"content": 3 * large}]}]},
            large,
        ):
            client.post(SENTIMENTS, json=body, headers=dict(headers))

    assert {route.bounds._open.bytes for route in routes(app)} == {0}


def test_a_body_that_does_not_arrive_in_time_is_408_and_its_connection_is_closed() -> None:
    with served(FakeLLM(), body_timeout=0.1) as client:
        with socket.create_connection(
            (client.base_url.host, client.base_url.port or 80), timeout=PATIENCE
        ) as slow:
            slow.sendall(
                f"POST {SENTIMENTS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                "Content-Length: 100\r\n\r\n{".encode()
            )
            answer = b"".join(iter(lambda: slow.recv(65536), b""))
        assert client.post(SUMMARIES, json=ids()).status_code == 200

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"within 0.1 seconds" in answer


def test_a_number_beyond_floats_does_not_break_the_answer() -> None:
    content = (
        '{"restaurants":[{"target_restaurant_id":1,"comparison_reviews":[],"target_reviews":[{"content":"a",'
    )
    content += '"created_at":1e999}]}]}'
    answer = send(make(), STRENGTHS, content)

    assert answer.status_code in (200, 422)
    assert json.loads(answer.text, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "option",
    [
        {"max_reviews": 0},
        {"max_calls": "9"},
        {"body_timeout": 0},
        {"body_timeout": float("inf")},
        {"max_reviews": True},
    ],
)
def test_a_limit_that_is_none_is_said_when_the_router_is_made(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        batch_router(BatchRunner(llm=FakeLLM()), **option)

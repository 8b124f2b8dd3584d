"""
The batch router against its own OpenAPI description, with requests made from it.

What the description allows is answered, what it forbids is refused, and every answer is as described.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from restaurant_llm_batch import BatchRunner, LLMRequest, Strategy
from restaurant_llm_batch.errors import PermanentBackendError
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

BATCHES = [
    "/api/v1/llm/summarize/batch",
    "/api/v1/sentiment/analyze/batch",
    "/api/v1/llm/extract/strengths/batch",
    "/api/v1/llm/comparison/batch",
]
PATHS = [*BATCHES, *(path.removesuffix("/batch") for path in BATCHES), "/api/v1/vector/search/similar"]
MAX_ITEMS = 4
Schema = dict[str, Any]


# Reading the description


def resolved(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def allows(schema: Schema, value: Any, root: Schema) -> bool:
    """Tell whether a schema allows a value."""
    schema = resolved(schema, root)
    if "anyOf" in schema and not any(allows(one, value, root) for one in schema["anyOf"]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    kind = schema.get("type")
    if kind is not None and not _is_a(kind, value):
        return False
    if isinstance(value, dict):
        return _allows_object(schema, value, root)
    if isinstance(value, list):
        return all(allows(schema.get("items", {}), one, root) for one in value)
    if isinstance(value, str):
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return bool(schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf))
    return True


def _is_a(kind: str, value: Any) -> bool:
    if kind in ("integer", "number"):
        numbers = int if kind == "integer" else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, kinds[kind])


def _allows_object(schema: Schema, value: dict[str, Any], root: Schema) -> bool:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    if not all(name in value for name in schema.get("required", ())):
        return False
    for name, one in value.items():
        if name in properties:
            if not allows(properties[name], one, root):
                return False
        elif others is not True and (others is False or not allows(others, one, root)):
            return False
    return True


def allowed(schema: Schema, root: Schema) -> st.SearchStrategy[Any]:
    """Return values that a schema allows."""
    schema = resolved(schema, root)
    if "anyOf" in schema:
        return st.one_of([allowed(one, root) for one in schema["anyOf"]])
    match schema.get("type"):
        case None:
            return ANYTHING
        case "object":
            required = set(schema.get("required", ()))
            fields = {name: allowed(one, root) for name, one in schema["properties"].items()}
            return st.fixed_dictionaries(
                {name: fields[name] for name in fields if name in required},
                optional={name: fields[name] for name in fields if name not in required},
            )
        case "array":
            return st.lists(allowed(schema["items"], root), max_size=3)
        case "string":
            return st.text(min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 12), 12))
        case "integer":
            return st.integers(int(schema.get("minimum", -9)), int(schema.get("maximum", 9)))
        case "number":
            return st.floats(schema.get("minimum", -9), schema.get("maximum", 9))
        case "boolean":
            return st.booleans()
    return st.none()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*path, key))


@st.composite
def spoilt(draw: st.DrawFn, schema: Schema, root: Schema) -> Any:
    """Return an allowed value with one thing in it changed, added or left out."""
    value = json.loads(json.dumps(draw(allowed(schema, root))))
    *path, last = draw(st.sampled_from(sorted(places(value), key=str))) or (None,)
    if last is None:
        return draw(ANYTHING)
    holder = value
    for part in path:
        holder = holder[part]
    match draw(st.sampled_from(["change", "add", "leave out"])):
        case "change":
            holder[last] = draw(ANYTHING)
        case "add" if isinstance(holder, dict):
            holder[draw(st.text(max_size=300))] = draw(ANYTHING)
        case _:
            del holder[last]
    return value


# The service


def answer(request: LLMRequest) -> str:
    if request.task in ("sentiment", "aspect_sentiment"):
        return json.dumps(
            {"labels": [{"id": r["id"], "label": "neutral"} for r in request.inputs["reviews"][1:]]}
        )
    wanted = request.schema["properties"] if request.schema else {}
    aspect = {"summary": "좋다", "bullets": [], "evidence": [1]}
    aspects = dict.fromkeys(request.inputs.get("reviews", ()) if "categories" in wanted else (), aspect)
    return json.dumps({name: aspects if name == "categories" else "text" for name in wanted})


def some_fail(request: LLMRequest, tried: int) -> Exception | None:
    return PermanentBackendError("no") if str(request.inputs["restaurant_id"])[-1:] in {*"13579x"} else None


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with a model that fails now and then."""
    runner = BatchRunner(
        llm=FakeLLM(answer=answer, fault=some_fail),
        search=FakeSearch(lambda name: ["맛있어요", "친절해요"]),
        strategy=Strategy.stage(4),
    )
    app = FastAPI()
    app.include_router(batch_router(runner, max_items=MAX_ITEMS))
    with TestClient(app) as one:
        yield one


@cache
def description(client: TestClient) -> Schema:
    return dict(client.get("/openapi.json").json())


def described(client: TestClient, path: str) -> tuple[Schema, Schema, Schema]:
    root = description(client)
    operation = root["paths"][path]["post"]
    return root, operation["requestBody"]["content"]["application/json"]["schema"], operation["responses"]


def names(body: Any) -> list[Any]:
    return [one.get("target_restaurant_id", one.get("restaurant_id")) for one in body["restaurants"]]


def can_be_done(path: str, body: Any) -> bool:
    """Tell whether what the description allows is a request that can be answered, by rules that it cannot express."""
    if path not in BATCHES:
        return True
    with_reviews = {
        any(one.get(f"{kind}_reviews") is not None for kind in ("positive", "negative"))
        for one in body["restaurants"]
    }
    # Each restaurant occurs once, and all have reviews, or none.
    return len(set(names(body))) == len(names(body)) and ("summarize" not in path or len(with_reviews) < 2)


def check(client: TestClient, path: str, body: Any, headers: dict[str, str]) -> int:
    """Check an answer against the description, and return its status."""
    root, request, responses = described(client, path)
    got = client.post(path, content=json.dumps(body), headers={"content-type": "application/json", **headers})
    note(f"{body!r}\n{got.status_code} {got.text}")

    assert got.headers["x-request-id"]
    restaurants = body.get("restaurants") if isinstance(body, dict) else None
    streamed = "accept" in headers and path in BATCHES
    wanted = {422}
    if isinstance(restaurants, list) and len(restaurants) > MAX_ITEMS:
        wanted = {413}
    elif allows(request, body, root) and can_be_done(path, body):
        # A single restaurant may fail: the model does, or has no room.
        failed = 422 if "max_tokens_per_batch is too small" in got.text else 502
        wanted = {200} if path in BATCHES else {200, failed}
    assert got.status_code in wanted
    if got.status_code != 200 or not streamed:
        schema = responses[str(got.status_code)]["content"]["application/json"]["schema"]
        assert allows(schema, got.json(), root)
    if got.status_code == 200 and path in BATCHES:
        account_for(body, got, streamed)
    return int(got.status_code)


def account_for(body: Any, got: Any, streamed: bool) -> None:
    if streamed:
        *entries, last = [json.loads(line) for line in got.text.splitlines()]
        shown = [next(iter(entry.values()))["restaurant_id"] for entry in entries]
        assert sum(last["done"].values()) == len(shown)
    else:
        both = got.json()["results"] + got.json()["failures"]
        shown = [entry["restaurant_id"] for entry in both]
        for kind in ("results", "failures"):
            here = [entry["restaurant_id"] for entry in got.json()[kind]]
            assert here == [name for name in names(body) if name in here]
    assert Counter(shown) == Counter(names(body))


HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "x-debug": st.sampled_from(["1", "true", "no"]),
        "x-request-id": st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=140),
        "accept": st.just("application/x-ndjson"),
    },
)
PROPERTY = settings(
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("path", PATHS)
@PROPERTY
@given(data=st.data())
@pytest.mark.sample(1)
def test_what_the_description_allows_is_answered_as_described(
    client: TestClient, path: str, data: st.DataObject
) -> None:
    root, request, _ = described(client, path)
    body = data.draw(allowed(request, root))
    status = check(client, path, body, data.draw(HEADERS))

    if path in BATCHES:
        too_many = len(names(body)) > MAX_ITEMS
        assert status == (413 if too_many else 200 if can_be_done(path, body) else 422)
    else:
        assert status in (200, 422, 502)


@pytest.mark.parametrize("path", PATHS)
@PROPERTY
@given(data=st.data())
@pytest.mark.slow
def test_what_the_description_forbids_is_refused_as_described(
    client: TestClient, path: str, data: st.DataObject
) -> None:
    root, request, _ = described(client, path)
    body = data.draw(spoilt(request, root))
    status = check(client, path, body, data.draw(HEADERS))

    assert status != 200 or allows(request, body, root)  # what was changed may be as good as before


@pytest.mark.sample(2)
@pytest.mark.parametrize("path", PATHS)
@PROPERTY
@given(body=st.binary(max_size=60), kind=st.sampled_from(["application/json", "text/plain", "", "a/b;c"]))
def test_any_bytes_get_an_answer_as_described(client: TestClient, path: str, body: bytes, kind: str) -> None:
    root, _, responses = described(client, path)
    got = client.post(path, content=body, headers={"content-type": kind})

    assert got.status_code in (415, 422)
    assert allows(responses[str(got.status_code)]["content"]["application/json"]["schema"], got.json(), root)

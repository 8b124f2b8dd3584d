"""Strict mode is asked for only where OpenAI documents that it takes the schema."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import BatchRunner, LLMRequest, SummarizeAspects
from restaurant_llm_batch.backends.openai._strict import is_strict
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

TEXT = {"type": "string"}


def thing(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def nested(levels: int) -> dict[str, Any]:
    schema = thing({"end": TEXT})
    for _ in range(levels - 1):
        schema = thing({"next": schema})
    return schema


WITHIN: dict[str, Any] = {
    "text": thing({"a": TEXT}),
    "empty": thing({}),
    "described": thing(
        {"a": {"type": "string", "description": "d", "title": "t"}}, title="T", description="D"
    ),
    "numbers": thing({"a": {"type": "integer", "minimum": 0, "exclusiveMaximum": 5, "multipleOf": 2}}),
    "lengths": thing({"a": {"type": "string", "minLength": 1, "maxLength": 3}}),
    "pattern and format": thing({"a": {"type": "string", "pattern": "^a", "format": "date"}}),
    "arrays": thing({"a": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3}}),
    "optional": thing({"a": {"type": ["string", "null"]}, "b": {"anyOf": [TEXT, {"type": "null"}]}}),
    "choices": thing({"a": {"type": "string", "enum": ["x", "y"]}, "b": {"type": "string", "const": "z"}}),
    "ten levels": nested(10),
    "definitions": thing({"a": {"$ref": "#/$defs/A"}}, **{"$defs": {"A": thing({"b": TEXT})}}),
    "recursion": thing({"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}),
    "recursive definition": thing(
        {"a": {"$ref": "#/$defs/A"}},
        **{"$defs": {"A": thing({"b": {"type": "array", "items": {"$ref": "#/$defs/A"}}})}},
    ),
    "Korean names": thing({"음식": TEXT}),
}
OUTSIDE: dict[str, Any] = {
    "no object": {"type": "array", "items": TEXT},
    "choice at the root": {"anyOf": [thing({"a": TEXT})]},
    "optional root": thing({"a": TEXT}) | {"type": ["object", "null"]},
    "open": {"type": "object", "properties": {"a": TEXT}, "required": ["a"]},
    "open within": thing({"a": {"type": "object", "properties": {}}}),
    "schema for the rest": thing({"a": TEXT}) | {"additionalProperties": TEXT},
    "not required": thing({"a": TEXT, "b": TEXT}) | {"required": ["a"]},
    "requires what is not there": thing({"a": TEXT}) | {"required": ["a", "b"]},
    "untyped": thing({"a": {}}),
    "untyped choice": thing({"a": {"enum": ["x"]}}),
    "unknown type": thing({"a": {"type": "text"}}),
    "default": thing({"a": {"type": "string", "default": "x"}}),
    "uniqueItems": thing({"a": {"type": "array", "items": TEXT, "uniqueItems": True}}),
    "array of anything": thing({"a": {"type": "array"}}),
    "allOf": thing({"a": {"allOf": [TEXT]}}),
    "not": thing({"a": {"type": "string", "not": {"const": "x"}}}),
    "strange format": thing({"a": {"type": "string", "format": "uri"}}),
    "$ref with a sibling": thing(
        {"a": {"$ref": "#/$defs/A", "description": "d"}}, **{"$defs": {"A": thing({})}}
    ),
    "$ref to nowhere": thing({"a": {"$ref": "#/$defs/B"}}, **{"$defs": {"A": TEXT}}),
    "$ref elsewhere": thing({"a": {"$ref": "https://example.org/a.json"}}),
    "eleven levels": nested(11),
    "too many properties": thing({f"p{number}": TEXT for number in range(5_001)}),
    "too many choices": thing({"a": {"type": "integer", "enum": list(range(1_001))}}),
    "too long a choice": thing({"a": {"type": "string", "enum": [f"{n:0100}" for n in range(251)]}}),
    "too many letters": thing({"x" * 120_001: TEXT}),
    "no schema": thing({"a": True}),
}


@pytest.mark.parametrize("name", WITHIN)
def test_what_is_documented_is_strict(name: str) -> None:
    assert is_strict(WITHIN[name])


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_not_documented_is_not_strict(name: str) -> None:
    assert not is_strict(OUTSIDE[name])


def test_definitions_that_share_definitions_end() -> None:
    """Each doubles the one before: followed blindly, 2**60 nodes."""
    both = {
        f"D{number}": thing({side: {"$ref": f"#/$defs/D{number - 1}"} for side in ("left", "right")})
        for number in range(1, 10)
    }
    flat = {f"D{n}": {"anyOf": [{"$ref": f"#/$defs/D{n - 1}"}] * 2} for n in range(1, 60)}

    assert is_strict(thing({"a": {"$ref": "#/$defs/D9"}}, **{"$defs": {"D0": TEXT, **both}}))
    assert not is_strict(thing({"a": {"$ref": "#/$defs/D59"}}, **{"$defs": {"D0": TEXT, **flat}}))


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "properties", "required", "items", "anyOf", "$ref", "enum", "$defs", "a"]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_answered(value: Any) -> None:
    assert is_strict(value) in (True, False)
    assert is_strict({"type": "object", "properties": value, "required": value, "$defs": value}) in (
        True,
        False,
    )


def test_every_schema_of_the_main_job_is_strict() -> None:
    schemas = []

    class Recorder(FakeLLM):
        def complete(self, request: LLMRequest, /) -> Any:
            schemas.append(request.schema)
            return super().complete(request)

    search = FakeSearch({1: ["맛있어요", "친절해요", "비싸요"]})
    for mode in ("single", "split"):
        report = BatchRunner(llm=Recorder(), search=search).run(SummarizeAspects(mode=mode), [1])
        report.raise_for_failures()

    assert len(schemas) >= 3
    assert all(schema is not None and is_strict(schema) for schema in schemas)

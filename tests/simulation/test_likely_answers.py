"""Tests of likely answers: made of a form, in three lengths."""

from __future__ import annotations

import json
from typing import Any

import pytest

from restaurant_llm_batch.models import LLMRequest
from restaurant_llm_batch.simulation._lengths import LikelyAnswers

TEXT = {"type": "string"}
NODE = {
    "type": "object",
    "properties": {"name": TEXT, "parts": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
}
FORMS: list[Any] = [
    TEXT,
    {"type": "string", "minLength": 400, "maxLength": 500},
    {"type": "string", "maxLength": 3},
    {"type": "array", "items": TEXT, "minItems": 7, "maxItems": 7},
    {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 2}, "maxItems": 9},
    {"type": "object", "properties": {"label": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}}},
    {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]},
    {"type": ["string", "null"]},
    {"const": 3},
    {"prefixItems": [TEXT, {"type": "integer"}], "type": "array"},
    {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}},
    {},
]


def request(schema: Any, *, tokens: int = 1500, content: str = "Go.", **inputs: Any) -> LLMRequest:
    return LLMRequest("form", ({"role": "user", "content": content},), schema, inputs, tokens)


@pytest.mark.parametrize("schema", FORMS)
def test_every_form_is_answered_in_every_length(schema: Any) -> None:
    answers = LikelyAnswers(len)
    texts = [answers.text(request(schema), size) for size in ("short", "likely", "long")]
    length = answers.length(request(schema))

    for text in texts:
        json.loads(text)
    assert 1 <= length.low <= length.likely <= length.high <= length.most == 1500
    assert length.low <= len(texts[1]) or length.most == length.likely


@pytest.mark.parametrize("size", ["short", "likely", "long"])
def test_bounds_of_a_form_are_kept(size: Any) -> None:
    answers = LikelyAnswers(len)
    texts = [json.loads(answers.text(request(schema), size)) for schema in FORMS[1:5]]

    assert 400 <= len(texts[0]) <= 500
    assert len(texts[1]) <= 3
    assert len(texts[2]) == 7
    assert set(texts[3]) <= {1, 2}


@pytest.mark.parametrize("tokens", [1, 20, 100])
def test_an_answer_has_no_more_tokens_than_its_request_allows(tokens: int) -> None:
    answers = LikelyAnswers(lambda text: len(text.split()))

    assert answers.length(request(None, tokens=tokens)).high <= tokens
    assert answers.length(request(FORMS[3], tokens=tokens)).high <= tokens
    assert len(answers.text(request(None, tokens=tokens), "long").split()) <= tokens + 1


@pytest.mark.parametrize(
    ("inputs", "content", "korean"),
    [
        ({"language": "ko"}, "Go.", True),
        ({"language": "en"}, "맛있어요", False),
        ({}, "맛있어요", True),
        ({}, "très bon", False),
        ({"language": "ja"}, "Go.", True),
    ],
)
def test_it_is_as_dense_as_its_language(inputs: Any, content: str, korean: bool) -> None:
    text = LikelyAnswers(len).text(request(TEXT, content=content, **inputs), "likely")

    assert text.isascii() != korean
    assert len(text) == pytest.approx(50 if korean else 100, abs=4)


def test_a_long_list_grows_with_the_data_and_a_short_one_does_not() -> None:
    words = {"type": "array", "items": TEXT, "maxItems": 200}
    few = {"type": "array", "items": TEXT, "maxItems": 5}
    answers = LikelyAnswers(len)

    def length(schema: Any, characters: int) -> int:
        return len(json.loads(answers.text(request(schema, content="a" * characters), "likely")))

    assert [length(words, characters) for characters in (0, 800, 1_000_000)] == [1, 11, 200]
    assert length(few, 0) == length(few, 1_000_000) == 2


def test_forms_that_are_made_anew_are_told_apart() -> None:
    answers = LikelyAnswers(len)
    for number in range(2000):
        schema = {"type": "array", "items": {"const": 1}, "minItems": number % 50, "maxItems": number % 50}
        assert json.loads(answers.text(request(schema), "likely")) == [1] * (number % 50)

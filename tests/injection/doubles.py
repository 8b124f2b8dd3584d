"""Models that answer honestly, and models that obey whatever a review tells them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, TypeAlias

from tests.injection.corpus import CONTENTS
from tests.injection.prompt import read_prompt, user

from restaurant_llm_batch import LLMRequest

Model: TypeAlias = Callable[[LLMRequest], str]

LABELS = ("positive", "negative", "neutral")
ELSEWHERE: Mapping[str, Any] = {
    "restaurant_id": "b",
    "target_restaurant_id": "b",
    "document_id": "b",
    "id": "b",
}
"""What an answer says that wants to be booked elsewhere."""


def digest(text: str) -> str:
    """Return a text that tells what was read: any other text has another."""
    return blake2b(text.encode(), digest_size=6).hexdigest()


def filled(schema: Any, text: str, numbers: list[Any], more: Mapping[str, Any] | None = None) -> Any:
    """Return an answer in its form in which every text is `text` and every list of numbers is `numbers`."""
    kind = schema["type"]
    if kind == "object":
        parts = {name: filled(part, text, numbers, more) for name, part in schema["properties"].items()}
        return {**parts, **(more or {})}
    if kind == "array" and schema["items"]["type"] == "integer":
        return numbers
    if kind == "array":
        return [filled(schema["items"], text, numbers, more)]
    return schema["enum"][0] if "enum" in schema else text if kind == "string" else 0


def saying(text: str) -> Model:
    """Return a model that says the same in every field."""
    return lambda request: json.dumps(filled(request.schema, text, [0]), ensure_ascii=False)


def label_of(text: str) -> str:
    """Return what an honest model calls a review: it depends on that review only."""
    return LABELS[int(digest(text), 16) % 3]


def honest(request: LLMRequest) -> str:
    """Answer by what the prompt says: by all of it, or review by review."""
    prompt = read_prompt(user(request))
    if request.task == "sentiment":
        labels = [
            {"id": number, "label": label_of(text)}
            for number, text in zip(prompt.numbers, prompt.data, strict=True)
        ]
        return json.dumps({"labels": labels})
    return json.dumps(filled(request.schema, digest(user(request)), [0]))


def obeying(answer: Callable[[str], Model]) -> Model:
    """Return a model that is honest until it reads a hostile review in its data, or what became of one."""

    def model(request: LLMRequest) -> str:
        told = next((text for text in read_prompt(user(request)).texts if text in _HOSTILE), None)
        return honest(request) if told is None else answer(told)(request)

    return model


_HOSTILE = frozenset(text for content in CONTENTS for text in (content, content.strip()))


def verbatim(hostile: str) -> Model:
    """Answer with the review itself."""
    return lambda request: hostile


def as_far_as_the_form_goes(hostile: str) -> Model:
    """Say the review in every field, point at everything, label everything."""
    numbers: list[Any] = [*range(-3, 40), 7, "0", "7", True, None, 1.5, [0], {"id": 0}]

    def model(request: LLMRequest) -> str:
        answer = filled(request.schema, hostile, numbers)
        if request.task == "sentiment":
            answer = {"labels": [{"id": number, "label": "positive"} for number in numbers]}
        return json.dumps(answer, ensure_ascii=False)

    return model


def beyond_the_form(hostile: str) -> Model:
    """Name another restaurant on every level, and add a part that nobody asked for."""

    def model(request: LLMRequest) -> str:
        more = {**ELSEWHERE, hostile: hostile, "위생": {"summary": hostile, "bullets": [], "evidence": [0]}}
        return "Of course!\n" + json.dumps(filled(request.schema, hostile, [0, 99], more), ensure_ascii=False)

    return model


OBEDIENT: Mapping[str, Callable[[str], Model]] = {
    "verbatim": verbatim,
    "in-form": as_far_as_the_form_goes,
    "beyond": beyond_the_form,
}

"""Reading the labels that a model gave to numbered reviews."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

from .._llm_response import LLMReply
from ..errors import OutputError
from ..results import Sentiment
from ._parsing import read_object
from ._prompts.reviews import LABELS

_OBJECT = re.compile(r"\{[^{}]{1,200}\}")
"""One label; nothing in it is nested."""


def read_labels(reply: LLMReply, asked: Collection[int]) -> dict[int, Sentiment]:
    """
    Return the labels of the reviews that were asked about, as far as the answer can be trusted.

    A number that was not asked about is dropped, a label that is none too, and a number with two different
    labels has none: whoever asked sees what is missing. Of an answer that was cut off, or is no valid JSON as a
    whole, each label that is there in full counts.

    Raises:
        OutputError: When there is not a single label in it.
    """
    try:
        found = read_object(reply).get("labels")
    except OutputError:
        labels = _trusted(_salvaged(reply.text), asked)
        if not labels:
            raise
        return labels
    return _trusted(found if isinstance(found, list) else (), asked)


def _salvaged(text: str) -> Iterable[Any]:
    for match in _OBJECT.finditer(text):
        try:
            yield json.loads(match[0], strict=False)
        except (ValueError, RecursionError):
            continue


def _trusted(entries: Iterable[Any], asked: Collection[int]) -> dict[int, Sentiment]:
    given: dict[int, set[Sentiment]] = {}
    for entry in entries:
        if isinstance(entry, Mapping):
            number, label = _number(entry.get("id")), _label(entry.get("label"))
            if number in asked and label is not None:
                given.setdefault(cast("int", number), set()).add(label)
    return {number: labels.pop() for number, labels in given.items() if len(labels) == 1}


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    return value if type(value) is int else None


def _label(value: Any) -> Sentiment | None:
    text = value.strip().lower() if isinstance(value, str) else ""
    return cast("Sentiment", text) if text in LABELS else None

"""Likely lengths of answers, in tokens, from the form that a request asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..models import LLMRequest

SENTENCE = 24
"""Tokens of a text in an answer: a sentence. Korean takes 1 to 1.5 tokens a syllable, and a sentence has 15 to 25."""
FREE_TEXT = 150
"""Tokens of an answer without a form."""
PUNCTUATION = 3
"""Tokens of the quotes, the colon and the comma around a member of an object."""
SPREAD = 1.6
"""Factor between the likely length and its bounds, so that the range is 2.6 times as wide as its lower end."""
_SHORT = frozenset({"bullets", "meanings", "synonyms", "word", "phrase", "pos", "label"})
_SHORT_TEXT = 6
"""Names of texts that are words rather than sentences, and their tokens."""


class Length(NamedTuple):
    """Tokens of an answer: the likely number, the range around it, and the most that its request allows."""

    low: int
    likely: int
    high: int
    most: int


def likely_length(request: LLMRequest) -> Length:
    """Return the likely length of the answer to a request."""
    most = request.max_tokens
    tokens = FREE_TEXT if request.schema is None else _tokens(request.schema, "")
    likely = min(most, max(1, round(tokens)))
    return Length(
        min(most, max(1, round(tokens / SPREAD))), likely, min(most, round(tokens * SPREAD) or 1), most
    )


def _tokens(schema: Mapping[str, Any], name: str) -> float:
    if "enum" in schema or "const" in schema:
        return 2
    if "anyOf" in schema:
        return max((_tokens(part, name) for part in schema["anyOf"]), default=2.0)
    match schema.get("type"):
        case "object":
            members = schema.get("properties") or {}
            return 2 + sum(
                1 + len(key) / 4 + PUNCTUATION + _tokens(part, key) for key, part in members.items()
            )
        case "array" if "prefixItems" in schema:
            return 2 + sum(1 + _tokens(part, name) for part in schema["prefixItems"])
        case "array":
            least, most = schema.get("minItems", 0), schema.get("maxItems", 5)
            # Lists of a fixed length are full; of others, a few elements are given.
            length: int = least if least == most else max(least, min(most, 3))
            return 2 + length * (1 + _tokens(schema.get("items", {}), name))
        case "string":
            return _SHORT_TEXT if name in _SHORT else SENTENCE
    return 2

"""
Citations in a model's answer: the numbers of the reviews that it rests on, and the names of cells that are dropped.

Reviews are numbered from 1 in a prompt. Models write their numbers in lists, texts, ranges and objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from .._patterns import lazy_pattern
from ._labels import read_number
from ._replies import clean, member

_CITATION_NAMES = ("id", "number", "review_id", "review", "index")
_QUOTE = lazy_pattern(r"\s*[\[(#]?(\d{1,6})[\]).:]+\s*[^\W\d]")
_NUMBERS_ONLY = lazy_pattern(
    r"(?:[\s,;#()\[\]]|\d{1,6}(?:\.0)?번?|(?<=\d)\s?[-~\u2013]\s?(?=\d)|reviews?|리뷰|and|및|과|와)*+",
    re.IGNORECASE,
)
_NUMBER_OR_RANGE = lazy_pattern(r"(?<![\d.])(\d{1,6})(?:\.0)?번?(?:\s?[-~\u2013]\s?(\d{1,6})(?:\.0)?)?")
_MAX_RANGE = 100
_DEPTH_OF_CITATIONS = 3

# Not json.dumps, which makes an encoder every time.
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode

MAX_NAMED = 20
"""Maximum number of dropped cells of an answer that a result names."""
_MAX_CELL = 60


def dropped_cell(field: str, value: Any, reason: str) -> str:
    """Return the name of a cell of an answer that is dropped: its field, its value as JSON, and the reason."""
    text = clean(_encode(value))
    text = text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"
    return f"{field}: {text} ({reason})"


def read_numbers(field: str, value: Any, count: int) -> tuple[list[int], list[str]]:
    """
    Return the numbers of the reviews that an answer cites, each once, and the names of the citations of no review.

    Reviews are numbered from 1. If 0 is cited, the model counts from 0, so that all its numbers point at neighbours:
    all are dropped.

    Args:
        field: Name of the field that cites them.
        value: What it holds.
        count: How many reviews the prompt had.
    """
    cited = list(_citations(value))
    numbers = [read_number(one) for one in cited]
    if 0 in numbers:
        return [], [dropped_cell(field, one, "numbered from 0") for one in cited]
    valid: dict[int, None] = {}
    dropped: list[str] = []
    for one, number in zip(cited, numbers, strict=True):
        if number is None:
            dropped.append(dropped_cell(field, one, "no number"))
        elif 1 <= number <= count:
            valid[number] = None
        else:
            dropped.append(dropped_cell(field, one, f"never shown, only 1 to {count}"))
    return list(valid), dropped


def _citations(value: Any, depth: int = _DEPTH_OF_CITATIONS) -> Iterator[Any]:
    """Yield the citations in a value: in lists, lists in lists, texts with several, ranges, and objects."""
    if isinstance(value, list) and value and depth:
        for one in value:
            yield from (None,) if one is None else _citations(one, depth - 1)
    elif isinstance(value, dict) and depth:
        named = (member(value, name) for name in _CITATION_NAMES)
        number = next((one for one in named if one is not None), None)
        if number is not None:
            yield number
        else:
            by_value = all(read_number(key) is None for key in value)
            yield from value.values() if by_value else value
    elif isinstance(value, str):
        yield from _citations_in_text(value)
    elif value is not None and (value != [] or depth < _DEPTH_OF_CITATIONS):
        yield value


def _citations_in_text(text: str) -> Iterator[Any]:
    quote = _QUOTE.match(text)
    if quote is not None:  # "[2] the review's text"
        yield quote[1]
    elif not _NUMBERS_ONLY.fullmatch(text):
        yield text
    else:
        for first, last in _NUMBER_OR_RANGE.findall(text):
            if last and 0 <= int(last) - int(first) < _MAX_RANGE:
                yield from range(int(first), int(last) + 1)
            else:
                yield first

"""
Sentiment labels in a reply: the forms that models write them in, and checks that no review gets another one's label.

The schema asks for ``{"labels": [{"id": 1, "label": "positive"}, ...]}``. Read as well: an object keyed by number,
which grammar servers are asked for; lists of numbers by label; pairs; rows without a list around them; and labels in
other words, from a closed table. What is not in the table, or names two labels, is not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any
from unicodedata import normalize

from .._llm_response import LLMResponse
from ..errors import OutputInvalid
from ..results import Sentiment
from ._json import CutList, CutObject
from ._replies import members, unreadable, values_in

Row = tuple[int, Sentiment | None]
"""The number of a review, and its label; None for a label that cannot be read."""

_WORDS: Mapping[Sentiment, str] = {
    "positive": """
        positive, pos, very positive, mostly positive, positive sentiment, positive review, good,
        긍정, 긍정적, 긍정적임, 긍정적인, 긍정적이다, 긍정적입니다, 긍정임, 긍정입니다, 매우 긍정, 매우 긍정적,
        긍정 리뷰, 긍정적 리뷰, 긍정적인 리뷰, 좋음, 매우 좋음, 좋아요, 좋다, 만족, 호평
    """,
    "negative": """
        negative, neg, very negative, mostly negative, negative sentiment, negative review, bad,
        부정, 부정적, 부정적임, 부정적인, 부정적이다, 부정적입니다, 부정임, 부정입니다, 매우 부정, 매우 부정적,
        부정 리뷰, 부정적 리뷰, 부정적인 리뷰, 나쁨, 매우 나쁨, 나빠요, 나쁘다, 불만, 불만족, 악평
    """,
    "neutral": """
        neutral, neu, neutral sentiment, neutral review,
        중립, 중립적, 중립적임, 중립적인, 중립적이다, 중립적입니다, 중립임, 중립입니다, 중립 리뷰, 중립적 리뷰, 보통
    """,
}
_TABLE: Mapping[str, Sentiment] = {
    word.strip(): label for label, words in _WORDS.items() for word in words.split(",")
}
_STEMS: Mapping[Sentiment, tuple[str, ...]] = {
    "positive": ("positive", "긍정"),
    "negative": ("negative", "부정"),
    "neutral": ("neutral", "중립"),
}
_EXPLANATION = re.compile(r"\s*[(\[{:]|\s+[-\u2013\u2014]+\s|[.!]\s")
_AROUND_LABEL = " \t\r\n\"'`*_.,!~<>“”‘’·"
_NUMBER = re.compile(
    r"[\s\[(#<\"']*(?:id|no\.?|number|review|리뷰)?[\s#:_-]*?(-?\d{1,9})(?:\.0)?번?[\s\])>.:,\"']*",
    re.IGNORECASE,
)
_NUMBER_KEYS = ("id", "number", "no", "review_id", "review", "index", "번호")
_LABEL_KEYS = ("label", "sentiment", "polarity", "라벨", "감정", "감성")


class WrongNumbers(OutputInvalid):
    """The labels name numbers that were not asked about, or some twice and others not: they may all be shifted."""


def read_labels(reply: LLMResponse, count: int) -> dict[int, Sentiment]:
    """
    Read the labels of reviews that were numbered from 1.

    Labels of unknown words are left out, and so are numbers with two different labels. Of a reply that is cut off,
    every whole label counts.

    Args:
        reply: The reply.
        count: How many reviews the prompt had.

    Returns:
        Labels by number; numbers may be missing.

    Raises:
        WrongNumbers: The labels may be those of other reviews.
        OutputError: The reply holds no label.
    """
    rows = _rows_in(reply)
    if not rows:
        raise unreadable(
            "labels: the answer has no label that can be read; it must be a list of objects with id and label, "
            "positive, negative or neutral",
            reply,
        )
    numbers = {number for number, _ in rows}
    unknown = sorted(number for number in numbers if not 1 <= number <= count)
    if unknown:
        named = ", ".join(map(str, unknown[:5]))
        raise WrongNumbers(f"labels: id {named} was not asked about, only 1 to {count}", reply=reply)
    if len(numbers) < count and len(rows) > len(numbers):
        times = Counter(number for number, _ in rows)
        twice = ", ".join(str(number) for number in sorted(times) if times[number] > 1)
        raise WrongNumbers(f"labels: id {twice[:50]} is there twice and others are missing", reply=reply)
    labels = {number: label for number, label in rows if label is not None}
    if len(rows) > len(numbers):
        # A number with a label and an unreadable one is as contradictory as one with two labels.
        for number, label in rows:
            if labels.get(number) != label:
                labels.pop(number, None)
    return labels


def _rows_in(reply: LLMResponse) -> list[Row]:
    """Return the rows of the first value that holds several, or else all rows that stand alone."""
    loose: list[Row] = []
    for value in values_in(reply, keep_conflicts=True):
        for part in members(value):
            rows, alone = _rows(part)
            if any(label for _, label in rows):
                if alone:
                    loose += rows
                elif len(rows) >= len(loose) or not isinstance(value, (CutObject, CutList)):
                    return rows
                # Otherwise the list is cut off, and its whole rows are among the loose ones.
                break
    return loose


def _rows(value: Any) -> tuple[list[Row], bool]:
    """Return the rows that an object or list consists of, and whether it is a single row."""
    if isinstance(value, list):
        rows: list[Row] = []
        for element in value:
            row = None
            if isinstance(element, dict):
                number, label = element.get("id"), element.get("label")
                if type(number) is int and type(label) is str:  # the form that is asked for
                    row = number, _TABLE.get(label) or read_label(label)
                else:
                    row = _row(element)
            if row is not None:
                rows.append(row)
            else:
                rows += _rows_of_element(element)
        return rows, False
    row = _row(value)
    if row is not None:
        return [row], True
    return _keyed_rows(value), False


def _rows_of_element(element: Any) -> list[Row]:
    """Return the rows of a list's element that is not a row itself."""
    if isinstance(element, dict):
        return _keyed_rows(element)
    if isinstance(element, list) and len(element) == 2:
        number = read_number(element[0])
        return [] if number is None else [(number, read_label(element[1]))]
    return []


def _keyed_rows(value: Mapping[str, Any]) -> list[Row]:
    """Return the rows of an object keyed by number, or by label with lists of numbers."""
    rows: list[Row] = []
    for key, member in value.items():
        number, label = read_number(key), read_label(key)
        if number is not None:
            found = _first(member, _LABEL_KEYS) if isinstance(member, dict) else member
            rows.append((number, read_label(found)))
        elif label is not None and isinstance(member, list):
            rows += [(n, label) for n in map(read_number, member) if n is not None]
    return rows


def _row(entry: Mapping[str, Any]) -> Row | None:
    """Return the row that an object with a number and a label is; None for other objects."""
    number = read_number(_first(entry, _NUMBER_KEYS))
    return None if number is None else (number, read_label(_first(entry, _LABEL_KEYS)))


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the value of the first name that an object has, or None."""
    for name in names:
        if name in entry:
            return entry[name]
    return None


def read_number(value: Any) -> int | None:
    """Return the whole number in a value such as 3, 3.0, "3", "[3]" or "review 3"; None for anything else."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        found = _NUMBER.fullmatch(value) if len(value) <= 40 else None
        return int(found[1]) if found else None
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e9 else None


def read_label(value: Any) -> Sentiment | None:
    """Return the label that a word stands for, also with an explanation behind it; None if it is not certain."""
    if not isinstance(value, str) or len(value) > 1000:
        return None
    label = _TABLE.get(value)
    if label is not None:
        return label
    text = normalize("NFKC", value).casefold().strip(_AROUND_LABEL)
    label = _TABLE.get(text)
    if label is None:
        end = _EXPLANATION.search(text)
        if end is None:
            return None
        label = _TABLE.get(text[: end.start()].strip(_AROUND_LABEL))
        others = (stem for other, stems in _STEMS.items() if other != label for stem in stems)
        if any(stem in text for stem in others):
            return None
    return label

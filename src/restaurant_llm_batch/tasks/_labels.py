"""
Sentiment labels in a reply: the forms that models write them in, and checks that no review gets another one's label.

The schema asks for ``{"labels": [{"id": 1, "label": "positive"}, ...]}``. Read as well: an object keyed by number,
which grammar servers are asked for; lists of numbers by label; pairs; rows without a list around them; lines of text
with a number and a label; and labels in other words, from a closed table. What is not in the table, or names two
labels, is not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from unicodedata import normalize

from .._llm_response import LLMResponse
from .._patterns import lazy_pattern
from ..errors import OutputInvalid
from ..results import Sentiment
from ._json import CutList, CutObject
from ._replies import members, squeezed, unreadable, values_in, without_thinking

Row = tuple[int, Sentiment | None]
"""The number of a review, and its label; None for a label that cannot be read."""

_WORDS: Mapping[Sentiment, str] = {
    "positive": "positive, pos, good, 좋음, 매우 좋음, 좋아요, 좋다, 만족, 호평, 积极, 正面, 好评, ポジティブ",
    "negative": "negative, neg, bad, 나쁨, 매우 나쁨, 나빠요, 나쁘다, 불만, 불만족, 악평, 消极, 负面, 差评, ネガティブ",
    "neutral": "neutral, neu, 보통, 보통임, 보통이다, 보통입니다, 보통이에요, 中性, ニュートラル",
}
_TABLE: Mapping[str, Sentiment] = {
    word.strip(): label for label, words in _WORDS.items() for word in words.split(",")
}
_STEMS: Mapping[Sentiment, tuple[str, ...]] = {
    "positive": ("positive", "긍정"),
    "negative": ("negative", "부정"),
    "neutral": ("neutral", "중립"),
}
_STEM_LABELS: Mapping[str, Sentiment] = {stem: label for label, stems in _STEMS.items() for stem in stems}
_KOREAN_NOUN = r"(?: ?(?:리뷰|평가|감정|감성|의견|반응|내용|후기))?"
_IN_FORM = lazy_pattern(
    r"(?:(?:very|mostly|slightly|somewhat|strongly|generally|extremely|clearly|highly|overwhelmingly|overall|mildly) )?"
    r"(positive|negative|neutral)(?: (?:sentiment|review|label))?"
    r"|(?:(?:매우|아주|대체로|전반적으로|약간|다소|조금|꽤|강한|명확히|확실히) ?)?"
    rf"(긍정|부정|중립)(?:적|적인)?{_KOREAN_NOUN}"
    r"(?:임|이다|입니다|이에요|예요|이네요|으로 (?:판단|분류|보임|보입니다)(?:됨|됩니다|함|합니다)?)?"
)
"""A label's own word with an adverb, a noun or a Korean ending; a closed list, so that no negation is among them."""
_NAMED_LABEL = lazy_pattern(r"(?:label|sentiment|polarity|라벨|감정|감성)\s*[:=]\s*")
_EXPLANATION = lazy_pattern(r"\s*[(\[{:;]|\s+[-\u2013\u2014]+\s|[.!]\s|,\s(?=because|since|as\b|왜냐)")
_NEGATION = lazy_pattern(r"\W*(?:not|no|never|아님|아니|않)(?!\w)")
_AROUND_LABEL = lazy_pattern(r"^[\W_]+|[\W_]+$")
_NUMBER = lazy_pattern(
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
    rows = _rows_in(reply, count)
    if not rows and count == 1:
        rows = _only_row(reply)
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


def _rows_in(reply: LLMResponse, count: int) -> list[Row]:
    """
    Return the rows of the first value that labels every review; or else of all values, if none repeats a number of
    another; or else of the value that labels most.
    """
    loose: list[Row] = []
    tables: list[list[Row]] = []
    for value in values_in(reply, keep_conflicts=True):
        for part in members(value):
            rows, alone = _rows(part)
            if any(label for _, label in rows):
                if alone:
                    loose += rows
                elif len(rows) >= len(loose) or not isinstance(value, (CutObject, CutList)):
                    tables.append(rows)
                    if len(rows) >= count:
                        return rows
                # Otherwise the list is cut off, and its whole rows are among the loose ones.
                break
    if len(tables) > 1:
        all_rows = [row for rows in tables for row in rows]
        if len({number for number, _ in all_rows}) == len(all_rows):
            return all_rows
    if tables:
        return max(tables, key=len)
    if not loose:
        text = without_thinking(reply.text)
        # The last line of a reply that was cut off may not be whole.
        loose = _rows_of_text(text if reply.finish_reason != "length" else text.rpartition("\n")[0])
    return loose


def _only_row(reply: LLMResponse) -> list[Row]:
    """Return the label of the only review that was asked about, if a reply has one label and no number."""
    found: set[Sentiment] = set()
    for value in values_in(reply, keep_conflicts=True):
        for part in members(value):
            listed = part if isinstance(part, list) else [_first(part, _LABEL_KEYS)]
            for one in listed:
                label = read_label(one)
                if label is not None:
                    found.add(label)
                elif isinstance(one, (str, int)):
                    return []
    if not found and reply.finish_reason != "length":
        text = without_thinking(reply.text).strip()
        label = read_label(text) if any(stem in text.lower() for stem in _STEM_LABELS) else None
        found = set() if label is None else {label}
    return [(1, label) for label in found] if len(found) == 1 else []


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
    if isinstance(element, str):
        return _rows_of_text(element)
    if isinstance(element, list) and len(element) == 2:
        number = read_number(element[0])
        return [] if number is None else [(number, read_label(element[1]))]
    return []


def _keyed_rows(value: Mapping[str, Any]) -> list[Row]:
    """Return the rows of an object keyed by number, or by label with lists of numbers."""
    rows: list[Row] = []
    for key, member in value.items():
        number = read_number(key)
        if number is not None:
            found = _first(member, _LABEL_KEYS) if isinstance(member, dict) else member
            rows.append((number, read_label(found)))
            continue
        label = read_label(key)
        if label is not None:
            rows += [(n, label) for n in _numbers(member)]
        elif isinstance(member, str):
            rows += _rows_of_text(member)
    return rows


def _numbers(value: Any) -> Iterator[int]:
    """Yield the numbers in a list, in a text with commas, or alone."""
    if isinstance(value, str):
        value = value.split(",")
    for one in value if isinstance(value, list) else [value]:
        number = read_number(_first(one, _NUMBER_KEYS) if isinstance(one, dict) else one)
        if number is not None:
            yield number


def _row(entry: Mapping[str, Any]) -> Row | None:
    """Return the row that an object with a number and a label is; None for other objects."""
    number = read_number(_first(entry, _NUMBER_KEYS))
    return None if number is None else (number, read_label(_first(entry, _LABEL_KEYS)))


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the value of the first name that an object has, or None."""
    for name in names:
        if name in entry:
            return entry[name]
    if not isinstance(entry, dict) or len(entry) > _MAX_ROW_MEMBERS:
        return None
    by_name = {squeezed(name): value for name, value in entry.items()}
    return next((by_name[name] for name in map(squeezed, names) if name in by_name), None)


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
    text = _AROUND_LABEL.sub("", normalize("NFKC", value).casefold())
    text = _NAMED_LABEL.sub("", text, count=1) if _NAMED_LABEL.match(text) else text
    label = _word_label(text)
    if label is None:
        end = _EXPLANATION.search(text)
        if end is not None and not _NEGATION.match(text, end.end()):
            label = _word_label(_AROUND_LABEL.sub("", text[: end.start()]))
        elif "/" in text:  # the same in two languages
            both = {_word_label(part.strip()) for part in text.split("/")}
            label = both.pop() if len(both) == 1 else None
        others = (stem for other, stems in _STEMS.items() if other != label for stem in stems)
        if any(stem in text for stem in others):
            return None
    return label


def _word_label(text: str) -> Sentiment | None:
    label = _TABLE.get(text)
    if label is None and (found := _IN_FORM.fullmatch(" ".join(text.split()))):
        label = _STEM_LABELS[found[1] or found[2]]
    return label


_LINE = lazy_pattern(
    r"^[\s\-*•>|\[(#\"']*(?:id|no\.?|number|review|리뷰)?[\s#:=_\"'-]*(\d{1,6})번?[*\"'\s]*(?:[\])]+|[:.,=|\u2013\u2014-]|->|→)"
    r"[\s:.,=|\u2013\u2014>→\"'*\[(-]*(?:(?:label|sentiment|라벨|감정)[\"'*]*\s*[:=][\s\"'*]*)?(\S.*)$",
    re.IGNORECASE,
)
# From the first blank of several on: from each of them would take quadratic time.
_NEXT_LINE = lazy_pattern(
    r"(?<!\s)[^\S\n]*+\n\s*+[\"']?(?=(?:label|sentiment|라벨|감정)[\"']?\s*:)",
    re.IGNORECASE,
)
_BETWEEN_ROWS = lazy_pattern(r"\n|[,;](?=\s*+[\[(#]?(?:id|review|리뷰)?\s*\d)")
_MAX_LINE = 200
_MAX_ROW_MEMBERS = 12
"""An object with more members is no row."""


def _rows_of_text(text: str) -> list[Row]:
    """
    Return the rows of a text with a number and a label in each line: "1: positive", "[2] 부정", "| 3 | neutral |".

    Only a label's own word counts here: "[1] good" may be a review that is quoted.
    """
    rows: list[Row] = []
    for line in _BETWEEN_ROWS.split(_NEXT_LINE.sub(": ", text)):
        found = _LINE.match(line.strip()) if len(line) <= _MAX_LINE else None
        if found is not None and any(stem in found[2].lower() for stem in _STEM_LABELS):
            label = read_label(found[2])
            if label is not None:
                rows.append((int(found[1]), label))
    return rows

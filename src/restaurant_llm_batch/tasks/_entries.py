"""Words and phrases in a model's answer, and the examples of them, which must stand in the text that was sent."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from .._llm_response import LLMResponse
from .._values import composed
from ..results import ExtendedWord, VocabularyKind, Word
from ..tokens.sentences import sentence_ends
from ._citations import dropped_cell
from ._content import text_of
from ._json import CutList, CutObject
from ._prompts.words import MAX_EXAMPLE, MAX_SYNONYMS, PARTS_OF_SPEECH, Extras
from ._replies import clean, member, members, unreadable, values_in

_MAX_ENTRY_LENGTH = 200
_MAX_REPLY_TEXT = 20_000
_MAX_TRIES = 50
"""How many places of a quote in a text are looked at for one that begins and ends with whole words."""
_AROUND = " \t\r\n.,!?…~\"'`“”‘’"
"""Signs around an example that its sentence need not have."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase's meaning and example."""

    meaning: str
    example: str = ""


@dataclass(frozen=True, slots=True)
class Entries:
    """
    Words or phrases in a reply.

    Attributes:
        entries: The entries, in the order of the reply: names with their `Word` or `Phrase`.
        cut: Whether the list was cut off behind them.
        dropped: The names of those that are dropped.
        dropped_examples: The names of examples that are dropped.
    """

    entries: Sequence[tuple[str, Any]]
    cut: bool = False
    dropped: Sequence[str] = ()
    dropped_examples: Sequence[str] = ()


def read_entries(kind: VocabularyKind, reply: LLMResponse, text: str, extras: Extras = Extras()) -> Entries:
    """
    Read the words or phrases in a reply, in its order.

    Args:
        kind: Which of the two.
        reply: The reply.
        text: The text that was sent, which examples must stand in.
        extras: What was asked for beside the usual fields; anything else is not read.

    Raises:
        OutputError: The reply has no list of them.
    """
    found = _read_list(kind, reply, partial(_word if kind == "words" else _phrase, extras))
    return _with_examples(kind, found, text) if extras.examples else found


def _read_list(field: str, reply: LLMResponse, read: Callable[[Any], tuple[str, Any] | None]) -> Entries:
    first: Entries | None = None
    for value in values_in(reply):
        for answer in members(value, 2):
            listed = member(answer, field) if isinstance(answer, dict) else answer
            if isinstance(listed, dict):
                listed = _with_names(listed)
            if not isinstance(listed, list):
                continue
            entries, dropped = [], []
            for raw in listed:
                entry = read(raw)
                if entry is not None:
                    entries.append(entry)
                elif not isinstance(raw, CutObject):  # what is cut off is asked for again
                    dropped.append(dropped_cell(field, raw, "no name that can be used"))
            found = Entries(entries, isinstance(listed, CutList), dropped)
            # A list that the field names counts also without entries; any other list must have some.
            if entries and (first is None or not first.entries):
                return found
            if isinstance(answer, dict) and first is None:
                first = found
    if first is None or (first.cut and not first.entries):
        raise unreadable(f"the answer does not have its form: {field}: must be a list", reply)
    return first


def _with_examples(kind: VocabularyKind, found: Entries, text: str) -> Entries:
    """Return entries with the sentences of a text that their examples are, and without all other examples."""
    finder = ExampleFinder(text)
    entries: list[tuple[str, Any]] = []
    dropped: list[str] = []
    for name, entry in found.entries:
        example = finder.find(entry.example) if entry.example else ""
        if example is None:
            dropped.append(dropped_cell(f"{kind}.example", entry.example, "not in the text"))
        entries.append((name, replace(entry, example=example or "")))
    return replace(found, entries=entries, dropped_examples=dropped)


class ExampleFinder:
    """
    Finds the sentence of a text that a model quotes, also if it leaves out a part or the signs around it.

    What is returned stands in the text, letter by letter. Capitals and white space may differ in the quote.
    """

    def __init__(self, text: str) -> None:
        ends = sentence_ends(text)
        pieces = [text[start:end].strip() for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self._sentences = pieces
        keys = list(map(_key, pieces))
        self._joined = " ".join(keys)
        self._starts = [0, *accumulate(len(key) + 1 for key in keys[:-1])]

    def find(self, quote: str) -> str | None:
        """Return the sentence that a quote is, or is a part of, if it begins and ends with whole words; or None."""
        key = _key(quote).strip(_AROUND)
        at = -1
        for _ in range(_MAX_TRIES if key else 0):
            at = self._joined.find(key, at + 1)
            if at < 0:
                break
            if self._is_whole(at, at + len(key)):
                sentence = self._sentences[bisect_right(self._starts, at) - 1]
                is_inside = bisect_right(self._starts, at + len(key) - 1) == bisect_right(self._starts, at)
                return sentence if is_inside and len(sentence) <= MAX_EXAMPLE else None
        return None

    def _is_whole(self, start: int, end: int) -> bool:
        before, after = self._joined[start - 1 : start], self._joined[end : end + 1]
        return not (before.isalnum() or after.isalnum())


def _key(text: str) -> str:
    return composed(" ".join(text.split())).casefold()


def _with_names(listed: Mapping[str, Any]) -> list[Any] | None:
    """Return an object keyed by word or phrase as a list; None if it is not one."""
    if not listed:
        return None
    rows: list[Any] = [
        {**value, "": name} if isinstance(value, dict) else {"": name, "meaning": value}
        for name, value in listed.items()
    ]
    return CutList(rows) if isinstance(listed, CutObject) else rows


def _name(entry: Any, field: str) -> str | None:
    if isinstance(entry, CutObject):
        return None
    value = entry.get(field, entry.get("")) if isinstance(entry, dict) else None
    name = clean(value).strip() if isinstance(value, str) and len(value) <= _MAX_REPLY_TEXT else ""
    return name if name and len(name) <= _MAX_ENTRY_LENGTH and name not in ("string", "...") else None


def _word(extras: Extras, entry: Any) -> tuple[str, Word] | None:
    name = _name(entry, "word")
    if name is None:
        return None
    pos = entry.get("pos")
    pos = pos.strip().lower() if isinstance(pos, str) else ""
    meanings = _texts(entry.get("meanings", entry.get("meaning")))
    pos = pos if pos in PARTS_OF_SPEECH else ""
    if not any(extras):
        return name, Word(pos, meanings)
    synonyms: tuple[str, ...] = ()
    if extras.synonyms:
        given = entry.get("synonyms", entry.get("synonym"))
        listed = _texts(given.split(",") if isinstance(given, str) else given)
        synonyms = tuple(one for one in listed if _key(one) != _key(name))[:MAX_SYNONYMS]
    return name, ExtendedWord(pos, meanings, synonyms, _example(extras, entry))


def _phrase(extras: Extras, entry: Any) -> tuple[str, Phrase] | None:
    name = _name(entry, "phrase")
    if name is None:
        return None
    meaning = entry.get("meaning", entry.get("meanings"))
    return name, Phrase(text_of(meaning) or "", _example(extras, entry))


def _texts(value: Any) -> tuple[str, ...]:
    """Return the texts in a list, or the text that a value is."""
    listed = [value] if isinstance(value, str) else value
    texts = [text_of(one) for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
    return tuple(filter(None, texts))


def _example(extras: Extras, entry: Mapping[str, Any]) -> str:
    """Return the example in an entry as the model gave it, the first of several; "" for none."""
    value = entry.get("example", entry.get("examples")) if extras.examples else None
    return next(iter(_texts(value)), "")

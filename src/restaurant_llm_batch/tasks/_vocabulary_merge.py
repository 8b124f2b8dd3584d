"""The words and phrases of many answers, as one vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

from ..results import FailedChunk, VocabularyKind, Word
from ..steps import Maybe
from ._failing import raise_first, told, value_or_failure


@dataclass(frozen=True, slots=True)
class Reading:
    """
    What was read in a chunk, or in a part of one.

    Attributes:
        entries: Words, or phrases and their meanings, in the order of the answer.
        model: The model that answered.
        error: Why a part of the chunk could not be read, else None.
    """

    entries: Sequence[tuple[str, Any]]
    model: str
    error: Exception | None = None


def join(parts: Sequence[Maybe[Reading]]) -> Reading:
    """Return the parts of one chunk as one; raise the first error where none was read."""
    raise_if_nothing_stands(parts)
    read = readings(parts)
    errors = [part if isinstance(part, Exception) else part.error for part in parts]
    return Reading(
        [entry for reading in read for entry in reading.entries],
        model_of(read),
        next(filter(None, errors), None),
    )


def readings(answers: Iterable[Maybe[Reading]]) -> list[Reading]:
    """Return what was read, without what failed."""
    return [answer for answer in answers if isinstance(answer, Reading)]


def model_of(read: Iterable[Reading]) -> str:
    """Return the first model that is named, or ""."""
    return next((reading.model for reading in read if reading.model), "")


def raise_if_nothing_stands(answers: Sequence[Maybe[Reading]]) -> None:
    """Raise the first error where nothing was read, or any error that stopped the run."""
    errors = [answer for answer in map(value_or_failure, answers) if isinstance(answer, Exception)]
    if len(errors) == len(answers):
        raise_first(errors)


def failures(
    places: Sequence[int], answers: Mapping[VocabularyKind, Sequence[Maybe[Reading]]]
) -> Iterator[FailedChunk]:
    """
    Return what could not be read, in the order of the chunks.

    Args:
        places: The places of the chunks that were asked about.
        answers: For each kind the answers about them.
    """
    for number, place in enumerate(places):
        for kind, answered in answers.items():
            answer = answered[number]
            if isinstance(answer, Exception):
                yield FailedChunk(place, kind, told(answer))
            elif answer.error is not None:
                yield FailedChunk(place, kind, f"a part of it: {told(answer.error)}")


def merge_words(read: Iterable[Reading]) -> Mapping[str, Word]:
    """
    Return each word once: as it was first spelled, with the first part of speech named and all meanings.

    Args:
        read: What was read, in the order of the chunks.
    """
    spellings: dict[str, str] = {}
    parts_of_speech: dict[str, str] = {}
    meanings: dict[str, dict[str, str]] = {}
    for key, spelling, word in _keyed(read):
        spellings.setdefault(key, spelling)
        parts_of_speech[key] = parts_of_speech.get(key) or word.pos
        of_word = meanings.setdefault(key, {})
        for meaning in map(_tidy, word.meanings):
            of_word.setdefault(meaning.casefold(), meaning)
    return {
        spelling: Word(parts_of_speech[key], tuple(meanings[key].values()))
        for key, spelling in spellings.items()
    }


def merge_phrases(read: Iterable[Reading]) -> Mapping[str, str]:
    """
    Return each phrase once, as it was first spelled, with the first meaning that is not empty.

    Args:
        read: What was read, in the order of the chunks.
    """
    spellings: dict[str, str] = {}
    meanings: dict[str, str] = {}
    for key, spelling, meaning in _keyed(read):
        spellings.setdefault(key, spelling)
        meanings[key] = meanings.get(key) or _tidy(meaning)
    return {spelling: meanings[key] for key, spelling in spellings.items()}


def _keyed(read: Iterable[Reading]) -> Iterator[tuple[str, str, Any]]:
    for reading in read:
        for text, entry in reading.entries:
            spelling = _tidy(text)
            yield normalize("NFC", spelling.casefold()), spelling, entry


def _tidy(text: str) -> str:
    return normalize("NFC", " ".join(text.split()))

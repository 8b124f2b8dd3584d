"""
Opinions of clauses: whether their words praise or blame, by lexicon, negation scope and frames.

A Korean negation turns the nearest opinion before it, and another one turns it back (친절하지 않은 직원이 없어요);
an English one turns the next opinion. A clause that the rest of its sentence takes back (a frame, see `opinion_words`)
gets the opinion of that rest, or the opposite of its own if the rest has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from . import opinion_words as lists
from .aspect_words import stems_of
from .terms import terms

_LIKE, _BARE = 2, 1
_KOREAN_REACH, _ENGLISH_REACH = 3, 3
_CACHED_WORDS = 16_384
_MAX_WORD_LENGTH = 40
_HANGUL = re.compile("[가-힣]")
_LATIN = re.compile("[a-z]")
_DENIALS = ("아니", "글쎄", "모르겠")


class Opinion(NamedTuple):
    """
    The opinion of a clause.

    Attributes:
        words: That of its words: above 0 for praise, below 0 for blame.
        bare: That of negations without a word to turn, 0 or below.
        turned: Whether a negation or another clause turned a word round, so that it does not mean what it says alone.
        blames: Whether any part blames, even if others praise more.
    """

    words: int
    bare: int
    turned: bool = False
    blames: bool = False

    @property
    def polarity(self) -> int:
        """Above 0 for praise, below 0 for blame."""
        return self.words + self.bare


class _Opinions:
    """The opinions found so far in a clause, and the words that they stand at."""

    def __init__(self, reach: int) -> None:
        self.values: list[int] = []
        self._bare: list[bool] = []
        self._places: list[int] = []
        self._closed: list[bool] = []
        self._reach = reach
        self.word = 0
        self.turned = False

    @property
    def sums(self) -> tuple[int, int]:
        """The sum of the opinions of words, and that of negations without a word to turn."""
        bare = sum(value for value, bare in zip(self.values, self._bare, strict=True) if bare)
        return sum(self.values) - bare, bare

    def add(self, value: int, *, bare: bool = False) -> None:
        """Add an opinion at the current word; `bare` if it is that of a negation."""
        self.values.append(value)
        self._bare.append(bare)
        self._places.append(self.word)
        self._closed.append(False)

    def close(self) -> None:
        """Put all opinions out of the reach of negations."""
        self._closed = [True] * len(self._closed)

    def turn(self) -> bool:
        """Turn the last opinion round if it is in reach; return whether it was."""
        if not self.values or self._closed[-1] or self.word - self._places[-1] > self._reach:
            return False
        self.values[-1] = -self.values[-1]
        self._places[-1] = self.word
        self.turned = True
        return True


def _read_korean(text: str) -> Opinion:
    found = _Opinions(_KOREAN_REACH)
    hardly = 0
    pending: int | None = None
    for kind, token in lists.korean_tokens(text):
        if kind == "space":
            found.word += 1
            if pending is not None and found.word > pending:
                # 안 and 못 before a verb that says nothing: 안 보여요.
                found.add(-_BARE, bare=True)
                pending = None
        elif kind == "close":
            found.close()
        elif kind == "hardly":
            hardly = -_LIKE * (token != "전혀")
        elif kind == "before":
            hardly = 0
            found.word += token[-1].isspace()
            pending = found.word
        elif kind == "after":
            hardly = 0
            if not found.turn():
                found.add(-_BARE, bare=True)
        elif kind == "less" and found.values and found.values[-1] < 0 and found.turn():
            pass
        elif kind in ("praise", "good", "blame", "bad", "less"):
            value = _LIKE if kind in ("praise", "good") else -_LIKE
            if pending is not None:
                value, pending, found.turned = -value, None, True
            found.add(value)
    if pending is not None:
        found.add(-_BARE, bare=True)
    words, bare = found.sums
    return Opinion(words + hardly, bare, found.turned, min(hardly, *found.values, 0) < 0)


@lru_cache(_CACHED_WORDS)
def _english_word(word: str) -> int:
    return sum(_stems().get(stem, 0) for stem in terms(word))


@lru_cache(1)
def _stems() -> dict[str, int]:
    return dict.fromkeys(stems_of(lists.PRAISE), _LIKE) | dict.fromkeys(stems_of(lists.BLAME), -_LIKE)


def _read_english(text: str) -> Opinion:
    total = bare = word = 0
    turned = blames = False
    pending: int | None = None
    for match in lists.ENGLISH.finditer(text):
        kind = match.lastgroup
        word += 1
        if kind == "before":
            if pending is not None:
                bare -= _BARE
            pending = word
            continue
        if kind == "close" or (pending is not None and word - pending > _ENGLISH_REACH):
            bare -= _BARE * (pending is not None)
            pending = None
        value = _value(kind, match[0])
        if value and pending is not None:
            value, pending, turned = -value, None, True
        # A phrase such as "no complaints" holds its negation.
        turned, blames = turned or kind == "good", blames or value < 0
        total += value
    bare -= _BARE * (pending is not None)
    return Opinion(total, bare, turned, blames or bare < 0)


def _value(kind: str | None, text: str) -> int:
    if kind in ("good", "face"):
        return _LIKE
    if kind in ("bad", "frown"):
        return -_LIKE
    return _english_word(text[:_MAX_WORD_LENGTH]) if kind == "word" else 0


def read_opinion(text: str) -> Opinion:
    """Return the opinion of a clause, read by itself."""
    text = re.sub("[’´`]", "'", text.lower())
    read = Opinion(0, 0)
    if _HANGUL.search(text):
        read = _read_korean(text)
        if lists.KOREAN_UNREAL.search(text) or (read.words > 0 and lists.KOREAN_ELSEWHERE.search(text)):
            read = Opinion(-abs(read.words), read.bare, turned=True, blames=True)
    if _LATIN.search(text):
        english = _read_english(text)
        if lists.ENGLISH_UNREAL.search(text):
            english = Opinion(-abs(english.words), english.bare, turned=True, blames=True)
        read = Opinion(
            read.words + english.words,
            read.bare + english.bare,
            read.turned or english.turned,
            read.blames or english.blames,
        )
    return read


def is_frame(text: str) -> bool:
    """Return whether a clause that another one follows may be taken back by it."""
    text = text.lower()
    return bool(lists.KOREAN_FRAME.search(text) or lists.ENGLISH_FRAME.search(text))


def is_denial(text: str) -> bool:
    """Return whether a clause denies the one before."""
    return any(word in text for word in _DENIALS) or bool(lists.ENGLISH_DENIAL.search(text.lower()))


def opinions(clauses: Sequence[str]) -> list[Opinion]:
    """
    Return the opinions of a sentence's clauses.

    Args:
        clauses: The texts of the clauses, in order.
    """
    read = [read_opinion(text) for text in clauses]
    frames = [at < len(read) - 1 and is_frame(text) for at, text in enumerate(clauses)]
    if not any(frames):
        return read
    # What follows the last frame takes it back; a denial says nothing else.
    last = len(frames) - 1 - frames[::-1].index(True)
    for at in range(last + 1, len(read)):
        if is_denial(clauses[at]):
            read[at] = Opinion(0, 0)
    rest = sum(one.words for one in read[last + 1 :]) or -sum(one.words for one in read[: last + 1])
    verdict = Opinion(_LIKE * ((rest > 0) - (rest < 0)), 0, turned=True, blames=rest < 0)
    return [verdict if frame and one.words else one for one, frame in zip(read, frames, strict=True)]

"""What can be told of a word by its form alone."""

from __future__ import annotations

from typing import Literal, NamedTuple

PartOfSpeech = Literal["n", "v", "adj", "adv"]


class WordAnalysis(NamedTuple):
    """
    One way to read a form of a word.

    Attributes:
        word: The dictionary form, as far as it can be told.
        pos: The part of speech.
        weight: How sure that is; forms of one word vote with it.
    """

    word: str
    pos: PartOfSpeech
    weight: float


SURE, LIKELY, GUESS = 4.0, 2.0, 1.0


def listed(words: str) -> frozenset[str]:
    """Return the words of a list that is written as one text."""
    return frozenset(words.split())

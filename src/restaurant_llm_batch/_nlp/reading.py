"""Word analysis: dictionary form, part of speech and confidence of a word form."""

from __future__ import annotations

from typing import Literal, NamedTuple

PartOfSpeech = Literal["n", "v", "adj", "adv"]


class WordAnalysis(NamedTuple):
    """
    An analysis of a word form.

    Attributes:
        word: The dictionary form, as far as the form shows it.
        pos: The part of speech.
        weight: Confidence; the forms of a word vote with it.
    """

    word: str
    pos: PartOfSpeech
    weight: float


SURE, LIKELY, GUESS = 4.0, 2.0, 1.0


def word_set(words: str) -> frozenset[str]:
    """Split a space-separated list of words into a set."""
    return frozenset(words.split())

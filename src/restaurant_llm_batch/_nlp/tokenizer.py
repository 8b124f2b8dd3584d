"""The words of a text where they stand, each read by its form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from . import english_words, korean_words
from .reading import WordAnalysis
from .terms import normalise

_KNOWN_FORMS = 16_384

_TOKEN = re.compile(
    r"(?P<ko>[가-힣\u1100-\u11ff]+)"
    r"|(?P<en>[A-Za-z\u00c0-\u024f][A-Za-z\u00c0-\u024f\u0300-\u036f]*"
    r"(?:['’-][A-Za-z\u00c0-\u024f][A-Za-z\u00c0-\u024f\u0300-\u036f]*)*)"
)
_SYLLABLES = re.compile("[가-힣]+")


@dataclass(frozen=True, slots=True)
class WordToken:
    """
    A word of a sentence.

    Attributes:
        sentence: The number of the sentence.
        start: Where it starts there.
        end: Where it ends.
        form: As it stands, in lower case.
        stem: Equal for all forms of a word.
        reading: None for what carries no meaning by itself, and what cannot be told.
        follows: Whether only white space stands between it and the token before it.
    """

    sentence: int
    start: int
    end: int
    form: str
    stem: str
    reading: WordAnalysis | None
    follows: bool

    @property
    def is_korean(self) -> bool:
        """Whether it is Hangul; the other tokens are Latin letters."""
        return "가" <= self.form[0] <= "힣"


class Tokenizer:
    """Finds the Korean and English words of sentences; other scripts have none that it could read."""

    def __init__(self) -> None:
        self._read_korean = lru_cache(_KNOWN_FORMS)(korean_words.read)
        self._read_english = lru_cache(_KNOWN_FORMS)(english_words.read)

    def tokens(self, sentences: Sequence[str]) -> list[WordToken]:
        """Return the words in their order."""
        return [token for number, text in enumerate(sentences) for token in self._tokens_of(text, number)]

    def _tokens_of(self, text: str, number: int) -> Iterator[WordToken]:
        before, end = "", 0
        for match in _TOKEN.finditer(text):
            gap = text[end : match.start()]
            form = normalise(match[0])
            # What is counted (30분, 5번) is a unit and no word; letters may not add up to syllables.
            if gap[-1:].isdigit() or (match["ko"] and not _SYLLABLES.fullmatch(form)):
                continue
            if match["ko"]:
                stem, reading = self._read_korean(form)
            else:
                stem, reading = self._read_english(form, before if gap == " " else "")
            yield WordToken(number, *match.span(), form, stem, reading, gap == " ")
            before, end = form, match.end()

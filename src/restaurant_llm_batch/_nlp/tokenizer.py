"""Word tokenizer for Korean and English: tokens with position, stem and part-of-speech analysis."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from . import english_words, korean_words
from .reading import WordAnalysis
from .terms import normalise

_CACHED_FORMS = 16_384

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
        sentence: Index of the sentence.
        start: Index of its first character in the sentence.
        end: Index after its last character.
        form: The normalized form in the text.
        stem: The stem, equal for all forms of a word.
        analysis: The analysis of the form; None for function words and forms that match no rule.
        follows: Whether only a space separates it from the previous token.
    """

    sentence: int
    start: int
    end: int
    form: str
    stem: str
    analysis: WordAnalysis | None
    follows: bool

    @property
    def is_korean(self) -> bool:
        """Whether it is Hangul; all other tokens are in Latin script."""
        return "가" <= self.form[0] <= "힣"


class Tokenizer:
    """Finds the Korean and English words of sentences; other scripts are ignored."""

    def __init__(self) -> None:
        self._read_korean = lru_cache(_CACHED_FORMS)(korean_words.read)
        self._read_english = lru_cache(_CACHED_FORMS)(english_words.read)

    def tokens(self, sentences: Sequence[str]) -> list[WordToken]:
        """Return the words of sentences, in order."""
        return [token for number, text in enumerate(sentences) for token in self._tokens_of(text, number)]

    def _tokens_of(self, text: str, number: int) -> Iterator[WordToken]:
        before, end = "", 0
        for match in _TOKEN.finditer(text):
            gap = text[end : match.start()]
            form = normalise(match[0])
            # Skip units after numbers (30분, 5번), and jamo that do not form syllables.
            if gap[-1:].isdigit() or (match["ko"] and not _SYLLABLES.fullmatch(form)):
                continue
            if match["ko"]:
                stem, analysis = self._read_korean(form)
            else:
                stem, analysis = self._read_english(form, before if gap == " " else "")
            yield WordToken(number, *match.span(), form, stem, analysis, gap == " ")
            before, end = form, match.end()

"""
Aspect lexicon: concepts with weights, and the polarity of Korean and English words.

The concepts are those of the hashing embedder (`concepts`). Here they have weights, since a summary needs more
certainty than a search: a search for service may find a review that says "ordered", but the review is hardly
about service.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from .aspect_words import FORMS, STRONG, more_stems, phrase_pattern, weights, word_patterns
from .concepts import ConceptLookup
from .opinions import read_opinion
from .terms import terms

_CACHED_WORDS = 16_384
_MAX_WORD_LENGTH = 40

_TOKEN = re.compile(r"\S+")

Mark = tuple[str, str, float]
"""Aspect, concept and weight."""


class AnalyzedWord(NamedTuple):
    """
    An analyzed word of a review.

    Attributes:
        stems: The stems of its parts.
        marks: Aspect, concept and weight of each stem in the lexicon.
        polarity: Above 0 for praise, below 0 for blame, by the word alone.
    """

    stems: tuple[str, ...]
    marks: tuple[Mark, ...]
    polarity: int


class WordAnalyzer:
    """Analyzes words; caches frequent ones."""

    def __init__(self) -> None:
        self._concepts = ConceptLookup()
        self._weights, self._more = weights(), more_stems()
        self._patterns, self._phrases = word_patterns(), phrase_pattern()
        self._cached_analysis = lru_cache(_CACHED_WORDS)(self._analyze)

    def read(self, word: str) -> AnalyzedWord:
        """Return the analysis of a word, including its punctuation."""
        return self._cached_analysis(word[:_MAX_WORD_LENGTH])

    def concept(self, stem: str) -> tuple[str, str] | None:
        """Return the aspect and the concept of a stem, or None."""
        found = self._concepts.concept(stem)
        return (found.aspect, found.name) if found else None

    def _analyze(self, word: str) -> AnalyzedWord:
        stems = tuple(terms(word))
        return AnalyzedWord(stems, self._marks(stems, word.lower()), read_opinion(word).polarity)

    def _marks(self, stems: Sequence[str], raw: str) -> tuple[Mark, ...]:
        form = FORMS.get(raw.strip(".,!?;:()\"'~"))
        marks = [
            (*concept, form or self._weights.get(stem, STRONG))
            for stem in stems
            if (concept := self.concept(stem))
        ]
        marks += [
            (aspect, aspect, self._weights.get(stem, STRONG))
            for stem in stems
            if (aspect := self._more.get(stem)) and not self.concept(stem)
        ]
        if not form:
            for aspect, weight, pattern in self._patterns:
                if weight > max(
                    (mark[2] for mark in marks if mark[0] == aspect), default=0
                ) and pattern.search(raw):
                    marks.append((aspect, aspect, weight))
        return tuple(marks)

    def read_clause(self, text: str) -> tuple[AnalyzedWord, ...]:
        """
        Return the analyses of a clause's words, with the aspects that they have in it.

        The words of a phrase have the phrase's aspect.
        """
        phrases = self._phrases.finditer(text.lower())
        phrase = next(phrases, None)
        words: list[AnalyzedWord] = []
        for match in _TOKEN.finditer(text):
            word = self.read(match[0])
            while phrase and phrase.end() <= match.start():
                phrase = next(phrases, None)
            if phrase and phrase.start() < match.end():
                aspect = str(phrase.lastgroup)
                opens = match.start() <= phrase.start()
                word = word._replace(marks=((aspect, aspect, STRONG),) if opens and aspect != "none" else ())
            words.append(word)
        return tuple(words)

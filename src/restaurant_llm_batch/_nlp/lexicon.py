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

from .aspect_words import FORMS, STRONG, weights
from .concepts import ConceptLookup
from .opinions import read_opinion
from .terms import terms

_CACHED_WORDS = 16_384
_MAX_WORD_LENGTH = 40

# Additional patterns of each aspect, matched inside words, since Korean compounds are written as one word.
_EXTRA = {
    "service": re.compile("말투|표정|챙겨|인심|한숨|설명|안내|구워주|알바|이모님|응대|던지듯"),
    "price": re.compile("[0-9만천백]원|물가|가격|비싸|비싼|비쌈|비쌌|혜자|[$€£₩💸]|[0-9]%|^price"),
    "food": re.compile(
        "맛[은이도과]|물맛|육수|육향|메밀|평냉|면수|뇨끼|봉골레|튀김|김말이|항정살|오겹살|수육|녹두전|"
        "깍두기|겉절이|도우|어묵|제육|국밥|쫀득|퍽퍽|밍밍|포슬|껍데기|쉬폰|휘낭시에|비냉|순대|떡볶|타르트"
    ),
    "ambience": re.compile("조명|환기|낙서|매장|가게는|햇살|시끌"),
}


class AnalyzedWord(NamedTuple):
    """
    An analyzed word of a review.

    Attributes:
        stems: The stems of its parts.
        marks: Aspect, concept and weight of each stem in the lexicon.
        polarity: Above 0 for praise, below 0 for blame, by the word alone.
    """

    stems: tuple[str, ...]
    marks: tuple[tuple[str, str, float], ...]
    polarity: int


class WordAnalyzer:
    """Analyzes words; caches frequent ones."""

    def __init__(self) -> None:
        self._concepts = ConceptLookup()
        self._weights = weights()
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
        return AnalyzedWord(stems, self._marks(stems, word.lower()), sum(read_opinion(word)))

    def _marks(self, stems: Sequence[str], raw: str) -> tuple[tuple[str, str, float], ...]:
        form = FORMS.get(raw.strip(".,!?;:()\"'~"))
        known = tuple(
            (*concept, form or self._weights.get(stem, STRONG))
            for stem in stems
            if (concept := self.concept(stem))
        )
        families = {mark[0] for mark in known}
        extra = ((name, name, STRONG) for name, words in _EXTRA.items() if words.search(raw))
        return (*known, *(mark for mark in extra if mark[0] not in families))

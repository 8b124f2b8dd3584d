"""
The words of a text by how often they occur.

There is no dictionary here. A word's meanings are what the lexicon of restaurant reviews knows of
it: what it speaks of, and whether a describing word praises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..._nlp.lexicon import WordAnalyzer
from ..._nlp.reading import GUESS, PartOfSpeech
from ..._nlp.tokenizer import WordToken

_MOST_WORDS = 30
_SURE, _FAIR = 1.0, 0.5

_LABELS = {
    "ko": {
        "service": "서비스", "price": "가격", "food": "음식", "ambience": "분위기", "staff": "직원",
        "noodle": "면 요리", "meat": "고기", "seafood": "해산물", "drink": "음료", "booking": "안내·예약",
        "noise": "소리", "space": "공간", "clean": "청결·시설", "praise": "좋은 평가", "blame": "나쁜 평가",
    },
    "en": {
        "service": "service", "price": "price", "food": "food", "ambience": "ambience", "staff": "staff",
        "noodle": "pasta or noodles", "meat": "meat", "seafood": "seafood", "drink": "drinks",
        "booking": "seating or reservation", "noise": "sound", "space": "space",
        "clean": "cleanliness or facilities", "praise": "praise", "blame": "complaint",
    },
}  # fmt: skip


@dataclass(slots=True)
class WordEntry:
    """
    All forms of one word.

    Attributes:
        first: Where the first one stands.
        forms: How often each occurs.
        votes: How surely they are forms of which word, and of which part of speech.
    """

    first: int
    forms: Counter[str] = field(default_factory=Counter)
    votes: dict[tuple[str, PartOfSpeech], float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How often the word occurs."""
        return self.forms.total()

    @property
    def form(self) -> str:
        """The form that occurs most often."""
        return max(self.forms, key=self.forms.__getitem__)

    @property
    def word(self) -> tuple[str, PartOfSpeech]:
        """The dictionary form and the part of speech that its forms vote for."""
        return max(self.votes, key=self.votes.__getitem__)


class WordListBuilder:
    """Finds the words that tell most of what a text is about."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._words = words

    def words(self, tokens: Sequence[WordToken], language: str) -> list[tuple[str, PartOfSpeech, list[str]]]:
        """
        Return the words that are most frequent; those of restaurants go before others.

        Args:
            tokens: The text.
            language: The language of the meanings, "ko" or else English.

        Returns:
            Word, part of speech and meanings; the most frequent first, then by first occurrence.
        """
        labels = _LABELS.get(language, _LABELS["en"])
        entries = _entries(tokens)
        entries.sort(key=lambda entry: -entry.count * (1.5 if self._is_telling(entry.form) else 1.0))
        best = sorted(entries[:_MOST_WORDS], key=lambda entry: (-entry.count, entry.first))
        return [(*entry.word, [labels[name] for name in self._meanings(entry)]) for entry in best]

    def _is_telling(self, form: str) -> bool:
        word = self._words.read(form)
        return bool(word.marks or word.polarity)

    def _meanings(self, entry: WordEntry) -> list[str]:
        """Return the names of what the lexicon is sure to know of a word."""
        word = self._words.read(entry.form)
        known = [
            concept if concept in _LABELS["en"] else family
            for family, concept, weight in word.marks
            if weight >= (_SURE if concept == "wait" else _FAIR)
        ]
        # That a noun is usually said in blame (waiting) is no part of its meaning.
        if word.polarity and entry.word[1] in ("adj", "adv"):
            known.append("praise" if word.polarity > 0 else "blame")
        return list(dict.fromkeys(known))


def _entries(tokens: Sequence[WordToken]) -> list[WordEntry]:
    entries: dict[str, WordEntry] = {}
    for place, token in enumerate(tokens):
        if token.reading:
            word, pos, weight = token.reading
            entry = entries.setdefault(token.stem, WordEntry(place))
            entry.forms[token.form] += 1
            entry.votes[word, pos] = entry.votes.get((word, pos), 0.0) + weight
    return [entry for entry in entries.values() if entry.votes[entry.word] >= GUESS]

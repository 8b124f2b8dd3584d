"""
Word list of a text: the most frequent words with dictionary form, part of speech and concepts.

There is no dictionary. A word's "meanings" are its concepts in the lexicon of restaurant reviews, and the
polarity of an adjective or adverb.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..._nlp.lexicon import WordAnalyzer
from ..._nlp.reading import GUESS, PartOfSpeech
from ..._nlp.tokenizer import WordToken

_MAX_WORDS = 30
_MIN_WAIT_WEIGHT, _MIN_WEIGHT = 1.0, 0.5

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
    All forms of one word in a text.

    Attributes:
        first: Index of the first token.
        forms: Number of occurrences of each form.
        votes: Summed weights of the analyses as a dictionary form and part of speech.
    """

    first: int
    forms: Counter[str] = field(default_factory=Counter)
    votes: dict[tuple[str, PartOfSpeech], float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of occurrences of the word."""
        return self.forms.total()

    @property
    def form(self) -> str:
        """The most frequent form."""
        return max(self.forms, key=self.forms.__getitem__)

    @property
    def word(self) -> tuple[str, PartOfSpeech]:
        """The dictionary form and part of speech with the highest vote."""
        return max(self.votes, key=self.votes.__getitem__)


class WordListBuilder:
    """Builds the list of a text's most frequent words."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._words = words

    def words(
        self, tokens: Sequence[WordToken], language: str
    ) -> list[tuple[str, PartOfSpeech, list[str], int]]:
        """
        Return the most frequent words; restaurant words count 1.5 times.

        Args:
            tokens: The tokens of the text.
            language: Language of the meanings: "ko", or English for anything else.

        Returns:
            Dictionary form, part of speech and meanings of each word, and the index of the first sentence that has it;
            the most frequent first, then by first occurrence.
        """
        labels = _LABELS.get(language, _LABELS["en"])
        entries = _entries(tokens)
        entries.sort(key=lambda entry: -entry.count * (1.5 if self._is_restaurant_word(entry.form) else 1.0))
        best = sorted(entries[:_MAX_WORDS], key=lambda entry: (-entry.count, entry.first))
        return [
            (*entry.word, [labels[name] for name in self._meanings(entry)], tokens[entry.first].sentence)
            for entry in best
        ]

    def _is_restaurant_word(self, form: str) -> bool:
        word = self._words.read(form)
        return bool(word.marks or word.polarity)

    def _meanings(self, entry: WordEntry) -> list[str]:
        """Return the concepts of a word that the lexicon is sure of, and its polarity."""
        word = self._words.read(entry.form)
        known = [
            concept if concept in _LABELS["en"] else family
            for family, concept, weight in word.marks
            if weight >= (_MIN_WAIT_WEIGHT if concept == "wait" else _MIN_WEIGHT)
        ]
        # The polarity of a noun (waiting) is not part of its meaning.
        if word.polarity and entry.word[1] in ("adj", "adv"):
            known.append("praise" if word.polarity > 0 else "blame")
        return list(dict.fromkeys(known))


def _entries(tokens: Sequence[WordToken]) -> list[WordEntry]:
    entries: dict[str, WordEntry] = {}
    for index, token in enumerate(tokens):
        if token.analysis:
            word, pos, weight = token.analysis
            entry = entries.setdefault(token.stem, WordEntry(index))
            entry.forms[token.form] += 1
            entry.votes[word, pos] = entry.votes.get((word, pos), 0.0) + weight
    return [entry for entry in entries.values() if entry.votes[entry.word] >= GUESS]

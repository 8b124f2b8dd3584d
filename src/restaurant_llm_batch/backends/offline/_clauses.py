"""Reviews as sentences and clauses, and the measure of what those have to do with an aspect."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from ..._nlp.lexicon import AnalyzedWord, WordAnalyzer, polarity
from ..._nlp.terms import sentences, terms

_READABLE = 20_000
_LONGEST_NAME = 100

# Control characters, direction overrides and lone surrogates upset terminals and JSON readers.
_UNPRINTABLE = re.compile(
    r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f"
    r"\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_CLAUSE = re.compile(
    r"(?<=[,;])\s+(?:(?:but|and|though|although|while|yet|however|so)\s+)?"
    r"|\.\.+\s*|--+\s*|\s[-\u2013\u2014]+\s"
    r"|\s+(?:but|although|though|while|however)\s+"
    r"|\s+and\s+(?=(?:the|our|we|my|they|it|i|service|food|staff)\b)"
    r"|(?<=[는은한인던운된]데)\s+|(?<=지만)\s+|\s+(?=(?:다만|근데|하지만)\s)",
    re.IGNORECASE,
)
# "Not only" denies nothing, a wait staff makes nobody wait, and "kind of" is not kind.
_IDIOM = re.compile(r"\b(?:not (?=only\b)|wait[ -](?=staff\b)|kind of\b)", re.IGNORECASE)
_HANGUL = re.compile("[가-힣]")
_WHOLE_ASPECTS = frozenset(("service", "price", "value", "food", "taste", "mood"))
_HEADS = {
    "service": frozenset(terms("service staff 서비스 직원 사장 사장님 응대")),
    "price": frozenset(terms("price prices 가격 가성비 값")),
    "food": frozenset(terms("food 음식 맛 요리")),
    "ambience": frozenset(terms("atmosphere ambience ambiance decor 분위기 인테리어")),
}


@dataclass(frozen=True, eq=False)
class Clause:
    """
    A sentence, or a clause of one.

    Attributes:
        text: As it stands in the review, white space joined.
        words: What its words say.
        opinion: Above 0 for praise, below for blame.
    """

    text: str
    words: tuple[AnalyzedWord, ...]
    opinion: int

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """The distinct stems, in their order."""
        return tuple(dict.fromkeys(stem for word in self.words for stem in word.stems))

    @cached_property
    def marks(self) -> tuple[tuple[str, str, float], ...]:
        """What it speaks of; several dishes are still one mention of food."""
        return tuple(dict.fromkeys(mark for word in self.words for mark in word.marks))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """What it can share with other reviews: stems, and the concepts that stand behind them."""
        return (*self.stems, *dict.fromkeys("concept:" + mark[1] for mark in self.marks))

    @cached_property
    def is_korean(self) -> bool:
        """Whether there is Hangul in it."""
        return bool(_HANGUL.search(self.text))

    @cached_property
    def width(self) -> int:
        """The length as it reads: a Hangul syllable holds as much as two letters."""
        return len(self.text) * 2 if self.is_korean else len(self.text)


@dataclass(frozen=True, eq=False)
class Sentence(Clause):
    """A sentence and its clauses."""

    clauses: tuple[Clause, ...]


def split(text: str) -> list[str]:
    """
    Return the sentences of a text, in printable form, white space joined.

    Signs alone (an emoji) make a sentence, what cannot be seen makes none. The tail of an endless
    text is not read.
    """
    found = sentences(_UNPRINTABLE.sub(" ", text[:_READABLE]))
    return [" ".join(one.split()) for one in found if _is_visible(one)]


def _is_visible(text: str) -> bool:
    return any(c.isprintable() and not c.isspace() for c in text)


def read_review(content: str, words: WordAnalyzer) -> tuple[Sentence, ...]:
    """Return the sentences of a review, with what they say."""
    return tuple(_read_sentence(text, words) for text in split(content))


def _read_sentence(text: str, words: WordAnalyzer) -> Sentence:
    clauses = tuple(_read_clause(part, words) for part in _CLAUSE.split(text) if part)
    read = tuple(word for clause in clauses for word in clause.words)
    return Sentence(text, read, sum(clause.opinion for clause in clauses), clauses)


def _read_clause(text: str, words: WordAnalyzer) -> Clause:
    read = tuple(map(words.read, _IDIOM.sub("", text).split()))
    return Clause(text, read, polarity(read))


class Topic:
    """
    An aspect, as a measure of what a piece has to do with it.

    Service, price, food and ambience, by whatever name, own all their words; a narrower name
    (drinks) owns those of its concept; of an unknown one only the name itself counts.
    """

    def __init__(self, aspect: str, words: WordAnalyzer) -> None:
        stems = dict.fromkeys(terms(aspect[:_LONGEST_NAME]))
        known = [concept for stem in stems if (concept := words.concept(stem))]
        self._families = frozenset(family for family, name in known if name in _WHOLE_ASPECTS)
        self._concepts = frozenset(name for _, name in known)
        self._stems = frozenset(() if self._families else stems)
        self._heads = frozenset(stem for family in self._families for stem in _HEADS[family])

    @property
    def family(self) -> str:
        """Which of service, price, food and ambience it is, or "" for none or several of them."""
        return next(iter(self._families)) if len(self._families) == 1 else ""

    @property
    def is_known(self) -> bool:
        """Whether there are words to tell a sentence about it from any other."""
        return bool(self._concepts)

    @property
    def heads(self) -> frozenset[str]:
        """The words that name it."""
        return self._heads | self._stems

    def weigh(self, piece: Clause) -> tuple[float, float]:
        """Return how much a piece is about the topic, and which part that is of all it is about."""
        own = float(sum(stem in self._stems for stem in piece.stems)) if self._stems else 0.0
        other = 0.0
        for family, concept, weight in piece.marks:
            if family in self._families or concept in self._concepts:
                own += weight
            else:
                other += weight
        return own, own / (own + other) if own else 1 / (1 + other)

"""Review sentences and clauses with concepts and polarity, and their relevance to an aspect (`Topic`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from ..._nlp.lexicon import AnalyzedWord, WordAnalyzer, polarity
from ..._nlp.terms import sentences, terms

_MAX_CHARACTERS = 20_000
_MAX_NAME_LENGTH = 100

# Control characters, direction overrides and lone surrogates break terminals and JSON parsers.
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
# Idioms whose words mislead: "not only" does not negate, "wait staff" is not waiting, "kind of" is not kind.
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
        text: The text as in the review, with normalized white space.
        words: The analyses of its words.
        polarity: Above 0 for praise, below 0 for blame.
    """

    text: str
    words: tuple[AnalyzedWord, ...]
    polarity: int

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """The distinct stems, in order."""
        return tuple(dict.fromkeys(stem for word in self.words for stem in word.stems))

    @cached_property
    def marks(self) -> tuple[tuple[str, str, float], ...]:
        """The distinct concepts with aspect and weight; several dishes are one mention of food."""
        return tuple(dict.fromkeys(mark for word in self.words for mark in word.marks))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The features to compare reviews by: stems, and their concepts."""
        return (*self.stems, *dict.fromkeys("concept:" + mark[1] for mark in self.marks))

    @cached_property
    def is_korean(self) -> bool:
        """Whether it contains Hangul."""
        return bool(_HANGUL.search(self.text))

    @cached_property
    def width(self) -> int:
        """The length by content: a Hangul syllable counts as two letters."""
        return len(self.text) * 2 if self.is_korean else len(self.text)


@dataclass(frozen=True, eq=False)
class Sentence(Clause):
    """A sentence and its clauses."""

    clauses: tuple[Clause, ...]


def split(text: str) -> list[str]:
    """
    Return the sentences of a text, without unprintable characters and with normalized white space.

    An emoji alone is a sentence; invisible text is not. Text beyond the first 20,000 characters is ignored.
    """
    found = sentences(_UNPRINTABLE.sub(" ", text[:_MAX_CHARACTERS]))
    return [" ".join(one.split()) for one in found if _is_visible(one)]


def _is_visible(text: str) -> bool:
    return any(c.isprintable() and not c.isspace() for c in text)


def read_review(content: str, words: WordAnalyzer) -> tuple[Sentence, ...]:
    """Return the analyzed sentences of a review."""
    return tuple(_read_sentence(text, words) for text in split(content))


def _read_sentence(text: str, words: WordAnalyzer) -> Sentence:
    clauses = tuple(_read_clause(part, words) for part in _CLAUSE.split(text) if part)
    read = tuple(word for clause in clauses for word in clause.words)
    return Sentence(text, read, sum(clause.polarity for clause in clauses), clauses)


def _read_clause(text: str, words: WordAnalyzer) -> Clause:
    read = tuple(map(words.read, _IDIOM.sub("", text).split()))
    return Clause(text, read, polarity(read))


class Topic:
    """
    An aspect, and how relevant a clause is to it.

    Service, price, food and ambience, by any of their names, match all of their words; a narrower name (drinks)
    matches the words of its concept; an unknown name matches itself only.
    """

    def __init__(self, aspect: str, words: WordAnalyzer) -> None:
        stems = dict.fromkeys(terms(aspect[:_MAX_NAME_LENGTH]))
        known = [concept for stem in stems if (concept := words.concept(stem))]
        self._families = frozenset(family for family, name in known if name in _WHOLE_ASPECTS)
        self._concepts = frozenset(name for _, name in known)
        self._stems = frozenset(() if self._families else stems)
        self._heads = frozenset(stem for family in self._families for stem in _HEADS[family])

    @property
    def family(self) -> str:
        """The aspect among service, price, food and ambience; "" for none or several of them."""
        return next(iter(self._families)) if len(self._families) == 1 else ""

    @property
    def is_known(self) -> bool:
        """Whether the lexicon has words for it."""
        return bool(self._concepts)

    @property
    def heads(self) -> frozenset[str]:
        """The stems that name it."""
        return self._heads | self._stems

    def weigh(self, clause: Clause) -> tuple[float, float]:
        """Return a clause's weight for the topic, and the share of that weight in all its concepts (purity)."""
        own = float(sum(stem in self._stems for stem in clause.stems)) if self._stems else 0.0
        other = 0.0
        for family, concept, weight in clause.marks:
            if family in self._families or concept in self._concepts:
                own += weight
            else:
                other += weight
        return own, own / (own + other) if own else 1 / (1 + other)

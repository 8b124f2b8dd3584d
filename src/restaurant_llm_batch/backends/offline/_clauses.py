"""Review sentences and clauses with concepts and polarity, and their relevance to an aspect (`Topic`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from ..._nlp.lexicon import AnalyzedWord, WordAnalyzer
from ..._nlp.opinions import opinions
from ..._nlp.terms import sentences, terms

_MAX_CHARACTERS = 20_000
_MAX_NAME_LENGTH = 100

# Control characters, direction overrides and lone surrogates break terminals and JSON parsers.
_UNPRINTABLE = re.compile(
    r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f"
    r"\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Syllables that end in ㄴ: the ending -ㄴ데 is written in them (싼데, 신데).
_N = "".join(chr(code) for code in range(ord("간"), ord("힣"), 28))
_CLAUSE = re.compile(
    r"(?<=[,;])\s+(?:(?:but|and|though|although|while|yet|however|so)\s+)?"
    r"|\.\.+\s*|--+\s*|\s[-\u2013\u2014]+\s"
    r"|\s+(?:but|although|though|while|however)\s+"
    r"|\s+and\s+(?=(?:the|our|we|my|they|it|i|service|food|staff)\b)"
    rf"|(?<=[{_N}]데)\s+|(?<=지만)\s+|(?<=으나)\s+|(?<=[어아해]도)\s+|(?<=더니)\s+|(?<=길래)\s+"
    r"|(?<=[가-힣]고)(?<![최창광참다라자냐]고)\s+(?!싶)|\s+(?=(?:다만|근데|하지만)\s)",
    re.IGNORECASE,
)
# Idioms whose words mislead: "not only" does not negate, "wait staff" is not waiting, "kind of" is not kind.
_IDIOM = re.compile(r"\b(?:not (?=only\b)|wait[ -](?=staff\b)|kind of\b)", re.IGNORECASE)
# Where the halves of a sentence meet. "While" and "although" open a half, so that nothing is lost if they are left out.
_CONTRAST = re.compile(
    r"(?:[,;]\s+|\s+)(?:but|yet|however|though|although|while)\s+"
    rf"|(?<=[{_N}]데)\s+|(?<=지만)\s+",
    re.IGNORECASE,
)
# What takes a half back: hearsay, expectation, the past, a condition, a comparison. A sentence with one is never cut.
_TURNS = re.compile(
    r"다[고는던더]|라[고는던더]|[줄까]\s|거라|것\s?같|예전|처음|옛날|전에|원래|기대|걱정|소문|면\s|텐데|보다\s|싶었|보였"
    r"|\b(?:if|unless|until|would|could|should|might|may|expect(?:ed|ing)?|thought|hoped?|hoping|fear(?:ed)?|heard|read"
    r"|says?|said|told|claims?|supposed|used to|once|wish|want(?:ed)?|looks?|looked|seem(?:s|ed)?|than|ever|anymore"
    r"|before|reviews?|wanting)\b",
    re.IGNORECASE,
)
# Words that refer to the other half, and endings that want one.
_REFERS = re.compile(
    r"(?:it|they|he|she|that|this|those|these|so|then|그것?도?|그게|그건|그거|그땐?|그때는?|이것?도?|이게|거기|여기)\b"
    r"|.*\b(?:it|them|one|ones|that)[.!]*$|.*[가-힣](?:니까|[아어해]서|고|면)[.!~]*$",
    re.IGNORECASE | re.DOTALL,
)
_HALVES = 2
_CLEAR_WEIGHT = 0.5
_HANGUL = re.compile("[가-힣]")
_LOOK_BACK = 60
_POLITE = re.compile("[요다]$")
_IRONY = re.compile(r"(?:^|\s)참\s\S{1,5}도\s|[빨잘]\S?도\s\S{1,6}네요$")
_AFTERTHOUGHT = re.compile(
    r"(?:[가-힣]{1,5}\s){0,2}[가-힣]{1,6}(?:에|에서|에도|이랑|까지|한테|으로|은|는|도)[.!~]?"
)
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
        turned: Whether a negation or another clause turns one of its words round.
        blames: Whether any part of it blames, even if others praise more.
    """

    text: str
    words: tuple[AnalyzedWord, ...]
    polarity: int
    turned: bool
    blames: bool

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """The clauses to read aspects and polarity from; one alone may say the opposite of the whole."""
        return (self,)

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
class Passage(Clause):
    """A text of several clauses."""

    parts: tuple[Clause, ...]

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """The clauses to read aspects and polarity from; one alone may say the opposite of the whole."""
        return self.parts


@dataclass(frozen=True, eq=False)
class Sentence(Passage):
    """
    A sentence.

    Attributes:
        quotable: The parts that may be quoted alone; the whole sentence if no cut in it is safe.
    """

    quotable: tuple[Clause, ...]


def split(text: str) -> list[str]:
    """
    Return the sentences of a text, without unprintable characters and with normalized white space.

    An emoji alone is a sentence; invisible text is not. Text beyond the first 20,000 characters is ignored.
    """
    found = sentences(_UNPRINTABLE.sub(" ", text[:_MAX_CHARACTERS]))
    visible = [" ".join(one.split()) for one in found if _is_visible(one)]
    joined: list[str] = []
    for one in visible:
        # Irony, and an afterthought without a verb, belong to the sentence beside them if no full stop is between.
        before = joined[-1][-_LOOK_BACK:] if joined else ""
        if _POLITE.search(before) and (_IRONY.search(before) or _AFTERTHOUGHT.fullmatch(one)):
            joined[-1] += " " + one
        else:
            joined.append(one)
    return joined


def _is_visible(text: str) -> bool:
    return any(c.isprintable() and not c.isspace() for c in text)


def read_review(content: str, words: WordAnalyzer) -> tuple[Sentence, ...]:
    """Return the analyzed sentences of a review."""
    return tuple(_read_sentence(text, words) for text in split(content))


def _read_sentence(text: str, words: WordAnalyzer) -> Sentence:
    whole = _read_passage(text, words)
    quotable = _halves(text, words) or (whole,)
    return Sentence(text, whole.words, whole.polarity, whole.turned, whole.blames, whole.clauses, quotable)


def split_clauses(sentence: str) -> list[str]:
    """Return the texts of a sentence's clauses, without the words between them."""
    return [part for part in _CLAUSE.split(sentence) if part]


def _read_passage(text: str, words: WordAnalyzer) -> Passage:
    parts = split_clauses(text)
    clauses = tuple(
        Clause(
            part, words.read_clause(_IDIOM.sub("", part)), opinion.polarity, opinion.turned, opinion.blames
        )
        for part, opinion in zip(parts, opinions(parts), strict=True)
    )
    read = tuple(word for clause in clauses for word in clause.words)
    turned, blames = any(clause.turned for clause in clauses), any(clause.blames for clause in clauses)
    return Passage(text, read, sum(clause.polarity for clause in clauses), turned, blames, clauses)


def _halves(text: str, words: WordAnalyzer) -> tuple[Clause, ...]:
    """Return the halves of a sentence with one contrast ("but", -지만, -는데), if each may be quoted alone."""
    parts = [part.strip(" ,;") for part in _CONTRAST.split(text, _HALVES)]
    if len(parts) != _HALVES or _TURNS.search(text):
        return ()
    first, second = (_read_passage(part, words) for part in parts)
    safe = _stands_alone(first) and _stands_alone(second) and not _families(first) & _families(second)
    return (first, second) if safe else ()


def _stands_alone(half: Clause) -> bool:
    """Return whether a half has an opinion, and an aspect that the opinion is about."""
    return bool(half.polarity and _families(half)) and not _REFERS.match(half.text)


def _families(clause: Clause) -> set[str]:
    return {family for family, _, weight in clause.marks if weight >= _CLEAR_WEIGHT}


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

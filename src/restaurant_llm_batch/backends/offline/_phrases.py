"""
Phrase extraction: collocations (word sequences that occur at least twice) and adjective-noun pairs.

There is no dictionary, so each phrase comes with the sentence that contains it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..._nlp.lexicon import WordAnalyzer
from ..._nlp.reading import word_set
from ..._nlp.tokenizer import WordToken
from ._extract import truncate

_MAX_PHRASES, _MIN_PHRASES = 15, 6
_MAX_PHRASE_WORDS, _MIN_OCCURRENCES = 4, 2
_MAX_USAGE_LENGTH, _MAX_LEAD = 120, 40

# Function words that are allowed inside a phrase: bang for the buck.
_LINKS = word_set("of and the a an to for in with on by n")
_ENGLISH = frozenset(
    (("adj", "n"), ("n", "n"), ("v", "n"), ("adv", "adj"), ("adv", "v"), ("v", "adv"), ("v", "adj"))
)
# Particles between a Korean noun and its adjective (subjects), or its verb (objects).
_SUBJECTS = frozenset(("", "이", "가", "은", "는", "도", "만", "까지", "들", "들이", "들은"))
_OBJECTS = frozenset(("을", "를", "에", "로", "으로"))
# Degree adverbs, allowed between a Korean noun and its adjective: 국물 진짜 진하고.
_DEGREES = word_set("정말 진짜 너무 아주 매우 완전 참 좀 조금 많이 제일 가장 꽤 엄청")

Span = tuple[int, int]
"""The indices of the first and the last token."""


class PhraseFinder:
    """Finds the phrases of a text."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._words = words

    def phrases(self, sentences: Sequence[str], tokens: Sequence[WordToken]) -> list[tuple[str, str, str]]:
        """
        Return sequences of words that occur at least twice; if there are few, also adjectives with their nouns.

        Args:
            sentences: The sentences of the text.
            tokens: The tokens of the text.

        Returns:
            Each phrase as it first occurs in the text, with the part of its sentence around it, and the sentence.
        """
        spans = _repeated(tokens)[:_MAX_PHRASES]
        if len(spans) < _MIN_PHRASES:
            spans += self._pairs(tokens, spans)[: _MIN_PHRASES - len(spans)]
        found: dict[str, tuple[str, str, str]] = {}
        for first, last in spans:
            sentence, start, end = sentences[tokens[first].sentence], tokens[first].start, tokens[last].end
            phrase = sentence[start:end]
            found.setdefault(phrase, (phrase, _usage(sentence, start, end), sentence))
        return list(found.values())

    def _pairs(self, tokens: Sequence[WordToken], spans: Sequence[Span]) -> list[Span]:
        """Return adjectives next to their nouns, those in the lexicon first."""
        taken = {i for first, last in spans for i in range(first, last + 1)}
        found: dict[tuple[str, str], tuple[int, Span]] = {}
        for first, last in _neighbours(tokens):
            one, other = tokens[first], tokens[last]
            if taken.isdisjoint((first, last)) and _is_pair(one, other):
                known = self._is_known(one.form) + self._is_known(other.form)
                found.setdefault((one.stem, other.stem), (known, (first, last)))
        return [span for _, span in sorted(found.values(), key=lambda pair: (-pair[0], pair[1]))]

    def _is_known(self, form: str) -> bool:
        word = self._words.read(form)
        return bool(word.marks or word.polarity)


def _repeated(tokens: Sequence[WordToken]) -> list[Span]:
    """Return sequences of words that occur at least twice, the most frequent first."""
    positions: dict[tuple[str, ...], list[int]] = {}
    for first, token in enumerate(tokens):
        if token.analysis:
            for key in _keys(token, tokens[first + 1 : first + _MAX_PHRASE_WORDS]):
                positions.setdefault(key, []).append(first)
    frequent = {key: found for key, found in positions.items() if len(found) >= _MIN_OCCURRENCES}
    for key, found in list(frequent.items()):
        # Drop subsequences without occurrences of their own: "good value" within "good value for money".
        for part in _parts(key):
            if len(frequent.get(part, ())) <= len(found):
                frequent.pop(part, None)
    ranked = sorted(frequent.items(), key=lambda one: (-len(one[1]), -len(one[0]), one[1][0]))
    return [(found[0], found[0] + len(key) - 1) for key, found in ranked]


def _keys(first: WordToken, after: Sequence[WordToken]) -> Iterator[tuple[str, ...]]:
    """Yield the stems of each phrase that starts with a token."""
    key, last = [first.stem], first
    for token in after:
        if not token.follows:
            return
        key.append(token.stem)
        if token.analysis:
            if not _binds(last, token):
                return
            last = token
            if len(set(key)) == len(key):
                yield tuple(key)
        elif token.form not in _LINKS:
            return


def _parts(key: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for size in range(2, len(key)):
        for start in range(len(key) - size + 1):
            yield key[start : start + size]


def _neighbours(tokens: Sequence[WordToken]) -> Iterator[Span]:
    """Yield adjacent words, also with a degree adverb between them."""
    for i in range(len(tokens) - 1):
        if not tokens[i + 1].follows:
            continue
        yield i, i + 1
        if i + 2 < len(tokens) and tokens[i + 1].form in _DEGREES and tokens[i + 2].follows:
            yield i, i + 2


def _is_pair(one: WordToken, other: WordToken) -> bool:
    if one.analysis is None or other.analysis is None:
        return False
    pair = (one.analysis.pos, other.analysis.pos)
    return (pair == ("adj", "n") or (pair == ("n", "adj") and one.is_korean)) and _binds(one, other)


def _binds(one: WordToken, other: WordToken) -> bool:
    """Return whether a word and the next one can form a phrase, by part of speech and particle."""
    if one.analysis is None or other.analysis is None or one.is_korean != other.is_korean:
        return False
    pos, next_pos = one.analysis.pos, other.analysis.pos
    if not one.is_korean:
        return (pos, next_pos) in _ENGLISH
    if pos == "n":
        tail = one.form[len(one.analysis.word) :]
        if next_pos == "n":
            return tail in ("", "의")
        return tail in _SUBJECTS or (next_pos == "v" and tail in _OBJECTS)
    if pos == "adv":
        return next_pos in ("adj", "v")
    return next_pos == "n" and _describes(one.form)


def _describes(form: str) -> bool:
    # Adnominal forms (진한, 좋은, 매운) end in ㄴ; so do 좋으면 and 좋지만, which are not adnominal.
    return (ord(form[-1]) - ord("가")) % 28 == 4 and form[-1] not in "면만"


def _usage(sentence: str, start: int, end: int) -> str:
    """Return the sentence, or the part around the phrase if it is too long."""
    if end < _MAX_USAGE_LENGTH:
        return truncate(sentence, _MAX_USAGE_LENGTH)
    lead = sentence.rfind(" ", 0, max(1, start - _MAX_LEAD)) + 1
    return "…" + truncate(sentence[lead:], _MAX_USAGE_LENGTH - 1)

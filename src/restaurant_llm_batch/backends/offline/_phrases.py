"""
The phrases of a text: words that stand together, as they stand.

There is no dictionary here, so a phrase comes with the sentence that it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..._nlp.lexicon import WordAnalyzer
from ..._nlp.reading import listed
from ..._nlp.tokenizer import WordToken
from ._extract import trim

_MOST, _ENOUGH = 15, 6
_LONGEST, _TWICE = 4, 2
_LONGEST_USAGE, _LEAD = 120, 40

# What may stand inside a phrase though it says nothing by itself: bang for the buck.
_LINKS = listed("of and the a an to for in with on by n")
_ENGLISH = frozenset(
    (("adj", "n"), ("n", "n"), ("v", "n"), ("adv", "adj"), ("adv", "v"), ("v", "adv"), ("v", "adj"))
)
# The particles that tie a Korean noun to the adjective after it, and to the verb.
_SUBJECTS = frozenset(("", "이", "가", "은", "는", "도", "만", "까지", "들", "들이", "들은"))
_OBJECTS = frozenset(("을", "를", "에", "로", "으로"))
# What may stand between a Korean noun and its adjective: 국물 진짜 진하고.
_DEGREES = listed("정말 진짜 너무 아주 매우 완전 참 좀 조금 많이 제일 가장 꽤 엄청")

Span = tuple[int, int]
"""The numbers of the first and the last token."""


class PhraseFinder:
    """Finds the phrases of a text."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._words = words

    def phrases(self, sentences: Sequence[str], tokens: Sequence[WordToken]) -> list[tuple[str, str]]:
        """
        Return words that stand together at least twice; where few do, adjectives with their nouns.

        Args:
            sentences: The text.
            tokens: Its words.

        Returns:
            Each phrase as it first stands in the text, with the sentence it stands in.
        """
        spans = _repeated(tokens)[:_MOST]
        if len(spans) < _ENOUGH:
            spans += self._pairs(tokens, spans)[: _ENOUGH - len(spans)]
        found: dict[str, str] = {}
        for first, last in spans:
            sentence, start, end = sentences[tokens[first].sentence], tokens[first].start, tokens[last].end
            found.setdefault(sentence[start:end], _usage(sentence, start, end))
        return list(found.items())

    def _pairs(self, tokens: Sequence[WordToken], spans: Sequence[Span]) -> list[Span]:
        """Return the adjectives that stand beside their nouns, those that the lexicon knows first."""
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
    """Return words that stand together at least twice, the most frequent first."""
    places: dict[tuple[str, ...], list[int]] = {}
    for first, token in enumerate(tokens):
        if token.reading:
            for key in _keys(token, tokens[first + 1 : first + _LONGEST]):
                places.setdefault(key, []).append(first)
    often = {key: found for key, found in places.items() if len(found) >= _TWICE}
    for key, found in list(often.items()):
        # "good value for money" makes "good value" and "value for money" say nothing new.
        for part in _parts(key):
            if len(often.get(part, ())) <= len(found):
                often.pop(part, None)
    ranked = sorted(often.items(), key=lambda one: (-len(one[1]), -len(one[0]), one[1][0]))
    return [(found[0], found[0] + len(key) - 1) for key, found in ranked]


def _keys(first: WordToken, after: Sequence[WordToken]) -> Iterator[tuple[str, ...]]:
    """Yield the stems of the phrases that start with a token."""
    key, last = [first.stem], first
    for token in after:
        if not token.follows:
            return
        key.append(token.stem)
        if token.reading:
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
    """Yield the words that stand side by side, or with a degree between."""
    for i in range(len(tokens) - 1):
        if not tokens[i + 1].follows:
            continue
        yield i, i + 1
        if i + 2 < len(tokens) and tokens[i + 1].form in _DEGREES and tokens[i + 2].follows:
            yield i, i + 2


def _is_pair(one: WordToken, other: WordToken) -> bool:
    if one.reading is None or other.reading is None:
        return False
    pair = (one.reading.pos, other.reading.pos)
    return (pair == ("adj", "n") or (pair == ("n", "adj") and one.is_korean)) and _binds(one, other)


def _binds(one: WordToken, other: WordToken) -> bool:
    """Tell whether a word and the next one can make a phrase."""
    if one.reading is None or other.reading is None or one.is_korean != other.is_korean:
        return False
    pos, next_pos = one.reading.pos, other.reading.pos
    if not one.is_korean:
        return (pos, next_pos) in _ENGLISH
    if pos == "n":
        tail = one.form[len(one.reading.word) :]
        if next_pos == "n":
            return tail in ("", "의")
        return tail in _SUBJECTS or (next_pos == "v" and tail in _OBJECTS)
    if pos == "adv":
        return next_pos in ("adj", "v")
    return next_pos == "n" and _describes(one.form)


def _describes(form: str) -> bool:
    # 진한, 좋은, 매운: what describes a noun before it ends in ㄴ; 좋으면 and 좋지만 do so by chance.
    return (ord(form[-1]) - ord("가")) % 28 == 4 and form[-1] not in "면만"


def _usage(sentence: str, start: int, end: int) -> str:
    """Return the sentence; of one too long, the part around the phrase."""
    if end < _LONGEST_USAGE:
        return trim(sentence, _LONGEST_USAGE)
    lead = sentence.rfind(" ", 0, max(1, start - _LEAD)) + 1
    return "…" + trim(sentence[lead:], _LONGEST_USAGE - 1)

"""
Extraction: which sentences of the reviews say best what they say about an aspect.

Everything is counted from the reviews at hand, sums run in the order of the text, and ties go to
the earlier sentence, so that equal reviews give equal answers, whatever the seed of the hashes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..._nlp.terms import terms
from ._clauses import Clause, Sentence, Topic

MAX_SENTENCE_LENGTH = 160
_LONGEST_BULLET, _MOST_BULLETS, _FEW_BULLETS = 100, 4, 2
_MENTION, _CLEAR = 0.5, 0.4
_SENTENCE_WIDTHS, _CLAUSE_WIDTHS = (30, 140), (16, 80)

# What they refer to stays behind in the review.
_DANGLING = re.compile(
    r"(?:but|and|so|they|he|she|it|this|that|these|however|also|other than|then|"
    r"while|although|if|when|근데|다만|하지만|그리고|그래서|그거|그래도|또)\b"
    r"|.*(?:[는은한인던운된]데|지만)$"
    r"|.*\b(?:it|them|those|there)[.!]*$",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class ExtractedSummary:
    """
    What was extracted for one aspect.

    Attributes:
        summary: One sentence.
        bullets: Clauses that add to it.
        evidence: Positions of the reviews that all this was taken from; the summary's first.
        also: The second best sentence, or "".
        on_topic: Whether any sentence speaks of the aspect.
    """

    summary: str
    bullets: tuple[str, ...]
    evidence: tuple[int, ...]
    also: str
    on_topic: bool


class _ScoredClause:
    """A piece of one review, with what it is worth to one aspect."""

    __slots__ = ("opinion", "piece", "purity", "review", "score", "weight")

    def __init__(self, piece: Clause, review: int, topic: Topic) -> None:
        self.piece, self.review = piece, review
        self.weight, self.purity = topic.weigh(piece)
        self.opinion = piece.opinion
        self.score = 0.0


def extract(
    reviews: Sequence[Sequence[Sentence]],
    topic: Topic,
    language: str = "",
) -> ExtractedSummary | None:
    """
    Pick what the reviews say about a topic.

    Args:
        reviews: The sentences of each review.
        topic: What to look for.
        language: "ko" or "en" to prefer the sentences of that language where there are others.

    Returns:
        What was found, or None when there is nothing to find: no review holds any text, or none
        speaks of a topic that there are words for.
    """
    everything = [_ScoredClause(s, i, topic) for i, review in enumerate(reviews) for s in review]
    told = [c for c in everything if c.weight >= _MENTION]
    chosen = told or ([] if topic.is_known else everything)
    if not chosen:
        return None
    clauses = [[_ScoredClause(p, c.review, topic) for p in _clauses(c.piece)] for c in chosen]
    _score(chosen, clauses, topic, language)
    first, *rest = sorted(chosen, key=lambda c: -c.score)
    loose = (c for group in clauses for c in group)
    points = [c for c in loose if _is_point(c, bool(told), topic)]
    bullets = _bullets(first.piece, points, topic)
    also = next((c for c in rest if not _same(c.piece, first.piece, topic)), None)
    return ExtractedSummary(
        trim(first.piece.text, MAX_SENTENCE_LENGTH),
        tuple(_as_bullet(c.piece.text) for c in bullets),
        tuple(dict.fromkeys((first.review, *(c.review for c in bullets)))),
        trim(also.piece.text, MAX_SENTENCE_LENGTH) if also else "",
        bool(told),
    )


def _clauses(piece: Clause) -> tuple[Clause, ...]:
    return piece.clauses if isinstance(piece, Sentence) else (piece,)


def _score(
    chosen: list[_ScoredClause],
    clauses: list[list[_ScoredClause]],
    topic: Topic,
    language: str,
) -> None:
    """Set the scores of sentences and clauses."""
    for candidate, parts in zip(chosen, clauses, strict=True):
        # What a mixed sentence thinks of the topic is what its clauses about the topic think.
        about = sum(part.opinion for part in parts if part.weight)
        candidate.opinion = about or candidate.opinion
    signs = [_sign(c.opinion) for c in chosen]
    mood = sum(signs) / (sum(map(abs, signs)) or 1)
    shared = _sharing(chosen)
    loose = [c for group in clauses for c in group]
    for group, widths in ((chosen, _SENTENCE_WIDTHS), (loose, _CLAUSE_WIDTHS)):
        common = [shared(c) for c in group]
        # A sentence of dots alone has no clauses.
        most = max(common, default=0.0) or 1.0
        for c, part in zip(group, common, strict=True):
            c.score = part / most + 1.5 * c.purity + min(c.weight, 1.5) / 2 + _form(c.piece, widths)
            c.score += 0.5 * bool(c.opinion) + 1.0 * mood * _sign(c.opinion)
            c.score += 0.5 * (not topic.heads.isdisjoint(c.piece.stems))
            c.score -= 0.75 * (bool(language) and c.piece.is_korean != (language == "ko"))


def _sharing(candidates: list[_ScoredClause]) -> Callable[[_ScoredClause], float]:
    """Return the measure of what a piece has in common with the other reviews."""
    told = dict.fromkeys((c.review, f) for c in candidates for f in c.piece.features)
    seen = Counter(feature for _, feature in told)

    def shared(candidate: _ScoredClause) -> float:
        features = candidate.piece.features
        return float(sum(max(0, seen[f] - 1) for f in features) / (len(features) + 2) ** 0.75)

    return shared


def _form(piece: Clause, widths: tuple[int, int]) -> float:
    shortest, longest = widths
    loss = max(0.0, 1 - piece.width / shortest) + min(2.0, max(0.0, piece.width / longest - 1))
    loss += 0.75 * bool(_DANGLING.match(piece.text)) + 0.25 * piece.text.isupper()
    return -loss - 0.5 * piece.text.rstrip("\"'”").endswith("?")


def _is_point(candidate: _ScoredClause, told: bool, topic: Topic) -> bool:
    """Tell whether a clause says enough to stand alone, about the topic where any does."""
    piece = candidate.piece
    if told and (candidate.weight < _MENTION or candidate.purity < _CLEAR):
        return False
    if len(piece.words) < 2 and not (piece.is_korean and len(piece.text) > 3):
        return False
    return any(stem not in topic.heads for stem in piece.stems)


def _bullets(summary: Clause, points: list[_ScoredClause], topic: Topic) -> list[_ScoredClause]:
    """Choose the clauses that add to the summary; where opinions differ, from both sides."""
    ranked = sorted(points, key=lambda c: -c.score)
    likes = [c for c in ranked if c.opinion > 0]
    blames = [c for c in ranked if c.opinion < 0]
    chosen: list[_ScoredClause] = []
    for side in (likes, blames):
        chosen += _distinct(side, [summary], topic, 1)
    sides = len(chosen)
    said = [summary, *(c.piece for c in chosen)]
    chosen += _distinct(likes + blames, said, topic, _MOST_BULLETS - sides)
    if len(chosen) < _FEW_BULLETS:
        said = [summary, *(c.piece for c in chosen)]
        chosen += _distinct(ranked, said, topic, _FEW_BULLETS - len(chosen))
    return sorted(chosen, key=lambda c: -c.score)


def _distinct(
    ranked: Iterable[_ScoredClause],
    said: Sequence[Clause],
    topic: Topic,
    most: int,
) -> list[_ScoredClause]:
    """Return the first candidates that say something new."""
    known, chosen = list(said), list[_ScoredClause]()
    for c in ranked:
        if len(chosen) == most:
            break
        if not any(_same(c.piece, piece, topic) for piece in known):
            chosen.append(c)
            known.append(c.piece)
    return chosen


def _same(one: Clause, other: Clause, topic: Topic) -> bool:
    """Tell whether two pieces say mostly the same, the name of the topic aside."""
    if one.text in other.text or other.text in one.text:
        return True
    mine = [stem for stem in one.stems if stem not in topic.heads]
    its = {stem for stem in other.stems if stem not in topic.heads}
    if not mine or not its:
        return one.stems == other.stems
    return 2 * sum(stem in its for stem in mine) > min(len(mine), len(its))


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _as_bullet(text: str) -> str:
    text = trim(text.strip(" ,;-\u2013\u2014").lstrip("."), _LONGEST_BULLET)
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    return text[:1].upper() + text[1:]


def trim(text: str, longest: int) -> str:
    """Return `text`, cut before a word and marked where it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    cut = text[: longest - 1]
    whole = cut.rsplit(" ", 1)[0] if text[longest - 1] != " " else cut
    return (whole if len(whole) > longest // 2 else cut).rstrip(" ,;:-\u200d") + "…"


_MOST_SENTENCES, _LEAST_SENTENCES = 3, 2


def joined(texts: Sequence[str], more: Sequence[str]) -> str:
    """
    Join two or three sentences that differ, each with a capital and an end.

    Args:
        texts: What should be said, the most important first.
        more: What may be added where `texts` hold too little.

    Returns:
        The text; empty where all texts are.
    """
    chosen = distinct(texts, _MOST_SENTENCES)
    if len(chosen) < _LEAST_SENTENCES:
        # Better two sentences that are much alike than one alone.
        found = dict.fromkeys([*distinct([*chosen, *more], _LEAST_SENTENCES), *texts, *more])
        chosen = list(filter(None, found))[:_LEAST_SENTENCES]
    tidy = (trim(text[:1].upper() + text[1:].rstrip(" ,;-"), MAX_SENTENCE_LENGTH) for text in chosen)
    return " ".join(text + "." if _is_open(text[-1]) else text for text in tidy)


def distinct(texts: Iterable[str], most: int) -> list[str]:
    """Return the first ones that are not empty and do not mostly repeat an earlier one."""
    kept: list[str] = []
    said: list[frozenset[str]] = []
    for text in texts:
        if len(kept) == most:
            break
        stems = frozenset(terms(text))
        if text and text not in kept and not any(_overlap(stems, other) for other in said):
            kept.append(text)
            said.append(stems)
    return kept


def repeats(text: str, others: Iterable[str]) -> bool:
    """Tell whether a sentence says mostly what one of the others says."""
    stems = frozenset(terms(text))
    return any(_overlap(stems, frozenset(terms(other))) for other in others)


def _overlap(some: frozenset[str], other: frozenset[str]) -> bool:
    return 2 * len(some & other) > min(len(some), len(other))


def _is_open(last: str) -> bool:
    # Korean laughter (ㅋㅋ, ㅎㅎ) and tears end a sentence as well as a full stop does.
    return last.isalnum() and not "ㄱ" <= last <= "ㆎ"

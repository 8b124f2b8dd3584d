"""
Extractive summarization: select the sentences and clauses that represent best what reviews say about an aspect.

Each sentence is scored by what it shares with other reviews (centroid-style), its relevance to the aspect, its
polarity and its form. Deterministic for any hash seed: sums run in text order, and ties go to the earlier
sentence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..._nlp.terms import terms
from ._clauses import Clause, Sentence, Topic

MAX_SENTENCE_LENGTH = 160
_MAX_BULLETS, _MIN_BULLETS = 4, 2
_MENTION, _CLEAR = 0.5, 0.4
"""Minimum weight of a sentence that mentions a topic, and minimum purity of a clause that is clearly about it."""
_SENTENCE_WIDTHS, _CLAUSE_WIDTHS = (30, 140), (16, 80)

# Clauses that refer to text outside of them, and are not understandable alone.
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
    The extracted summary of one aspect.

    Attributes:
        summary: The best sentence.
        bullets: Clauses that add to it.
        evidence: Indices of the reviews that summary and bullets are from; the summary's first.
        also: The second best sentence, or "".
        on_topic: Whether any sentence mentions the aspect.
    """

    summary: str
    bullets: tuple[str, ...]
    evidence: tuple[int, ...]
    also: str
    on_topic: bool


def polarity_of(clause: Clause, topic: Topic) -> int:
    """Return the polarity of a text's clauses about a topic: above 0 for praise, below 0 for blame."""
    return sum(part.polarity for part in clause.clauses if topic.weigh(part)[0])


def opinion_of(review: Sequence[Sentence], topic: Topic) -> int:
    """
    Return how a review speaks of a topic: above 0 for praise, below 0 for blame, 0 if it does not.

    Each sentence that mentions the topic counts once: by its clauses about it, or as a whole if these say nothing and
    it is clearly about the topic.
    """
    total = 0
    for sentence in review:
        weight, purity = topic.weigh(sentence)
        if weight >= _MENTION:
            whole = sentence.polarity if purity >= _CLEAR else 0
            total += _sign(polarity_of(sentence, topic) or whole)
    return total


class _ScoredClause:
    """A clause of one review, with its relevance to one aspect and its score."""

    __slots__ = ("clause", "polarity", "purity", "review", "score", "weight")

    def __init__(self, clause: Clause, review: int, topic: Topic) -> None:
        self.clause, self.review = clause, review
        self.weight, self.purity = topic.weigh(clause)
        # The polarity of a mixed sentence toward the topic is that of its clauses about the topic.
        self.polarity = polarity_of(clause, topic) or clause.polarity
        self.score = 0.0


def extract(
    reviews: Sequence[Sequence[Sentence]],
    topic: Topic,
    language: str = "",
) -> ExtractedSummary | None:
    """
    Extract what reviews say about a topic.

    Args:
        reviews: The sentences of each review.
        topic: The topic.
        language: "ko" or "en" to prefer sentences of that language.

    Returns:
        The summary; None if no review has text, or none mentions a topic that the lexicon has words for.
    """
    everything = [
        _ScoredClause(text, number, topic)
        for number, review in enumerate(reviews)
        for sentence in review
        for text in _short(sentence)
    ]
    mentions = [c for c in everything if c.weight >= _MENTION]
    chosen = mentions or ([] if topic.is_known else everything)
    if not chosen:
        return None
    pieces = [_ScoredClause(p, c.review, topic) for c in chosen for p in _quotable(c.clause)]
    _score(chosen, pieces, topic, language)
    first, *rest = sorted(chosen, key=lambda c: -c.score)
    points = [c for c in pieces if _is_point(c, bool(mentions), topic)]
    bullets = _bullets(first.clause, points, topic)
    also = next((c for c in rest if not _same(c.clause, first.clause, topic)), None)
    return ExtractedSummary(
        truncate(first.clause.text, MAX_SENTENCE_LENGTH),
        tuple(_as_bullet(c.clause.text) for c in bullets),
        tuple(dict.fromkeys((first.review, *(c.review for c in bullets)))),
        truncate(also.clause.text, MAX_SENTENCE_LENGTH) if also else "",
        bool(mentions),
    )


def _quotable(clause: Clause) -> tuple[Clause, ...]:
    return clause.quotable if isinstance(clause, Sentence) else (clause,)


def _short(sentence: Sentence) -> tuple[Clause, ...]:
    """Return the sentence, or its quotable parts if it is too long to be quoted whole."""
    return (sentence,) if len(sentence.text) <= MAX_SENTENCE_LENGTH else sentence.quotable


def _score(
    chosen: list[_ScoredClause],
    pieces: list[_ScoredClause],
    topic: Topic,
    language: str,
) -> None:
    """Set the scores of sentences and of their quotable parts."""
    signs = [_sign(c.polarity) for c in chosen]
    overall_polarity = sum(signs) / (sum(map(abs, signs)) or 1)
    shared = _shared_features(chosen)
    for group, widths in ((chosen, _SENTENCE_WIDTHS), (pieces, _CLAUSE_WIDTHS)):
        common = [shared(c) for c in group]
        # A sentence that is only dots has no clauses.
        max_shared = max(common, default=0.0) or 1.0
        for c, part in zip(group, common, strict=True):
            c.score = (
                part / max_shared + 1.5 * c.purity + min(c.weight, 1.5) / 2 + _form_score(c.clause, widths)
            )
            c.score += 0.5 * bool(c.polarity) + 1.0 * overall_polarity * _sign(c.polarity)
            c.score += 0.5 * (not topic.heads.isdisjoint(c.clause.stems))
            c.score -= 0.75 * (bool(language) and c.clause.is_korean != (language == "ko"))


def _shared_features(candidates: list[_ScoredClause]) -> Callable[[_ScoredClause], float]:
    """Return a function that scores what a clause has in common with other reviews."""
    by_review = dict.fromkeys((c.review, f) for c in candidates for f in c.clause.features)
    review_counts = Counter(feature for _, feature in by_review)

    def shared(candidate: _ScoredClause) -> float:
        features = candidate.clause.features
        return float(sum(max(0, review_counts[f] - 1) for f in features) / (len(features) + 2) ** 0.75)

    return shared


def _form_score(clause: Clause, widths: tuple[int, int]) -> float:
    """Return a penalty, 0 or below, for clauses that are too short or long, dangling, in capitals, or questions."""
    shortest, longest = widths
    loss = max(0.0, 1 - clause.width / shortest) + min(2.0, max(0.0, clause.width / longest - 1))
    loss += 0.75 * bool(_DANGLING.match(clause.text)) + 0.25 * clause.text.isupper()
    return -loss - 0.5 * clause.text.rstrip("\"'”").endswith("?")


def _is_point(candidate: _ScoredClause, on_topic: bool, topic: Topic) -> bool:
    """Return whether a text can be a bullet: short, informative alone and, if `on_topic`, clearly about the topic."""
    clause = candidate.clause
    # A cut text could say the opposite, so a long one is no bullet.
    if len(clause.text) > MAX_SENTENCE_LENGTH:
        return False
    if on_topic and (candidate.weight < _MENTION or candidate.purity < _CLEAR):
        return False
    if len(clause.words) < 2 and not (clause.is_korean and len(clause.text) > 3):
        return False
    return any(stem not in topic.heads for stem in clause.stems)


def _bullets(summary: Clause, points: list[_ScoredClause], topic: Topic) -> list[_ScoredClause]:
    """Choose clauses that add to the summary; of both polarities if reviews disagree."""
    ranked = sorted(points, key=lambda c: -c.score)
    praises = [c for c in ranked if c.polarity > 0]
    complaints = [c for c in ranked if c.polarity < 0]
    chosen: list[_ScoredClause] = []
    for side in (praises, complaints):
        chosen += _distinct(side, [summary], topic, 1)
    both = len(chosen)
    previous = [summary, *(c.clause for c in chosen)]
    chosen += _distinct(praises + complaints, previous, topic, _MAX_BULLETS - both)
    if len(chosen) < _MIN_BULLETS:
        previous = [summary, *(c.clause for c in chosen)]
        chosen += _distinct(ranked, previous, topic, _MIN_BULLETS - len(chosen))
    return sorted(chosen, key=lambda c: -c.score)


def _distinct(
    ranked: Iterable[_ScoredClause],
    previous: Sequence[Clause],
    topic: Topic,
    limit: int,
) -> list[_ScoredClause]:
    """Return the first candidates that add something to the previous clauses."""
    known, chosen = list(previous), list[_ScoredClause]()
    for c in ranked:
        if len(chosen) == limit:
            break
        if not any(_same(c.clause, clause, topic) for clause in known):
            chosen.append(c)
            known.append(c.clause)
    return chosen


def _same(one: Clause, other: Clause, topic: Topic) -> bool:
    """Return whether two clauses share more than half of their stems, apart from the topic's name."""
    if one.text in other.text or other.text in one.text:
        return True
    stems = [stem for stem in one.stems if stem not in topic.heads]
    other_stems = {stem for stem in other.stems if stem not in topic.heads}
    if not stems or not other_stems:
        return one.stems == other.stems
    return 2 * sum(stem in other_stems for stem in stems) > min(len(stems), len(other_stems))


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _as_bullet(text: str) -> str:
    text = text.strip(" ,;-\u2013\u2014").lstrip(".")
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    return text[:1].upper() + text[1:]


def truncate(text: str, max_length: int) -> str:
    """Truncate a text to `max_length` characters, before a word if possible, and mark it with "…"."""
    if len(text) <= max_length:
        return text
    cut = text[: max_length - 1]
    whole_words = cut.rsplit(" ", 1)[0] if text[max_length - 1] != " " else cut
    return (whole_words if len(whole_words) > max_length // 2 else cut).rstrip(" ,;:-\u200d") + "…"


_MAX_SENTENCES, _MIN_SENTENCES = 3, 2


def join_sentences(texts: Sequence[str], extra: Sequence[str]) -> str:
    """
    Join two or three distinct sentences, each with a capital letter and a full stop.

    Args:
        texts: The sentences, the most important first.
        extra: Sentences to add if `texts` has fewer than two distinct ones.

    Returns:
        The text; empty if all sentences are.
    """
    chosen = distinct(texts, _MAX_SENTENCES)
    if len(chosen) < _MIN_SENTENCES:
        # Prefer two similar sentences to one.
        found = dict.fromkeys([*distinct([*chosen, *extra], _MIN_SENTENCES), *texts, *extra])
        chosen = list(filter(None, found))[:_MIN_SENTENCES]
    tidy = (truncate(text[:1].upper() + text[1:].rstrip(" ,;-"), MAX_SENTENCE_LENGTH) for text in chosen)
    return " ".join(text + "." if _lacks_end(text[-1]) else text for text in tidy)


def distinct(texts: Iterable[str], limit: int) -> list[str]:
    """Return the first texts that are not empty and do not repeat most of an earlier one."""
    kept: list[str] = []
    previous: list[frozenset[str]] = []
    for text in texts:
        if len(kept) == limit:
            break
        stems = frozenset(terms(text))
        if text and text not in kept and not any(_overlap(stems, other) for other in previous):
            kept.append(text)
            previous.append(stems)
    return kept


def repeats(text: str, others: Iterable[str]) -> bool:
    """Return whether a sentence repeats most of another one."""
    stems = frozenset(terms(text))
    return any(_overlap(stems, frozenset(terms(other))) for other in others)


def _overlap(some: frozenset[str], other: frozenset[str]) -> bool:
    return 2 * len(some & other) > min(len(some), len(other))


def _lacks_end(last: str) -> bool:
    # Korean laughter (ㅋㅋ, ㅎㅎ) and tears (ㅠㅠ) end a sentence like a full stop.
    return last.isalnum() and not "ㄱ" <= last <= "ㆎ"

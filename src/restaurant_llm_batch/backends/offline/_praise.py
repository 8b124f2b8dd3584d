"""Strengths of a restaurant: sentences that praise what a comparison summary of others does not praise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from ._clauses import Clause, Sentence, Topic
from ._digests import AnalyzedReviews, MultiReviewSummarizer
from ._extract import polarity_of, repeats

# Concepts that count as the same merit: praise of the waiters is praise of the service. Other concepts, such as a dish
# or the view, are merits of their own.
_MERITS = {
    "staff": "service",
    "kind": "service",
    "rude": "service",
    "taste": "food",
    "value": "price",
    "cheap": "price",
    "expensive": "price",
}

_MIN_WEIGHT = 0.5
# Praise for a taste only, often in irony: "delicious if you like salt", 고무 씹는 맛을 원하시면.
_CONDITION = re.compile(r"\bif you\b|(?:원하|찾으)\S{0,3}면\s", re.IGNORECASE)


def strengths(
    summarizer: MultiReviewSummarizer, target: AnalyzedReviews, compared: AnalyzedReviews, language: str
) -> list[str]:
    """
    Return sentences that praise what the others are not praised for.

    Args:
        summarizer: Selects among the sentences.
        target: The restaurant's reviews.
        compared: The comparison summary of the others; empty if there is none.
        language: "ko" or "en" to prefer sentences of that language.

    Returns:
        Sentences of the target's reviews, about the most praised merits first; empty if they praise nothing, or only
        what the others are praised for.
    """
    compared_merits = _merits(compared)
    strong_merits = {merit for merit, votes in _merits(target).items() if votes > 0 >= compared_merits[merit]}
    compared_sentences = [sentence.text for review in compared for sentence in review]

    def keep(sentence: Sentence, topic: Topic) -> bool:
        return (
            polarity_of(sentence, topic) > 0
            and not sentence.blames
            and not _CONDITION.search(sentence.text)
            and any(not strong_merits.isdisjoint(_praised(clause, topic)) for clause in sentence.clauses)
            and not repeats(sentence.text, compared_sentences)
        )

    return summarizer.summarize_matching(target, language, keep)


def _merits(reviews: AnalyzedReviews) -> Counter[str]:
    """Return, for each merit, the number of reviews that praise it less the number that blame it."""
    votes: Counter[str] = Counter()
    for review in reviews:
        polarities: Counter[str] = Counter()
        for sentence in review:
            for clause in sentence.clauses:
                for merit in _merits_of(clause.marks):
                    polarities[merit] += clause.polarity
        for merit, polarity in polarities.items():
            votes[merit] += (polarity > 0) - (polarity < 0)
    return votes


def _praised(clause: Clause, topic: Topic) -> set[str]:
    if clause.polarity <= 0 or not topic.weigh(clause)[0]:
        return set()
    return set(_merits_of(clause.marks))


def _merits_of(marks: Iterable[tuple[str, str, float]]) -> dict[str, None]:
    # Ignore words that often mean something else ("ordered", "side").
    return dict.fromkeys(
        _MERITS.get(concept, concept) for _, concept, weight in marks if weight >= _MIN_WEIGHT
    )

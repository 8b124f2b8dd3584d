"""What the reviews of one restaurant praise, and a text about others does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ._clauses import Clause, Sentence, Topic
from ._digests import MultiReviewSummarizer, Read, polarity_of
from ._extract import repeats

# Who praises the waiters praises the service; a dish or the view is a merit of its own.
_MERITS = {
    "staff": "service",
    "kind": "service",
    "rude": "service",
    "taste": "food",
    "value": "price",
    "cheap": "price",
    "expensive": "price",
}

_SURE = 0.5


def strengths(digester: MultiReviewSummarizer, target: Read, compared: Read, language: str) -> list[str]:
    """
    Return the sentences that praise what the others are not praised for.

    Args:
        digester: Picks among them.
        target: The reviews of the restaurant.
        compared: What is said about the others; nothing where there is nothing to compare with.
        language: "ko" or "en" to prefer sentences of that language.

    Returns:
        Sentences of the target's reviews, about what most of them praise first; none where they
        praise nothing, or the same as the others.
    """
    theirs = _merits(compared)
    ours = {merit for merit, votes in _merits(target).items() if votes > 0 >= theirs[merit]}
    said = [sentence.text for review in compared for sentence in review]

    def keep(sentence: Sentence, topic: Topic) -> bool:
        return (
            polarity_of(sentence, topic) > 0
            and all(clause.opinion >= 0 for clause in sentence.clauses)
            and any(not ours.isdisjoint(_praised(clause, topic)) for clause in sentence.clauses)
            and not repeats(sentence.text, said)
        )

    return digester.of_those(target, language, keep)


def _merits(reviews: Read) -> Counter[str]:
    """Count the reviews that praise a merit, less those that blame it."""
    votes: Counter[str] = Counter()
    for review in reviews:
        leanings: Counter[str] = Counter()
        for sentence in review:
            for clause in sentence.clauses:
                for merit in _of(clause.marks):
                    leanings[merit] += clause.opinion
        for merit, leaning in leanings.items():
            votes[merit] += (leaning > 0) - (leaning < 0)
    return votes


def _praised(clause: Clause, topic: Topic) -> set[str]:
    if clause.opinion <= 0 or not topic.weigh(clause)[0]:
        return set()
    return set(_of(clause.marks))


def _of(marks: Iterable[tuple[str, str, float]]) -> dict[str, None]:
    # Words that often mean something else ("ordered", "side") make no merit.
    return dict.fromkeys(_MERITS.get(concept, concept) for _, concept, weight in marks if weight >= _SURE)

"""
What many reviews say together, in a few of their own sentences.

Nothing here knows the aspects that a user asks for: food, service, price and ambience are gone
through, those that most reviews speak of first, and sentences are taken from each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..._nlp.lexicon import WordAnalyzer
from ._clauses import Sentence, Topic, read_review
from ._extract import ExtractedSummary, extract, joined

Read = Sequence[Sequence[Sentence]]
"""The sentences of each review."""
Keep = Callable[[Sentence, Topic], bool]

_FAMILIES = ("food", "service", "price", "ambience")
_MENTION = 0.5
# What fewer reviews than this speak of is no good opening for a summary of them all.
_TYPICAL = 0.2
_ENOUGH = 2


class MultiReviewSummarizer:
    """Picks the sentences that stand for many reviews, the most telling first."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._words = words
        self._topics = tuple(Topic(name, words) for name in _FAMILIES)
        self._anything = Topic("", words)

    def read(self, contents: Sequence[str]) -> Read:
        """Return the sentences of each review, with what they say."""
        return [read_review(content, self._words) for content in contents]

    def of_all(self, reviews: Read, language: str) -> list[str]:
        """
        Return sentences that say what the reviews say, praise and blame as they come.

        Args:
            reviews: The reviews, of whatever opinion.
            language: "ko" or "en" to prefer sentences of that language.

        Returns:
            The sentences; none only where there is no text.
        """
        found = self.of_those(reviews, language, _mentions, otherwise=reviews)
        return found or self._general(reviews, language)

    def of_side(self, reviews: Read, language: str, sign: int) -> list[str]:
        """
        Return sentences of one opinion, and others only where there are none.

        Args:
            reviews: Reviews that are known to praise, or to blame.
            language: "ko" or "en" to prefer sentences of that language.
            sign: 1 for praise, -1 for blame.

        Returns:
            The sentences; none only where there is no text.
        """
        clear = [[s for s in review if sign * s.opinion > 0] for review in reviews]
        found = self.of_those(clear, language, _purely(sign), otherwise=clear)
        if len(found) < _ENOUGH:
            found += self.of_those(reviews, language, _partly(sign))
        if len(found) < _ENOUGH:
            found += self._general(clear, language)
        quiet = [[s for s in review if not s.opinion] for review in reviews]
        found = found or self._general(quiet, language) or self._general(reviews, language)
        return list(dict.fromkeys(found))

    def of_those(self, reviews: Read, language: str, keep: Keep, *, otherwise: Read = ()) -> list[str]:
        """
        Return sentences that are kept: the best of each aspect, then the second best.

        Args:
            reviews: The reviews.
            language: "ko" or "en" to prefer sentences of that language.
            keep: Whether a sentence may speak for a topic.
            otherwise: Where few reviews hold what is kept, a sentence that stands for these comes first.

        Returns:
            The sentences; none where none is kept.
        """
        picks: list[tuple[int, ExtractedSummary]] = []
        for topic in self._topics:
            kept = [[s for s in review if keep(s, topic)] for review in reviews]
            pick = extract(kept, topic, language)
            if pick and pick.on_topic:
                picks.append((sum(map(bool, kept)), pick))
        picks.sort(key=lambda counted: -counted[0])
        found = [pick.summary for _, pick in picks] + [pick.also for _, pick in picks]
        if picks and picks[0][0] < _TYPICAL * len(reviews):
            found = self._general(otherwise, language)[:1] + found
        return list(dict.fromkeys(filter(None, found)))

    def _general(self, reviews: Read, language: str) -> list[str]:
        pick = extract(reviews, self._anything, language)
        return [text for text in (pick.summary, pick.also) if text] if pick else []


def both_sides(praise: Sequence[str], blame: Sequence[str], *, more_praise: bool) -> str:
    """
    Join sentences of both sides to a text.

    Args:
        praise: Sentences, the most telling first; none where no review praises.
        blame: Likewise.
        more_praise: Which side opens the text, and speaks longer.
    """
    more, less = (praise, blame) if more_praise else (blame, praise)
    return joined([*more[:2], *less[:1]] if more and less else [*more, *less], ())


def polarity_of(sentence: Sentence, topic: Topic) -> int:
    """Return what a sentence thinks of a topic: above 0 praise, below blame."""
    return sum(clause.opinion for clause in sentence.clauses if topic.weigh(clause)[0])


def _mentions(sentence: Sentence, topic: Topic) -> bool:
    return topic.weigh(sentence)[0] >= _MENTION


def _partly(sign: int) -> Keep:
    return lambda sentence, topic: _mentions(sentence, topic) and sign * polarity_of(sentence, topic) > 0


def _purely(sign: int) -> Keep:
    partly = _partly(sign)
    return lambda sentence, topic: (
        partly(sentence, topic) and all(sign * clause.opinion >= 0 for clause in sentence.clauses)
    )

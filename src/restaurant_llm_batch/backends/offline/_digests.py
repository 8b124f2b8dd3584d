"""
Multi-review extractive summaries: a few sentences that represent many reviews, by aspect and polarity.

Independent of the user's aspects: takes sentences about food, service, price and ambience, in the order of how many
reviews mention them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..._nlp.lexicon import WordAnalyzer
from ._clauses import Sentence, Topic, read_review
from ._extract import ExtractedSummary, extract, join_sentences, polarity_of

AnalyzedReviews = Sequence[Sequence[Sentence]]
"""The analyzed sentences of each review."""
Keep = Callable[[Sentence, Topic], bool]

_FAMILIES = ("food", "service", "price", "ambience")
_MENTION = 0.5
# Share of the reviews that must mention an aspect for it to open the summary.
_MIN_SHARE = 0.2
_MIN_SENTENCES = 2


class MultiReviewSummarizer:
    """Selects the sentences that represent many reviews, the most representative first."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._words = words
        self._topics = tuple(Topic(name, words) for name in _FAMILIES)
        self._any_topic = Topic("", words)

    def analyze(self, contents: Sequence[str]) -> AnalyzedReviews:
        """Return the analyzed sentences of each review."""
        return [read_review(content, self._words) for content in contents]

    def summarize_all(self, reviews: AnalyzedReviews, language: str) -> list[str]:
        """
        Return sentences that represent the reviews, of any polarity.

        Args:
            reviews: The reviews.
            language: "ko" or "en" to prefer sentences of that language.

        Returns:
            The sentences; empty only if there is no text.
        """
        found = self.summarize_matching(reviews, language, _mentions, otherwise=reviews)
        return found or self._summarize_any(reviews, language)

    def summarize_polarity(self, reviews: AnalyzedReviews, language: str, sign: int) -> list[str]:
        """
        Return sentences of one polarity, or others if there are none.

        Args:
            reviews: Reviews of that polarity.
            language: "ko" or "en" to prefer sentences of that language.
            sign: 1 for praise, -1 for blame.

        Returns:
            The sentences; empty only if there is no text.
        """
        clear = [[s for s in review if sign * s.polarity > 0] for review in reviews]
        found = self.summarize_matching(clear, language, _purely(sign), otherwise=clear)
        if len(found) < _MIN_SENTENCES:
            found += self.summarize_matching(reviews, language, _partly(sign))
        if len(found) < _MIN_SENTENCES:
            found += self._summarize_any(clear, language)
        neutral = [[s for s in review if not s.polarity] for review in reviews]
        found = found or self._summarize_any(neutral, language) or self._summarize_any(reviews, language)
        return list(dict.fromkeys(found))

    def summarize_matching(
        self, reviews: AnalyzedReviews, language: str, keep: Keep, *, otherwise: AnalyzedReviews = ()
    ) -> list[str]:
        """
        Return matching sentences: the best of each aspect, then the second best.

        Args:
            reviews: The reviews.
            language: "ko" or "en" to prefer sentences of that language.
            keep: Whether a sentence may represent a topic.
            otherwise: Reviews whose most representative sentence comes first, if few reviews have matching sentences.

        Returns:
            The sentences; empty if none matches.
        """
        picks: list[tuple[int, ExtractedSummary]] = []
        for topic in self._topics:
            kept = [[s for s in review if keep(s, topic)] for review in reviews]
            pick = extract(kept, topic, language)
            if pick and pick.on_topic:
                picks.append((sum(map(bool, kept)), pick))
        picks.sort(key=lambda counted: -counted[0])
        found = [pick.summary for _, pick in picks] + [pick.also for _, pick in picks]
        if picks and picks[0][0] < _MIN_SHARE * len(reviews):
            found = self._summarize_any(otherwise, language)[:1] + found
        return list(dict.fromkeys(filter(None, found)))

    def _summarize_any(self, reviews: AnalyzedReviews, language: str) -> list[str]:
        pick = extract(reviews, self._any_topic, language)
        return [text for text in (pick.summary, pick.also) if text] if pick else []


def join_both_polarities(praise: Sequence[str], blame: Sequence[str], *, more_praise: bool) -> str:
    """
    Join sentences of both polarities.

    Args:
        praise: Praising sentences, the most representative first.
        blame: Blaming sentences, the most representative first.
        more_praise: Whether praise comes first, with two sentences to one of blame; otherwise the reverse.
    """
    more, less = (praise, blame) if more_praise else (blame, praise)
    return join_sentences([*more[:2], *less[:1]] if more and less else [*more, *less], ())


def _mentions(sentence: Sentence, topic: Topic) -> bool:
    return topic.weigh(sentence)[0] >= _MENTION


def _partly(sign: int) -> Keep:
    return lambda sentence, topic: _mentions(sentence, topic) and sign * polarity_of(sentence, topic) > 0


def _purely(sign: int) -> Keep:
    partly = _partly(sign)
    return lambda sentence, topic: (
        partly(sentence, topic) and all(sign * clause.polarity >= 0 for clause in sentence.clauses)
    )

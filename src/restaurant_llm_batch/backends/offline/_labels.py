"""
Labels of reviews: the log odds of the n-gram classifier, plus the opinions that the lexicon reads.

The classifier knows many words, but little about negation and about halves that take each other back; the lexicon knows
few words and reads both. Its weights were chosen on the tuning part of the gold set (`benchmarks/quality.py`), as large
as they can be without harm to the rows held out from the training of the classifier.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from ..._nlp.lexicon import WordAnalyzer
from ..._nlp.opinions import opinions
from ..._nlp.sentiment_model import NEUTRAL, READABLE, SentimentReader
from ._clauses import split, split_clauses

_KOREAN, _ENGLISH = 0.8, 1.0
_HANGUL = re.compile("[가-힣]")
_MENTION, _MOST, _UNSURE = 0.5, 4, 1.5
# The classifier has learnt Korean from reviews of films, about which the lexicon of restaurants knows less. Words that
# are frequent in its training rows.
_FILM = re.compile(
    "영화|드라마|배우|감독|스토리|주인공|작품|관객|극장|애니|결말|장면|캐릭터|연출|액션|시리즈|극중|방송|예능|시청|개봉|"
    "시즌|원작|대사|영상|CG|OST|반전|출연|코미디|공포|스릴러|멜로|만화|소설|평점|줄거리|전개|[^ ]역[이은을에도]? |재밌|"
    "재미|연기력|볼만|보는 ?내내|긴장감|명작|개연성|여주|남주|병맛|내용[이은도]"
)

Label = Literal["positive", "negative", "neutral"]


class ReviewLabeller:
    """Labels reviews as positive, negative or neutral; thread-safe."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._words = words
        self._reader = SentimentReader()

    def label(self, content: str) -> Label:
        """Return the label of a review; reads its beginning only."""
        text = content[:READABLE]
        odds = self._reader.log_odds(text)
        clauses = [split_clauses(sentence) for sentence in split(text)]
        read = [opinion for parts in clauses for opinion in opinions(parts)]
        total = max(-_MOST, min(_MOST, sum(opinion.polarity for opinion in read)))
        if not _HANGUL.search(text):
            if any(opinion.turned for opinion in read):
                # The classifier has read words that do not mean what they say. (In Korean this helps as often as not.)
                odds = max(-_UNSURE, min(_UNSURE, odds))
            odds += _ENGLISH * total
        elif total and not _FILM.search(text) and self._is_about_a_restaurant(clauses):
            odds += _KOREAN * total
        if abs(odds) < 2 * NEUTRAL:
            return "neutral"
        return "positive" if odds > 0 else "negative"

    def _is_about_a_restaurant(self, clauses: Sequence[Sequence[str]]) -> bool:
        return any(
            weight >= _MENTION
            for parts in clauses
            for part in parts
            for word in self._words.read_clause(part)
            for _, _, weight in word.marks
        )

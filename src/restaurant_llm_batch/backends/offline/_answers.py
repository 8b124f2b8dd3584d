"""Answers about the aspects of a restaurant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._nlp.lexicon import WordReader
from ._clauses import Sentence, Topic, read_review, split
from ._extract import Pick, extract
from ._joining import joined

_NOTHING = "…"
_NOT_MENTIONED = {
    "ko": "{} 언급한 리뷰가 거의 없습니다.",
    "en": "The reviews hardly mention {}.",
}
_NAMES = {
    "ko": {
        "service": "서비스를",
        "price": "가격을",
        "food": "음식을",
        "ambience": "분위기를",
        "": "이 항목을",
    },
    "en": {
        "service": "service",
        "price": "the price",
        "food": "the food",
        "ambience": "the ambience",
        "": "this aspect",
    },
}
_ALL_NOT_MENTIONED = frozenset(
    line.format(name) for language, line in _NOT_MENTIONED.items() for name in _NAMES[language].values()
)


class AspectAnswers:
    """The tasks "aspect_summaries", "aspect_summary" and "overall_summary"."""

    def __init__(self, words: WordReader) -> None:
        self._words = words

    def summaries(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Summarise all aspects, each from its own reviews."""
        picks = self._picks(inputs.get("reviews") or {}, language)
        return {
            "categories": {aspect: _as_answer(pick) for aspect, pick in picks.items()},
            "overall_summary": _overall([*picks.values()]),
        }

    def summary(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Summarise one aspect."""
        aspect, reviews = str(inputs.get("aspect") or ""), inputs.get("reviews") or ()
        return _as_answer(self._picks({aspect: reviews}, language)[aspect])

    def overall(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Join the summaries of the aspects; their own language is theirs."""
        texts = [str(text) for text in (inputs.get("summaries") or {}).values()]
        said = [text for text in texts if text.strip() not in _ALL_NOT_MENTIONED]
        parts = [split(text) for text in said or texts]
        firsts = [part[0] for part in parts if part]
        more = [sentence for part in parts for sentence in part[1:]]
        return {"overall_summary": joined(firsts, more) or _NOTHING}

    def _picks(self, reviews: Mapping[str, Sequence[Any]], language: str) -> dict[str, Pick]:
        # The searches of the aspects often find the same reviews.
        read: dict[str, tuple[Sentence, ...]] = {}
        picks = {}
        for aspect, shown in reviews.items():
            contents = [str(review["content"]) for review in shown]
            for content in contents:
                if content not in read:
                    read[content] = read_review(content, self._words)
            topic = Topic(aspect, self._words)
            found = extract([read[content] for content in contents], topic, language)
            picks[aspect] = found or _not_mentioned(topic.family, language)
        return picks


def _not_mentioned(family: str, language: str) -> Pick:
    known = language if language in _NAMES else "en"
    return Pick(_NOT_MENTIONED[known].format(_NAMES[known][family]), (), (), "", on_topic=False)


def _as_answer(pick: Pick) -> dict[str, Any]:
    return {
        "summary": pick.summary,
        "bullets": list(pick.bullets),
        "evidence": list(pick.evidence),
    }


def _overall(picks: Sequence[Pick]) -> str:
    on_topic = [pick for pick in picks if pick.on_topic]
    chosen = on_topic or [pick for pick in picks if pick.evidence] or picks
    return joined([pick.summary for pick in chosen], [pick.also for pick in chosen]) or _NOTHING

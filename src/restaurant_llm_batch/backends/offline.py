"""Summaries without a model: sentences taken from the reviews as they stand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import PermanentBackendError
from ..models import LLMReply, LLMRequest
from ._language.extractive import LONGEST_SENTENCE, Pick, extract, trim
from ._language.lexicon import WordReader
from ._language.pieces import Sentence, Topic, read_review, split
from ._language.text import terms

_MODEL = "offline-extractive"
_TASKS = ("aspect_summaries", "aspect_summary", "overall_summary")
_MOST_SENTENCES, _LEAST_SENTENCES = 3, 2
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


class OfflineLLM:
    """
    Answers the summary tasks by extraction; needs no model, no key and no network.

    It reads the reviews in a request's `inputs`, never its messages, and quotes the sentences that
    speak of an aspect and agree best with the other reviews. Nothing is put in other words: every
    sentence of a summary is verbatim in some review (cut with "…" where it is long), or the fixed
    line that says the aspect is not mentioned: "The reviews hardly mention the price.", in the
    language that the request asks for, without bullets and evidence. The overall summary leaves such
    aspects out unless there is nothing else. Equal requests get equal answers.

    It knows the words of service, price, food and ambience, by these and other names, in Korean and
    English. Of any other aspect it knows only the name; where no review holds that, the summary is
    the sentence that stands best for all reviews.

    Every reply says ``model="offline-extractive"`` and counts no tokens: no model read any.

    One instance may be used from several threads and loops at once.
    """

    def __init__(self) -> None:
        self._words = WordReader()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def complete(self, request: LLMRequest, /) -> LLMReply:
        """
        Answer a request.

        Args:
            request: One of the tasks "aspect_summaries", "aspect_summary" and "overall_summary".

        Raises:
            PermanentBackendError: When it is another task.
        """
        answer = json.dumps(self._answer(request.task, request.inputs), ensure_ascii=False)
        return LLMReply(text=answer, finish_reason="stop", model=_MODEL)

    async def acomplete(self, request: LLMRequest, /) -> LLMReply:
        """Answer a request as `complete` does; it takes milliseconds and waits for nothing."""
        return self.complete(request)

    def _answer(self, task: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        language = str(inputs.get("language") or "")
        if task == "aspect_summaries":
            return self._aspects(inputs.get("reviews") or {}, language)
        if task == "aspect_summary":
            aspect, reviews = str(inputs.get("aspect") or ""), inputs.get("reviews") or ()
            return _as_answer(self._picks({aspect: reviews}, language)[aspect])
        if task == "overall_summary":
            summaries = inputs.get("summaries") or {}
            return {"overall_summary": _overall_of([str(text) for text in summaries.values()])}
        raise PermanentBackendError(
            f"OfflineLLM does not answer the task {task!r}, only {', '.join(_TASKS)}; "
            "pass another backend as llm",
            backend="offline",
        )

    def _aspects(self, reviews: Mapping[str, Sequence[Any]], language: str) -> dict[str, Any]:
        picks = self._picks(reviews, language)
        return {
            "categories": {aspect: _as_answer(pick) for aspect, pick in picks.items()},
            "overall_summary": _overall([*picks.values()]),
        }

    def _picks(
        self,
        reviews: Mapping[str, Sequence[Any]],
        language: str,
    ) -> dict[str, Pick]:
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
    return _joined([pick.summary for pick in chosen], [pick.also for pick in chosen])


def _overall_of(texts: Sequence[str]) -> str:
    said = [text for text in texts if text.strip() not in _ALL_NOT_MENTIONED]
    parts = [split(text) for text in said or texts]
    firsts = [part[0] for part in parts if part]
    return _joined(firsts, [sentence for part in parts for sentence in part[1:]])


def _joined(texts: Sequence[str], more: Sequence[str]) -> str:
    """Join two or three sentences that differ, with some of `more` where there are too few."""
    chosen = _distinct(texts, _MOST_SENTENCES)
    if len(chosen) < _LEAST_SENTENCES:
        # Better two sentences that are much alike than one alone.
        found = dict.fromkeys([*_distinct([*chosen, *more], _LEAST_SENTENCES), *texts, *more])
        chosen = list(filter(None, found))[:_LEAST_SENTENCES]
    tidy = (trim(text[:1].upper() + text[1:].rstrip(" ,;-"), LONGEST_SENTENCE) for text in chosen)
    return " ".join(text + "." if _is_open(text[-1]) else text for text in tidy) or _NOTHING


def _distinct(texts: Iterable[str], most: int) -> list[str]:
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


def _overlap(some: frozenset[str], other: frozenset[str]) -> bool:
    return 2 * len(some & other) > min(len(some), len(other))


def _is_open(last: str) -> bool:
    # Korean laughter (ㅋㅋ, ㅎㅎ) and tears end a sentence as well as a full stop does.
    return last.isalnum() and not "ㄱ" <= last <= "ㆎ"

"""Summaries without a model: sentences taken from the reviews as they stand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import PermanentBackendError
from ..models import LLMReply, LLMRequest
from ._extractive import LONGEST_SENTENCE, Pick, extract, trim
from ._lexicon import WordReader
from ._pieces import Sentence, Topic, read_review, split
from ._text import terms

_MODEL = "offline-extractive"
_TASKS = ("aspect_summaries", "aspect_summary", "overall_summary")
_MOST_SENTENCES, _LEAST_SENTENCES = 3, 2
_NOTHING = "…"


class OfflineLLM:
    """
    Answers the summary tasks by extraction; needs no model, no key and no network.

    It reads the reviews in a request's `inputs`, never its messages, and quotes the sentences that
    speak of an aspect and agree best with the other reviews. Nothing is put in other words: a
    summary is one sentence of one review, in the language it was written in. Where no review speaks
    of the aspect, it is the sentence that stands best for them all, without bullets; where they hold
    no text at all, it is "…". Equal requests get equal answers.

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
            "overall_summary": _overall([pick for pick in picks.values() if pick]),
        }

    def _picks(
        self,
        reviews: Mapping[str, Sequence[Any]],
        language: str,
    ) -> dict[str, Pick | None]:
        # The searches of the aspects often find the same reviews.
        read: dict[str, tuple[Sentence, ...]] = {}
        picks = {}
        for aspect, shown in reviews.items():
            contents = [str(review["content"]) for review in shown]
            for content in contents:
                if content not in read:
                    read[content] = read_review(content, self._words)
            topic = Topic(aspect, self._words)
            picks[aspect] = extract([read[content] for content in contents], topic, language)
        return picks


def _as_answer(pick: Pick | None) -> dict[str, Any]:
    if pick is None:
        return {"summary": _NOTHING, "bullets": [], "evidence": []}
    return {
        "summary": pick.summary,
        "bullets": list(pick.bullets),
        "evidence": list(pick.evidence),
    }


def _overall(picks: Sequence[Pick]) -> str:
    on_topic = [pick for pick in picks if pick.on_topic] or picks
    summaries = [pick.summary for pick in on_topic]
    return _joined(summaries, [pick.also for pick in on_topic])


def _overall_of(texts: Sequence[str]) -> str:
    parts = [split(text) for text in texts]
    firsts = [part[0] for part in parts if part]
    return _joined(firsts, [sentence for part in parts for sentence in part[1:]])


def _joined(texts: Sequence[str], more: Sequence[str]) -> str:
    """Join two or three sentences that differ, with some of `more` where there are too few."""
    chosen = _distinct(texts)[:_MOST_SENTENCES]
    if len(chosen) < _LEAST_SENTENCES:
        # Better two sentences that are much alike than one alone.
        found = dict.fromkeys([*_distinct([*chosen, *more]), *texts, *more])
        chosen = list(filter(None, found))[:_LEAST_SENTENCES]
    tidy = (trim(text[:1].upper() + text[1:].rstrip(" ,;-"), LONGEST_SENTENCE) for text in chosen)
    return " ".join(text + "." if _is_open(text[-1]) else text for text in tidy) or _NOTHING


def _distinct(texts: Iterable[str]) -> list[str]:
    """Drop the empty ones and those that mostly repeat an earlier one."""
    kept: list[str] = []
    said: list[frozenset[str]] = []
    for text in texts:
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

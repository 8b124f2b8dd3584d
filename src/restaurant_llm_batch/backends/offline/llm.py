"""Every task without a model: sentences and words taken from the reviews as they stand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..._llm_response import LLMResponse
from ..._nlp.lexicon import WordAnalyzer
from ...errors import PermanentBackendError
from ...models import LLMRequest
from ._answers import AspectAnswers, ReviewAnswers, WordAnswers

if TYPE_CHECKING:
    from ..._nlp.sentiment_model import SentimentReader

_MODEL = "offline-extractive"

Answer = Callable[[Mapping[str, Any], str], dict[str, Any]]


class OfflineLLM:
    """
    Answers the tasks of this library by extraction; needs no large model, no key and no network.

    It reads a request's `inputs`, never its messages. Nothing is put in other words: every sentence
    of a summary is verbatim in some review (cut with "…" where it is long), or one of the fixed
    lines below, or "…" where there is no text to be seen. Equal requests get equal answers.

    Tasks:
        aspect_summaries, aspect_summary: The sentences that speak of an aspect and agree best with
            the other reviews. Where none does: "The reviews hardly mention the price.", in the
            language that the request asks for, without bullets and evidence.
        overall_summary: Two or three sentences of the aspects' summaries; aspects that are hardly
            mentioned are left out unless there is nothing else.
        sentiment: A small linear model over the letters of a review, shipped with the library,
            calls it positive or negative, and neutral where it is not sure.
        review_summary: For each kind of review up to three sentences that share its opinion, about
            what most of them speak of first; overall, two of the kind with more reviews and one of
            the other. A kind without reviews has "".
        comparison_summary: Up to three sentences about what most reviews speak of, among food,
            service, price and ambience, with the opinion of most.
        strength: Up to three sentences that praise what the comparison summary does not praise.
            Where there are none: "The reviews name nothing that stands out against the others."
            Whether the target is really better, it cannot tell; it compares what is said.
        merge_summaries: Under each key, up to three sentences that agree with most parts.
        words: Up to 30 words by frequency, those of restaurants before others. Dictionary forms and
            parts of speech follow from the form of a word, its neighbours and short lists, and are
            sometimes wrong; a Korean form that fits no rule is left out, an English one is taken
            for a noun. Words in other scripts are not read. The meanings are no definitions: what
            the word speaks of ("food"), and whether a describing word praises; often there are none.
        phrases: Up to 15 groups of words that stand together at least twice; in a short text,
            adjectives beside their nouns as well. The meaning is no definition: it is the sentence
            that holds the phrase.

    It knows the words of service, price, food and ambience, by these and other names, in Korean and
    English. Of any other aspect it knows only the name; where no review holds that, the summary is
    the sentence that stands best for all reviews. Of an endless text it reads the beginning.

    Every reply says ``model="offline-extractive"`` and counts no tokens.

    One instance may be used from several threads and loops at once.
    """

    def __init__(self) -> None:
        words = WordAnalyzer()
        aspects, reviews, vocabulary = AspectAnswers(words), ReviewAnswers(words), WordAnswers(words)
        self._answers: Mapping[str, Answer] = {
            "aspect_summaries": aspects.summaries,
            "aspect_summary": aspects.summary,
            "overall_summary": aspects.overall,
            "sentiment": self._sentiment,
            "review_summary": reviews.review_summary,
            "comparison_summary": reviews.comparison_summary,
            "strength": reviews.strength,
            "merge_summaries": reviews.merge,
            "words": vocabulary.words,
            "phrases": vocabulary.phrases,
        }

    @property
    def fingerprint(self) -> str:
        """Name what answers, in the keys of a store."""
        return _MODEL

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Answer a request.

        Args:
            request: One of the tasks that the class lists.

        Raises:
            PermanentBackendError: When it is another task.
        """
        answer = self._answers.get(request.task)
        if answer is None:
            raise PermanentBackendError(
                f"OfflineLLM does not answer the task {request.task!r}, only {', '.join(self._answers)}; "
                "pass another backend as llm",
                backend="offline",
            )
        found = answer(request.inputs, str(request.inputs.get("language") or ""))
        return LLMResponse(text=json.dumps(found, ensure_ascii=False), finish_reason="stop", model=_MODEL)

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer a request as `complete` does; it takes milliseconds and waits for nothing."""
        return self.complete(request)

    def _sentiment(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        judge = self._reader.judge
        reviews = inputs.get("reviews") or ()
        return {"labels": [{"id": r["id"], "label": judge(str(r["content"]))[0]} for r in reviews]}

    @cached_property
    def _reader(self) -> SentimentReader:
        # Its weights take memory and time to load, which only this task should cost.
        from ..._nlp.sentiment_model import SentimentReader

        return SentimentReader()

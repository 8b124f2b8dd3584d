"""Offline LLM: extractive summarization, sentiment and vocabulary of reviews, without a language model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import checkpoint

from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._llm_response import LLMResponse
from ..._nlp.lexicon import WordAnalyzer
from ...errors import PermanentBackendError
from ...models import LLMRequest
from ._answers import AspectAnswers, ReviewAnswers, WordAnswers

if TYPE_CHECKING:
    from ._labels import ReviewLabeller

_MODEL = "offline-extractive"
# Raise it when the answers change, so that a store does not mix old and new ones.
_VERSION = 2

Answer = Callable[[Mapping[str, Any], str], dict[str, Any]]


class OfflineLLM(PickledAsRecipe):
    """
    Answers the tasks of this library by extraction; needs no language model, key or network.

    Reads a request's `inputs`, never its messages. Nothing is paraphrased: each sentence of a summary is verbatim
    from a review, or one of the fixed lines below, or "…" if there is no visible text. A sentence is quoted whole,
    unless its halves speak of different aspects and neither takes the other back; one of more than 160 characters is
    truncated with "…". Equal requests get equal replies. How often it is right is in `docs/offline-model.md`.

    Tasks:
        aspect_summaries, aspect_summary: The sentences about an aspect that agree best with the other reviews. If
        there
            are none: "The reviews hardly mention the price.", in the requested language, without bullets and evidence.
        overall_summary: Two or three sentences of the aspects' summaries; aspects that are hardly mentioned are left
            out unless there is nothing else.
        sentiment: A small linear model over character n-grams, shipped with the library, and a lexicon that reads
            negation label a review positive, negative, or neutral if they are uncertain.
        aspect_sentiment: By the same lexicon, from the sentences that mention the aspect: positive if more of them
            praise than blame, negative if fewer, and neutral otherwise.
        review_summary: For each polarity, up to three sentences of that polarity, about the most mentioned aspects
            first; overall, two sentences of the polarity with more reviews and one of the other. A polarity without
            reviews has "".
        comparison_summary: Up to three sentences about the most mentioned aspects among food, service, price and
            ambience, with the polarity of most reviews.
        strength: Up to three sentences that praise what the comparison summary does not praise, and blame nothing.
            If there are none: "The reviews name nothing that stands out against the others." Compares what reviews
            say, not what is true.
        merge_summaries: For each key, up to three sentences that agree with most parts.
        words: Up to 30 words by frequency, restaurant words first. Dictionary forms and parts of speech are derived
            from a word's form, its neighbours and short lists, and are sometimes wrong. A Korean form that matches no
            rule is left out; an English one is taken for a noun. Words in other scripts are ignored. The meanings are
            not definitions, but the word's concept ("food") and, for adjectives and adverbs, its polarity; often there
            are none.
        phrases: Up to 15 sequences of words that occur at least twice; in a short text, also adjectives next to their
            nouns. The meaning is not a definition, but the sentence that holds the phrase.
        Of both, an example that is asked for is the first sentence with the entry; there are no synonyms.

    Knows the Korean and English words of service, price, food and ambience, by these and other names. For any other
    aspect it searches for the aspect's name only; if no review has it, the summary is the sentence that represents all
    reviews best. Reads only the beginning of very long texts.

    Each reply has ``model="offline-extractive"`` and counts no tokens. Thread-safe, and usable on any event loop.
    """

    calls_model = False
    """Without reported tokens, a reply has used none."""

    def __init__(self) -> None:
        self._made_with = arguments_of(locals())
        self._words = words = WordAnalyzer()
        aspects, reviews, vocabulary = AspectAnswers(words), ReviewAnswers(words), WordAnswers(words)
        self._answers: Mapping[str, Answer] = {
            "aspect_summaries": aspects.summaries,
            "aspect_summary": aspects.summary,
            "overall_summary": aspects.overall,
            "sentiment": self._sentiment,
            "aspect_sentiment": aspects.labels,
            "review_summary": reviews.review_summary,
            "comparison_summary": reviews.comparison_summary,
            "strength": reviews.strength,
            "merge_summaries": reviews.merge,
            "words": vocabulary.words,
            "phrases": vocabulary.phrases,
        }

    @property
    def fingerprint(self) -> str:
        """Cache key of this backend in a store."""
        return f"{_MODEL}-{_VERSION}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Complete a request.

        Args:
            request: A request of one of the tasks listed in the class's docstring.

        Raises:
            PermanentBackendError: If it is another task.
        """
        answer = self._answers.get(request.task)
        if answer is None:
            raise PermanentBackendError(
                f"OfflineLLM does not support the task {request.task!r}, only {', '.join(self._answers)}; "
                "pass another backend as llm",
                backend="offline",
            )
        found = answer(request.inputs, str(request.inputs.get("language") or ""))
        return LLMResponse(text=json.dumps(found, ensure_ascii=False), finish_reason="stop", model=_MODEL)

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Complete a request as `complete` does: in milliseconds, after the event loop's other tasks had a turn."""
        await checkpoint()
        return self.complete(request)

    def _sentiment(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        label = self._labeller.label
        reviews = inputs.get("reviews") or ()
        return {"labels": [{"id": r["id"], "label": label(str(r["content"]))} for r in reviews]}

    @cached_property
    def _labeller(self) -> ReviewLabeller:
        # Lazy: only this task should pay for loading the weights.
        from ._labels import ReviewLabeller

        return ReviewLabeller(self._words)

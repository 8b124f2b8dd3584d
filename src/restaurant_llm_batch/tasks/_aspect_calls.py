"""
LLM calls of `SummarizeAspects` for one restaurant: one call for all aspects, or one per aspect, and what repairs them.

Theory of operation. What is whole in a reply stands, and only the rest is asked for:

- If some aspects can be read, each of the others is asked for by a call of its own, once.
- If none can be read, the reply is sent back with the name of the wrong field, once.
- If none is whole because the reply was cut off, less is asked for: each aspect by itself; or fewer reviews, if the
  reply ended in a loop or the context was full. `max_tokens` grows only for a single review, once, and never in these
  two cases.
- If a content filter or a text that the server cannot bear failed the call, the aspects are asked for by themselves,
  and the reviews of one that fails again are halved, down to the one that is left out and counted.
- A missing overall summary is written from the aspects' summaries. If that fails too, or if the run stops before, the
  aspects stand without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .._llm_response import LLMResponse
from ..errors import BackendError, OutputError, OutputTruncated, PromptTooLong
from ..models import Hit, ItemId, LLMRequest
from ..results import AspectSummary
from ..steps import Flow, ResultOrError, complete, gather
from ..tokens.packing import truncate_to_half
from ._asking import complete_and_parse, is_refusal, is_server_fault, repair
from ._citations import MAX_NAMED
from ._common import describe_error, reraise_fatal
from ._parsing import Parts, Shown, read_aspect, read_aspects, read_overall
from ._prompts import aspects as prompts
from ._prompts.wording import Wording
from ._replies import DECLINED, is_context_full, is_looping

MAX_SHRINKS_FULL, MAX_SHRINKS = 3, 1
"""How many times fewer reviews are shown after a reply that was cut off: if the context was full, and otherwise."""


class Sampling(Protocol):
    """The fields of a task that its requests have."""

    @property
    def max_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts that were read, or their errors; the overall summary, or its error; and the name of the model."""

    parts: Parts
    overall: str | Exception
    model: str


class AspectCalls:
    """
    The calls for one restaurant.

    Args:
        task: The task's limits and temperature.
        restaurant_id: Id of the restaurant.
        priority: Lower runs first.
        wording: Wording of the instructions, and the language of the replies.
        aspects: Names of all aspects of the task.
    """

    def __init__(
        self, task: Sampling, restaurant_id: ItemId, priority: int, wording: Wording, aspects: Sequence[str]
    ) -> None:
        self._task = task
        self._restaurant_id = restaurant_id
        self._priority = priority
        self._wording = wording
        self._aspects = aspects
        self._model = ""

    def single(self, shown: Mapping[str, Shown]) -> Flow[Answer]:
        """
        Summarise all aspects in one call, and ask for what its reply lacks.

        Raises:
            Exception: The call failed, and none of its aspects could be summarised by itself.
        """
        try:
            request, reply, shown = yield from self._ask_for_all(shown)
        except BackendError as error:
            if not _may_be_one_texts_fault(error) or (len(shown) == 1 and not _can_halve(shown)):
                raise
            parts = yield from self._each(shown, error)
            return (yield from self._with_overall(parts, error))
        parts, overall = read_aspects(reply, shown, prompts.MAX_BULLETS)
        if not any(isinstance(part, AspectSummary) for part in parts.values()):
            parts, overall = yield from self._second_try(request, reply, shown, parts, overall)
        else:
            missing = [aspect for aspect, part in parts.items() if isinstance(part, Exception)]
            if missing:
                found = yield from gather(*(self._once(aspect, shown[aspect]) for aspect in missing))
                parts |= dict(zip(missing, map(reraise_fatal, found), strict=True))
        return (yield from self._with_overall(parts, overall))

    def split(self, shown: Mapping[str, Shown]) -> Flow[Answer]:
        """Summarise each aspect in a call of its own, then all of them together."""
        found = yield from gather(*(self.one(aspect, reviews) for aspect, reviews in shown.items()))
        parts = dict(zip(shown, map(reraise_fatal, found), strict=True))
        return (yield from self._with_overall(parts, None))

    def one(self, aspect: str, shown: Shown, *, halve: bool = True) -> Flow[AspectSummary]:
        """
        Summarise one aspect, from fewer reviews if the reply is cut off.

        Args:
            aspect: The aspect's name.
            shown: Its reviews.
            halve: Whether to halve the reviews if one of them may have failed the call.

        Raises:
            Exception: It cannot be summarised.
        """
        shrinks = 0
        while True:
            request = self._request_for_one(aspect, shown)
            try:
                return (
                    yield from complete_and_parse(request, self._parse(aspect, shown), widen=len(shown) == 1)
                )
            except PromptTooLong as error:
                shown = trimmed({aspect: shown}, error)[aspect]
            except OutputTruncated as error:
                shown = _fewer({aspect: shown}, request, error, shrinks)[aspect]
                shrinks += 1
            except (BackendError, OutputError) as error:
                if not halve or len(shown) == 1 or not _may_be_one_texts_fault(error):
                    raise
                problem = error
                break
        return (yield from self._without_poison(aspect, shown, problem))

    def _ask_for_all(
        self, shown: Mapping[str, Shown]
    ) -> Flow[tuple[LLMRequest, LLMResponse, Mapping[str, Shown]]]:
        """Ask for all aspects, with fewer reviews as long as the prompt is too long."""
        while True:
            request = self._request_for_all(shown)
            try:
                reply = yield from complete(request)
            except PromptTooLong as error:
                shown = trimmed(shown, error)
            else:
                self._model = self._model or reply.model
                return request, reply, shown

    def _second_try(
        self,
        request: LLMRequest,
        reply: LLMResponse,
        shown: Mapping[str, Shown],
        parts: Parts,
        overall: str | OutputError,
    ) -> Flow[tuple[Parts, str | OutputError]]:
        """Ask again after a reply of which no aspect can be read."""
        error = next(part for part in parts.values() if isinstance(part, OutputError))
        if reply.finish_reason in DECLINED:
            if len(shown) == 1 and not _can_halve(shown):
                return parts, overall
            return (yield from self._each(shown, error)), error
        if isinstance(error, OutputTruncated):
            exhausted = is_looping(reply) or is_context_full(request, reply)
            if exhausted:
                return (yield from self._with_fewer(request, error, shown, parts, overall))
            if len(shown) > 1:
                found = yield from gather(*(self._once(aspect, reviews) for aspect, reviews in shown.items()))
                return dict(zip(shown, map(reraise_fatal, found), strict=True)), overall
        second = yield from repair(request, reply, error)
        if second is None:
            return parts, overall
        repaired, overall_again = read_aspects(second, shown, prompts.MAX_BULLETS)
        return repaired, overall if isinstance(overall, str) else overall_again

    def _with_fewer(
        self,
        request: LLMRequest,
        error: OutputTruncated,
        shown: Mapping[str, Shown],
        parts: Parts,
        overall: str | OutputError,
    ) -> Flow[tuple[Parts, str | OutputError]]:
        """Ask for all aspects again from fewer reviews, until an aspect can be read or it is tried often enough."""
        shrinks = 0
        while True:
            try:
                shown = _fewer(shown, request, error, shrinks)
            except OutputTruncated:
                return parts, overall
            shrinks += 1
            try:
                request, reply, shown = yield from self._ask_for_all(shown)
            except BackendError as failure:
                reraise_fatal(failure)
                return parts, overall
            parts, overall = read_aspects(reply, shown, prompts.MAX_BULLETS)
            problem = next((part for part in parts.values() if not isinstance(part, AspectSummary)), None)
            if not isinstance(problem, OutputTruncated) or len(set(map(type, parts.values()))) > 1:
                return parts, overall
            error = problem

    def _once(self, aspect: str, shown: Shown) -> Flow[AspectSummary]:
        """Ask for one aspect without a repair: the call is one already."""
        reply = yield from complete(self._request_for_one(aspect, shown))
        return self._parse(aspect, shown)(reply)

    def _each(self, shown: Mapping[str, Shown], error: Exception) -> Flow[Parts]:
        """
        Ask for each aspect by itself, after a call for all of them failed.

        Raises:
            Exception: The server failed for the first two as well, and they have no review in common, or it failed
                for both halves of the first: this is an outage; raises `error` itself.
        """
        if not is_server_fault(error):
            found = yield from gather(*(self.one(aspect, reviews) for aspect, reviews in shown.items()))
            return dict(zip(shown, map(reraise_fatal, found), strict=True))
        parts: Parts = {}
        for aspect, reviews in shown.items():
            (parts[aspect],) = yield from gather(self.one(aspect, reviews, halve=False))
            reraise_fatal(parts[aspect])
            if len(parts) == min(2, len(shown)) and all(
                isinstance(part, Exception) for part in parts.values()
            ):
                first = next(iter(parts))
                if not _has_common_review(shown[first], reviews):
                    raise error
                (parts[first],) = yield from gather(self._without_poison(first, shown[first], error))
                if isinstance(reraise_fatal(parts[first]), Exception):
                    raise error
        for aspect, part in parts.items():
            if isinstance(part, Exception) and is_server_fault(part) and len(shown[aspect]) > 1:
                (parts[aspect],) = yield from gather(self._without_poison(aspect, shown[aspect], part))
                reraise_fatal(parts[aspect])
        return parts

    def _without_poison(self, aspect: str, shown: Shown, error: Exception) -> Flow[AspectSummary]:
        """
        Summarise the halves of an aspect's reviews and join what succeeds; the other reviews are left out.

        Raises:
            Exception: Both halves failed, so that the fault is not one review's; raises `error` itself.
        """
        middle = (len(shown) + 1) // 2
        halves = (shown[:middle], shown[middle:])
        found = yield from gather(*(self.one(aspect, half, halve=False) for half in halves))
        results = [reraise_fatal(part) for part in found]
        if all(isinstance(part, Exception) for part in results):
            raise error
        for index, part in enumerate(results):
            if isinstance(part, Exception) and _may_be_one_texts_fault(part) and len(halves[index]) > 1:
                (results[index],) = yield from gather(self._without_poison(aspect, halves[index], part))
                reraise_fatal(results[index])
        return _joined(results, halves)

    def _with_overall(self, parts: Parts, overall: str | Exception | None) -> Flow[Answer]:
        """Return the answer, with an overall summary written from the aspects' if it has none."""
        summaries = {
            aspect: part.summary for aspect, part in parts.items() if isinstance(part, AspectSummary)
        }
        if isinstance(overall, str) or not summaries:
            return Answer(parts, overall or "", self._model)
        request = self._request(
            "overall_summary",
            prompts.summaries_block(summaries, self._wording.base),
            prompts.overall_schema(),
            summaries=summaries,
        )
        # Repaired once only if it is the first request for it.
        flow = (
            complete_and_parse(request, self._read_overall)
            if overall is None
            else self._overall_once(request)
        )
        (written,) = yield from gather(flow)
        # Not `reraise_fatal`: the aspects are whole and paid for, so they stand also if the run stops here.
        return Answer(parts, written, self._model)

    def _overall_once(self, request: LLMRequest) -> Flow[str]:
        reply = yield from complete(request)
        return self._read_overall(reply)

    def _read_overall(self, reply: LLMResponse) -> str:
        self._model = self._model or reply.model
        return read_overall(reply)

    def _parse(self, aspect: str, shown: Shown) -> Callable[[LLMResponse], AspectSummary]:
        others = [name for name in self._aspects if name != aspect]

        def parse(reply: LLMResponse) -> AspectSummary:
            self._model = self._model or reply.model
            return read_aspect(reply, aspect, shown, prompts.MAX_BULLETS, others)

        return parse

    def _request_for_all(self, shown: Mapping[str, Shown]) -> LLMRequest:
        blocks = [
            prompts.reviews_block(aspect, [hit for _, hit in reviews], self._wording.base)
            for aspect, reviews in shown.items()
        ]
        reviews = {aspect: _as_inputs(reviews) for aspect, reviews in shown.items()}
        schema = prompts.aspects_schema(tuple(shown))
        return self._request("aspect_summaries", "\n".join(blocks), schema, reviews=reviews)

    def _request_for_one(self, aspect: str, shown: Shown) -> LLMRequest:
        return self._request(
            "aspect_summary",
            prompts.reviews_block(aspect, [hit for _, hit in shown], self._wording.base),
            prompts.aspect_schema(),
            aspect=aspect,
            reviews=_as_inputs(shown),
        )

    def _request(self, task: str, data: str, schema: Mapping[str, Any], **inputs: Any) -> LLMRequest:
        return LLMRequest(
            task,
            (prompts.instructions(task, self._wording), {"role": "user", "content": data}),
            schema,
            {"restaurant_id": self._restaurant_id, "language": self._wording.language, **inputs},
            self._task.max_tokens,
            self._task.temperature,
            self._priority,
        )


def _as_inputs(shown: Shown) -> list[dict[str, Any]]:
    return [{"id": number, "content": hit.content} for number, (_, hit) in enumerate(shown, 1)]


def _may_be_one_texts_fault(error: Exception) -> bool:
    return is_refusal(error) or is_server_fault(error)


def _has_common_review(one: Shown, other: Shown) -> bool:
    ids = {hit.review_id for _, hit in one}
    return len(one) > 1 and any(hit.review_id in ids for _, hit in other)


def _can_halve(shown: Mapping[str, Shown]) -> bool:
    return any(len(reviews) > 1 for reviews in shown.values())


def _fewer(
    shown: Mapping[str, Shown], request: LLMRequest, error: OutputTruncated, shrinks: int
) -> Mapping[str, Shown]:
    """
    Return fewer or shorter reviews for a request whose reply was cut off.

    Raises:
        OutputTruncated: It was done often enough, or would not help; raises `error` itself.
    """
    full = error.reply is not None and is_context_full(request, error.reply)
    looping = error.reply is not None and is_looping(error.reply)
    if shrinks >= (MAX_SHRINKS_FULL if full else MAX_SHRINKS) or not (full or looping or _can_halve(shown)):
        raise error
    return trimmed(shown, error)


def trimmed(shown: Mapping[str, Shown], error: Exception) -> dict[str, Shown]:
    """
    Return the better half of each aspect's reviews; if no aspect has more than one, the first half of their texts.

    Raises:
        Exception: No text can be truncated further; raises `error` itself.
    """
    if _can_halve(shown):
        return {aspect: list(reviews[: (len(reviews) + 1) // 2]) for aspect, reviews in shown.items()}
    truncated: dict[str, Shown] = {
        aspect: [(rank, _truncated(hit)) for rank, hit in reviews] for aspect, reviews in shown.items()
    }
    if all(reviews == truncated[aspect] for aspect, reviews in shown.items()):
        raise error
    return truncated


def _truncated(hit: Hit) -> Hit:
    half = truncate_to_half(hit.content)
    return hit if half is None else replace(hit, content=half)


def _joined(results: Sequence[ResultOrError[AspectSummary]], halves: Sequence[Shown]) -> AspectSummary:
    """Join the summaries of halves of an aspect's reviews; those of a half that failed are counted."""
    parts = [part for part in results if isinstance(part, AspectSummary)]
    errors = [part for part in results if isinstance(part, Exception)]
    failed = [len(half) for half, part in zip(halves, results, strict=True) if isinstance(part, Exception)]
    first = parts[0]
    bullets = dict.fromkeys(bullet for part in parts for bullet in part.bullets)
    return AspectSummary(
        status="ok",
        summary=first.summary,
        bullets=tuple(bullets)[: prompts.MAX_BULLETS],
        evidence=tuple(one for part in parts for one in part.evidence),
        invalid_citations=sum(part.invalid_citations for part in parts),
        failed_count=sum(failed) + sum(part.failed_count for part in parts),
        error=describe_error(errors[0])
        if errors
        else next((part.error for part in parts if part.error), None),
        dropped=tuple(name for part in parts for name in part.dropped)[:MAX_NAMED],
    )

"""
Map-reduce summarization of many reviews into one text, for `SummarizeReviews` and `ExtractStrengths`.

Theory of operation. The reviews of one restaurant may exceed a prompt many times over.

- *Pack*: reviews are packed into batches by tokens (`pack`), in order; a single review that is too long is truncated.
- *Map*: each batch is summarised by one call, all batches concurrently. A batch that the model calls too long
  (`PromptTooLong`) is halved and its halves are summarised, down to a single review, whose text is then halved. A batch
  that fails leaves the others standing; its reviews are reported in `SummaryResult.failed`.
- *Reduce*: the summaries are packed and merged by further calls, level by level, until one is left. Every level has
  fewer summaries than the one before. A merge that fails is an error of the restaurant, because what is left would be
  reported as a summary of all batches.

Errors that stop the run are raised at once, on every level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .._llm_response import LLMResponse
from ..errors import OutputInvalid, PromptTooLong
from ..models import ItemId, LLMRequest
from ..steps import Flow, gather, pack
from ..tokens.packing import truncate_to_half
from ._asking import complete_and_parse
from ._common import raise_first, reraise_fatal
from ._parsing import read_object
from ._prompts import reviews as prompts
from ._prompts.aspects import Language

Texts: TypeAlias = Mapping[str, str]
"""A summary: one text for each field of the reply."""


@dataclass(frozen=True, slots=True)
class ReviewLine:
    """
    A review as one line of a prompt.

    Attributes:
        number: Number of the review in the prompt.
        text: Its text, possibly truncated.
        render: Renders number and text as the line.
        inputs: Fields to add to the review in `LLMRequest.inputs`.
    """

    number: int
    text: str
    render: Callable[[int, str], str]
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def truncated(self, error: PromptTooLong) -> ReviewLine:
        """
        Return the line with the first half of its text.

        Raises:
            PromptTooLong: Nothing would be left of the text; raises `error` itself.
        """
        half = truncate_to_half(self.text)
        if half is None:
            raise error
        return ReviewLine(self.number, half, self.render, self.inputs)


@dataclass(frozen=True, slots=True)
class SummaryResult:
    """
    Summary of a list of reviews.

    Attributes:
        texts: The summary, by field.
        failed: Numbers of the reviews whose batches failed.
        model: Model that wrote the summaries of the batches.
    """

    texts: Texts
    failed: frozenset[int]
    model: str


@dataclass(slots=True)
class _Parts:
    """Results of the map step: summaries of batches, numbers of the reviews that failed, and the errors."""

    texts: list[Texts] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    model: str = ""

    def add(self, other: _Parts) -> None:
        self.texts += other.texts
        self.failed += other.failed
        self.errors += other.errors
        self.model = self.model or other.model


@dataclass(frozen=True, slots=True)
class MapReduceSummary:
    """
    Map-reduce summarization of one restaurant's reviews.

    Attributes:
        task: Task name of the batches' requests.
        restaurant_id: Id of the restaurant.
        language: Language of the instructions and the replies.
        fields: Fields of a reply, in order; the text of the last must not be empty.
        max_tokens: Maximum length of a reply, in tokens.
        max_tokens_per_batch: Token budget of a batch; None for the runner's.
        temperature: Sampling temperature.
        priority: Lower runs first.
        preamble: Text between the instructions and the reviews.
        inputs: Further fields of `LLMRequest.inputs`.
    """

    task: str
    restaurant_id: ItemId
    language: Language
    fields: tuple[str, ...]
    max_tokens: int
    max_tokens_per_batch: int | None
    temperature: float
    priority: int
    preamble: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def flow(self, lines: Sequence[ReviewLine]) -> Flow[SummaryResult]:
        """
        Summarise reviews.

        Raises:
            Exception: The error of the first batch if every batch failed, or the error of a merge.
        """
        # Lines are measured with the largest number, so that no line turns out longer than it was measured.
        last = max(line.number for line in lines)
        batches = yield from pack(
            [line.text for line in lines],
            render=lambda text: lines[0].render(last, text),
            fixed_text=self._system(self.task) + self.preamble + prompts.block([]),
            answer_tokens=self.max_tokens,
            max_tokens=self.max_tokens_per_batch,
        )
        parts = yield from self._map(
            [[_with_text(lines[packed.index], packed.text) for packed in batch] for batch in batches]
        )
        if not parts.texts:
            raise_first(parts.errors)
        return SummaryResult((yield from self._reduce(parts.texts)), frozenset(parts.failed), parts.model)

    def _map(self, batches: Sequence[Sequence[ReviewLine]]) -> Flow[_Parts]:
        """Summarise batches concurrently; a batch that fails leaves the others standing."""
        results = yield from gather(*(self._map_batch(batch) for batch in batches))
        parts = _Parts()
        for batch, result in zip(batches, results, strict=True):
            part = reraise_fatal(result)
            if isinstance(part, Exception):
                part = _Parts(failed=[line.number for line in batch], errors=[part])
            parts.add(part)
        return parts

    def _map_batch(self, batch: Sequence[ReviewLine]) -> Flow[_Parts]:
        """Summarise one batch, or its halves if it is too long."""
        middle = len(batch) // 2
        try:
            texts, model = yield from complete_and_parse(self._request(batch), self._parse, limiter="batches")
            return _Parts([texts], model=model)
        except PromptTooLong as error:
            halves = [batch[:middle], batch[middle:]] if middle else [[batch[0].truncated(error)]]
        # Outside the except clause: errors of the halves are not caused by this one.
        return (yield from self._map(halves))

    def _reduce(self, parts: Sequence[Texts]) -> Flow[Texts]:
        """Merge summaries, as many at a time as fit the budget, until one is left."""
        while len(parts) > 1:
            groups = yield from self._group(parts)
            merged = yield from gather(*(self._merge(group) for group in groups))
            raise_first(texts for texts in merged if isinstance(texts, Exception))
            parts = [texts for texts in merged if not isinstance(texts, Exception)]
        return parts[0]

    def _group(self, parts: Sequence[Texts]) -> Flow[list[Sequence[Texts]]]:
        """Pack summaries into groups that fit the budget; pairs, if no two summaries fit it."""
        batches = yield from pack(
            [prompts.data_line(len(parts), part) for part in parts],
            render=str,
            fixed_text=self._system("merge_summaries") + prompts.block([]),
            answer_tokens=self.max_tokens,
            max_tokens=self.max_tokens_per_batch,
        )
        if len(batches) == len(parts):
            # Not even two summaries fit the budget. Exceed it: groups of one would never get fewer.
            return [parts[start : start + 2] for start in range(0, len(parts), 2)]
        return [[parts[packed.index] for packed in batch] for batch in batches]

    def _merge(self, group: Sequence[Texts]) -> Flow[Texts]:
        if len(group) == 1:
            return group[0]
        try:
            return (yield from self._merge_in_one_call(group))
        except PromptTooLong as error:
            return (yield from self._merge_halves(group, error))

    def _merge_halves(self, group: Sequence[Texts], error: PromptTooLong) -> Flow[Texts]:
        """Merge summaries that are too long together: each half first, then the two; a pair is truncated."""
        if len(group) == 2:
            return (yield from self._merge(_truncated(group, error)))
        middle = len(group) // 2
        halves = yield from gather(self._merge(group[:middle]), self._merge(group[middle:]))
        raise_first(half for half in halves if isinstance(half, Exception))
        return (yield from self._merge([half for half in halves if not isinstance(half, Exception)]))

    def _merge_in_one_call(self, group: Sequence[Texts]) -> Flow[Texts]:
        lines = [prompts.data_line(number, part) for number, part in enumerate(group)]
        request = self._llm_request(
            "merge_summaries", prompts.block(lines), {"summaries": [dict(part) for part in group]}
        )
        texts, _ = yield from complete_and_parse(request, self._parse, limiter="batches")
        # Drop a field that is empty in every part: the model must have invented its text.
        return {name: text if any(part[name] for part in group) else "" for name, text in texts.items()}

    def _request(self, batch: Sequence[ReviewLine]) -> LLMRequest:
        lines = [line.render(line.number, line.text) for line in batch]
        reviews = [{"id": line.number, "content": line.text, **line.inputs} for line in batch]
        return self._llm_request(
            self.task, self.preamble + prompts.block(lines), {**self.inputs, "reviews": reviews}
        )

    def _llm_request(self, task: str, data: str, inputs: Mapping[str, Any]) -> LLMRequest:
        return LLMRequest(
            task,
            (prompts.instructions(task, self.language), {"role": "user", "content": data}),
            prompts.texts_schema(self.fields),
            {"restaurant_id": self.restaurant_id, "language": self.language, **inputs},
            self.max_tokens,
            self.temperature,
            self.priority,
        )

    def _system(self, task: str) -> str:
        return prompts.instructions(task, self.language)["content"]

    def _parse(self, reply: LLMResponse) -> tuple[Texts, str]:
        """Return the texts of a reply and the name of its model; only the last field must not be empty."""
        answer = read_object(reply)
        *others, last = self.fields
        texts = {name: _text(name, answer.get(name) or "", reply) for name in others}
        texts[last] = _text(last, answer.get(last), reply)
        if not texts[last]:
            raise OutputInvalid(f"the answer does not have its form: {last} is empty", reply=reply)
        return texts, reply.model


def _truncated(group: Sequence[Texts], error: PromptTooLong) -> list[Texts]:
    """
    Return the summaries with the first half of each text.

    Raises:
        PromptTooLong: No text can be truncated further; raises `error` itself.
    """
    halves = [{name: truncate_to_half(text) or text for name, text in texts.items()} for texts in group]
    if halves == [dict(texts) for texts in group]:
        raise error
    return list(halves)


def _text(name: str, value: Any, reply: LLMResponse) -> str:
    if not isinstance(value, str):
        raise OutputInvalid(f"the answer does not have its form: {name} is not a text", reply=reply)
    return value.strip()


def _with_text(line: ReviewLine, text: str) -> ReviewLine:
    return line if text is line.text else ReviewLine(line.number, text, line.render, line.inputs)

"""
Many reviews, one text: packed batches are summed up side by side, and their summaries joined.

What `SummarizeReviews` and `ExtractStrengths` have in common.
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
"""A summary: one text for each field of the answer."""


@dataclass(frozen=True, slots=True)
class ReviewLine:
    """A review as it is shown: its number, its text, and how to make a line of the two."""

    number: int
    text: str
    render: Callable[[int, str], str]
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def cut(self, error: PromptTooLong) -> ReviewLine:
        """
        Return it cut in half.

        Raises:
            PromptTooLong: When nothing would be left of it.
        """
        half = truncate_to_half(self.text)
        if half is None:
            raise error
        return ReviewLine(self.number, half, self.render, self.inputs)


@dataclass(frozen=True, slots=True)
class SummaryResult:
    """
    What reviews came to.

    Attributes:
        texts: The summary.
        failed: Numbers of the reviews whose batches failed.
        model: The model that wrote it.
    """

    texts: Texts
    failed: frozenset[int]
    model: str


@dataclass(slots=True)
class _Parts:
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
    How reviews are summed up.

    Attributes:
        task: What the batches are asked, by name.
        restaurant_id: The restaurant it is for.
        language: Of instructions and answer.
        fields: The texts of an answer, in order; the last must not be empty.
        max_tokens: The longest answer, in tokens.
        max_tokens_per_batch: Token budget of a batch; None for the runner's.
        temperature: Sampling temperature.
        priority: Lower goes first.
        preamble: What stands between the instructions and the reviews.
        inputs: What `LLMRequest.inputs` holds besides.
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
        Sum up reviews.

        Raises:
            Exception: What the first batch raised, when none could be summed up; what a merging call raised.
        """
        # Every line is rendered with the largest number and its own review's text.
        last = max(line.number for line in lines)
        batches = yield from pack(
            [line.text for line in lines],
            render=lambda text: lines[0].render(last, text),
            fixed_text=self._system(self.task) + self.preamble + prompts.block([]),
            answer_tokens=self.max_tokens,
            max_tokens=self.max_tokens_per_batch,
        )
        parts = yield from self._parts([[_shown(lines[one.index], one.text) for one in b] for b in batches])
        if not parts.texts:
            raise_first(parts.errors)
        return SummaryResult((yield from self._merge(parts.texts)), frozenset(parts.failed), parts.model)

    def _parts(self, batches: Sequence[Sequence[ReviewLine]]) -> Flow[_Parts]:
        """Sum up batches side by side; one that fails leaves the others standing."""
        found = yield from gather(*(self._part(batch) for batch in batches))
        parts = _Parts()
        for batch, result in zip(batches, found, strict=True):
            part = reraise_fatal(result)
            if isinstance(part, Exception):
                part = _Parts(failed=[line.number for line in batch], errors=[part])
            parts.add(part)
        return parts

    def _part(self, batch: Sequence[ReviewLine]) -> Flow[_Parts]:
        """Sum up one batch, or its halves where it is too long."""
        middle = len(batch) // 2
        try:
            texts, model = yield from complete_and_parse(self._request(batch), self._read, limiter="batches")
            return _Parts([texts], model=model)
        except PromptTooLong as error:
            halves = [batch[:middle], batch[middle:]] if middle else [[batch[0].cut(error)]]
        return (yield from self._parts(halves))

    def _merge(self, parts: Sequence[Texts]) -> Flow[Texts]:
        """Join summaries, as many at a time as fit, until one is left."""
        while len(parts) > 1:
            groups = yield from self._grouped(parts)
            joined = yield from gather(*(self._join(group) for group in groups))
            raise_first(texts for texts in joined if isinstance(texts, Exception))
            parts = [texts for texts in joined if not isinstance(texts, Exception)]
        return parts[0]

    def _grouped(self, parts: Sequence[Texts]) -> Flow[list[Sequence[Texts]]]:
        batches = yield from pack(
            [prompts.data_line(len(parts), part) for part in parts],
            render=str,
            fixed_text=self._system("merge_summaries") + prompts.block([]),
            answer_tokens=self.max_tokens,
            max_tokens=self.max_tokens_per_batch,
        )
        if len(batches) == len(parts):
            # Not even two fit the budget, which is the user's wish; without two there is no joining.
            return [parts[start : start + 2] for start in range(0, len(parts), 2)]
        return [[parts[one.index] for one in batch] for batch in batches]

    def _join(self, group: Sequence[Texts]) -> Flow[Texts]:
        if len(group) == 1:
            return group[0]
        try:
            return (yield from self._join_at_once(group))
        except PromptTooLong as error:
            return (yield from self._join_less(group, error))

    def _join_less(self, group: Sequence[Texts], error: PromptTooLong) -> Flow[Texts]:
        """Join summaries that are too long together: two halves first; of two, the beginnings."""
        if len(group) == 2:
            return (yield from self._join(_shorter(group, error)))
        middle = len(group) // 2
        halves = yield from gather(self._join(group[:middle]), self._join(group[middle:]))
        raise_first(half for half in halves if isinstance(half, Exception))
        return (yield from self._join([half for half in halves if not isinstance(half, Exception)]))

    def _join_at_once(self, group: Sequence[Texts]) -> Flow[Texts]:
        lines = [prompts.data_line(number, part) for number, part in enumerate(group)]
        request = self._asking(
            "merge_summaries", prompts.block(lines), {"summaries": [dict(part) for part in group]}
        )
        texts, _ = yield from complete_and_parse(request, self._read, limiter="batches")
        # What no part has to say, their summary has not either.
        return {name: text if any(part[name] for part in group) else "" for name, text in texts.items()}

    def _request(self, batch: Sequence[ReviewLine]) -> LLMRequest:
        lines = [line.render(line.number, line.text) for line in batch]
        reviews = [{"id": line.number, "content": line.text, **line.inputs} for line in batch]
        return self._asking(
            self.task, self.preamble + prompts.block(lines), {**self.inputs, "reviews": reviews}
        )

    def _asking(self, task: str, data: str, inputs: Mapping[str, Any]) -> LLMRequest:
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

    def _read(self, reply: LLMResponse) -> tuple[Texts, str]:
        answer = read_object(reply)
        *others, last = self.fields
        texts = {name: _text(name, answer.get(name) or "", reply) for name in others}
        texts[last] = _text(last, answer.get(last), reply)
        if not texts[last]:
            raise OutputInvalid(f"the answer does not have its form: {last} is empty", reply=reply)
        return texts, reply.model


def _shorter(group: Sequence[Texts], error: PromptTooLong) -> list[Texts]:
    """
    Return summaries cut in half.

    Raises:
        PromptTooLong: When nothing would be left of them.
    """
    shorter = [{name: truncate_to_half(text) or text for name, text in texts.items()} for texts in group]
    if shorter == [dict(texts) for texts in group]:
        raise error
    return list(shorter)


def _text(name: str, value: Any, reply: LLMResponse) -> str:
    if not isinstance(value, str):
        raise OutputInvalid(f"the answer does not have its form: {name} is not a text", reply=reply)
    return value.strip()


def _shown(line: ReviewLine, text: str) -> ReviewLine:
    return line if text is line.text else ReviewLine(line.number, text, line.render, line.inputs)

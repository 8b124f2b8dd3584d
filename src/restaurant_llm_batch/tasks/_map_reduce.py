"""
Map-reduce summarization of many reviews into one text, for `SummarizeReviews` and `ExtractStrengths`.

Theory of operation. The reviews of one restaurant may exceed a prompt many times over.

- *Pack*: reviews are packed into batches by tokens (`pack`), in order; a single review that is too long is truncated.
- *Map*: each batch is summarised by one call, all batches concurrently. A batch that the model calls too long
  (`PromptTooLong`) is halved and its halves are summarised, down to a single review, whose text is then halved. A batch
  whose reply is cut off is halved once. A batch that a content filter refuses, or that the server fails to answer at
  every attempt, is halved down to the review at fault. A batch that fails leaves the others standing; its reviews are
  reported in `SummaryResult.failed`.
- *Reduce*: the summaries are merged (`_merging`) until one is left. The reviews of a summary that cannot be merged are
  reported in `SummaryResult.failed` too.

Of a reply, the fields that are whole stand. Reviews and summaries are numbered from 1 in each prompt. Errors that stop
the run are raised at once, on every level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import BackendError, OutputError, OutputTruncated, PromptTooLong
from ..models import LLMRequest, Review
from ..results import FailedReview
from ..steps import Flow, ResultOrError, gather, pack
from ..tokens.packing import truncate_to_half
from ._asking import is_refusal, is_server_fault
from ._common import describe_error, raise_first, reraise_fatal
from ._merging import Merging, Part
from ._parsing import Texts
from ._prompts import reviews as prompts
from ._summary_calls import SummaryCalls


@dataclass(frozen=True, slots=True)
class ReviewLine:
    """
    A review as one line of a prompt.

    Attributes:
        number: Index of the review in the item; in a prompt, reviews are numbered from 1.
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
        failed: Errors of the reviews that it lacks, by number.
        model: Model that wrote the summaries of the batches.
    """

    texts: Texts
    failed: Mapping[int, Exception]
    model: str


def failed_reviews(reviews: Mapping[int, Review], summary: SummaryResult) -> tuple[FailedReview, ...]:
    """Return the reviews that a summary lacks, in their order, each with its id, or its number if it has none."""
    named = ((reviews[number].id, number, summary.failed[number]) for number in sorted(summary.failed))
    return tuple(
        FailedReview(number if review_id is None else review_id, describe_error(error))
        for review_id, number, error in named
    )


@dataclass(slots=True)
class _Parts:
    """Results of the map step: summaries of batches, and the errors of the reviews that failed."""

    parts: list[Part] = field(default_factory=list)
    failed: dict[int, Exception] = field(default_factory=dict)
    model: str = ""

    def add(self, other: _Parts) -> None:
        self.parts += other.parts
        self.failed |= other.failed
        self.model = self.model or other.model


@dataclass(frozen=True, slots=True)
class MapReduceSummary:
    """
    Map-reduce summarization of one restaurant's reviews.

    Attributes:
        task: Task name of the batches' requests.
        calls: The calls for the restaurant.
        max_tokens_per_batch: Token budget of a batch; None for the runner's.
        preamble: Text between the instructions and the reviews.
        inputs: Further fields of `LLMRequest.inputs`.
    """

    task: str
    calls: SummaryCalls
    max_tokens_per_batch: int | None
    preamble: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def flow(self, lines: Sequence[ReviewLine]) -> Flow[SummaryResult]:
        """
        Summarise reviews.

        Raises:
            Exception: The error of the first batch if every batch failed, or the error of a merge.
        """
        # Lines are measured with the largest number, so that no line turns out longer than it was measured.
        last = len(lines)
        batches = yield from pack(
            [line.text for line in lines],
            render=lambda text: lines[0].render(last, text),
            fixed_text=self.calls.system(self.task) + self.preamble + prompts.block([]),
            answer_tokens=self.calls.max_tokens,
            max_tokens=self.max_tokens_per_batch,
        )
        parts = yield from self._map(
            [[_with_text(lines[packed.index], packed.text) for packed in batch] for batch in batches]
        )
        if not parts.parts:
            raise_first(parts.failed.values())
        merged = yield from Merging(self.calls, self.max_tokens_per_batch).reduce(parts.parts)
        return SummaryResult(merged.texts, {**parts.failed, **merged.left_out}, parts.model)

    def _map(self, batches: Sequence[Sequence[ReviewLine]], *, shorten: bool = True) -> Flow[_Parts]:
        """Summarise batches concurrently; a batch that fails leaves the others standing."""
        results = yield from gather(*(self._map_batch(batch, shorten=shorten) for batch in batches))
        parts = _Parts()
        for batch, result in zip(batches, results, strict=True):
            parts.add(_part_of(batch, result))
        return parts

    def _map_batch(
        self, batch: Sequence[ReviewLine], *, shorten: bool = True, halve: bool = True
    ) -> Flow[_Parts]:
        """
        Summarise one batch, or its halves.

        Args:
            batch: The reviews.
            shorten: Whether to halve the batch if its reply is cut off.
            halve: Whether to halve it if the server fails at every attempt.
        """
        middle = len(batch) // 2
        halves = [batch[:middle], batch[middle:]]
        try:
            texts, model = yield from self.calls.ask(self._request(batch), widen=not (shorten and middle))
            return _Parts([Part(texts, tuple(line.number for line in batch))], model=model)
        except PromptTooLong as error:
            halves = halves if middle else [[batch[0].truncated(error)]]
            problem: Exception = error
        except OutputTruncated as error:
            if not (shorten and middle):
                raise
            shorten = False
            problem = error
        except (BackendError, OutputError) as error:
            if not middle or not (is_refusal(error) or (halve and is_server_fault(error))):
                raise
            problem = error
        # Outside the except clauses: errors of the halves are not caused by this one.
        if is_server_fault(problem):
            return (yield from self._without_poison(halves, problem))
        return (yield from self._map(halves, shorten=shorten))

    def _without_poison(self, halves: Sequence[Sequence[ReviewLine]], error: Exception) -> Flow[_Parts]:
        """
        Summarise the halves of a batch that failed the server at every attempt.

        Raises:
            Exception: Both halves failed, which is an outage; raises `error` itself.
        """
        results = list((yield from gather(*(self._map_batch(half, halve=False) for half in halves))))
        if all(isinstance(reraise_fatal(result), Exception) for result in results):
            raise error
        parts = _Parts()
        for half, result in zip(halves, results, strict=True):
            found = result
            if isinstance(found, Exception) and is_server_fault(found) and len(half) > 1:
                middle = len(half) // 2
                (found,) = yield from gather(self._without_poison([half[:middle], half[middle:]], found))
            parts.add(_part_of(half, found))
        return parts

    def _request(self, batch: Sequence[ReviewLine]) -> LLMRequest:
        numbered = list(enumerate(batch, 1))
        lines = [line.render(number, line.text) for number, line in numbered]
        reviews = [{"id": number, "content": line.text, **line.inputs} for number, line in numbered]
        return self.calls.request(
            self.task, self.preamble + prompts.block(lines), {**self.inputs, "reviews": reviews}
        )


def _part_of(batch: Sequence[ReviewLine], result: ResultOrError[_Parts]) -> _Parts:
    """Return the result of a batch; if it failed, the error of each of its reviews."""
    part = reraise_fatal(result)
    return _Parts(failed={line.number: part for line in batch}) if isinstance(part, Exception) else part


def _with_text(line: ReviewLine, text: str) -> ReviewLine:
    return line if text is line.text else ReviewLine(line.number, text, line.render, line.inputs)

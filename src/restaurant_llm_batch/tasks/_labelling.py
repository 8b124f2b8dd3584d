"""
Labelling of reviews in packed batches, for `AnalyzeSentiment` and `CompareAspects`: a label or an error for each.

Theory of operation. A review whose number is missing from a reply, or has two different labels, is sent again in a
smaller batch, up to a number of rounds. A reply that names numbers which were not in the prompt is not believed at all,
because all its labels may be those of neighbours: the batch is halved, down to single reviews. A batch that a content
filter refuses, or that the server fails to answer at every attempt, is halved as well, down to the review at fault.
Labels are never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import BackendError, ConfigurationError, OutputError, OutputInvalid, PromptTooLong
from ..models import ItemId, LLMRequest, Message
from ..results import Sentiment
from ..steps import Flow, complete, gather, pack
from ..tokens.packing import TRUNCATION_MARK, PackedText, truncate_to_half
from ._asking import is_refusal, is_server_fault
from ._common import describe_error, raise_first, reraise_fatal
from ._labels import WrongNumbers, read_labels
from ._prompts import reviews as prompts
from ._prompts.wording import Wording

ANSWER_TOKENS = 32
"""Tokens of a reply without its labels."""
LABEL_TOKENS = 20
"""Tokens of one label, ``{"id": 17, "label": "positive"}``: 10 to 12 on one line, up to 20 if a model indents it."""

BLANK = "the review is blank"
NO_ROOM = "max_tokens_per_batch leaves no room for the review's text; increase it"
UNANSWERED = "the model gave it no label that can be read, or two different ones"

Batch: TypeAlias = Mapping[int, str]
"""Texts of reviews, possibly truncated, by the review's position."""
Labels: TypeAlias = dict[int, "Sentiment | Exception"]
"""Label or error of reviews, by the review's position."""


@dataclass(frozen=True, slots=True)
class LabelQuestion:
    """
    What the model is asked about each review.

    Attributes:
        task: Name of the requests' task.
        restaurant_id: Id of the restaurant, for the requests' inputs.
        wording: Wording of the instructions.
        priority: Lower runs first.
        temperature: Sampling temperature.
        max_tokens_per_batch: Token budget of a batch; None for the runner's.
        max_rounds: Maximum number of requests that a review is part of, apart from those of halved batches.
        aspect: The aspect that the labels are about; "" for the review as a whole.
    """

    task: str
    restaurant_id: ItemId
    wording: Wording
    priority: int
    temperature: float
    max_tokens_per_batch: int | None
    max_rounds: int
    aspect: str = ""

    @property
    def instructions(self) -> Message:
        """The system message."""
        return prompts.instructions(self.task, self.wording, self.aspect)

    def request(self, texts: Sequence[str], round_number: int) -> LLMRequest:
        """Return the request for the labels of a batch."""
        # Each batch is numbered from 1: small models number by themselves, and from 1.
        numbered = list(enumerate(texts, 1))
        lines = [prompts.line(number, text) for number, text in numbered]
        data = (prompts.again(self.wording.base) if round_number > 1 else "") + prompts.block(lines)
        about = {"aspect": self.aspect} if self.aspect else {}
        return LLMRequest(
            self.task,
            (self.instructions, {"role": "user", "content": data}),
            prompts.labels_schema(len(texts)),
            {
                "restaurant_id": self.restaurant_id,
                "language": self.wording.language,
                **about,
                "reviews": [{"id": number, "content": text} for number, text in numbered],
            },
            ANSWER_TOKENS + LABEL_TOKENS * len(texts),
            self.temperature,
            self.priority,
        )


class Labelling:
    """
    The requests for labels of some reviews, in rounds.

    Round 1 sends all reviews. Each further round sends the reviews of one batch that are still without a label, in
    batches of at most half its size: a small model loses count in a long list. `model` is the first model that answers.
    """

    def __init__(self, question: LabelQuestion, texts: Sequence[str]) -> None:
        self._question = question
        self._texts = texts
        self.model = ""

    def run(self, max_reviews: int | None = None) -> Flow[Labels]:
        """
        Label all reviews but the blank ones, which have no entry; none costs no call.

        Args:
            max_reviews: Maximum number of reviews in a batch; None for the runner's.

        Raises:
            Exception: No review could be labelled; the error of the first.
        """
        positions = [position for position, text in enumerate(self._texts) if text.strip()]
        labels = (yield from self.label(positions, max_reviews, 1)) if positions else {}
        errors = [label for label in labels.values() if isinstance(label, Exception)]
        if len(errors) == len(labels):
            raise_first(errors)
        return labels

    def label(self, positions: Sequence[int], max_reviews: int | None, round_number: int) -> Flow[Labels]:
        """Label the reviews at `positions` in packed batches, concurrently and independently of each other."""
        packed = yield from pack(
            [self._texts[position] for position in positions],
            render=lambda text: prompts.line(len(self._texts), text),
            fixed_text=self._fixed_text,
            answer_tokens=ANSWER_TOKENS,
            answer_tokens_each=LABEL_TOKENS,
            max_tokens=self._question.max_tokens_per_batch,
            max_texts=max_reviews,
        )
        batches = [_by_position(batch, positions) for batch in packed]
        labels = yield from self._label_batches(
            [batch for batch in batches if any(batch.values())], round_number
        )
        without_text = (position for batch in batches for position, text in batch.items() if not text)
        return labels | dict.fromkeys(without_text, ConfigurationError(NO_ROOM))

    def _label_batches(
        self, batches: Sequence[Batch], round_number: int, *, distrusted: bool = False
    ) -> Flow[Labels]:
        results = yield from gather(
            *(self._label_batch(batch, round_number, distrusted=distrusted) for batch in batches)
        )
        labels: Labels = {}
        for batch, result in zip(batches, results, strict=True):
            part = reraise_fatal(result)
            labels |= dict.fromkeys(batch, part) if isinstance(part, Exception) else part
        return labels

    def _label_batch(
        self, batch: Batch, round_number: int, *, distrusted: bool = False, halve: bool = True
    ) -> Flow[Labels]:
        """
        Label one batch; send the reviews that its reply lacks again.

        Args:
            batch: The reviews.
            round_number: Number of the round, from 1.
            distrusted: Whether the reviews are from a batch whose labels may have been shifted.
            halve: Whether to halve the batch if the server fails at every attempt.
        """
        valid: Mapping[int, Sentiment] = {}
        positions = list(batch)
        try:
            reply = yield from complete(
                self._question.request(list(batch.values()), round_number), limiter="batches"
            )
            problem: Exception = OutputInvalid(UNANSWERED, reply=reply)
            self.model = self.model or reply.model
            valid = {positions[n - 1]: label for n, label in read_labels(reply, len(batch)).items()}
        except PromptTooLong as error:
            return (
                yield from self._label_batches(_halves(batch, error), round_number, distrusted=distrusted)
            )
        except (BackendError, OutputError) as error:
            problem = error
        if len(batch) > 1 and isinstance(problem, WrongNumbers):
            # None of its labels is believed. Halving ends at single reviews, so it takes no round.
            return (yield from self._label_batches(_halves(batch, problem), round_number, distrusted=True))
        if len(batch) > 1 and (is_refusal(problem) or (halve and is_server_fault(problem))):
            return (yield from self._without_poison(batch, round_number, problem))
        if isinstance(problem, BackendError) or is_refusal(problem):
            raise problem
        labels: Labels = {**valid, **dict.fromkeys((p for p in batch if p not in valid), problem)}
        missing = [position for position in batch if position not in valid]
        # A single review cannot be sent in a smaller batch: send it once more, in other words, but not a third time.
        # Its number was wrong twice if it was already wrong in a larger batch.
        max_rounds = self._question.max_rounds if len(batch) > 1 else min(self._question.max_rounds, 2)
        wrong_twice = distrusted and isinstance(problem, WrongNumbers)
        if missing and round_number < max_rounds and not wrong_twice:
            (result,) = yield from gather(
                self.label(missing, max(1, min(len(missing), len(batch) // 2)), round_number + 1)
            )
            # Gathered, so that a failure of the next round does not lose the labels of this one.
            found = reraise_fatal(result)
            labels |= dict.fromkeys(missing, found) if isinstance(found, Exception) else found
        return labels

    def _without_poison(self, batch: Batch, round_number: int, error: Exception) -> Flow[Labels]:
        """
        Label the halves of a batch that a content filter refused, or that failed the server at every attempt.

        Raises:
            Exception: The server failed for both halves, which is an outage; raises `error` itself.
        """
        halves = _halves(batch, error)
        if not is_server_fault(error):
            return (yield from self._label_batches(halves, round_number))
        results = yield from gather(*(self._label_batch(half, round_number, halve=False) for half in halves))
        if all(isinstance(reraise_fatal(result), Exception) for result in results):
            raise error
        labels: Labels = {}
        for half, result in zip(halves, results, strict=True):
            part = result
            if isinstance(part, Exception) and is_server_fault(part) and len(half) > 1:
                (part,) = yield from gather(self._without_poison(half, round_number, part))
                reraise_fatal(part)
            labels |= dict.fromkeys(half, part) if isinstance(part, Exception) else part
        return labels

    @property
    def _fixed_text(self) -> str:
        # Includes the sentence of later rounds, so that a batch that fits in round 1 fits in every round.
        system = self._question.instructions["content"]
        return system + prompts.again(self._question.wording.base) + prompts.block([])


def _by_position(batch: Sequence[PackedText], positions: Sequence[int]) -> Batch:
    """Return a packed batch by position; a text of which only the truncation mark is left becomes empty."""
    return {
        positions[packed.index]: "" if packed.text.strip() == TRUNCATION_MARK.strip() else packed.text
        for packed in batch
    }


def _halves(batch: Batch, error: Exception) -> list[Batch]:
    """
    Return the two halves of a batch; of a single review, the first half of its text.

    Raises:
        Exception: Nothing would be left of the text; raises `error` itself.
    """
    reviews = list(batch.items())
    if len(reviews) > 1:
        middle = len(reviews) // 2
        return [dict(reviews[:middle]), dict(reviews[middle:])]
    ((position, text),) = reviews
    half = truncate_to_half(text)
    if half is None:
        raise error
    return [{position: half}]


def label_error(label: Sentiment | Exception | None) -> str | None:
    """Return why a review of `Labelling.run` has no label; None if it has one."""
    if label is None:
        return BLANK
    return describe_error(label) if isinstance(label, Exception) else None

"""`AnalyzeSentiment`: sentiment labels for every review of a restaurant, in packed batches, with counts and ratios."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import BackendError, ConfigurationError, OutputError, OutputInvalid, PromptTooLong
from ..models import ItemId, LLMRequest, RestaurantReviews, Review
from ..results import RestaurantSentiment, ReviewLabel, Sentiment
from ..steps import Flow, complete, gather, pack
from ..tokens.packing import TRUNCATION_MARK, PackedText, truncate_to_half
from ._asking import is_refusal, is_server_fault
from ._common import (
    check_count,
    check_temperature,
    check_wording,
    choose_wording,
    describe_error,
    raise_first,
    reraise_fatal,
)
from ._labels import WrongNumbers, read_labels
from ._preview import Previewed
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
"""Texts of reviews, possibly truncated, by the review's position in the item."""
Labels: TypeAlias = dict[int, "Sentiment | Exception"]
"""Label or error of reviews, by the review's position in the item."""


@dataclass(frozen=True)
class AnalyzeSentiment(Previewed):
    """
    Label every review of a restaurant as positive, negative or neutral, and count the labels.

    Items are mappings ``{"restaurant_id", "reviews", "priority"?}`` (see `RestaurantReviews`); a review is a
    string, a mapping ``{"content", "id"?}`` or a `Review`. The reviews are sent in packed batches, and the model
    labels each by its number. A review whose number is missing from the reply, or has two different labels, is sent
    again in a smaller batch, up to `max_rounds` times. A review without a label after that counts as failed; labels
    are never guessed and counts never extrapolated. Blank reviews are not sent and count as failed.

    A reply that names numbers which were not in the prompt is not believed at all, because all its labels may be those
    of neighbours: the batch is halved and sent again, down to single reviews, which takes no round. A batch that a
    content filter refuses, or that the server fails to answer at every attempt, is halved as well, down to the review
    at fault.

    A restaurant fails if none of its reviews could be labelled. A restaurant without reviews succeeds without a call.

    Attributes:
        batch_size: Maximum number of reviews in a batch, within the token budget; None for `Limits.max_batch_size`.
        max_tokens_per_batch: Token budget of a batch, prompt and reply; None for `Limits.max_tokens_per_batch`.
        language: Language of the instructions: "ko"; "en", and for any other language too; or "auto" for the
            language of the reviews.
        max_rounds: Maximum number of requests that a review is part of, apart from those of halved batches.
        temperature: Sampling temperature.
        instructions: Instructions of your own, which follow ours and come first where they differ; None for none.
        replace_instructions: Whether they stand in place of ours. Two things remain: that the reviews are data, and
            the form of the reply. `preview` shows the outcome.

    Raises:
        ConfigurationError: A field is out of its bounds.
    """

    batch_size: int | None = None
    max_tokens_per_batch: int | None = None
    language: str = "auto"
    max_rounds: int = 3
    temperature: float = 0.0
    instructions: str | None = None
    replace_instructions: bool = False

    def __post_init__(self) -> None:
        check_count(self, "batch_size", optional=True)
        check_count(self, "max_tokens_per_batch", optional=True)
        check_count(self, "max_rounds")
        check_wording(self)
        check_temperature(self)

    @property
    def name(self) -> str:
        """The task's name in events, errors and requests: AnalyzeSentiment."""
        return "AnalyzeSentiment"

    @property
    def requires_search(self) -> bool:
        """False: the items bring their reviews or texts."""
        return False

    def parse_item(self, raw: Any, /) -> RestaurantReviews:
        """
        Validate one item: a mapping or a `RestaurantReviews`.

        Raises:
            ConfigurationError: The item is invalid; the message names every wrong field.
        """
        from ._schemas import RestaurantReviewsSchema, read_item

        item = read_item(RestaurantReviewsSchema, raw)
        return RestaurantReviews(
            item.restaurant_id, tuple(review.review() for review in item.reviews), item.priority
        )

    def item_key(self, item: RestaurantReviews, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.restaurant_id, item.priority

    def flow(self, item: RestaurantReviews, /) -> Flow[RestaurantSentiment]:
        """Return the flow of one item: pack, label, label what is missing again, count."""
        positions = [position for position, review in enumerate(item.reviews) if review.content.strip()]
        labels: Labels = {}
        model = ""
        if positions:
            wording = choose_wording(self, (review.content for review in item.reviews))
            labelling = _Labelling(self, item, wording)
            labels = yield from labelling.label(positions, self.batch_size, 1)
            model = labelling.model
            if all(isinstance(label, Exception) for label in labels.values()):
                raise_first(label for label in labels.values() if isinstance(label, Exception))
        return _result(item, labels, model)


class _Labelling:
    """
    The requests for labels of one restaurant's reviews, in rounds.

    Round 1 sends all reviews. Each further round sends the reviews of one batch that are still without a label, in
    batches of at most half its size: a small model loses count in a long list. `model` is the first model that answers.
    """

    def __init__(self, task: AnalyzeSentiment, item: RestaurantReviews, wording: Wording) -> None:
        self._task = task
        self._item = item
        self._wording = wording
        self.model = ""

    def label(self, positions: Sequence[int], max_reviews: int | None, round_number: int) -> Flow[Labels]:
        """Label the reviews at `positions` in packed batches, concurrently and independently of each other."""
        packed = yield from pack(
            [self._item.reviews[position].content for position in positions],
            render=lambda text: prompts.line(len(self._item.reviews), text),
            fixed_text=self._fixed_text,
            answer_tokens=ANSWER_TOKENS,
            answer_tokens_each=LABEL_TOKENS,
            max_tokens=self._task.max_tokens_per_batch,
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
            reply = yield from complete(self._request(batch, round_number), limiter="batches")
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
        max_rounds = self._task.max_rounds if len(batch) > 1 else min(self._task.max_rounds, 2)
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
        system = prompts.instructions("sentiment", self._wording)["content"]
        return system + prompts.again(self._wording.base) + prompts.block([])

    def _request(self, batch: Batch, round_number: int) -> LLMRequest:
        # Each batch is numbered from 1: small models number by themselves, and from 1.
        numbered = list(enumerate(batch.values(), 1))
        lines = [prompts.line(number, text) for number, text in numbered]
        data = (prompts.again(self._wording.base) if round_number > 1 else "") + prompts.block(lines)
        return LLMRequest(
            "sentiment",
            (prompts.instructions("sentiment", self._wording), {"role": "user", "content": data}),
            prompts.labels_schema(len(batch)),
            {
                "restaurant_id": self._item.restaurant_id,
                "language": self._wording.language,
                "reviews": [{"id": number, "content": text} for number, text in numbered],
            },
            ANSWER_TOKENS + LABEL_TOKENS * len(batch),
            self._task.temperature,
            self._item.priority,
        )


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


def _result(item: RestaurantReviews, labels: Labels, model: str) -> RestaurantSentiment:
    review_labels = tuple(_label(position, review, labels) for position, review in enumerate(item.reviews))
    counts = Counter(label.label for label in review_labels)
    positive, negative, neutral = (counts[label] for label in ("positive", "negative", "neutral"))
    ratios = percentages((positive, negative, neutral))
    return RestaurantSentiment(
        item.restaurant_id,
        positive,
        negative,
        neutral,
        counts[None],
        len(review_labels),
        ratios[0],
        ratios[1],
        ratios[2],
        review_labels,
        model,
    )


def _label(position: int, review: Review, labels: Labels) -> ReviewLabel:
    review_id = position if review.id is None else review.id
    label = labels.get(position)
    if label is None:
        return ReviewLabel(review_id, None, BLANK)
    if isinstance(label, Exception):
        return ReviewLabel(review_id, None, describe_error(label))
    return ReviewLabel(review_id, label)


def percentages(counts: Sequence[int]) -> tuple[int, ...]:
    """
    Return whole percentages that add up to 100, or zeros if all counts are 0.

    Largest remainder method (Hamilton's): round every percentage down, then add 1 to those with the largest
    remainders until the sum is 100; of equal remainders, the first comes first.
    """
    total = sum(counts)
    if not total:
        return (0,) * len(counts)
    shares = [divmod(100 * count, total) for count in counts]
    lacking = 100 - sum(whole for whole, _ in shares)
    rounded_up = sorted(range(len(counts)), key=lambda index: -shares[index][1])[:lacking]
    return tuple(whole + (index in rounded_up) for index, (whole, _) in enumerate(shares))

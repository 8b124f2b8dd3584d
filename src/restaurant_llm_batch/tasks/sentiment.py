"""`AnalyzeSentiment`: have the model label every review, and account for every one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import ConfigurationError, OutputError, OutputInvalid, PromptTooLong
from ..models import ItemId, LLMRequest, RestaurantReviews, Review
from ..results import RestaurantSentiment, ReviewLabel, Sentiment
from ..steps import Flow, complete, gather, pack
from ..tokens.packing import TRUNCATION_MARK, PackedText, truncate_to_half
from ._common import (
    LanguageOption,
    check_count,
    check_language,
    check_temperature,
    choose_language,
    describe_error,
    raise_first,
    reraise_fatal,
)
from ._parsing import read_labels
from ._prompts import reviews as prompts
from ._prompts.aspects import Language

ANSWER_TOKENS = 32
"""What stands around the labels."""
LABEL_TOKENS = 20
"""One label, ``{"id": 17, "label": "positive"}``: 10 to 12 tokens in a line, up to 20 where a model indents it."""

BLANK = "the review is blank"
NO_ROOM = "max_tokens_per_batch leaves no room for the review's text; write a larger one"
UNANSWERED = "the model gave it no label, or two"

Batch: TypeAlias = Mapping[int, str]
"""Reviews as they are shown, by their place."""
Judged: TypeAlias = dict[int, "Sentiment | Exception"]
"""What became of reviews, by their place."""


@dataclass(frozen=True)
class AnalyzeSentiment:
    """
    Label every review of a restaurant as positive, negative or neutral, and count.

    Items are mappings ``{"restaurant_id", "reviews", "priority"?}`` (see `RestaurantReviews`); a review is a
    text, a mapping ``{"content", "id"?}`` or a `Review`. The reviews go out in packed batches, and the model
    labels each by its number. Reviews whose number is missing from the answer, or has two labels, are asked
    about again in smaller batches; what then remains is counted as failed, never guessed and never scaled.
    Blank reviews are not sent; they count as failed, with that reason. A restaurant fails when none of its
    reviews could be judged. Without any review it succeeds, and no call is made.

    Attributes:
        batch_size: Most reviews in a batch; None for `Limits.max_batch_size`. The token budget holds as well.
        max_tokens_per_batch: Token budget of a batch, prompt and answer; None for `Limits.max_tokens_per_batch`.
        language: Of the instructions: "ko", "en", or "auto" for that of the reviews.
        max_rounds: How often a review is asked about at most.
        temperature: Sampling temperature.

    Raises:
        ConfigurationError: When a field is out of its bounds.
    """

    batch_size: int | None = None
    max_tokens_per_batch: int | None = None
    language: LanguageOption = "ko"
    max_rounds: int = 3
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check_count(self, "batch_size", optional=True)
        check_count(self, "max_tokens_per_batch", optional=True)
        check_count(self, "max_rounds")
        check_language(self)
        check_temperature(self)

    @property
    def name(self) -> str:
        """What the task is called."""
        return "AnalyzeSentiment"

    @property
    def requires_search(self) -> bool:
        """It never searches."""
        return False

    def parse_item(self, raw: Any, /) -> RestaurantReviews:
        """Check one item: a mapping or a `RestaurantReviews`."""
        from ._schemas import RestaurantReviewsSchema, read_item

        form = read_item(RestaurantReviewsSchema, raw)
        return RestaurantReviews(
            form.restaurant_id, tuple(review.review() for review in form.reviews), form.priority
        )

    def item_key(self, item: RestaurantReviews, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.restaurant_id, item.priority

    def flow(self, item: RestaurantReviews, /) -> Flow[RestaurantSentiment]:
        """Pack, ask, ask again, count."""
        asked = [place for place, review in enumerate(item.reviews) if review.content.strip()]
        judged: Judged = {}
        model = ""
        if asked:
            asking = _Labelling(self, item, choose_language(self.language, (r.content for r in item.reviews)))
            judged = yield from asking.about(asked, self.batch_size, 1)
            model = asking.model
            if all(isinstance(label, Exception) for label in judged.values()):
                raise_first(label for label in judged.values() if isinstance(label, Exception))
        return _result(item, judged, model)


class _Labelling:
    """One restaurant's questions."""

    def __init__(self, task: AnalyzeSentiment, item: RestaurantReviews, language: Language) -> None:
        self._task = task
        self._item = item
        self._language = language
        self.model = ""

    def about(self, places: Sequence[int], most: int | None, ask: int) -> Flow[Judged]:
        """Ask about reviews in packed batches, side by side; the batches know nothing of each other."""
        batches = yield from pack(
            [self._item.reviews[place].content for place in places],
            render=lambda text: prompts.line(len(self._item.reviews), text),
            fixed_text=self._frame,
            answer_tokens=ANSWER_TOKENS,
            answer_tokens_each=LABEL_TOKENS,
            max_tokens=self._task.max_tokens_per_batch,
            max_texts=most,
        )
        shown = [_numbered(batch, places) for batch in batches]
        judged = yield from self._all([batch for batch in shown if any(batch.values())], ask)
        nothing_left = (place for batch in shown for place, text in batch.items() if not text)
        return judged | dict.fromkeys(nothing_left, ConfigurationError(NO_ROOM))

    def _all(self, batches: Sequence[Batch], ask: int) -> Flow[Judged]:
        found = yield from gather(*(self._batch(batch, ask) for batch in batches))
        judged: Judged = {}
        for batch, result in zip(batches, found, strict=True):
            part = reraise_fatal(result)
            judged |= dict.fromkeys(batch, part) if isinstance(part, Exception) else part
        return judged

    def _batch(self, batch: Batch, ask: int) -> Flow[Judged]:
        """Ask about one batch, and again about what its answer lacks."""
        labels: Mapping[int, Sentiment] = {}
        try:
            reply = yield from complete(self._request(batch, ask), limiter="batches")
            problem: Exception = OutputInvalid(UNANSWERED, reply=reply)
            self.model = self.model or reply.model
            labels = read_labels(reply, batch)
        except PromptTooLong as error:
            return (yield from self._all(_smaller(batch, error), ask))
        except OutputError as error:
            problem = error
        missing = [place for place in batch if place not in labels]
        judged: Judged = {**labels, **dict.fromkeys(missing, problem)}
        # One review alone cannot be asked about in a smaller batch: once more in other words, then no more.
        if missing and ask < (self._task.max_rounds if len(batch) > 1 else min(self._task.max_rounds, 2)):
            (again,) = yield from gather(
                self.about(missing, max(1, min(len(missing), len(batch) // 2)), ask + 1)
            )
            # What was answered stands, whatever becomes of asking again.
            found = reraise_fatal(again)
            judged |= dict.fromkeys(missing, found) if isinstance(found, Exception) else found
        return judged

    @property
    def _frame(self) -> str:
        # With the words of a second question, so that whatever fits once fits again.
        system = prompts.instructions("sentiment", self._language)["content"]
        return system + prompts.again(self._language) + prompts.block([])

    def _request(self, batch: Batch, ask: int) -> LLMRequest:
        lines = [prompts.line(place, text) for place, text in batch.items()]
        data = (prompts.again(self._language) if ask > 1 else "") + prompts.block(lines)
        return LLMRequest(
            "sentiment",
            (prompts.instructions("sentiment", self._language), {"role": "user", "content": data}),
            prompts.labels_schema(),
            {
                "restaurant_id": self._item.restaurant_id,
                "language": self._language,
                "reviews": [{"id": place, "content": text} for place, text in batch.items()],
            },
            ANSWER_TOKENS + LABEL_TOKENS * len(batch),
            self._task.temperature,
            self._item.priority,
        )


def _numbered(batch: Sequence[PackedText], places: Sequence[int]) -> Batch:
    """Return a batch by place; what was cut to nothing is empty."""
    return {
        places[one.index]: "" if one.text.strip() == TRUNCATION_MARK.strip() else one.text for one in batch
    }


def _smaller(batch: Batch, error: PromptTooLong) -> list[Batch]:
    """
    Return two halves of a batch, or a single review cut in half.

    Raises:
        PromptTooLong: When nothing would be left of it.
    """
    shown = list(batch.items())
    if len(shown) > 1:
        middle = len(shown) // 2
        return [dict(shown[:middle]), dict(shown[middle:])]
    ((place, text),) = shown
    half = truncate_to_half(text)
    if half is None:
        raise error
    return [{place: half}]


def _result(item: RestaurantReviews, judged: Judged, model: str) -> RestaurantSentiment:
    labels = tuple(_label(place, review, judged) for place, review in enumerate(item.reviews))
    counts = Counter(label.label for label in labels)
    positive, negative, neutral = (counts[label] for label in ("positive", "negative", "neutral"))
    shares = percentages((positive, negative, neutral))
    return RestaurantSentiment(
        item.restaurant_id,
        positive,
        negative,
        neutral,
        counts[None],
        len(labels),
        shares[0],
        shares[1],
        shares[2],
        labels,
        model,
    )


def _label(place: int, review: Review, judged: Judged) -> ReviewLabel:
    review_id = place if review.id is None else review.id
    label = judged.get(place)
    if label is None:
        return ReviewLabel(review_id, None, BLANK)
    if isinstance(label, Exception):
        return ReviewLabel(review_id, None, describe_error(label))
    return ReviewLabel(review_id, label)


def percentages(counts: Sequence[int]) -> tuple[int, ...]:
    """
    Return whole percentages that add up to 100, or all 0 where there is nothing to divide.

    Largest remainder (Hamilton's method): each share is rounded down, and what is missing from 100 goes to the
    largest remainders, the first of equals.
    """
    total = sum(counts)
    if not total:
        return (0,) * len(counts)
    shares = [divmod(100 * count, total) for count in counts]
    lacking = 100 - sum(whole for whole, _ in shares)
    favoured = sorted(range(len(counts)), key=lambda place: -shares[place][1])[:lacking]
    return tuple(whole + (place in favoured) for place, (whole, _) in enumerate(shares))

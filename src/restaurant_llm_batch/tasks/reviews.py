"""`SummarizeReviews`: have the model sum up reviews that are given, the positive and the negative ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..models import ItemId, Review, ReviewKind, SortedReviews
from ..results import ReviewSummary
from ..steps import Flow
from ._common import Choice, check_count, check_language, check_temperature, choose
from ._map_reduce import Digest, Job, Line
from ._prompts import reviews as prompts

FIELDS = ("positive_summary", "negative_summary", "overall_summary")


@dataclass(frozen=True)
class SummarizeReviews:
    """
    Sum up the reviews of a restaurant that are given: the positive ones, the negative ones, and all.

    Items are mappings ``{"restaurant_id", "positive_reviews", "negative_reviews", "priority"?}`` (see
    `SortedReviews`); a review is a text, a mapping ``{"content", ...}`` or a `Review`. Both kinds travel in the
    same packed batches, each review marked with its kind; the batches' summaries are joined by further calls,
    on as many levels as it takes. A batch that fails leaves the others standing, and its reviews are counted; the
    restaurant fails when no batch could be summed up. Blank reviews are not sent; they count as failed. Without any
    text it succeeds, and no call is made.

    Attributes:
        max_tokens_per_batch: Token budget of a batch, prompt and answer; None for `Limits.tokens_per_batch`.
        language: Of instructions and answers: "ko", "en", or "auto" for that of the reviews.
        max_tokens: The longest answer, in tokens.
        temperature: Sampling temperature.

    Raises:
        ConfigurationError: When a field is out of its bounds.
    """

    max_tokens_per_batch: int | None = None
    language: Choice = "ko"
    max_tokens: int = 500
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check_count(self, "max_tokens_per_batch", optional=True)
        check_count(self, "max_tokens")
        check_language(self)
        check_temperature(self)

    @property
    def name(self) -> str:
        """What the task is called."""
        return "SummarizeReviews"

    @property
    def needs_search(self) -> bool:
        """It never searches."""
        return False

    def read(self, raw: Any, /) -> SortedReviews:
        """Check one item: a mapping or a `SortedReviews`."""
        from ._schemas import SortedForm, read_item

        form = read_item(SortedForm, raw)
        return SortedReviews(
            form.restaurant_id,
            tuple(review.review() for review in form.positive_reviews),
            tuple(review.review() for review in form.negative_reviews),
            form.priority,
        )

    def identify(self, item: SortedReviews, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.restaurant_id, item.priority

    def flow(self, item: SortedReviews, /) -> Flow[ReviewSummary]:
        """Pack, sum up, join."""
        kinds = dict(enumerate(_kinds(item)))
        lines = [_line(number, kind, r.content) for number, (kind, r) in kinds.items() if r.content.strip()]
        digest = Digest(dict.fromkeys(FIELDS, ""), frozenset(), "")
        if lines:
            digest = yield from self._job(item).flow(lines)
        read = [kinds[line.number][0] for line in lines if line.number not in digest.failed]
        # A model may find something bad to say where no review does.
        texts = digest.texts
        return ReviewSummary(
            item.restaurant_id,
            texts["overall_summary"],
            texts["positive_summary"] if "positive" in read else "",
            texts["negative_summary"] if "negative" in read else "",
            read.count("positive"),
            read.count("negative"),
            len(kinds) - len(read),
            digest.model,
        )

    def _job(self, item: SortedReviews) -> Job:
        return Job(
            "review_summary",
            item.restaurant_id,
            choose(self.language, (review.content for _, review in _kinds(item))),
            FIELDS,
            self.max_tokens,
            self.max_tokens_per_batch,
            self.temperature,
            item.priority,
        )


def _kinds(item: SortedReviews) -> Iterator[tuple[ReviewKind, Review]]:
    yield from (("positive", review) for review in item.positive_reviews)
    yield from (("negative", review) for review in item.negative_reviews)


def _line(number: int, kind: ReviewKind, text: str) -> Line:
    return Line(number, text, partial(prompts.kind_line, kind), {"kind": kind})

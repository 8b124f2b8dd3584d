"""`SummarizeReviews`: have the model sum up reviews that are given, the positive and the negative ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..models import ItemId, Review, ReviewKind, ReviewsByPolarity
from ..results import ReviewSummary
from ..steps import Flow
from ._common import LanguageOption, check_count, check_language, check_temperature, choose_language
from ._map_reduce import MapReduceSummary, ReviewLine, SummaryResult
from ._prompts import reviews as prompts

FIELDS = ("positive_summary", "negative_summary", "overall_summary")


@dataclass(frozen=True)
class SummarizeReviews:
    """
    Sum up the reviews of a restaurant that are given: the positive ones, the negative ones, and all.

    Items are mappings ``{"restaurant_id", "positive_reviews", "negative_reviews", "priority"?}`` (see
    `ReviewsByPolarity`); a review is a text, a mapping ``{"content", ...}`` or a `Review`. Both kinds travel in the
    same packed batches, each review marked with its kind; the batches' summaries are joined by further calls,
    on as many levels as it takes. A batch that fails leaves the others standing, and its reviews are counted; the
    restaurant fails when no batch could be summed up. Blank reviews are not sent; they count as failed. Without any
    text it succeeds, and no call is made.

    Attributes:
        max_tokens_per_batch: Token budget of a batch, prompt and answer; None for `Limits.max_tokens_per_batch`.
        language: Of instructions and answers: "ko", "en", or "auto" for that of the reviews.
        max_tokens: The longest answer, in tokens.
        temperature: Sampling temperature.

    Raises:
        ConfigurationError: When a field is out of its bounds.
    """

    max_tokens_per_batch: int | None = None
    language: LanguageOption = "ko"
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
    def requires_search(self) -> bool:
        """It never searches."""
        return False

    def parse_item(self, raw: Any, /) -> ReviewsByPolarity:
        """Check one item: a mapping or a `ReviewsByPolarity`."""
        from ._schemas import ReviewsByPolaritySchema, read_item

        form = read_item(ReviewsByPolaritySchema, raw)
        return ReviewsByPolarity(
            form.restaurant_id,
            tuple(review.review() for review in form.positive_reviews),
            tuple(review.review() for review in form.negative_reviews),
            form.priority,
        )

    def item_key(self, item: ReviewsByPolarity, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.restaurant_id, item.priority

    def flow(self, item: ReviewsByPolarity, /) -> Flow[ReviewSummary]:
        """Pack, sum up, join."""
        kinds = dict(enumerate(_kinds(item)))
        lines = [_line(number, kind, r.content) for number, (kind, r) in kinds.items() if r.content.strip()]
        digest = SummaryResult(dict.fromkeys(FIELDS, ""), frozenset(), "")
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

    def _job(self, item: ReviewsByPolarity) -> MapReduceSummary:
        return MapReduceSummary(
            "review_summary",
            item.restaurant_id,
            choose_language(self.language, (review.content for _, review in _kinds(item))),
            FIELDS,
            self.max_tokens,
            self.max_tokens_per_batch,
            self.temperature,
            item.priority,
        )


def _kinds(item: ReviewsByPolarity) -> Iterator[tuple[ReviewKind, Review]]:
    yield from (("positive", review) for review in item.positive_reviews)
    yield from (("negative", review) for review in item.negative_reviews)


def _line(number: int, kind: ReviewKind, text: str) -> ReviewLine:
    return ReviewLine(number, text, partial(prompts.kind_line, kind), {"kind": kind})

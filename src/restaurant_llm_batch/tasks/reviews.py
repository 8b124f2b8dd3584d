"""`SummarizeReviews`: summaries of a restaurant's positive and negative reviews, from the input, without search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..models import ItemId, Review, ReviewKind, ReviewsByPolarity
from ..results import ReviewSummary
from ..steps import Flow
from ._common import check_count, check_temperature, check_wording, choose_wording
from ._map_reduce import MapReduceSummary, ReviewLine, SummaryResult, failed_reviews
from ._preview import Previewed
from ._prompts import reviews as prompts
from ._summary_calls import SummaryCalls

if TYPE_CHECKING:
    from .._rows.table import ItemTable

FIELDS = ("positive_summary", "negative_summary", "overall_summary")


@dataclass(frozen=True)
class SummarizeReviews(Previewed):
    """
    Summarise the positive reviews of a restaurant, its negative reviews, and both together.

    Items are mappings ``{"restaurant_id", "positive_reviews", "negative_reviews", "priority"?}`` (see
    `ReviewsByPolarity`); a review is a string, a mapping ``{"content", ...}`` or a `Review`. Reviews of both kinds are
    packed into the same batches, each marked with its polarity. Each batch is summarised by one call, and the summaries
    are merged by further calls, on as many levels as it takes.

    If a batch fails, the others stand, and its reviews count as failed; the restaurant fails if every batch does. Blank
    reviews are not sent and count as failed. A restaurant without any text succeeds without a call.

    Attributes:
        max_tokens_per_batch: Token budget of a batch, prompt and reply; None for `Limits.max_tokens_per_batch`.
        language: Language of the replies: "ko"; "en"; "auto" for the language of the reviews; or any other, by a code
            such as "ja" or a name.
        max_tokens: Maximum length of a reply, in tokens.
        temperature: Sampling temperature.
        instructions: Instructions of your own, which follow ours and come first where they differ; None for none.
        replace_instructions: Whether they stand in place of ours. Two things remain: that the reviews are data, and
            the form of the reply. `preview` shows the outcome.

    Raises:
        ConfigurationError: A field is out of its bounds.
    """

    max_tokens_per_batch: int | None = None
    language: str = "auto"
    max_tokens: int = 500
    temperature: float = 0.1
    instructions: str | None = None
    replace_instructions: bool = False

    def __post_init__(self) -> None:
        check_count(self, "max_tokens_per_batch", optional=True)
        check_count(self, "max_tokens")
        check_wording(self)
        check_temperature(self)

    @property
    def name(self) -> str:
        """The task's name in events, errors and requests: SummarizeReviews."""
        return "SummarizeReviews"

    @property
    def requires_search(self) -> bool:
        """False: the items bring their reviews or texts."""
        return False

    def parse_item(self, raw: Any, /) -> ReviewsByPolarity:
        """
        Validate one item: a mapping or a `ReviewsByPolarity`.

        Raises:
            ConfigurationError: The item is invalid; the message names every wrong field.
        """
        from ._schemas import ReviewsByPolaritySchema, read_item

        item = read_item(ReviewsByPolaritySchema, raw)
        return ReviewsByPolarity(
            item.restaurant_id,
            tuple(review.review() for review in item.positive_reviews),
            tuple(review.review() for review in item.negative_reviews),
            item.priority,
        )

    def items_of_table(self, table: ItemTable, /) -> Iterable[Any]:
        """
        Return the items in the rows of a table; the runner calls it for a data frame and for what `read_items` returns.

        Rows are reviews with ``is_recommended``, ``label`` or ``rating`` (1 to 5), or restaurants with their reviews.
        """
        from .._rows.polarity import Polarity
        from ._tables import grouped, has_reviews, rows_as_items

        if not has_reviews(table):
            return rows_as_items(table, ReviewsByPolarity, self.parse_item, self.item_key)
        return (
            ReviewsByPolarity(
                one,
                tuple(review for review in reviews if review.is_recommended),
                tuple(review for review in reviews if review.is_recommended is False),
            )
            for one, reviews in grouped(table, Polarity())
        )

    def item_key(self, item: ReviewsByPolarity, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.restaurant_id, item.priority

    def flow(self, item: ReviewsByPolarity, /) -> Flow[ReviewSummary]:
        """Return the flow of one item: pack the reviews, summarise the batches, merge the summaries."""
        reviews = dict(enumerate(_reviews_by_kind(item)))
        lines = [_line(number, kind, r.content) for number, (kind, r) in reviews.items() if r.content.strip()]
        summary = SummaryResult(dict.fromkeys(FIELDS, ""), {}, "")
        if lines:
            summary = yield from self._map_reduce(item).flow(lines)
        summarized = [reviews[line.number][0] for line in lines if line.number not in summary.failed]
        texts = summary.texts
        # Without reviews of a kind its summary is dropped: a model may have written one all the same.
        return ReviewSummary(
            item.restaurant_id,
            texts["overall_summary"],
            texts["positive_summary"] if "positive" in summarized else "",
            texts["negative_summary"] if "negative" in summarized else "",
            summarized.count("positive"),
            summarized.count("negative"),
            len(reviews) - len(summarized),
            summary.model,
            failed_reviews({number: review for number, (_, review) in reviews.items()}, summary),
        )

    def _map_reduce(self, item: ReviewsByPolarity) -> MapReduceSummary:
        return MapReduceSummary(
            "review_summary",
            SummaryCalls(
                item.restaurant_id,
                choose_wording(self, (review.content for _, review in _reviews_by_kind(item))),
                FIELDS,
                self.max_tokens,
                self.temperature,
                item.priority,
            ),
            self.max_tokens_per_batch,
        )


def _reviews_by_kind(item: ReviewsByPolarity) -> Iterator[tuple[ReviewKind, Review]]:
    yield from (("positive", review) for review in item.positive_reviews)
    yield from (("negative", review) for review in item.negative_reviews)


def _line(number: int, kind: ReviewKind, text: str) -> ReviewLine:
    return ReviewLine(number, text, partial(prompts.kind_line, kind), {"kind": kind})

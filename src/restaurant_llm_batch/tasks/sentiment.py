"""`AnalyzeSentiment`: sentiment labels for every review of a restaurant, in packed batches, with counts and ratios."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models import ItemId, RestaurantReviews, Review, SearchQuery, as_item_id
from ..results import RestaurantSentiment, ReviewLabel
from ..steps import Flow, search
from ._common import (
    check_count,
    check_search,
    check_temperature,
    check_wording,
    choose_wording,
    reviews_in_scope,
)
from ._labelling import Labelling, LabelQuestion, Labels, label_error
from ._preview import Previewed
from ._prompts.wording import as_language
from .aspects import seed_query

if TYPE_CHECKING:
    from .._rows.table import ItemTable


@dataclass(frozen=True)
class AnalyzeSentiment(Previewed):
    """
    Label every review of a restaurant as positive, negative or neutral, and count the labels.

    Items are mappings ``{"restaurant_id", "reviews"?, "priority"?}`` (see `RestaurantReviews`), or restaurant ids; a
    review is a string, a mapping ``{"content", "id"?}`` or a `Review`. Reviews that are not given are found by search:
    those of the restaurant that match `query` best. The reviews are sent in packed batches, and the model labels each
    by its number. A review whose number is missing from the reply, or has two different labels, is sent
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
            language of the reviews. It is also the language of the seed words of a search, "auto" for both.
        max_rounds: Maximum number of requests that a review is part of, apart from those of halved batches.
        temperature: Sampling temperature.
        instructions: Instructions of your own, which follow ours and come first where they differ; None for none.
        replace_instructions: Whether they stand in place of ours. Two things remain: that the reviews are data, and
            the form of the reply. `preview` shows the outcome.
        limit: Maximum number of reviews found by a search.
        min_score: Minimum dense cosine similarity of a review found, -1 to 1; 0.0 for no bound.
        query: Query text; None for the seed words of service, price and food.

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
    limit: int = 100
    min_score: float = 0.0
    query: str | None = None

    def __post_init__(self) -> None:
        check_count(self, "batch_size", optional=True)
        check_count(self, "max_tokens_per_batch", optional=True)
        check_count(self, "max_rounds")
        check_wording(self)
        check_temperature(self)
        check_search(self)

    @property
    def name(self) -> str:
        """The task's name in events, errors and requests: AnalyzeSentiment."""
        return "AnalyzeSentiment"

    @property
    def requires_search(self) -> bool:
        """False: only items without reviews need a search."""
        return False

    def parse_item(self, raw: Any, /) -> RestaurantReviews:
        """
        Validate one item: an id, a mapping or a `RestaurantReviews`.

        Raises:
            ConfigurationError: The item is invalid; the message names every wrong field.
        """
        if not isinstance(raw, (Mapping, RestaurantReviews)):
            return RestaurantReviews(as_item_id(raw, "restaurant_id"))
        from ._schemas import RestaurantReviewsSchema, as_reviews, read_item

        item = read_item(RestaurantReviewsSchema, raw)
        return RestaurantReviews(item.restaurant_id, as_reviews(item.reviews), item.priority)

    def items_of_table(self, table: ItemTable, /) -> Iterable[Any]:
        """
        Return the items in the rows of a table; the runner calls it for a data frame and for what `read_items` returns.

        Rows are reviews, or restaurants with their reviews, or restaurants whose reviews a search finds.
        """
        from ._tables import grouped, has_reviews, rows_as_items

        if has_reviews(table):
            return (RestaurantReviews(one, tuple(reviews)) for one, reviews in grouped(table))
        return rows_as_items(table, RestaurantReviews, self.parse_item, self.item_key)

    def item_key(self, item: RestaurantReviews, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.restaurant_id, item.priority

    def flow(self, item: RestaurantReviews, /) -> Flow[RestaurantSentiment]:
        """Return the flow of one item: find its reviews if they are not given, label them, count."""
        reviews = item.reviews
        if reviews is None:
            query = self._query(item.restaurant_id)
            reviews = reviews_in_scope((yield from search(query)), query)
        texts = [review.content for review in reviews]
        question = LabelQuestion(
            "sentiment",
            item.restaurant_id,
            choose_wording(self, texts),
            item.priority,
            self.temperature,
            self.max_tokens_per_batch,
            self.max_rounds,
        )
        labelling = Labelling(question, texts)
        labels = yield from labelling.run(self.batch_size)
        return _result(item.restaurant_id, reviews, labels, labelling.model)

    def _query(self, restaurant_id: ItemId) -> SearchQuery:
        text = self.query or seed_query(as_language(self.language))
        return SearchQuery(restaurant_id, text, self.limit, self.min_score, "sentiment")


def _result(
    restaurant_id: ItemId, reviews: Sequence[Review], labels: Labels, model: str
) -> RestaurantSentiment:
    review_labels = tuple(_label(position, review, labels) for position, review in enumerate(reviews))
    counts = Counter(label.label for label in review_labels)
    positive, negative, neutral = (counts[label] for label in ("positive", "negative", "neutral"))
    ratios = percentages((positive, negative, neutral))
    return RestaurantSentiment(
        restaurant_id,
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
    return ReviewLabel(review_id, None if isinstance(label, Exception) else label, label_error(label))


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

"""`ExtractStrengths`: a restaurant's strengths over other restaurants, from a comparison of their reviews."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

from ..models import ComparisonItem, ItemId, Review, SearchQuery
from ..results import RestaurantStrength
from ..steps import Flow, once, pack, search_all
from ._common import (
    check_count,
    check_search,
    check_temperature,
    check_wording,
    choose_wording,
    raise_first,
    reviews_in_scope,
)
from ._map_reduce import MapReduceSummary, ReviewLine, SummaryResult, failed_reviews
from ._preview import Previewed
from ._prompts import reviews as prompts
from ._prompts.wording import Wording, as_language
from ._summary_calls import SummaryCalls
from .aspects import seed_query

if TYPE_CHECKING:
    from .._rows.table import ItemTable

Reviews: TypeAlias = tuple[Review, ...]

MIN_REVIEW_TOKENS = 100
"""Minimum number of tokens that the comparison summary must leave for the reviews of a batch."""

COMPARISON, STRENGTH = "comparison_summary", "target_restaurant_strength"
"""The fields of the replies of step 1 and step 2."""


@dataclass(frozen=True)
class ExtractStrengths(Previewed):
    """
    Derive the strengths of a restaurant over other restaurants.

    Items are mappings ``{"target_restaurant_id", "target_reviews"?, "comparison_reviews"?, "category"?,
    "priority"?}`` (see `ComparisonItem`); a review is a string, a mapping ``{"content", ...}`` or a `Review`. Reviews
    that are not given are found by search: the restaurant's own, and those of other restaurants, of the same
    category if it is known.

    Step 1 summarises the comparison reviews, step 2 derives the strength; both work on packed batches. There is no
    barrier between the steps of different restaurants. Equal lists of comparison reviews are summarised once per run.
    If a batch fails, the others stand. A restaurant without reviews of its own succeeds without a call, with an empty
    strength.

    Attributes:
        max_tokens_per_batch: Token budget of a batch, prompt and reply; None for `Limits.max_tokens_per_batch`.
        language: Language of the replies: "ko"; "en"; "auto" for the language of the reviews; or any other, by a code
            such as "ja" or a name.
        limit: Maximum number of reviews found by a search.
        min_score: Minimum dense cosine similarity of a review found, -1 to 1; 0.0 for no bound.
        query: Query text; None for the seed words of service, price and food.
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
    limit: int = 20
    min_score: float = 0.0
    query: str | None = None
    max_tokens: int = 400
    temperature: float = 0.3
    instructions: str | None = None
    replace_instructions: bool = False

    def __post_init__(self) -> None:
        check_count(self, "max_tokens_per_batch", optional=True)
        check_count(self, "max_tokens")
        check_search(self)
        check_wording(self)
        check_temperature(self)

    @property
    def name(self) -> str:
        """The task's name in events, errors and requests: ExtractStrengths."""
        return "ExtractStrengths"

    @property
    def requires_search(self) -> bool:
        """False: only items without reviews need a search."""
        return False

    def parse_item(self, raw: Any, /) -> ComparisonItem:
        """
        Validate one item: a mapping or a `ComparisonItem`.

        Raises:
            ConfigurationError: The item is invalid; the message names every wrong field.
        """
        from ._schemas import ComparisonSchema, as_reviews, read_item

        item = read_item(ComparisonSchema, raw)
        return ComparisonItem(
            item.target_restaurant_id,
            as_reviews(item.target_reviews),
            as_reviews(item.comparison_reviews),
            item.category,
            item.priority,
        )

    def items_of_table(self, table: ItemTable, /) -> Iterable[Any]:
        """
        Return the items in the rows of a table; the runner calls it for a data frame and for what `read_items` returns.

        Rows are items, whose id may be ``restaurant_id``, or reviews, of which each restaurant is taken once.
        """
        from ._tables import has_reviews, restaurants, rows_as_items

        if has_reviews(table):
            return restaurants(table, "target_restaurant_id")
        return rows_as_items(
            table, ComparisonItem, self.parse_item, self.item_key, restaurant_id="target_restaurant_id"
        )

    def item_key(self, item: ComparisonItem, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.target_restaurant_id, item.priority

    def flow(self, item: ComparisonItem, /) -> Flow[RestaurantStrength]:
        """Return the flow of one item: find missing reviews, summarise the comparison reviews, derive the strength."""
        target, others, wording = yield from self._reviews(item)
        target_lines, comparison_lines = _lines(target), _lines(others)
        comparison = strength = SummaryResult({COMPARISON: "", STRENGTH: ""}, {}, "")
        if target_lines:
            if comparison_lines:
                step_1 = self._map_reduce(item, COMPARISON, wording)
                comparison = yield from once(
                    self._comparison_key(wording, others), lambda: step_1.flow(comparison_lines)
                )
            comparison_text = yield from self._truncated(comparison.texts[COMPARISON], wording)
            step_2 = self._map_reduce(item, STRENGTH, wording, comparison_text)
            strength = yield from step_2.flow(target_lines)
        target_count = len(target_lines) - len(strength.failed)
        comparison_count = len(comparison_lines) - len(comparison.failed) if target_lines else 0
        return RestaurantStrength(
            item.target_restaurant_id,
            comparison.texts[COMPARISON],
            strength.texts[STRENGTH],
            target,
            others,
            target_count,
            comparison_count,
            len(target) + len(others) - target_count - comparison_count,
            strength.model,
            failed_reviews(dict(enumerate(target)), strength)
            + failed_reviews(dict(enumerate(others)), comparison),
        )

    def _reviews(self, item: ComparisonItem) -> Flow[tuple[Reviews, Reviews, Wording]]:
        """Return target reviews, comparison reviews and the wording; search for the reviews that the item lacks."""
        target, others = item.target_reviews, item.comparison_reviews
        language = as_language(self.language)
        if target is None and others is None and (language != "auto" or self.query is not None):
            both = [self._query(item, which, language) for which in ("target", "comparison")]
            target, others = yield from self._search(*both)
        elif target is None:
            (target,) = yield from self._search(self._query(item, "target", language))
        wording = choose_wording(self, (review.content for review in target))
        if others is None:
            # Of "auto", this search waits for the other one: a query with the words of both languages would find
            # comparison reviews in both, and the language of the target reviews is not known before.
            (others,) = yield from self._search(self._query(item, "comparison", wording.language))
        return target, others, wording

    def _query(self, item: ComparisonItem, which: str, language: str) -> SearchQuery:
        name = item.target_restaurant_id
        text = self.query or seed_query(language)
        if which == "target":
            return SearchQuery(name, text, self.limit, self.min_score, which)
        return SearchQuery(name, text, self.limit, self.min_score, which, "others", item.category)

    def _search(self, *queries: SearchQuery) -> Flow[list[Reviews]]:
        results = yield from search_all(queries)
        raise_first(hits for hits in results if isinstance(hits, Exception))
        return [
            reviews_in_scope(hits, query)
            for query, hits in zip(queries, results, strict=True)
            if not isinstance(hits, Exception)
        ]

    def _truncated(self, comparison: str, wording: Wording) -> Flow[str]:
        """Return a comparison summary, truncated to leave `MIN_REVIEW_TOKENS` for the reviews of a batch."""
        if not comparison:
            return ""
        ((packed,),) = yield from pack(
            [comparison],
            render=lambda text: prompts.comparison(text, wording.base),
            fixed_text=prompts.instructions("strength", wording)["content"] + prompts.block([]),
            answer_tokens=self.max_tokens + MIN_REVIEW_TOKENS,
            max_tokens=self.max_tokens_per_batch,
        )
        return packed.text

    def _map_reduce(
        self, item: ComparisonItem, field: str, wording: Wording, comparison: str | None = None
    ) -> MapReduceSummary:
        """Return step 1, or step 2 if its `comparison` is given; that may be empty."""
        return MapReduceSummary(
            "comparison_summary" if comparison is None else "strength",
            SummaryCalls(
                item.target_restaurant_id,
                wording,
                (field,),
                self.max_tokens,
                self.temperature,
                item.priority,
            ),
            self.max_tokens_per_batch,
            "" if comparison is None else prompts.comparison(comparison, wording.base),
            {} if comparison is None else {COMPARISON: comparison},
        )

    def _comparison_key(self, wording: Wording, others: Sequence[Review]) -> Hashable:
        """Return the memoization key of step 1: the wording, and a hash of the texts in order."""
        digest = blake2b(digest_size=16)
        for review in others:
            text = review.content.encode("utf-8", "surrogatepass")
            # The length first, so that no two lists of texts hash the same bytes.
            digest.update(len(text).to_bytes(8, "big") + text)
        return (self.name, COMPARISON, wording, digest.digest())


def _lines(reviews: Sequence[Review]) -> list[ReviewLine]:
    return [
        ReviewLine(n, review.content, prompts.line)
        for n, review in enumerate(reviews)
        if review.content.strip()
    ]

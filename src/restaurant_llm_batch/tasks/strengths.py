"""`ExtractStrengths`: what a restaurant has over others, in two steps that know no barrier."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

from ..models import ComparisonItem, Hit, ItemId, Review, SearchQuery
from ..results import RestaurantStrength
from ..steps import Flow, once, pack, search_all
from ._common import (
    LanguageOption,
    check,
    check_count,
    check_language,
    check_temperature,
    choose_language,
    raise_first,
)
from ._map_reduce import MapReduceSummary, ReviewLine, SummaryResult
from ._prompts import reviews as prompts
from ._prompts.aspects import Language
from .aspects import query_texts

Reviews: TypeAlias = tuple[Review, ...]

ROOM = 100
"""Tokens that a comparison leaves for the reviews of a batch, at least."""

COMPARED, STRENGTH = "comparison_summary", "target_restaurant_strength"


@dataclass(frozen=True)
class ExtractStrengths:
    """
    Derive what a restaurant has over others.

    Items are mappings ``{"target_restaurant_id", "target_reviews"?, "comparison_reviews"?, "category"?,
    "priority"?}`` (see `ComparisonItem`); a review is a text, a mapping ``{"content", ...}`` or a `Review`. Reviews
    that are left out are found by search: the restaurant's own, and those of other restaurants, of the same
    category where it is known.

    Step 1 sums up the comparison reviews, step 2 derives the strength; both from packed batches. Restaurants do
    not wait for each other between the steps, and equal sets of comparison reviews are summed up once per run. A
    batch that fails leaves the others standing. Without reviews of its own a restaurant has no strength: it
    succeeds, and no call is made.

    Attributes:
        max_tokens_per_batch: Token budget of a batch, prompt and answer; None for `Limits.max_tokens_per_batch`.
        language: Of instructions and answers: "ko", "en", or "auto" for that of the reviews.
        limit: Most reviews found by a search.
        min_score: Least dense similarity of a review that is found, -1 to 1; 0.0 for no bound.
        query: What to search for; None for the words of service, price and food.
        max_tokens: The longest answer, in tokens.
        temperature: Sampling temperature.

    Raises:
        ConfigurationError: When a field is out of its bounds.
    """

    max_tokens_per_batch: int | None = None
    language: LanguageOption = "ko"
    limit: int = 20
    min_score: float = 0.0
    query: str | None = None
    max_tokens: int = 400
    temperature: float = 0.3

    def __post_init__(self) -> None:
        check_count(self, "max_tokens_per_batch", optional=True)
        check_count(self, "max_tokens")
        check_count(self, "limit")
        score: object = self.min_score
        query: object = self.query
        check(self, "min_score", isinstance(score, (int, float)) and -1 <= score <= 1, "-1 to 1")
        said = query is None or (isinstance(query, str) and bool(query.strip()))
        check(self, "query", said, "words to search for, or None")
        check_language(self)
        check_temperature(self)

    @property
    def name(self) -> str:
        """What the task is called."""
        return "ExtractStrengths"

    @property
    def requires_search(self) -> bool:
        """It depends on the item."""
        return False

    def parse_item(self, raw: Any, /) -> ComparisonItem:
        """Check one item: a mapping or a `ComparisonItem`."""
        from ._schemas import ComparisonSchema, read_item

        form = read_item(ComparisonSchema, raw)
        target, others = form.target_reviews, form.comparison_reviews
        return ComparisonItem(
            form.target_restaurant_id,
            None if target is None else tuple(review.review() for review in target),
            None if others is None else tuple(review.review() for review in others),
            form.category,
            form.priority,
        )

    def item_key(self, item: ComparisonItem, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.target_restaurant_id, item.priority

    def flow(self, item: ComparisonItem, /) -> Flow[RestaurantStrength]:
        """Find reviews where they are missing, sum up the others', derive the strength."""
        target, others, language = yield from self._reviews(item)
        own, compared = _lines(target), _lines(others)
        comparison = strength = SummaryResult({COMPARED: "", STRENGTH: ""}, frozenset(), "")
        if own:
            if compared:
                job = self._job(item, COMPARED, language)
                comparison = yield from once(self._key(language, others), lambda: job.flow(compared))
            fitting = yield from self._fitted(comparison.texts[COMPARED], language)
            job = self._job(item, STRENGTH, language, fitting)
            strength = yield from job.flow(own)
        read = len(own) - len(strength.failed)
        compared_with = len(compared) - len(comparison.failed) if own else 0
        return RestaurantStrength(
            item.target_restaurant_id,
            comparison.texts[COMPARED],
            strength.texts[STRENGTH],
            target,
            others,
            read,
            compared_with,
            len(target) + len(others) - read - compared_with,
            strength.model,
        )

    def _reviews(self, item: ComparisonItem) -> Flow[tuple[Reviews, Reviews, Language]]:
        """Return both sets, found where they are not given, and the language to work in."""
        target, others = item.target_reviews, item.comparison_reviews
        if self.language == "auto" and target is None:
            # Words of both languages would find reviews of both: its own reviews tell whose are wanted.
            (target,) = yield from self._search(self._query(item, "target", "auto"))
        language = choose_language(self.language, (review.content for review in target or ()))
        if target is None and others is None:
            both = [self._query(item, which, language) for which in ("target", "comparison")]
            target, others = yield from self._search(*both)
        elif target is None:
            (target,) = yield from self._search(self._query(item, "target", language))
        elif others is None:
            (others,) = yield from self._search(self._query(item, "comparison", language))
        return target or (), others or (), language

    def _query(self, item: ComparisonItem, which: str, language: LanguageOption) -> SearchQuery:
        name = item.target_restaurant_id
        text = self.query or " ".join(query_texts(("service", "price", "food"), language).values())
        if which == "target":
            return SearchQuery(name, text, self.limit, self.min_score, which)
        return SearchQuery(name, text, self.limit, self.min_score, which, "others", item.category)

    def _search(self, *queries: SearchQuery) -> Flow[list[Reviews]]:
        found = yield from search_all(queries)
        raise_first(hits for hits in found if isinstance(hits, Exception))
        return [
            _as_reviews(hits, query)
            for query, hits in zip(queries, found, strict=True)
            if not isinstance(hits, Exception)
        ]

    def _fitted(self, compared: str, language: Language) -> Flow[str]:
        """Return a comparison, cut where it would leave no room for reviews in a batch."""
        if not compared:
            return ""
        ((fitting,),) = yield from pack(
            [compared],
            render=lambda text: prompts.comparison(text, language),
            fixed_text=prompts.instructions("strength", language)["content"] + prompts.block([]),
            answer_tokens=self.max_tokens + ROOM,
            max_tokens=self.max_tokens_per_batch,
        )
        return fitting.text

    def _job(
        self, item: ComparisonItem, field: str, language: Language, compared: str | None = None
    ) -> MapReduceSummary:
        return MapReduceSummary(
            "comparison_summary" if compared is None else "strength",
            item.target_restaurant_id,
            language,
            (field,),
            self.max_tokens,
            self.max_tokens_per_batch,
            self.temperature,
            item.priority,
            "" if compared is None else prompts.comparison(compared, language),
            {} if compared is None else {COMPARED: compared},
        )

    def _key(self, language: Language, others: Sequence[Review]) -> Hashable:
        """Return what makes two sets of comparison reviews the same: their texts, in their order."""
        digest = blake2b(digest_size=16)
        for review in others:
            text = review.content.encode("utf-8", "surrogatepass")
            digest.update(len(text).to_bytes(8, "big") + text)
        return (self.name, COMPARED, language, digest.digest())


def _lines(reviews: Sequence[Review]) -> list[ReviewLine]:
    return [
        ReviewLine(n, review.content, prompts.line)
        for n, review in enumerate(reviews)
        if review.content.strip()
    ]


def _as_reviews(hits: Sequence[Hit], query: SearchQuery) -> Reviews:
    # A search of the user's own may not know `scope`.
    own = query.scope == "restaurant"
    return tuple(
        Review(hit.content, hit.review_id, hit.restaurant_id)
        for hit in hits
        if (str(hit.restaurant_id) == str(query.restaurant_id)) == own
    )

"""`SummarizeAspects`: summaries of a restaurant by aspect and overall, from reviews found by search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..models import ItemId, RestaurantRef, SearchQuery, as_item_id
from ..results import AspectStatus, AspectSummary, RestaurantSummary
from ..steps import Flow, search_all
from ._aspect_calls import Answer, AspectCalls
from ._common import (
    as_restaurant,
    as_shown,
    check,
    check_count,
    check_min_score,
    check_temperature,
    check_wording,
    choose_wording,
    describe_error,
    is_count,
)
from ._parsing import Shown
from ._preview import Previewed
from ._price_rule import PRICE, with_basis, without_price
from ._prompts.wording import Language, as_language
from ._room import with_room
from .aspects import Aspects, query_texts

if TYPE_CHECKING:
    from .._rows.table import ItemTable


@dataclass(frozen=True)
class SummarizeAspects(Previewed):
    """
    Summarise restaurants aspect by aspect, and overall.

    Items are restaurant ids, or mappings ``{"restaurant_id", "limit"?, "priority"?, "query"?, "category"?}`` (see
    `RestaurantRef`). For each aspect, one search among the restaurant's reviews finds those for the prompt. If the
    search or the call of an aspect fails, that aspect is reported as failed and the others stand; the restaurant fails
    if every aspect does. A failed overall summary leaves the aspects standing, also if it failed because the run
    stopped before it was written. A restaurant without any review succeeds without a call.

    Attributes:
        limit: Maximum number of reviews per aspect.
        min_score: Minimum dense cosine similarity of a review to the query text, -1 to 1; 0.0 for no bound.
        mode: "single": one call for everything; "split": one call per aspect, then one for the overall summary.
        language: Language of seed words and replies: "ko"; "en"; "auto" for the seed words of both and the language
            of the reviews found; or any other, by a code such as "ja" or a name, with the seed words of both unless
            `aspects` has some in that language.
        aspects: Names of aspects, or a mapping of aspect to seed words (for any language, or by language).
        max_tokens: Maximum length of a reply, in tokens.
        temperature: Sampling temperature.
        category: Only reviews of restaurants of this kind of food are searched, if the reviews were indexed with
            theirs; None for any. An item may have one of its own.
        instructions: Instructions of your own, which follow ours and come first where they differ; None for none.
        replace_instructions: Whether they stand in place of ours. Two things remain: that the reviews are data, and
            the form of the reply. `preview` shows the outcome.
        max_review_tokens: Maximum number of tokens of the reviews in a prompt, by `estimate_tokens`. The best of each
            aspect are taken in turn until it is reached, and none has more than an eighth of it: a longer one is
            truncated.
        price_rule: Whether the aspect "price" must rest on a review that speaks of prices or value for money. If no
            review that its summary cites has such a word (or, if it cites none, no review that was found), the
            summary is replaced by the sentence that the reviews hardly mention the price, in Korean or English, without
            bullets and evidence. The status remains "ok", because the reviews were found and read and a caller should
            show the sentence; `AspectSummary.replaced` is True, and `dropped` names what was replaced. If no review of
            any aspect has such a word, the overall summary loses its sentences about the price as well; if these are
            all, the summaries of the other aspects stand in their place.

    Raises:
        ConfigurationError: A field is out of its bounds.
    """

    limit: int = 10
    min_score: float = 0.0
    mode: Literal["single", "split"] = "single"
    language: str = "auto"
    aspects: Aspects = ("service", "price", "food")
    max_tokens: int = 1500
    temperature: float = 0.1
    category: ItemId | None = None
    instructions: str | None = None
    replace_instructions: bool = False
    max_review_tokens: int = 64_000
    price_rule: bool = True
    _query_texts: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check(self, "limit", is_count(self.limit) and self.limit <= 1000, "1 to 1000")
        check_min_score(self)
        check(self, "mode", self.mode in ("single", "split"), '"single" or "split"')
        check_wording(self)
        check_count(self, "max_tokens")
        check_temperature(self)
        if self.category is not None:
            object.__setattr__(self, "category", as_item_id(self.category, "SummarizeAspects.category"))
        check_count(self, "max_review_tokens")
        check(self, "price_rule", isinstance(self.price_rule, bool), "True or False")
        # Once per task and not per item: the texts are the same for every restaurant. A frozen dataclass sets a
        # derived field through `object`.
        object.__setattr__(self, "_query_texts", query_texts(self.aspects, as_language(self.language)))

    @property
    def name(self) -> str:
        """The task's name in events, errors and requests: SummarizeAspects."""
        return "SummarizeAspects"

    @property
    def requires_search(self) -> bool:
        """True: each aspect's reviews are searched for."""
        return True

    def parse_item(self, raw: Any, /) -> RestaurantRef:
        """
        Validate one item: an id, a mapping or a `RestaurantRef`.

        Raises:
            ConfigurationError: The item is invalid; the message names every wrong field.
        """
        return as_restaurant(raw)

    def items_of_table(self, table: ItemTable, /) -> Iterable[Any]:
        """
        Return the items in the rows of a table; the runner calls it for a data frame and for what `read_items` returns.

        Rows are restaurants, or reviews, of which each restaurant is taken once. Other columns are left out.
        """
        from ._tables import restaurants_or_items

        return restaurants_or_items(table, self.parse_item, self.item_key)

    def item_key(self, item: RestaurantRef, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.restaurant_id, item.priority

    def flow(self, item: RestaurantRef, /) -> Flow[RestaurantSummary]:
        """Return the flow of one item: search for each aspect, then summarise in one call or one per aspect."""
        results = yield from search_all(self._queries(item))
        categories: dict[str, AspectSummary] = {}
        shown: dict[str, Shown] = {}
        errors: list[Exception] = []
        for aspect, hits in zip(self._query_texts, results, strict=True):
            if isinstance(hits, Exception):
                categories[aspect] = _failed(hits)
                errors.append(hits)
            elif hits:
                shown[aspect] = list(enumerate(as_shown(hits)))
            else:
                categories[aspect] = AspectSummary(status="no_reviews")
        answer = Answer({}, "", "")
        if shown:
            texts = (hit.content for reviews in shown.values() for _, hit in reviews)
            wording = choose_wording(self, texts)
            calls = AspectCalls(self, item.restaurant_id, item.priority, wording, tuple(self._query_texts))
            if self.mode == "single":
                answer = yield from calls.single(with_room(shown, self.max_review_tokens))
            else:
                room = self.max_review_tokens
                answer = yield from calls.split(
                    {aspect: with_room({aspect: hits}, room)[aspect] for aspect, hits in shown.items()}
                )
            if self.price_rule:
                answer = _with_price_rule(answer, shown, wording.base)
            for aspect, part in answer.parts.items():
                if isinstance(part, Exception):
                    errors.append(part)
                categories[aspect] = _failed(part) if isinstance(part, Exception) else part
        if errors and not any(category.status == "ok" for category in categories.values()):
            raise errors[0]
        return _result(
            item.restaurant_id, answer, {aspect: categories[aspect] for aspect in self._query_texts}
        )

    def _queries(self, item: RestaurantRef) -> Iterable[SearchQuery]:
        for aspect, text in self._query_texts.items():
            yield SearchQuery(
                item.restaurant_id,
                f"{text} {item.query}" if item.query else text,
                item.limit or self.limit,
                self.min_score,
                aspect,
                category=self.category if item.category is None else item.category,
            )


def _with_price_rule(answer: Answer, shown: Mapping[str, Shown], language: Language) -> Answer:
    price = answer.parts.get(PRICE)
    if not isinstance(price, AspectSummary):
        return answer
    checked = with_basis(price, shown[PRICE], language)
    if not checked.replaced:
        return answer
    parts = {**answer.parts, PRICE: checked}
    overall = answer.overall
    if isinstance(overall, str):
        whole = [part for part in parts.values() if isinstance(part, AspectSummary)]
        overall = without_price(overall, whole, shown, language)
    return Answer(parts, overall, answer.model)


def _failed(error: Exception) -> AspectSummary:
    return AspectSummary(status="failed", error=describe_error(error))


def _result(restaurant_id: ItemId, answer: Answer, categories: dict[str, AspectSummary]) -> RestaurantSummary:
    """Return the result of a restaurant of which at least one aspect was summarised, or none has reviews."""
    summarized = [category for category in categories.values() if category.status == "ok"]
    failure = answer.overall if isinstance(answer.overall, Exception) else None
    status: AspectStatus = "failed" if failure else "ok" if summarized else "no_reviews"
    return RestaurantSummary(
        restaurant_id,
        "" if isinstance(answer.overall, Exception) else answer.overall,
        answer.model,
        categories,
        status,
        describe_error(failure) if failure else None,
        sum(not (category.evidence or category.replaced) for category in summarized),
    )

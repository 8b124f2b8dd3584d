"""`CompareAspects`: how satisfied a restaurant's guests are with each aspect, against the average of the others."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from .._values import composed, short
from ..errors import ConfigurationError
from ..models import ItemId, RestaurantRef, Review, SearchQuery, SearchScope
from ..results import AspectComparison, AspectLift
from ..steps import Flow, ResultOrError, gather, once, search, search_all
from ._common import (
    as_restaurant,
    check,
    check_count,
    check_min_score,
    check_temperature,
    check_wording,
    choose_wording,
    is_count,
    reraise_fatal,
    reviews_in_scope,
)
from ._labelling import Labelling, LabelQuestion
from ._lifts import Compared, Opinions
from ._preview import Previewed
from ._prompts.wording import Wording, as_language
from .aspects import Aspects, query_texts

if TYPE_CHECKING:
    from .._rows.table import ItemTable

Reviews: TypeAlias = Sequence[Review]

NOBODY = "(none)"
"""Text in place of the id of a restaurant, in a search among all of them; a number in its place is -1."""
MAX_ROUNDS = 3
"""As the default of `AnalyzeSentiment.max_rounds`."""


@dataclass(frozen=True)
class CompareAspects(Previewed):
    """
    Compare restaurants with the average of all others, aspect by aspect.

    Items are restaurant ids, or mappings ``{"restaurant_id", "category"?, "limit"?, "priority"?, "query"?}`` (see
    `RestaurantRef`). For each aspect, one search finds the restaurant's reviews about it, and one the reviews of other
    restaurants, of the same category if it is given. The model labels what each review says of the aspect: the guest is
    satisfied, or dissatisfied, or says nothing about it; labels are checked and asked for again as in
    `AnalyzeSentiment`. The share of an aspect is that of the satisfied among both kinds of remarks, and the lift is how
    far it is from the average, in percent of the average.

    All restaurants of a run share one sample for each aspect and category: the reviews that a search among all
    restaurants ranks first. It is searched for, and labelled, once per run. To find it, a `SearchQuery` is sent with
    the scope "others" and an id that no restaurant has, -1 or ``"(none)"``. For a restaurant that has reviews in the
    sample, these are left out, and a search of its own finds others in their place; only those are labelled for it.
    So the average is always that of other restaurants, and does not depend on which restaurant comes first. An error
    of the sample, after all retries, is the error of the aspect for every restaurant of the run.

    An aspect that fails is reported by its `error` and the others stand; the restaurant fails if every aspect with
    reviews does. A restaurant without reviews succeeds without a call.

    Attributes:
        aspects: Names of aspects, or a mapping of aspect to seed words, as in `SummarizeAspects`.
        limit: Maximum number of reviews per aspect, of the restaurant and of the sample. An item's own limit holds
            for its own reviews only.
        min_score: Minimum dense cosine similarity of a review to the query text, -1 to 1; 0.0 for no bound.
        averages: The average share of each aspect, above 0 and at most 1, if you know it: nobody else's reviews are
            then searched or labelled; None to find it.
        language: Language of seed words and of the sentences in the result: "ko"; "en"; "auto" for the seed words of
            both and the language of the reviews found. The sentences are in English for any other language.
        temperature: Sampling temperature.
        max_tokens_per_batch: Token budget of a batch, prompt and reply; None for `Limits.max_tokens_per_batch`.
        instructions: Instructions of your own, which follow ours and come first where they differ; None for none.
        replace_instructions: Whether they stand in place of ours. Two things remain: that the reviews are data, and
            the form of the reply, which names the aspect. `preview` shows the outcome.

    Raises:
        ConfigurationError: A field is out of its bounds.
    """

    aspects: Aspects = ("service", "price")
    limit: int = 30
    min_score: float = 0.0
    averages: Mapping[str, float] | None = None
    language: str = "auto"
    temperature: float = 0.0
    max_tokens_per_batch: int | None = None
    instructions: str | None = None
    replace_instructions: bool = False
    _query_texts: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check(self, "limit", is_count(self.limit) and self.limit <= 1000, "1 to 1000")
        check_min_score(self)
        check_count(self, "max_tokens_per_batch", optional=True)
        check_wording(self)
        check_temperature(self)
        # A frozen dataclass sets a derived field through `object`.
        object.__setattr__(self, "_query_texts", query_texts(self.aspects, as_language(self.language)))
        if self.averages is not None:
            object.__setattr__(self, "averages", _checked(self.averages, self._query_texts))

    @property
    def name(self) -> str:
        """The task's name in events, errors and requests: CompareAspects."""
        return "CompareAspects"

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

    def flow(self, item: RestaurantRef, /) -> Flow[AspectComparison]:
        """Return the flow of one item: search for each aspect, label both sides, compare."""
        queries = [self._query(item, aspect) for aspect in self._query_texts]
        results = [reraise_fatal(hits) for hits in (yield from search_all(queries))]
        found = [
            hits if isinstance(hits, Exception) else reviews_in_scope(hits, query)
            for query, hits in zip(queries, results, strict=True)
        ]
        candidates = [review for reviews in found if not isinstance(reviews, Exception) for review in reviews]
        wording = choose_wording(self, (review.content for review in candidates))
        flows = [
            self._compare(item, aspect, reviews, wording)
            for aspect, reviews in zip(self._query_texts, found, strict=True)
        ]
        lifts: dict[str, AspectLift] = {}
        errors: list[Exception] = []
        model = ""
        for aspect, result in zip(self._query_texts, (yield from gather(*flows)), strict=True):
            compared = reraise_fatal(result)
            if isinstance(compared, Exception):  # a bug: what may fail is in `Compared`
                raise compared
            lifts[aspect] = compared.lift(aspect, wording.language)
            errors += compared.errors
            model = model or compared.model
        if errors and not any(_is_whole(lift) for lift in lifts.values()):
            raise errors[0]
        return AspectComparison(
            item.restaurant_id,
            lifts,
            tuple(lift.sentence for lift in lifts.values() if lift.sentence),
            len(candidates),
            sum(lift.lift_percentage is not None for lift in lifts.values()),
            model,
        )

    def _compare(
        self, item: RestaurantRef, aspect: str, reviews: ResultOrError[Reviews], wording: Wording
    ) -> Flow[Compared]:
        """Label the reviews of an aspect, and those that the average is of."""
        given = None if self.averages is None else self.averages[aspect]
        if isinstance(reviews, Exception):
            return Compared(0, reviews, given)
        if not reviews:
            return Compared(0, Opinions(), given)
        flows = [self._label(item.restaurant_id, item.priority, aspect, reviews, wording)]
        if given is None:
            flows.append(self._others(item, aspect))
        own, *others = map(reraise_fatal, (yield from gather(*flows)))
        return Compared(len(reviews), own, others[0] if given is None else given)

    def _others(self, item: RestaurantRef, aspect: str) -> Flow[Opinions]:
        """Return what others say of an aspect: the shared sample, its own reviews replaced by those of others."""
        nobody = -1 if isinstance(item.restaurant_id, int) else NOBODY
        shared = self._query(replace(item, restaurant_id=nobody), aspect, "others")
        sample = yield from once(self._sample_key(shared), lambda: self._sample(shared, item.priority))
        others = sample.without(item.restaurant_id)
        if len(others) == len(sample) or len(sample) < self.limit:
            return others
        query = self._query(item, aspect, "others")
        more = sample.new_among(reviews_in_scope((yield from search(query)), query))
        labelled = yield from self._label(nobody, item.priority, aspect, more[: len(sample) - len(others)])
        return others.joined(labelled)

    def _sample_key(self, query: SearchQuery) -> Hashable:
        """Return the memoization key of a sample: all that its labels depend on."""
        own = (self.language, self.instructions, self.replace_instructions)
        return (self.name, query, *own, self.temperature, self.max_tokens_per_batch)

    def _sample(self, query: SearchQuery, priority: int) -> Flow[Opinions]:
        """Search among all restaurants, and label what is found."""
        reviews = reviews_in_scope((yield from search(query)), query)
        return (yield from self._label(query.restaurant_id, priority, str(query.aspect), reviews))

    def _label(
        self,
        restaurant_id: ItemId,
        priority: int,
        aspect: str,
        reviews: Reviews,
        wording: Wording | None = None,
    ) -> Flow[Opinions]:
        """
        Label what reviews say of an aspect.

        Args:
            restaurant_id: Id for the inputs of the requests.
            priority: Lower runs first.
            aspect: The aspect's name.
            reviews: The reviews.
            wording: Wording of the instructions; None for that in the language of these reviews.
        """
        texts = [review.content for review in reviews]
        question = LabelQuestion(
            "aspect_sentiment",
            restaurant_id,
            wording or choose_wording(self, texts),
            priority,
            self.temperature,
            self.max_tokens_per_batch,
            MAX_ROUNDS,
            aspect,
        )
        labelling = Labelling(question, texts)
        found = yield from labelling.run()
        labels = [found.get(position) for position in range(len(texts))]
        return Opinions(
            reviews,
            [None if isinstance(label, Exception) else label for label in labels],
            labelling.model,
        )

    def _query(self, item: RestaurantRef, aspect: str, scope: SearchScope = "restaurant") -> SearchQuery:
        text = self._query_texts[aspect]
        if scope == "others":
            # Only what every restaurant has in common, so that all search for the same sample.
            category = composed(item.category) if isinstance(item.category, str) else item.category
            limit = self.limit
            return SearchQuery(item.restaurant_id, text, limit, self.min_score, aspect, scope, category)
        text = f"{text} {item.query}" if item.query else text
        return SearchQuery(item.restaurant_id, text, item.limit or self.limit, self.min_score, aspect)


def _is_whole(lift: AspectLift) -> bool:
    """Return whether an aspect has reviews and no error."""
    return lift.error is None and bool(
        lift.satisfied + lift.dissatisfied + lift.mentions_nothing + lift.failed
    )


def _checked(averages: Mapping[str, float], aspects: Collection[str]) -> Mapping[str, float]:
    """
    Return the averages of the aspects as floats.

    Raises:
        ConfigurationError: An aspect has none, or one is not a share.
    """
    given: object = averages
    example = f"for example averages={{{', '.join(f'{aspect!r}: 0.6' for aspect in aspects)}}}"
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"CompareAspects.averages must map aspects to shares, got {short(averages)}; {example}"
        )
    for aspect in aspects:
        share: object = averages.get(aspect)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ConfigurationError(
                f"CompareAspects.averages must have a share above 0 and at most 1 for {aspect!r}, got {short(share)}; "
                f"{example}"
            )
    unknown = [aspect for aspect in averages if aspect not in aspects]
    if unknown:
        raise ConfigurationError(
            f"CompareAspects.averages names {', '.join(map(repr, unknown))}, which is not among the aspects; {example}"
        )
    return {aspect: float(averages[aspect]) for aspect in aspects}

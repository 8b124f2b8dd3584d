"""Batch jobs: convert a request to a task and its items, and results to response objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from ..._config.limits import Limits
from ..._values import composed
from ...models import ItemId, RestaurantRef
from ...protocols import Task
from ...tasks.comparison import CompareAspects
from ...tasks.reviews import SummarizeReviews
from ...tasks.sentiment import AnalyzeSentiment
from ...tasks.strengths import ExtractStrengths
from ...tasks.summary import SummarizeAspects
from . import serialize as serializers
from .bounds import Bounds, Load
from .error_responses import APIError, detail
from .request_warnings import request_warnings
from .requests import (
    Batch,
    ComparisonBatchRequest,
    ComparisonRequest,
    RestaurantToRate,
    RestaurantToSummarize,
    ReviewModel,
    SearchedRestaurant,
    SentimentAnalysisBatchRequest,
    SentimentAnalysisRequest,
    StrengthBatchRequest,
    StrengthRequest,
    SummaryBatchRequest,
    SummaryRequest,
)
from .responses import DebugInfo
from .varied_tasks import StrengthsOverChosen, vary

TaskT = TypeVar("TaskT", SummarizeReviews, AnalyzeSentiment, ExtractStrengths)
OwnTaskT = TypeVar("OwnTaskT", AnalyzeSentiment, ExtractStrengths)
PackingTask: TypeAlias = SummarizeReviews | AnalyzeSentiment | ExtractStrengths | CompareAspects
Serialize: TypeAlias = Callable[[Any, int, DebugInfo | None], Mapping[str, Any]]

DEFAULT_LIMIT = 10
"""Reviews of each aspect of a summary, in the service that this library was made for."""


@dataclass(frozen=True)
class BatchJob:
    """
    The work of one request.

    Attributes:
        task: The task to run.
        items: One item per restaurant; mappings if there are reviews, which tasks parse fastest.
        ids: Ids of the restaurants, as in the request.
        serialize: Converts a result to its response object, given the restaurant's index in the request.
        warnings: Returns the warnings about a result.
        names: Names of the restaurants that have one in the request, by index.
        request_warnings: Warnings about the request.
        is_single: Whether the request is about one restaurant, whose result is the response.
    """

    task: Task[Any]
    items: Sequence[Any]
    ids: Sequence[ItemId]
    serialize: Serialize
    warnings: Callable[[Any], list[str]]
    names: Mapping[int, str | None] = field(default_factory=dict)
    request_warnings: Sequence[str] = ()
    is_single: bool = False

    def result(self, value: Any, index: int, debug: DebugInfo | None) -> Mapping[str, Any]:
        """Return the response object of a result, with the restaurant's name if the request has it."""
        response = self.serialize(value, index, debug)
        if index not in self.names:
            return response
        named = {"restaurant_id": response["restaurant_id"], "restaurant_name": self.names[index]}
        return {**named, **response}


@dataclass(frozen=True)
class TaskSet:
    """
    The tasks of the router, with the settings that requests cannot change.

    Attributes:
        summary: Task for summaries of reviews found by search.
        review_summary: Task for summaries of reviews in the request.
        sentiment: Task for sentiment labels.
        strengths: Task for strengths.
        comparison: Task for comparisons with the average.
        can_search: Whether the runner has a search backend.
        limits: The runner's limits, for the budget and size of a batch.
        bounds: The limits of a request.
    """

    summary: SummarizeAspects
    review_summary: SummarizeReviews
    sentiment: AnalyzeSentiment
    strengths: ExtractStrengths
    comparison: CompareAspects
    can_search: bool
    limits: Limits
    bounds: Bounds

    def summaries(self, body: SummaryBatchRequest | SummaryRequest) -> BatchJob:
        """
        Return the job of a request for summaries.

        Raises:
            APIError: A restaurant occurs twice, reviews are missing and there is no search backend, only some
                restaurants have reviews, or the reviews need too many calls.
        """
        restaurants: Sequence[RestaurantToSummarize] = body.each()
        if any(one.has_reviews for one in restaurants):
            return self._summaries_of_reviews(body, restaurants)
        if not self.can_search and not restaurants:  # an empty request needs no search
            return self._summaries_of_reviews(body, restaurants)
        self._require_search(body, 0, "positive_reviews", "positive_reviews and negative_reviews")
        task = replace(self.summary, limit=body.limit or DEFAULT_LIMIT, min_score=body.min_score or 0.0)
        calls = 1 if task.mode == "single" else len(task.aspects) + 1
        self._check_calls(body, self.review_summary, [Load((), 1)] * (calls * len(restaurants)))
        items = [
            RestaurantRef(one.restaurant_id, one.limit, one.priority or 0, one.query, one.category)
            for one in restaurants
        ]
        return _job(body, task, items, _plain(serializers.summary), serializers.summary_warnings)

    def _summaries_of_reviews(
        self, body: SummaryBatchRequest | SummaryRequest, restaurants: Sequence[RestaurantToSummarize]
    ) -> BatchJob:
        for index, one in enumerate(restaurants):
            if not one.has_reviews:
                message = "Field required: a request gives the reviews of all its restaurants, or of none"
                raise _invalid(body, index, "positive_reviews", message, "missing")
        given = [(one.positive_reviews or [], one.negative_reviews or []) for one in restaurants]
        items = [
            {
                "restaurant_id": one.restaurant_id,
                "priority": one.priority or 0,
                "positive_reviews": _as_items(positive),
                "negative_reviews": _as_items(negative),
            }
            for one, (positive, negative) in zip(restaurants, given, strict=True)
        ]

        def serialize(value: Any, index: int, debug: DebugInfo | None) -> Mapping[str, Any]:
            positive, negative = given[index]
            return serializers.review_summary(value, _echo(positive), _echo(negative), debug)

        task = _with_budget(self.review_summary, body.max_tokens_per_batch)
        self._check_calls(body, task, [_load(positive, negative) for positive, negative in given])
        return _job(body, task, items, serialize, serializers.failed_review_warnings)

    def sentiments(self, body: SentimentAnalysisBatchRequest | SentimentAnalysisRequest) -> BatchJob:
        """
        Return the job of a request for sentiment labels.

        Raises:
            APIError: A restaurant occurs twice, reviews are missing and there is no search backend, or the reviews need
                too many calls.
        """
        restaurants = body.each()
        for index, one in enumerate(restaurants):
            if one.reviews is None:
                self._require_search(body, index, "reviews")
        items = [
            {
                "restaurant_id": one.restaurant_id,
                "priority": one.priority or 0,
                "reviews": _as_items(one.reviews),
            }
            for one in restaurants
        ]
        convert = serializers.sentiment if isinstance(body, Batch) else serializers.sentiment_display
        serialize = _plain(partial(convert, labels=bool(body.labels)))
        task = _with_budget(self.sentiment, body.max_tokens_per_batch)
        loads = [_load(one.reviews, limit=one.limit or task.limit) for one in restaurants]
        self._check_calls(body, task, loads, task.batch_size)
        varied, items = vary(task, [_own_task(task, one) for one in restaurants], items)
        return _job(body, varied, items, serialize, serializers.failed_review_warnings)

    def strengths_of(self, body: StrengthBatchRequest | StrengthRequest) -> BatchJob:
        """
        Return the job of a request for strengths.

        Raises:
            APIError: A restaurant occurs twice, reviews are missing and there is no search backend, or the reviews need
                too many calls.
        """
        restaurants = body.each()
        for index, one in enumerate(restaurants):
            for name in ("target_reviews", "comparison_reviews"):
                if getattr(one, name) is None:
                    self._require_search(body, index, name)
        items = [
            {
                "target_restaurant_id": one.restaurant_id,
                "priority": one.priority or 0,
                "category": one.category,
                "target_reviews": _as_items(one.target_reviews),
                "comparison_reviews": _as_items(one.comparison_reviews),
            }
            for one in restaurants
        ]

        def serialize(value: Any, index: int, debug: DebugInfo | None) -> Mapping[str, Any]:
            one = restaurants[index]
            return serializers.strength(
                value, _echo(one.target_reviews), _echo(one.comparison_reviews), debug
            )

        task = _with_budget(self.strengths, body.max_tokens_per_batch)
        loads = [
            _load(one.target_reviews, one.comparison_reviews, limit=one.overrides().get("limit", task.limit))
            for one in restaurants
        ]
        self._check_calls(body, task, loads)
        tasks: list[Task[Any]] = []
        for one in restaurants:
            own, chosen = _own_task(task, one), one.comparison_restaurant_ids
            tasks.append(StrengthsOverChosen(own, tuple(chosen)) if chosen else own)
        varied, items = vary(task, tasks, items)
        return _job(body, varied, items, serialize, serializers.failed_review_warnings)

    def comparisons(self, body: ComparisonBatchRequest | ComparisonRequest) -> BatchJob:
        """
        Return the job of a request for comparisons with the average.

        Raises:
            APIError: A restaurant occurs twice, there is no search backend, or the reviews need too many calls.
        """
        restaurants = body.each()
        if restaurants and not self.can_search:
            raise no_search()
        task = self.comparison if self.can_search else self.sentiment  # an empty request needs no search
        items = [
            {"restaurant_id": one.restaurant_id, "priority": one.priority or 0, "category": one.category}
            for one in restaurants
        ]
        self._check_calls(body, self.comparison, self._comparison_loads(restaurants))
        return _job(body, task, items, _plain(serializers.comparison), serializers.comparison_warnings)

    def _comparison_loads(self, restaurants: Sequence[RestaurantToRate]) -> Sequence[Load]:
        """Return the reviews that are found: of each restaurant, in samples, and in place of a sample's own."""
        task = self.comparison
        loads = [Load((), task.limit)] * len(restaurants)
        if task.averages is None:
            # Restaurants of a category share a sample, if their ids are of the same type.
            samples = {(isinstance(one.restaurant_id, int), one.category) for one in restaurants}
            replaced = min(len(restaurants), len(samples) * task.limit)
            loads += [Load((), task.limit)] * len(samples) + [Load((), 1)] * replaced
        return loads * len(task.aspects)

    def _require_search(self, body: Any, index: int, name: str, missing: str = "") -> None:
        if not self.can_search:
            message = (
                f"this service does not search for reviews; send {missing or name} with every restaurant"
            )
            raise _invalid(body, index, name, message, "missing", whole=True)

    def _check_calls(
        self, body: Any, task: PackingTask, loads: Sequence[Load], batch_size: int | None = None
    ) -> None:
        self.bounds.check_calls(
            loads,
            task.max_tokens_per_batch or self.limits.tokens_per_batch,
            batch_size or self.limits.max_batch_size,
            ("restaurants",) if isinstance(body, Batch) else (),
        )


def no_search() -> APIError:
    """Return the error response of an endpoint that searches, in a service without search."""
    return APIError(501, "this service does not search for reviews: its runner has no search backend")


def _job(
    body: Any,
    task: Task[Any],
    items: Sequence[Any],
    serialize: Serialize,
    warnings: Callable[[Any], list[str]],
) -> BatchJob:
    restaurants = body.each()
    _check_unique(body, restaurants)
    names = {
        index: one.restaurant_name
        for index, one in enumerate(restaurants)
        if "restaurant_name" in one.model_fields_set
    }
    return BatchJob(
        task,
        items,
        [one.restaurant_id for one in restaurants],
        serialize,
        warnings,
        names,
        request_warnings(body),
        not isinstance(body, Batch),
    )


def _plain(convert: Callable[[Any, DebugInfo | None], Mapping[str, Any]]) -> Serialize:
    """Return a serializer of results that depend on nothing else in the request."""
    return lambda value, _index, debug: convert(value, debug)


def _own_task(task: OwnTaskT, restaurant: SearchedRestaurant) -> OwnTaskT:
    """Return the task with the restaurant's own settings, or the task itself if it has none."""
    settings = restaurant.overrides()
    return replace(task, **settings) if settings else task


def _with_budget(task: TaskT, max_tokens_per_batch: int | None) -> TaskT:
    return task if max_tokens_per_batch is None else replace(task, max_tokens_per_batch=max_tokens_per_batch)


def _as_items(reviews: Sequence[ReviewModel] | None) -> list[Mapping[str, Any]] | None:
    return None if reviews is None else [review.as_item() for review in reviews]


def _load(*lists: Sequence[ReviewModel] | None, limit: int = 0) -> Load:
    """Return the reviews of a restaurant; those that the request leaves out are found by searches, `limit` by each."""
    texts = [review.content for reviews in lists for review in reviews or ()]
    return Load(texts, limit * sum(reviews is None for reviews in lists))


def _echo(reviews: Sequence[ReviewModel] | None) -> Any:
    """Return reviews with exactly the fields of the request, for the response; None if it has no reviews."""
    return None if reviews is None else [review.model_dump(exclude_unset=True) for review in reviews]


def _check_unique(body: Any, restaurants: Sequence[Any]) -> None:
    """
    Check that each restaurant occurs once; with duplicates, a result could not be attributed.

    Raises:
        APIError: One occurs twice.
    """
    first: dict[ItemId, int] = {}
    for index, one in enumerate(restaurants):
        name = one.restaurant_id if isinstance(one.restaurant_id, int) else composed(one.restaurant_id)
        if name in first:
            message = f"{name!r} is restaurants[{first[name]}] already; give each restaurant once"
            place = detail(body.place(index, one.ID_FIELD), message, "duplicate")
            raise APIError(422, f"duplicate restaurant: {message}", [place])
        first[name] = index


def _invalid(body: Any, index: int, name: str, message: str, kind: str, *, whole: bool = False) -> APIError:
    place = detail(body.place(index, name), message, kind)
    return APIError(422, message if whole else f"{place['field']}: {message}", [place])

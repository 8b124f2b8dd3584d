"""Batch jobs: convert a request to a task and its items, and results to response objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..._config.limits import Limits
from ...models import ItemId, RestaurantRef
from ...protocols import Task
from ...tasks.reviews import SummarizeReviews
from ...tasks.sentiment import AnalyzeSentiment
from ...tasks.strengths import ExtractStrengths
from ...tasks.summary import SummarizeAspects
from . import serialize as serializers
from .error_responses import APIError
from .requests import (
    ReviewModel,
    ReviewSummaryBatchRequest,
    SentimentAnalysisBatchRequest,
    SentimentReviewInput,
    StrengthBatchRequest,
    SummaryBatchRequest,
)
from .responses import DebugInfo, ErrorDetail

Budgeted = TypeVar("Budgeted", SummarizeReviews, AnalyzeSentiment, ExtractStrengths)


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
    """

    task: Task[Any]
    items: Sequence[Any]
    ids: Sequence[ItemId]
    serialize: Callable[[Any, int, DebugInfo | None], Mapping[str, Any]]
    warnings: Callable[[Any], list[str]]


@dataclass(frozen=True)
class TaskSet:
    """
    The tasks of the router, with the settings that requests cannot change.

    Attributes:
        summary: Task for summaries of reviews found by search.
        review_summary: Task for summaries of reviews in the request.
        sentiment: Task for sentiment labels.
        strengths: Task for strengths.
        can_search: Whether the runner has a search backend.
        limits: The runner's limits, for the budget and size of a batch.
        check_calls: Refuses reviews that need too many calls of the model, given the texts of each restaurant, the
            token budget of a batch and its maximum number of reviews.
    """

    summary: SummarizeAspects
    review_summary: SummarizeReviews
    sentiment: AnalyzeSentiment
    strengths: ExtractStrengths
    can_search: bool
    limits: Limits
    check_calls: Callable[[Sequence[Sequence[str]], int, int], None]

    def summaries(self, body: SummaryBatchRequest | ReviewSummaryBatchRequest) -> BatchJob:
        """
        Return the job of a request for summaries.

        Raises:
            APIError: A restaurant occurs twice, reviews are missing and there is no search backend, or the reviews need
                too many calls.
        """
        ids = _unique([restaurant.restaurant_id for restaurant in body.restaurants], "restaurant_id")
        if isinstance(body, ReviewSummaryBatchRequest):
            return self._summaries_of_reviews(body, ids)
        if not self.can_search and not ids:  # an empty request needs no search
            return self._summaries_of_reviews(ReviewSummaryBatchRequest(restaurants=[]), ids)
        if not self.can_search:
            raise _needs_search("restaurants[0].positive_reviews", "positive_reviews and negative_reviews")
        task = replace(self.summary, limit=body.limit, min_score=body.min_score)
        items = [RestaurantRef(restaurant.restaurant_id, restaurant.limit) for restaurant in body.restaurants]

        def serialize(value: Any, _index: int, debug: DebugInfo | None) -> Mapping[str, Any]:
            return serializers.summary(value, debug)

        return BatchJob(task, items, ids, serialize, serializers.summary_warnings)

    def _summaries_of_reviews(self, body: ReviewSummaryBatchRequest, ids: Sequence[ItemId]) -> BatchJob:
        items = [
            {
                "restaurant_id": restaurant.restaurant_id,
                "positive_reviews": _as_items(restaurant.positive_reviews),
                "negative_reviews": _as_items(restaurant.negative_reviews),
            }
            for restaurant in body.restaurants
        ]

        def serialize(value: Any, index: int, debug: DebugInfo | None) -> Mapping[str, Any]:
            restaurant = body.restaurants[index]
            return serializers.review_summary(
                value, _echo(restaurant.positive_reviews), _echo(restaurant.negative_reviews), debug
            )

        task = _with_budget(self.review_summary, body.max_tokens_per_batch)
        self._check_calls(
            [[*restaurant.positive_reviews, *restaurant.negative_reviews] for restaurant in body.restaurants],
            task.max_tokens_per_batch,
        )
        return BatchJob(task, items, ids, serialize, serializers.failed_review_warnings)

    def sentiments(self, body: SentimentAnalysisBatchRequest) -> BatchJob:
        """
        Return the job of a request for sentiment labels.

        Raises:
            APIError: A restaurant occurs twice, or the reviews need too many calls.
        """
        ids = _unique([restaurant.restaurant_id for restaurant in body.restaurants], "restaurant_id")
        items = [
            {
                "restaurant_id": restaurant.restaurant_id,
                "reviews": [review.as_item() for review in restaurant.reviews],
            }
            for restaurant in body.restaurants
        ]

        def serialize(value: Any, _index: int, debug: DebugInfo | None) -> Mapping[str, Any]:
            return serializers.sentiment(value, debug)

        task = _with_budget(self.sentiment, body.max_tokens_per_batch)
        self._check_calls(
            [restaurant.reviews for restaurant in body.restaurants],
            task.max_tokens_per_batch,
            task.batch_size,
        )
        return BatchJob(task, items, ids, serialize, serializers.failed_review_warnings)

    def comparisons(self, body: StrengthBatchRequest) -> BatchJob:
        """
        Return the job of a request for strengths.

        Raises:
            APIError: A restaurant occurs twice, reviews are missing and there is no search backend, or the reviews need
                too many calls.
        """
        ids = _unique(
            [restaurant.target_restaurant_id for restaurant in body.restaurants], "target_restaurant_id"
        )
        for index, restaurant in enumerate(body.restaurants):
            for field in ("target_reviews", "comparison_reviews"):
                if getattr(restaurant, field) is None and not self.can_search:
                    raise _needs_search(f"restaurants[{index}].{field}", field)
        items = [
            {
                "target_restaurant_id": restaurant.target_restaurant_id,
                "target_reviews": _as_items(restaurant.target_reviews),
                "comparison_reviews": _as_items(restaurant.comparison_reviews),
            }
            for restaurant in body.restaurants
        ]

        def serialize(value: Any, index: int, debug: DebugInfo | None) -> Mapping[str, Any]:
            restaurant = body.restaurants[index]
            return serializers.strength(
                value, _echo(restaurant.target_reviews), _echo(restaurant.comparison_reviews), debug
            )

        task = _with_budget(self.strengths, body.max_tokens_per_batch)
        self._check_calls(
            [
                [*(restaurant.target_reviews or ()), *(restaurant.comparison_reviews or ())]
                for restaurant in body.restaurants
            ],
            task.max_tokens_per_batch,
        )
        return BatchJob(task, items, ids, serialize, serializers.failed_review_warnings)

    def _check_calls(
        self,
        reviews: Sequence[Sequence[ReviewModel | SentimentReviewInput]],
        budget: int | None,
        batch_size: int | None = None,
    ) -> None:
        self.check_calls(
            [[review.content for review in of_one] for of_one in reviews],
            budget or self.limits.max_tokens_per_batch,
            batch_size or self.limits.max_batch_size,
        )


def _with_budget(task: Budgeted, max_tokens_per_batch: int | None) -> Budgeted:
    return task if max_tokens_per_batch is None else replace(task, max_tokens_per_batch=max_tokens_per_batch)


def _as_items(reviews: Sequence[ReviewModel] | None) -> list[Mapping[str, Any]] | None:
    return None if reviews is None else [review.as_item() for review in reviews]


def _echo(reviews: Sequence[ReviewModel] | None) -> Any:
    """Return reviews with exactly the fields of the request, for the response; None if it has no reviews."""
    return None if reviews is None else [review.model_dump(exclude_unset=True) for review in reviews]


def _unique(ids: Sequence[ItemId], field: str) -> Sequence[ItemId]:
    """Return the ids if each occurs once; with duplicates, a result could not be attributed."""
    first: dict[ItemId, int] = {}
    for index, item_id in enumerate(ids):
        if item_id in first:
            message = f"{item_id!r} is restaurants[{first[item_id]}] already; give each restaurant once"
            raise APIError(
                422, f"duplicate restaurant: {message}", [_detail(f"restaurants[{index}].{field}", message)]
            )
        first[item_id] = index
    return ids


def _needs_search(field: str, missing: str) -> APIError:
    message = f"this service does not search for reviews; send {missing} with every restaurant"
    return APIError(422, message, [_detail(field, message)])


def _detail(field: str, message: str) -> ErrorDetail:
    return ErrorDetail(field=field, message=message)

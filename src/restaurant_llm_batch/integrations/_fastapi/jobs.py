"""What a request has the runner do: a task, its items, and how a result is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...models import ItemId, RestaurantRef
from ...protocols import Task
from ...tasks.reviews import SummarizeReviews
from ...tasks.sentiment import AnalyzeSentiment
from ...tasks.strengths import ExtractStrengths
from ...tasks.summary import SummarizeAspects
from . import serialize as answers
from .error_responses import APIError
from .requests import (
    ReviewModel,
    ReviewSummaryBatchRequest,
    SentimentAnalysisBatchRequest,
    StrengthBatchRequest,
    SummaryBatchRequest,
)
from .responses import DebugInfo, ErrorDetail

Budgeted = TypeVar("Budgeted", SummarizeReviews, AnalyzeSentiment, ExtractStrengths)


@dataclass(frozen=True)
class BatchJob:
    """
    What a request has the runner do.

    Attributes:
        task: The task.
        items: One for each restaurant; mappings where there are reviews, which tasks read fastest.
        ids: Their names, as the request has them.
        show: Turns a result into what the answer says, given its restaurant's place in the request.
        warn: Tells what about a result is not as one might think.
    """

    task: Task[Any]
    items: Sequence[Any]
    ids: Sequence[ItemId]
    show: Callable[[Any, int, DebugInfo | None], Mapping[str, Any]]
    warn: Callable[[Any], list[str]]


@dataclass(frozen=True)
class TaskSet:
    """
    The tasks, with everything about them that requests do not say.

    Attributes:
        summary: For summaries of reviews that are searched for.
        review_summary: For summaries of reviews that are given.
        sentiment: For judging reviews.
        strengths: For comparing restaurants.
        can_search: Whether the runner finds reviews.
    """

    summary: SummarizeAspects
    review_summary: SummarizeReviews
    sentiment: AnalyzeSentiment
    strengths: ExtractStrengths
    can_search: bool

    def summaries(self, asked: SummaryBatchRequest | ReviewSummaryBatchRequest) -> BatchJob:
        """Return what a request for summaries has done."""
        ids = _distinct([one.restaurant_id for one in asked.restaurants], "restaurant_id")
        if isinstance(asked, ReviewSummaryBatchRequest):
            return self._summaries_of_reviews(asked, ids)
        if not self.can_search and not ids:  # nothing to search for
            return self._summaries_of_reviews(ReviewSummaryBatchRequest(restaurants=[]), ids)
        if not self.can_search:
            raise _needs_search("restaurants[0].positive_reviews", "positive_reviews and negative_reviews")
        task = replace(self.summary, limit=asked.limit, min_score=asked.min_score)
        items = [RestaurantRef(one.restaurant_id, one.limit) for one in asked.restaurants]
        return BatchJob(
            task, items, ids, lambda value, _, debug: answers.summary(value, debug), answers.warnings
        )

    def _summaries_of_reviews(self, asked: ReviewSummaryBatchRequest, ids: Sequence[ItemId]) -> BatchJob:
        items = [
            {
                "restaurant_id": one.restaurant_id,
                "positive_reviews": _read(one.positive_reviews),
                "negative_reviews": _read(one.negative_reviews),
            }
            for one in asked.restaurants
        ]

        def show(value: Any, place: int, debug: DebugInfo | None) -> Mapping[str, Any]:
            given = asked.restaurants[place]
            return answers.review_summary(
                value, _echo(given.positive_reviews), _echo(given.negative_reviews), debug
            )

        task = _within(self.review_summary, asked.max_tokens_per_batch)
        return BatchJob(task, items, ids, show, answers.left_out)

    def sentiments(self, asked: SentimentAnalysisBatchRequest) -> BatchJob:
        """Return what a request for judgements has done."""
        ids = _distinct([one.restaurant_id for one in asked.restaurants], "restaurant_id")
        items = [
            {"restaurant_id": one.restaurant_id, "reviews": [review.read() for review in one.reviews]}
            for one in asked.restaurants
        ]
        task = _within(self.sentiment, asked.max_tokens_per_batch)
        return BatchJob(
            task, items, ids, lambda value, _, debug: answers.sentiment(value, debug), answers.left_out
        )

    def comparisons(self, asked: StrengthBatchRequest) -> BatchJob:
        """Return what a request for strengths has done."""
        ids = _distinct([one.target_restaurant_id for one in asked.restaurants], "target_restaurant_id")
        for place, one in enumerate(asked.restaurants):
            for field in ("target_reviews", "comparison_reviews"):
                if getattr(one, field) is None and not self.can_search:
                    raise _needs_search(f"restaurants[{place}].{field}", field)
        items = [
            {
                "target_restaurant_id": one.target_restaurant_id,
                "target_reviews": _read(one.target_reviews),
                "comparison_reviews": _read(one.comparison_reviews),
            }
            for one in asked.restaurants
        ]

        def show(value: Any, place: int, debug: DebugInfo | None) -> Mapping[str, Any]:
            given = asked.restaurants[place]
            return answers.strength(
                value, _echo(given.target_reviews), _echo(given.comparison_reviews), debug
            )

        task = _within(self.strengths, asked.max_tokens_per_batch)
        return BatchJob(task, items, ids, show, answers.left_out)


def _within(task: Budgeted, max_tokens_per_batch: int | None) -> Budgeted:
    return task if max_tokens_per_batch is None else replace(task, max_tokens_per_batch=max_tokens_per_batch)


def _read(reviews: Sequence[ReviewModel] | None) -> list[Mapping[str, Any]] | None:
    return None if reviews is None else [review.read() for review in reviews]


def _echo(reviews: Sequence[ReviewModel] | None) -> Any:
    """Return reviews as they were given; None where they were not."""
    return None if reviews is None else [review.model_dump(exclude_unset=True) for review in reviews]


def _distinct(ids: Sequence[ItemId], field: str) -> Sequence[ItemId]:
    """Return the ids, each of which must be there once: a result could not say which it is of."""
    first: dict[ItemId, int] = {}
    for place, one in enumerate(ids):
        if one in first:
            message = f"{one!r} is restaurants[{first[one]}] already; give each restaurant once"
            raise APIError(
                422, f"duplicate restaurant: {message}", [_detail(f"restaurants[{place}].{field}", message)]
            )
        first[one] = place
    return ids


def _needs_search(field: str, what: str) -> APIError:
    message = f"this service does not search for reviews; send {what} with every restaurant"
    return APIError(422, message, [_detail(field, message)])


def _detail(field: str, message: str) -> ErrorDetail:
    return ErrorDetail(field=field, message=message)

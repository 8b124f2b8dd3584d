"""
What answers hold, in the words of the source service.

`failures`, `failed_count`, `status` and the summaries per kind of review are ours, beside its fields.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from ...outcomes import Stage
from ...results import AspectStatus
from .requests import Id


class EvidenceResponse(TypedDict):
    """A review that a summary rests on; `rank` is its place, from 0, among those the search found."""

    review_id: str
    snippet: str
    rank: int


class CategorySummary(TypedDict):
    """What the reviews say about one aspect; `status` tells "no reviews" from "failed"."""

    summary: str
    bullets: list[str]
    evidence: list[EvidenceResponse]
    status: AspectStatus


class DebugInfo(TypedDict):
    """
    How an answer came about. Time and tokens are those of the whole request, up to this result; warnings are
    about this restaurant.
    """

    request_id: str
    processing_time_ms: float
    tokens_used: int
    model_version: str
    warnings: list[str]


class FailureResponse(TypedDict):
    """A restaurant that was not done, and why."""

    restaurant_id: Id
    stage: Stage
    error: str
    attempts: int


class SummaryDisplayResponse(TypedDict):
    """A summary; `categories` is null where the request gave the reviews."""

    restaurant_id: Id
    overall_summary: str
    categories: dict[str, CategorySummary] | None


class SummaryResponse(SummaryDisplayResponse):
    """The fuller shape, for `X-Debug`."""

    positive_reviews: list[dict[str, Any]]
    negative_reviews: list[dict[str, Any]]
    positive_count: int
    negative_count: int
    debug: DebugInfo


class ReviewSummaryDisplayResponse(SummaryDisplayResponse):
    """A summary of the reviews given; the counts are of the reviews it rests on."""

    positive_summary: str
    negative_summary: str
    positive_count: int
    negative_count: int
    failed_count: int


class ReviewSummaryResponse(ReviewSummaryDisplayResponse):
    """The fuller shape, for `X-Debug`, with the reviews as they were given."""

    positive_reviews: list[dict[str, Any]]
    negative_reviews: list[dict[str, Any]]
    debug: DebugInfo


class SummaryBatchResponse(TypedDict):
    """A result or a failure for every restaurant, each in the order of the request."""

    results: list[
        ReviewSummaryResponse | ReviewSummaryDisplayResponse | SummaryResponse | SummaryDisplayResponse
    ]
    failures: list[FailureResponse]


class SentimentAnalysisResponse(TypedDict):
    """How the reviews were judged; the ratios are percentages of the judged ones."""

    restaurant_id: Id
    positive_count: int
    negative_count: int
    neutral_count: int
    failed_count: Annotated[int, Field(description="Reviews without a judgement.")]
    total_count: int
    positive_ratio: int
    negative_ratio: int
    neutral_ratio: int
    debug: NotRequired[DebugInfo]


class SentimentAnalysisBatchResponse(TypedDict):
    """A result or a failure for every restaurant, each in the order of the request."""

    results: list[SentimentAnalysisResponse]
    failures: list[FailureResponse]


class StrengthResponse(TypedDict):
    """What a restaurant has over others, and the reviews that says so."""

    restaurant_id: Id
    comparison_summary: str
    target_restaurant_strength: str
    target_reviews: list[dict[str, Any]]
    comparison_reviews: list[dict[str, Any]]
    target_count: int
    comparison_count: int
    failed_count: Annotated[int, Field(description="Reviews of either kind that were not read.")]
    debug: NotRequired[DebugInfo]


class StrengthBatchResponse(TypedDict):
    """A result or a failure for every restaurant, each in the order of the request."""

    results: list[StrengthResponse]
    failures: list[FailureResponse]


class ErrorDetail(TypedDict):
    """What is wrong with one field."""

    field: str
    message: str


class ErrorResponse(TypedDict):
    """Every error of these paths."""

    code: Annotated[int, Field(description="The HTTP status.")]
    message: str
    details: NotRequired[list[ErrorDetail]]
    request_id: str

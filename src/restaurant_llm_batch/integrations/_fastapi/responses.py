"""
Types of the response bodies. Field names are those of the service that this library was made for.

`failures`, `failed_count`, `status` and the summaries by polarity are additions to its fields.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # before Python 3.12, pydantic does not support typing's

from ...outcomes import Stage
from ...results import AspectStatus
from .requests import Id


class EvidenceResponse(TypedDict):
    """A review that supports a summary; `rank` is its index, from 0, among the reviews found."""

    review_id: str
    snippet: str
    rank: int


class CategorySummary(TypedDict):
    """Summary of one aspect; `status` distinguishes "no_reviews" from "failed"."""

    summary: str
    bullets: list[str]
    evidence: list[EvidenceResponse]
    status: AspectStatus


class DebugInfo(TypedDict):
    """
    Debug information of a result. Time and tokens are those of the whole request up to this result; warnings are
    about this restaurant.
    """

    request_id: str
    processing_time_ms: float
    tokens_used: int
    model_version: str
    warnings: list[str]


class FailureResponse(TypedDict):
    """A restaurant without a result, and the error."""

    restaurant_id: Id
    stage: Stage
    error: str
    attempts: int


class SummaryDisplayResponse(TypedDict):
    """A summary; `categories` is null if the request contained the reviews."""

    restaurant_id: Id
    overall_summary: str
    categories: dict[str, CategorySummary] | None


class SummaryResponse(SummaryDisplayResponse):
    """A summary with debug information, for `X-Debug`."""

    positive_reviews: list[dict[str, Any]]
    negative_reviews: list[dict[str, Any]]
    positive_count: int
    negative_count: int
    debug: DebugInfo


class ReviewSummaryDisplayResponse(SummaryDisplayResponse):
    """A summary of the reviews in the request; the counts are those of the reviews that were summarised."""

    positive_summary: str
    negative_summary: str
    positive_count: int
    negative_count: int
    failed_count: int


class ReviewSummaryResponse(ReviewSummaryDisplayResponse):
    """A summary with debug information, for `X-Debug`, and the reviews of the request."""

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
    """Sentiment counts of the reviews; the ratios are percentages of the labelled reviews."""

    restaurant_id: Id
    positive_count: int
    negative_count: int
    neutral_count: int
    failed_count: Annotated[int, Field(description="Number of reviews without a label.")]
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
    """Strengths of a restaurant over others, and the reviews that support them."""

    restaurant_id: Id
    comparison_summary: str
    target_restaurant_strength: str
    target_reviews: list[dict[str, Any]]
    comparison_reviews: list[dict[str, Any]]
    target_count: int
    comparison_count: int
    failed_count: Annotated[int, Field(description="Number of reviews of either kind that were not used.")]
    debug: NotRequired[DebugInfo]


class StrengthBatchResponse(TypedDict):
    """A result or a failure for every restaurant, each in the order of the request."""

    results: list[StrengthResponse]
    failures: list[FailureResponse]


class ErrorDetail(TypedDict):
    """Error of one field."""

    field: str
    message: str


class ErrorResponse(TypedDict):
    """Body of every error response."""

    code: Annotated[int, Field(description="The HTTP status code.")]
    message: str
    details: NotRequired[list[ErrorDetail]]
    request_id: str

"""
Types of the response bodies. Field names are those of the service that this library was made for.

`failures`, `failed_count`, `status`, `labels`, `warnings` and the summaries by polarity are additions to its fields.

Results are made as dictionaries. Bodies are described by models, because pydantic keeps what it has made of a model,
and each router has an endpoint of each.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypeAlias

from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict  # before Python 3.12, pydantic does not support typing's

from ...outcomes import Stage
from ...results import AspectStatus, Sentiment
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


class Result(TypedDict):
    """What every result has. `warnings` are about the request, and only in a response about one restaurant."""

    restaurant_id: Id
    restaurant_name: NotRequired[
        Annotated[str | None, Field(description="As in the request, if it has one.")]
    ]
    warnings: NotRequired[list[str]]


class BatchResponse(BaseModel):
    """
    A result or a failure for every restaurant, each in the order of the request.

    `warnings`, which are about the request, are left out if there are none.
    """

    failures: list[FailureResponse]
    warnings: list[str] = []


class SummaryDisplayResponse(Result):
    """A summary; `categories` is null if the request contained the reviews."""

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


AnySummary: TypeAlias = (
    ReviewSummaryResponse | ReviewSummaryDisplayResponse | SummaryResponse | SummaryDisplayResponse
)


class SummaryResult(RootModel[AnySummary]):
    """A summary of one restaurant."""


class SummaryBatchResponse(BatchResponse):
    """Summaries, and the restaurants without one."""

    results: list[AnySummary]


class LabelResponse(TypedDict):
    """Label of a review; null if it has none. The id is the review's, or its position, from 0, if it has none."""

    id: Id
    label: Sentiment | None


class SentimentAnalysisDisplayResponse(Result):
    """
    Sentiment of one restaurant's reviews; the ratios are percentages of the labelled reviews.

    `failed_count` is there only if reviews have no label, and `labels` if the request asks for them.
    """

    positive_ratio: int
    negative_ratio: int
    failed_count: NotRequired[int]
    labels: NotRequired[list[LabelResponse]]


class SentimentAnalysisResponse(Result):
    """Sentiment counts of the reviews; the ratios are percentages of the labelled reviews."""

    positive_count: int
    negative_count: int
    neutral_count: int
    failed_count: Annotated[int, Field(description="Number of reviews without a label.")]
    total_count: int
    positive_ratio: int
    negative_ratio: int
    neutral_ratio: int
    labels: NotRequired[
        Annotated[
            list[LabelResponse],
            Field(description="If the request asks for them, in the order of the reviews."),
        ]
    ]
    debug: NotRequired[DebugInfo]


class SentimentResult(RootModel[SentimentAnalysisDisplayResponse | SentimentAnalysisResponse]):
    """Sentiment of one restaurant's reviews: the full one with `X-Debug`."""


class SentimentAnalysisBatchResponse(BatchResponse):
    """Sentiment counts, and the restaurants without any."""

    results: list[SentimentAnalysisResponse]


class StrengthResponse(Result):
    """Strengths of a restaurant over others, and the reviews that support them."""

    comparison_summary: str
    target_restaurant_strength: str
    target_reviews: list[dict[str, Any]]
    comparison_reviews: list[dict[str, Any]]
    target_count: int
    comparison_count: int
    failed_count: Annotated[int, Field(description="Number of reviews of either kind that were not used.")]
    debug: NotRequired[DebugInfo]


class StrengthBatchResponse(BatchResponse):
    """Strengths, and the restaurants without any."""

    results: list[StrengthResponse]


class CategoryComparison(TypedDict):
    """How far a restaurant's share of satisfied remarks about an aspect is above the average, in percent of it."""

    category: str
    lift_percentage: float


class ComparisonResponse(Result):
    """A restaurant compared with the average, for the aspects of which it can be said; null or empty for none."""

    comparisons: list[CategoryComparison]
    total_candidates: Annotated[int, Field(description="Number of remarks that were considered.")]
    validated_count: Annotated[int, Field(description="Number of aspects of which it can be said.")]
    category_lift: dict[str, float] | None
    comparison_display: list[str] | None
    debug: NotRequired[DebugInfo]


class ComparisonBatchResponse(BatchResponse):
    """Comparisons, and the restaurants without one."""

    results: list[ComparisonResponse]


class FoundReview(TypedDict):
    """A review that a search found, and its score, which is comparable among the results of one search only."""

    review: dict[str, Any]
    score: float


class SimilarReviewsResponse(TypedDict):
    """The reviews that a search found, best first."""

    results: list[FoundReview]
    total: Annotated[int, Field(description="Number of reviews in `results`.")]
    warnings: NotRequired[list[str]]


class UploadResponse(TypedDict):
    """The outcome of an upload."""

    message: str
    points_count: Annotated[int, Field(description="Number of reviews that were indexed.")]
    collection_name: str
    warnings: NotRequired[list[str]]


class ErrorDetail(TypedDict):
    """Error of one field, once as this service names it (`field`, `message`), once as FastAPI does."""

    field: str
    message: str
    loc: list[str | int]
    msg: str
    type: str


class ErrorResponse(BaseModel):
    """Body of every error response."""

    code: Annotated[int, Field(description="The HTTP status code.")]
    message: str
    details: list[ErrorDetail] | None
    request_id: str

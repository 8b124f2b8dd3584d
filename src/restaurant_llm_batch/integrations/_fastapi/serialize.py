"""Serializers: convert task results to response objects, and response objects to JSON or NDJSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from ..._text import escaped_json
from ...models import Hit, Review
from ...results import (
    AspectComparison,
    AspectSummary,
    RestaurantSentiment,
    RestaurantStrength,
    RestaurantSummary,
    ReviewSummary,
)
from .responses import (
    CategoryComparison,
    CategorySummary,
    ComparisonResponse,
    DebugInfo,
    EvidenceResponse,
    FoundReview,
    LabelResponse,
    ReviewSummaryDisplayResponse,
    ReviewSummaryResponse,
    SentimentAnalysisDisplayResponse,
    SentimentAnalysisResponse,
    SimilarReviewsResponse,
    StrengthResponse,
    SummaryDisplayResponse,
    SummaryResponse,
)

RequestReviews = Sequence[Mapping[str, Any]] | None
"""Reviews as in the request; None if they were found by search."""


def summary(value: RestaurantSummary, debug: DebugInfo | None) -> Mapping[str, Any]:
    """Convert a summary by aspect."""
    response = SummaryDisplayResponse(
        restaurant_id=value.restaurant_id,
        overall_summary=value.overall_summary,
        categories={name: _category(aspect) for name, aspect in value.categories.items()},
    )
    if debug is None:
        return response
    # Clients expect these fields, but a summary by aspect does not know the polarity of reviews.
    return SummaryResponse(
        **response, positive_reviews=[], negative_reviews=[], positive_count=0, negative_count=0, debug=debug
    )


def _category(aspect: AspectSummary) -> CategorySummary:
    return CategorySummary(
        summary=aspect.summary,
        bullets=list(aspect.bullets),
        evidence=[
            EvidenceResponse(review_id=str(review.review_id), snippet=review.snippet, rank=review.rank)
            for review in aspect.evidence
        ],
        status=aspect.status,
    )


def summary_warnings(value: RestaurantSummary) -> list[str]:
    """Return warnings about failed parts and invalid citations."""
    warnings = []
    for name, aspect in value.categories.items():
        if aspect.status == "failed":
            warnings.append(f"{name}: could not be summarised")
        if aspect.replaced:
            warnings.append(f"{name}: the model's summary was replaced, since it rests on no review about it")
        if aspect.invalid_citations:
            cited = [one for one in aspect.dropped if one.startswith("evidence")]
            if all("never shown" in one for one in cited):
                what = "reviews cited that the model was never shown"
            else:
                what = f"citations dropped, {'; '.join(cited)}"
            warnings.append(f"{name}: {what}: {aspect.invalid_citations}")
    if value.overall_status == "failed":
        warnings.append("overall_summary: could not be summarised")
    return warnings


def review_summary(
    value: ReviewSummary, positive: RequestReviews, negative: RequestReviews, debug: DebugInfo | None
) -> Mapping[str, Any]:
    """Convert a summary of the reviews in the request."""
    response = ReviewSummaryDisplayResponse(
        restaurant_id=value.restaurant_id,
        overall_summary=value.overall_summary,
        categories=None,
        positive_summary=value.positive_summary,
        negative_summary=value.negative_summary,
        positive_count=value.positive_count,
        negative_count=value.negative_count,
        failed_count=value.failed_count,
    )
    if debug is None:
        return response
    return ReviewSummaryResponse(
        **response, positive_reviews=_echo(positive, ()), negative_reviews=_echo(negative, ()), debug=debug
    )


def sentiment(value: RestaurantSentiment, debug: DebugInfo | None, *, labels: bool) -> Mapping[str, Any]:
    """Convert sentiment counts, and the label of each review if `labels`."""
    response = SentimentAnalysisResponse(
        restaurant_id=value.restaurant_id,
        positive_count=value.positive_count,
        negative_count=value.negative_count,
        neutral_count=value.neutral_count,
        failed_count=value.failed_count,
        total_count=value.total_count,
        positive_ratio=value.positive_ratio,
        negative_ratio=value.negative_ratio,
        neutral_ratio=value.neutral_ratio,
    )
    if labels:
        response["labels"] = _labels(value)
    if debug is not None:
        response["debug"] = debug
    return response


def sentiment_display(
    value: RestaurantSentiment, debug: DebugInfo | None, *, labels: bool
) -> Mapping[str, Any]:
    """Convert sentiment counts of a request about one restaurant: without debug information, the two ratios."""
    if debug is not None:
        return sentiment(value, debug, labels=labels)
    response = SentimentAnalysisDisplayResponse(
        restaurant_id=value.restaurant_id,
        positive_ratio=value.positive_ratio,
        negative_ratio=value.negative_ratio,
    )
    if value.failed_count:
        response["failed_count"] = value.failed_count
    if labels:
        response["labels"] = _labels(value)
    return response


def _labels(value: RestaurantSentiment) -> list[LabelResponse]:
    return [LabelResponse(id=one.review_id, label=one.label) for one in value.labels]


def strength(
    value: RestaurantStrength, target: RequestReviews, comparison: RequestReviews, debug: DebugInfo | None
) -> Mapping[str, Any]:
    """Convert a strength; it contains the reviews, from the request or found by search."""
    response = StrengthResponse(
        restaurant_id=value.restaurant_id,
        comparison_summary=value.comparison_summary,
        target_restaurant_strength=value.target_restaurant_strength,
        target_reviews=_echo(target, value.target_reviews),
        comparison_reviews=_echo(comparison, value.comparison_reviews),
        target_count=value.target_count,
        comparison_count=value.comparison_count,
        failed_count=value.failed_count,
    )
    if debug is not None:
        response["debug"] = debug
    return response


def comparison(value: AspectComparison, debug: DebugInfo | None) -> Mapping[str, Any]:
    """Convert a comparison with the average; aspects of which nothing can be said are left out."""
    lifts = {
        name: aspect.lift_percentage
        for name, aspect in value.aspects.items()
        if aspect.lift_percentage is not None
    }
    response = ComparisonResponse(
        restaurant_id=value.restaurant_id,
        comparisons=[CategoryComparison(category=name, lift_percentage=lift) for name, lift in lifts.items()],
        total_candidates=value.total_candidates,
        validated_count=value.validated_count,
        category_lift=lifts or None,
        comparison_display=list(value.display) or None,
    )
    if debug is not None:
        response["debug"] = debug
    return response


def comparison_warnings(value: AspectComparison) -> list[str]:
    """Return warnings about aspects that failed, and about reviews that could not be labelled."""
    warnings = []
    for name, aspect in value.aspects.items():
        if aspect.lift_percentage is None and aspect.error is not None:
            warnings.append(f"{name}: could not be compared")
        elif aspect.failed:
            warnings.append(f"{name}: reviews left out: {aspect.failed}")
    return warnings


def similar_reviews(hits: Sequence[Hit]) -> Mapping[str, Any]:
    """Convert the hits of a search."""
    results = [
        FoundReview(
            review={"id": hit.review_id, "restaurant_id": hit.restaurant_id, "content": hit.content},
            score=hit.score,
        )
        for hit in hits
    ]
    return SimilarReviewsResponse(results=results, total=len(results))


def failed_review_warnings(value: RestaurantSentiment | ReviewSummary | RestaurantStrength) -> list[str]:
    """Return a warning about reviews that failed, if there are any."""
    return [f"reviews left out: {value.failed_count}"] if value.failed_count else []


def _echo(in_request: RequestReviews, found: Sequence[Review]) -> list[dict[str, Any]]:
    """Return the reviews of the request unchanged, or else the reviews found."""
    if in_request is not None:
        return [dict(review) for review in in_request]
    return [
        {"id": review.id, "restaurant_id": review.restaurant_id, "content": review.content}
        for review in found
    ]


def as_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8; lone surrogates become question marks, and infinite numbers null."""
    try:
        return to_json(value, inf_nan_mode="null")
    except ValueError:
        # A model may write a lone surrogate (half an emoji), which UTF-8 cannot encode.
        finite = json.loads(json.dumps(value), parse_constant=lambda _name: None)
        return json.dumps(finite, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def as_line(value: Any) -> bytes:
    """Return a value as one line of JSON, with every line separator inside it escaped."""
    return escaped_json(as_json(value).decode()).encode() + b"\n"

"""Results, as answers show them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from ...models import Review
from ...results import (
    AspectSummary,
    RestaurantSentiment,
    RestaurantStrength,
    RestaurantSummary,
    ReviewSummary,
)
from .responses import (
    CategorySummary,
    DebugInfo,
    EvidenceResponse,
    ReviewSummaryDisplayResponse,
    ReviewSummaryResponse,
    SentimentAnalysisResponse,
    StrengthResponse,
    SummaryDisplayResponse,
    SummaryResponse,
)

Given = Sequence[Mapping[str, Any]] | None
"""Reviews as the request has them; None where they were searched for."""


def summary(value: RestaurantSummary, debug: DebugInfo | None) -> Mapping[str, Any]:
    """Return a summary by aspect."""
    shown = SummaryDisplayResponse(
        restaurant_id=value.restaurant_id,
        overall_summary=value.overall_summary,
        categories={name: _category(aspect) for name, aspect in value.categories.items()},
    )
    if debug is None:
        return shown
    # What the source service has there is the older shape's: this one does not sort reviews by kind.
    return SummaryResponse(
        **shown, positive_reviews=[], negative_reviews=[], positive_count=0, negative_count=0, debug=debug
    )


def _category(aspect: AspectSummary) -> CategorySummary:
    return CategorySummary(
        summary=aspect.summary,
        bullets=list(aspect.bullets),
        evidence=[
            EvidenceResponse(review_id=str(one.review_id), snippet=one.snippet, rank=one.rank)
            for one in aspect.evidence
        ],
        status=aspect.status,
    )


def warnings(value: RestaurantSummary) -> list[str]:
    """Return what did not go well in a summary by aspect."""
    said = []
    for name, aspect in value.categories.items():
        if aspect.status == "failed":
            said.append(f"{name}: could not be summarised")
        if aspect.invalid_citations:
            said.append(f"{name}: reviews cited that the model was never shown: {aspect.invalid_citations}")
    return said


def review_summary(
    value: ReviewSummary, positive: Given, negative: Given, debug: DebugInfo | None
) -> Mapping[str, Any]:
    """Return a summary of reviews that were given."""
    shown = ReviewSummaryDisplayResponse(
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
        return shown
    return ReviewSummaryResponse(
        **shown, positive_reviews=_echo(positive, ()), negative_reviews=_echo(negative, ()), debug=debug
    )


def sentiment(value: RestaurantSentiment, debug: DebugInfo | None) -> Mapping[str, Any]:
    """Return how reviews were judged."""
    shown = SentimentAnalysisResponse(
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
    if debug is not None:
        shown["debug"] = debug
    return shown


def strength(
    value: RestaurantStrength, target: Given, comparison: Given, debug: DebugInfo | None
) -> Mapping[str, Any]:
    """Return what a restaurant has over others."""
    shown = StrengthResponse(
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
        shown["debug"] = debug
    return shown


def left_out(value: RestaurantSentiment | ReviewSummary | RestaurantStrength) -> list[str]:
    """Return how many reviews a result does not rest on."""
    return [f"reviews left out: {value.failed_count}"] if value.failed_count else []


def _echo(given: Given, found: Sequence[Review]) -> list[dict[str, Any]]:
    """Return reviews as they were given, or as they were found."""
    if given is not None:
        return [dict(review) for review in given]
    return [
        {"id": review.id, "restaurant_id": review.restaurant_id, "content": review.content}
        for review in found
    ]


_ENDS_OF_LINES = "\u0085\u2028\u2029"
"""What JSON may hold as it is, and what splits lines for `str.splitlines` and so for many a client."""


def as_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8."""
    try:
        return to_json(value)
    except ValueError:
        # A model may write half an emoji, which is no valid UTF-8; a question mark stands for it.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def as_line(value: Any) -> bytes:
    """Return a value as one line of JSON, by anybody's idea of a line."""
    text = as_json(value)
    for mark in _ENDS_OF_LINES:
        text = text.replace(mark.encode(), f"\\u{ord(mark):04x}".encode())
    return text + b"\n"

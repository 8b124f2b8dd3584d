"""
What comes out: the results of the tasks, one kind for each.

Everything here is frozen, and made by the tasks alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .models import ItemId, Review

AspectStatus: TypeAlias = Literal["ok", "no_reviews", "failed"]
Sentiment: TypeAlias = Literal["positive", "negative", "neutral"]
VocabularyKind: TypeAlias = Literal["words", "phrases"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A review that a summary rests on; `rank` is its place, from 0, among those the search returned."""

    review_id: ItemId
    snippet: str
    rank: int


@dataclass(frozen=True, slots=True)
class AspectSummary:
    """
    What the reviews say about one aspect.

    Attributes:
        status: "ok"; "no_reviews" when the search found none; "failed" when the search or the model failed.
        summary: One sentence; empty unless the status is "ok".
        bullets: Short points.
        evidence: The reviews it rests on; each one was returned by the search.
        invalid_citations: How many reviews the model cited that it was never shown.
        error: Why it failed, else None.
    """

    status: AspectStatus
    summary: str = ""
    bullets: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    invalid_citations: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RestaurantSummary:
    """
    The result of `SummarizeAspects` for one restaurant.

    Attributes:
        restaurant_id: The restaurant, as it was given.
        overall_summary: Two or three sentences; empty for a restaurant without any review.
        model: The model that wrote it; empty when none was asked.
        categories: One entry for each aspect of the task, in the task's order.
    """

    restaurant_id: ItemId
    overall_summary: str
    model: str
    categories: Mapping[str, AspectSummary]


@dataclass(frozen=True, slots=True)
class ReviewLabel:
    """
    What one review was judged to be.

    Attributes:
        review_id: The review's id, or its position where it has none.
        label: The judgement; None when there is none.
        error: Why there is none, else None.
    """

    review_id: ItemId
    label: Sentiment | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RestaurantSentiment:
    """
    The result of `AnalyzeSentiment` for one restaurant.

    The four counts add up to `total_count`. The ratios are whole percentages of the judged reviews; they add
    up to 100, or are all 0 where nothing was judged.

    Attributes:
        restaurant_id: The restaurant, as it was given.
        positive_count: Reviews judged positive.
        negative_count: Reviews judged negative.
        neutral_count: Reviews judged neither.
        failed_count: Reviews that were not judged; their labels say why.
        total_count: Reviews given.
        positive_ratio: Percentage of the judged reviews.
        negative_ratio: Likewise.
        neutral_ratio: Likewise.
        labels: One for every review, in the order given.
        model: The model that judged; empty when none was asked.
    """

    restaurant_id: ItemId
    positive_count: int
    negative_count: int
    neutral_count: int
    failed_count: int
    total_count: int
    positive_ratio: int
    negative_ratio: int
    neutral_ratio: int
    labels: tuple[ReviewLabel, ...]
    model: str


@dataclass(frozen=True, slots=True)
class ReviewSummary:
    """
    The result of `SummarizeReviews` for one restaurant.

    The three counts add up to the number of reviews given.

    Attributes:
        restaurant_id: The restaurant, as it was given.
        overall_summary: Two or three sentences; empty for a restaurant without any review.
        positive_summary: What the positive reviews say; empty without any.
        negative_summary: What the negative reviews say; likewise.
        positive_count: Positive reviews that it rests on.
        negative_count: Negative reviews that it rests on.
        failed_count: Reviews that were not read: blank ones, and those of batches that failed.
        model: The model that wrote it; empty when none was asked.
    """

    restaurant_id: ItemId
    overall_summary: str
    positive_summary: str
    negative_summary: str
    positive_count: int
    negative_count: int
    failed_count: int
    model: str


@dataclass(frozen=True, slots=True)
class RestaurantStrength:
    """
    The result of `ExtractStrengths` for one restaurant.

    Attributes:
        restaurant_id: The restaurant, as it was given.
        comparison_summary: What the reviews of the others say; empty without any.
        target_restaurant_strength: What the restaurant has over them; empty without reviews of its own.
        target_reviews: The reviews that the strength was derived from.
        comparison_reviews: The reviews it was compared with.
        target_count: How many of `target_reviews` were read.
        comparison_count: How many of `comparison_reviews` were read.
        failed_count: Reviews of either kind that were not read: blank ones, and those of batches that failed.
        model: The model that wrote it; empty when none was asked.
    """

    restaurant_id: ItemId
    comparison_summary: str
    target_restaurant_strength: str
    target_reviews: tuple[Review, ...]
    comparison_reviews: tuple[Review, ...]
    target_count: int
    comparison_count: int
    failed_count: int
    model: str


@dataclass(frozen=True, slots=True)
class Word:
    """A word's part of speech ("n", "v", "adj", "adv", or "" where unknown) and its meanings."""

    pos: str
    meanings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FailedChunk:
    """A chunk whose words or phrases are missing from a vocabulary: its place, from 0, and why."""

    chunk: int
    kind: VocabularyKind
    error: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """
    The result of `ExtractVocabulary` for one document.

    Attributes:
        document_id: The document, as it was given.
        words: Each word once, in the order of the text.
        phrases: Each phrase once and what it means, likewise.
        failed_chunks: What could not be read, in the order of the chunks.
        model: The model that answered; empty when none was asked.
    """

    document_id: ItemId
    words: Mapping[str, Word]
    phrases: Mapping[str, str]
    failed_chunks: tuple[FailedChunk, ...]
    model: str

"""
What goes in and what comes out: reviews, queries, requests, replies, items and results.

Everything here is frozen. Data from outside is checked once, at the door (`tasks/forms.py`), so the rest of
the library can trust it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import index
from typing import Any, Literal, TypeAlias

from .errors import ConfigurationError

ItemId: TypeAlias = int | str
"""Restaurants, reviews and items are named by an integer or a string; 0 is a name like any other."""

Message: TypeAlias = Mapping[str, str]
"""One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""

AspectStatus: TypeAlias = Literal["ok", "no_reviews", "failed"]
Among: TypeAlias = Literal["own", "others"]
Sentiment: TypeAlias = Literal["positive", "negative", "neutral"]
ReviewKind: TypeAlias = Literal["positive", "negative"]
VocabularyKind: TypeAlias = Literal["words", "phrases"]


def as_item_id(value: object, field: str) -> ItemId:
    """
    Return `value` as an id.

    Args:
        value: An integer of any kind (numpy's too) or a string.
        field: What to call it in the error.

    Raises:
        ConfigurationError: When it is neither, or empty.
    """
    if isinstance(value, str) and value:
        return value
    if hasattr(value, "__index__") and not isinstance(value, bool):
        with suppress(TypeError):  # an array of several numbers has the method, and no use for it
            return index(value)
    raise ConfigurationError(f"{field} must be an integer or a string, got {value!r}")


@dataclass(frozen=True, slots=True)
class Review:
    """
    One review.

    Attributes:
        content: The text, as the guest wrote it.
        id: Its name; where it is missing, whoever needs one derives it (documented there).
        restaurant_id: The restaurant it is about.
        is_recommended: Whether the guest recommends the place, where that is known.
        category: The restaurant's kind of food, by name or number, where that is known.
    """

    content: str
    id: ItemId | None = None
    restaurant_id: ItemId | None = None
    is_recommended: bool | None = None
    category: ItemId | None = None


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """
    A search among the reviews of one restaurant, or of all the others.

    Attributes:
        restaurant_id: Whose reviews may be returned; ``1`` and ``"1"`` name the same restaurant.
        text: What to look for.
        limit: The most hits wanted.
        min_score: Least dense cosine similarity of a hit, -1 to 1; 0.0 means no bound.
        aspect: The aspect that asks, for observers; backends need not read it.
        among: "own" for the restaurant's own reviews, "others" for those of every restaurant but this one.
        category: Only reviews of restaurants of this category; None for any.
    """

    restaurant_id: ItemId
    text: str
    limit: int = 10
    min_score: float = 0.0
    aspect: str | None = None
    among: Among = "own"
    category: ItemId | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One review that a search found; `score` only orders the hits of one query."""

    review_id: ItemId
    content: str
    score: float
    restaurant_id: ItemId


@dataclass(frozen=True, slots=True)
class LLMRequest:
    """
    One question to a language model.

    Attributes:
        task: What is asked, by name (see the reference), for backends and doubles that read no prose.
        messages: The rendered chat.
        schema: JSON Schema that the answer must follow, or None for free text.
        inputs: The structured data that the messages were rendered from; never sent to a service.
        max_tokens: The longest answer, in tokens.
        temperature: Sampling temperature.
        priority: Lower goes first; passed on to services that know priorities.
    """

    task: str
    messages: Sequence[Message]
    schema: Mapping[str, Any] | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 1500
    temperature: float = 0.1
    priority: int = 0


@dataclass(frozen=True, slots=True)
class LLMReply:
    """
    A model's answer.

    Attributes:
        text: The answer.
        finish_reason: "stop" when the model ended by itself, "length" when it was cut off, "content_filter"
            when the service cut it off, "refusal" when the model declined; the text is then its reason.
        prompt_tokens: Tokens read, as counted by the service; 0 when unknown.
        completion_tokens: Tokens written, likewise.
        model: The model that answered.
        cached_tokens: Those of `prompt_tokens` that the service had in its prompt cache.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RestaurantRef:
    """
    An item of `SummarizeAspects`: a restaurant, and what is particular about it.

    Attributes:
        restaurant_id: The restaurant.
        limit: Reviews per aspect for this restaurant, instead of the task's.
        priority: Lower goes first.
        query: Words of this restaurant's own, added to every aspect's seed words.
    """

    restaurant_id: ItemId
    limit: int | None = None
    priority: int = 0
    query: str | None = None


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
        dropped_evidence: How many reviews the model cited that it was never shown.
        error: Why it failed, else None.
    """

    status: AspectStatus
    summary: str = ""
    bullets: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    dropped_evidence: int = 0
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
class ReviewedRestaurant:
    """
    An item of `AnalyzeSentiment`: a restaurant and its reviews.

    Attributes:
        restaurant_id: The restaurant.
        reviews: Its reviews; one without an id is named by its position, from 0.
        priority: Lower goes first.
    """

    restaurant_id: ItemId
    reviews: tuple[Review, ...]
    priority: int = 0


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
class SortedReviews:
    """
    An item of `SummarizeReviews`: a restaurant and its reviews, by kind.

    Attributes:
        restaurant_id: The restaurant.
        positive_reviews: Reviews of guests who liked it.
        negative_reviews: Reviews of guests who did not.
        priority: Lower goes first.
    """

    restaurant_id: ItemId
    positive_reviews: tuple[Review, ...] = ()
    negative_reviews: tuple[Review, ...] = ()
    priority: int = 0


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
class Comparison:
    """
    An item of `ExtractStrengths`: a restaurant, and whom to compare it with.

    Attributes:
        target_restaurant_id: The restaurant.
        target_reviews: Its reviews; None to find them by search.
        comparison_reviews: Reviews of other restaurants; None to find them by search.
        category: The restaurant's kind of food: a search then compares it with others of that kind.
        priority: Lower goes first.
    """

    target_restaurant_id: ItemId
    target_reviews: tuple[Review, ...] | None = None
    comparison_reviews: tuple[Review, ...] | None = None
    category: ItemId | None = None
    priority: int = 0


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
class Document:
    """
    An item of `ExtractVocabulary`: a text, cut into chunks.

    Attributes:
        document_id: Its name.
        chunks: Its text, in pieces of some 2,000 tokens; `split_text` makes them.
        priority: Lower goes first.
    """

    document_id: ItemId
    chunks: tuple[str, ...]
    priority: int = 0


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

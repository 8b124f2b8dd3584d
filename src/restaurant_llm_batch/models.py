"""
What goes in: reviews, the items of the tasks, and what is said to searches and models. `results` has what comes out.

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

SearchScope: TypeAlias = Literal["restaurant", "others"]
ReviewKind: TypeAlias = Literal["positive", "negative"]

ID_FIELDS = ("id", "item_id", "restaurant_id", "target_restaurant_id", "document_id")
"""Fields that may hold the id of an item of a user's own task, in the order in which they are looked for."""


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
        scope: "restaurant" for the restaurant's own reviews, "others" for those of every restaurant but this one.
        category: Only reviews of restaurants of this category; None for any.
    """

    restaurant_id: ItemId
    text: str
    limit: int = 10
    min_score: float = 0.0
    aspect: str | None = None
    scope: SearchScope = "restaurant"
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
class RestaurantReviews:
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
class ReviewsByPolarity:
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
class ComparisonItem:
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

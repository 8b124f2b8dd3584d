"""
What goes in and what comes out: reviews, queries, requests, replies, items and results.

Everything here is frozen. Data from outside is checked once, at the door (`tasks/forms.py`), so the rest of
the library can trust it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, Literal, TypeAlias

from .errors import ConfigurationError

ItemId: TypeAlias = int | str
"""Restaurants, reviews and items are named by an integer or a string; 0 is a name like any other."""

Message: TypeAlias = Mapping[str, str]
"""One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""

AspectStatus: TypeAlias = Literal["ok", "no_reviews", "failed"]


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
    """

    content: str
    id: ItemId | None = None
    restaurant_id: ItemId | None = None
    is_recommended: bool | None = None


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """
    A search among the reviews of one restaurant.

    Attributes:
        restaurant_id: Only this restaurant's reviews may be returned; ``1`` and ``"1"`` name the same one.
        text: What to look for.
        limit: The most hits wanted.
        min_score: Least dense cosine similarity of a hit, -1 to 1; 0.0 means no bound.
        aspect: The aspect that asks, for observers; backends need not read it.
    """

    restaurant_id: ItemId
    text: str
    limit: int = 10
    min_score: float = 0.0
    aspect: str | None = None


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

"""
Input models: reviews, the tasks' items, search queries and hits, LLM requests. The tasks' results are in `results`.

All classes are frozen. Input is validated once, when it enters the library (`tasks/_schemas.py`), so the other modules
can trust it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ._fast_init import fast_init
from ._validation import as_whole
from ._values import short
from .errors import ConfigurationError

ItemId: TypeAlias = int | str
"""Id of a restaurant, review or other item: an integer or a non-empty string. 0 is a valid id."""

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
        value: An integer of any type, numpy's included, or a string.
        field: Name of the field, for the error message.

    Raises:
        ConfigurationError: `value` is neither an integer nor a string, or is an empty string.
    """
    if type(value) is int or (isinstance(value, str) and value):
        return value
    whole = as_whole(value)
    if whole is not None:
        return whole
    raise ConfigurationError(f"{field} must be an integer or a string, got {value!r}")


@fast_init
@dataclass(frozen=True, slots=True)
class Review:
    """
    One review.

    Attributes:
        content: The text, as the guest wrote it.
        id: Id of the review; None to let the task or index derive one, as documented there.
        restaurant_id: Id of the restaurant that the review is about.
        is_recommended: Whether the guest recommends the restaurant; None if unknown.
        category: The restaurant's kind of food, by name or number; None if unknown.
    """

    content: str
    id: ItemId | None = None
    restaurant_id: ItemId | None = None
    is_recommended: bool | None = None
    category: ItemId | None = None


@fast_init
@dataclass(frozen=True, slots=True)
class SearchQuery:
    """
    A search among the reviews of one restaurant, or of all other restaurants.

    Attributes:
        restaurant_id: Restaurant that `scope` refers to; ``1`` and ``"1"`` name the same restaurant.
        text: Query text.
        limit: Maximum number of hits.
        min_score: Minimum dense cosine similarity of a hit, -1 to 1; 0.0 means no bound.
        aspect: Aspect that the query is for; a label for observers, which backends need not read.
        scope: "restaurant" for the restaurant's own reviews, "others" for those of every other restaurant.
        category: Only reviews of restaurants of this category; None for any.
    """

    restaurant_id: ItemId
    text: str
    limit: int = 10
    min_score: float = 0.0
    aspect: str | None = None
    scope: SearchScope = "restaurant"
    category: ItemId | None = None


@fast_init
@dataclass(frozen=True, slots=True)
class Hit:
    """One review found by a search; `score` is only comparable among the hits of one query."""

    review_id: ItemId
    content: str
    score: float
    restaurant_id: ItemId


@fast_init
@dataclass(frozen=True, slots=True)
class LLMRequest:
    """
    One request to a language model.

    Attributes:
        task: Name of the request's task (listed in the reference), for backends and test doubles that do not read
            prompts.
        messages: The rendered chat messages.
        schema: JSON Schema that the reply must follow, or None for free text.
        inputs: The structured data that the messages were rendered from; never sent to a service.
        max_tokens: Maximum length of the reply, in tokens.
        temperature: Sampling temperature.
        priority: Lower runs first; passed on to services that support priorities.
    """

    task: str
    messages: Sequence[Message]
    schema: Mapping[str, Any] | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 1500
    temperature: float = 0.1
    priority: int = 0

    def __post_init__(self) -> None:
        messages, schema = self.messages, self.schema
        # Most requests pass these tests of types, which take a tenth of the time of the checks below.
        if (
            type(messages) is not tuple
            or (messages and type(messages[-1]) is not dict)
            or (schema is not None and type(schema) is not dict)
            or type(self.max_tokens) is not int
        ):
            _check_request(self)


def _check_request(request: LLMRequest) -> None:
    """
    Check a request of a user's own.

    Raises:
        ConfigurationError: Its messages, its schema or its maximum length has the wrong type.
    """
    messages: object = request.messages
    schema: object = request.schema
    tokens: object = request.max_tokens
    example = 'LLMRequest("dish", ({"role": "user", "content": "Name a dish."},), max_tokens=500)'
    problem = ""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        problem = f"messages must be a list of messages, got {short(messages)}"
        if isinstance(messages, str):
            example = f'LLMRequest({request.task!r}, ({{"role": "user", "content": {short(messages)}}},))'
    elif not all(isinstance(message, Mapping) for message in messages):
        wrong = next(message for message in messages if not isinstance(message, Mapping))
        problem = f'messages must be mappings with "role" and "content", got {short(wrong)}'
    elif hasattr(schema, "model_json_schema"):
        problem = f"schema must be a JSON Schema, got {short(schema)}"
        example = "`yield from ask(...)` with it, which returns an instance, or its .model_json_schema()"
    elif schema is not None and not isinstance(schema, Mapping):
        problem = f"schema must be a JSON Schema or None, got {short(schema)}"
    elif as_whole(tokens) is None:
        problem = f"max_tokens must be a whole number, got {short(tokens)}"
    if problem:
        raise ConfigurationError(f"the request {request.task!r}: {problem}; for example {example}")


@dataclass(frozen=True, slots=True)
class RestaurantRef:
    """
    An item of `SummarizeAspects`: a restaurant, with optional overrides.

    Attributes:
        restaurant_id: Id of the restaurant.
        limit: Maximum number of reviews per aspect; None for the task's limit.
        priority: Lower runs first.
        query: Search terms for this restaurant, appended to every aspect's seed words.
        category: Only reviews of restaurants of this kind of food are searched; None for the task's category.
    """

    restaurant_id: ItemId
    limit: int | None = None
    priority: int = 0
    query: str | None = None
    category: ItemId | None = None


@dataclass(frozen=True, slots=True)
class RestaurantReviews:
    """
    An item of `AnalyzeSentiment`: a restaurant and its reviews.

    Attributes:
        restaurant_id: Id of the restaurant.
        reviews: Its reviews, where one without an id gets its position in the list, from 0; None to find them by
            search.
        priority: Lower runs first.
    """

    restaurant_id: ItemId
    reviews: tuple[Review, ...] | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ReviewsByPolarity:
    """
    An item of `SummarizeReviews`: a restaurant and its reviews, by polarity.

    Attributes:
        restaurant_id: Id of the restaurant.
        positive_reviews: Reviews of guests who liked it.
        negative_reviews: Reviews of guests who did not.
        priority: Lower runs first.
    """

    restaurant_id: ItemId
    positive_reviews: tuple[Review, ...] = ()
    negative_reviews: tuple[Review, ...] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ComparisonItem:
    """
    An item of `ExtractStrengths`: a restaurant, its reviews, and the reviews to compare them with.

    Attributes:
        target_restaurant_id: Id of the restaurant.
        target_reviews: Its reviews; None to find them by search.
        comparison_reviews: Reviews of other restaurants; None to find them by search.
        category: The restaurant's kind of food, which restricts a search for comparison reviews; None for any.
        priority: Lower runs first.
    """

    target_restaurant_id: ItemId
    target_reviews: tuple[Review, ...] | None = None
    comparison_reviews: tuple[Review, ...] | None = None
    category: ItemId | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """
    An item of `ExtractVocabulary`: a text, split into chunks.

    Attributes:
        document_id: Id of the document.
        chunks: The text in chunks of about 2,000 tokens, as made by `split_text`.
        priority: Lower runs first.
    """

    document_id: ItemId
    chunks: tuple[str, ...]
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """
    The load of a model's server at one moment.

    Attributes:
        running: Requests that it works on.
        waiting: Requests that wait for it.
        kv_usage: Share of its KV cache that is in use, 0 to 1; None if unknown.
        kv_tokens: Capacity of its KV cache in tokens; None if unknown.
        preemptions: How often it has stopped a request to make room, since it started.
        rejections: Requests that it has refused since it started.
        kv_block: Tokens of a block of its KV cache, of which each request takes whole ones; None if unknown.
    """

    running: int
    waiting: int
    kv_usage: float | None = None
    kv_tokens: int | None = None
    preemptions: int = 0
    rejections: int = 0
    kv_block: int | None = None

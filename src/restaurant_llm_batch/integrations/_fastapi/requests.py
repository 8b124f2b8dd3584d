"""
What requests may hold, in the words of the source service.

Requests and their restaurants refuse fields that they do not know, which are typing errors. Reviews do not:
they are records of somebody's database, and only some of their fields are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from ...models import ItemId

LONGEST_ID = 200
LARGEST_ID = 2**63  # OpenAPI holds its bounds as floating-point numbers, and one less would be none


def _as_id(raw: Any) -> ItemId:
    if isinstance(raw, int) and not isinstance(raw, bool) and -LARGEST_ID <= raw <= LARGEST_ID:
        return raw
    if isinstance(raw, str) and 1 <= len(raw) <= LONGEST_ID:
        return raw
    raise PydanticCustomError(
        "item_id", f"Must be an integer of 64 bits, or a string of 1 to {LONGEST_ID} characters"
    )


_ID_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": -LARGEST_ID, "maximum": LARGEST_ID},
        {"type": "string", "minLength": 1, "maxLength": LONGEST_ID},
    ]
}
Id = Annotated[ItemId, PlainValidator(_as_id), WithJsonSchema(_ID_SCHEMA)]
"""The name of a restaurant or a review, with one complaint instead of one for each of its types."""


def _unread(meaning: str, *examples: Any) -> Any:
    return Field(None, description=f"Not read: {meaning}.", examples=list(examples))


Budget = Annotated[
    int | None,
    Field(
        ge=1000,
        le=8000,
        description="Tokens of a batch of reviews, prompt and answer; null for the service's own.",
    ),
]


class _Request(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ReviewModel(BaseModel):
    """A review; of its fields only `content` is sent to the model."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", strict=True)

    content: Annotated[
        str, Field(description="The text; a blank one is reported, and not sent to the model.")
    ]
    id: Id | None = None
    # Nobody reads these, so nobody is refused for them. They come back as they were given, where reviews do.
    restaurant_id: Any = _unread("a review counts for the restaurant it is listed under", 1, None)
    member_id: Any = _unread("the member's id, or null", 3, None)
    group_id: Any = _unread("the group's id, or null", 7, None)
    subgroup_id: Any = _unread("the subgroup's id, or null", 9, None)
    is_recommended: Any = _unread("true, false or null", True, None)
    created_at: Any = _unread("a time as text, or null", "2026-01-31T12:00:00", None)
    updated_at: Any = _unread("a time as text, or null", "2026-01-31T12:00:00", None)

    def read(self) -> Mapping[str, Any]:
        """Return what is read of it."""
        return {"content": self.content, "id": self.id}


class SentimentReviewInput(BaseModel):
    """A review to judge; without an `id` it is known by its position."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", strict=True)

    id: Id | None = None
    restaurant_id: Any = _unread("a review counts for the restaurant it is listed under", 1, None)
    content: str

    def read(self) -> Mapping[str, Any]:
        """Return what is read of it."""
        return {"content": self.content, "id": self.id}


# One wrong element says what is wrong with a list; thousands of complaints would cost more than the list.
Reviews = Annotated[list[ReviewModel], Field(fail_fast=True)]


class RestaurantToSummarize(_Request):
    """A restaurant whose reviews are to be found."""

    restaurant_id: Id
    limit: Annotated[int | None, Field(ge=1, le=100, description="Instead of the request's.")] = None


class SummaryBatchRequest(_Request):
    """Summarise restaurants by aspect; their reviews are found by search."""

    restaurants: Annotated[list[RestaurantToSummarize], Field(fail_fast=True)]
    limit: Annotated[int, Field(ge=1, le=100, description="Most reviews shown to the model per aspect.")] = 10
    min_score: Annotated[
        float, Field(ge=0, le=1, description="Least similarity of a review to the aspect; 0 for no bound.")
    ] = 0.0


class RestaurantWithReviews(_Request):
    """A restaurant and its reviews, by kind."""

    restaurant_id: Id
    positive_reviews: Reviews
    negative_reviews: Reviews


class ReviewSummaryBatchRequest(_Request):
    """Summarise restaurants from the reviews given here."""

    restaurants: Annotated[list[RestaurantWithReviews], Field(fail_fast=True)]
    max_tokens_per_batch: Budget = None


class RestaurantToJudge(_Request):
    """A restaurant and the reviews to judge."""

    restaurant_id: Id
    reviews: Annotated[list[SentimentReviewInput], Field(fail_fast=True)]


class SentimentAnalysisBatchRequest(_Request):
    """Judge reviews, and count per restaurant."""

    restaurants: Annotated[list[RestaurantToJudge], Field(fail_fast=True)]
    max_tokens_per_batch: Budget = None


class RestaurantToCompare(_Request):
    """A restaurant, its reviews, and those of others; what is left out is found by search."""

    target_restaurant_id: Id
    target_reviews: Reviews | None = None
    comparison_reviews: Reviews | None = None


class StrengthBatchRequest(_Request):
    """Find what restaurants have over others."""

    restaurants: Annotated[list[RestaurantToCompare], Field(fail_fast=True)]
    max_tokens_per_batch: Budget = None


def _pick(raw: Any, _union: ValidatorFunctionWrapHandler) -> SummaryBatchRequest | ReviewSummaryBatchRequest:
    # Chosen by hand, because a union would complain about the request in both of its shapes.
    chosen = ReviewSummaryBatchRequest if _gives_reviews(raw) else SummaryBatchRequest
    return chosen.model_validate(raw)


def _gives_reviews(raw: Any) -> bool:
    if not isinstance(raw, Mapping):
        return False
    restaurants = raw.get("restaurants")
    if not restaurants:
        return "max_tokens_per_batch" in raw
    return any(REVIEW_FIELDS & restaurant.keys() for restaurant in _mappings(restaurants))


def _mappings(raw: Any) -> Iterator[Mapping[str, Any]]:
    return (one for one in raw if isinstance(one, Mapping)) if isinstance(raw, list) else iter(())


REVIEW_FIELDS = {"positive_reviews", "negative_reviews"}
"""What tells that a request for summaries gives the reviews itself."""

SummaryRequest = Annotated[SummaryBatchRequest | ReviewSummaryBatchRequest, WrapValidator(_pick)]
"""Either of the two shapes, told apart by whether a restaurant comes with reviews."""

"""
Pydantic models of the request bodies. Field names are those of the service that this library was made for.

Requests and restaurants refuse unknown fields, which are usually typing errors. Reviews ignore them: they are database
records of the client, of which only some fields are used.
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

MAX_ID_LENGTH = 200
MAX_INTEGER_ID = 2**63  # not 2**63 - 1, which is not a floating-point number, as OpenAPI stores bounds


def _as_id(raw: Any) -> ItemId:
    if isinstance(raw, int) and not isinstance(raw, bool) and -MAX_INTEGER_ID <= raw <= MAX_INTEGER_ID:
        return raw
    if isinstance(raw, str) and 1 <= len(raw) <= MAX_ID_LENGTH:
        return raw
    raise PydanticCustomError(
        "item_id", f"Must be an integer of 64 bits, or a string of 1 to {MAX_ID_LENGTH} characters"
    )


_ID_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": -MAX_INTEGER_ID, "maximum": MAX_INTEGER_ID},
        {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
    ]
}
Id = Annotated[ItemId, PlainValidator(_as_id), WithJsonSchema(_ID_SCHEMA)]
"""Id of a restaurant or review. Not a union of int and str, for which pydantic would report one error per member."""


def _unused(meaning: str, *examples: Any) -> Any:
    return Field(None, description=f"Not used: {meaning}.", examples=list(examples))


Budget = Annotated[
    int | None,
    Field(
        ge=1000,
        le=8000,
        description="Maximum tokens of a batch of reviews, prompt and reply; null for the service's default.",
    ),
]


class CheckedBody(dict[str, Any]):
    """A decoded body that has been validated; `model` is the instance of its endpoint's model."""

    model: Any


def _unless_checked(raw: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return raw.model if isinstance(raw, CheckedBody) else validate(raw)


UnlessChecked = WrapValidator(_unless_checked)
"""Validates a body, unless that was done before, in a thread."""


class _Request(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ReviewModel(BaseModel):
    """A review; of its fields only `content` is sent to the model."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", strict=True)

    content: Annotated[
        str,
        Field(description="Text of the review; a blank one counts as failed and is not sent to the model."),
    ]
    id: Id | None = None
    # Not used, so not validated. Responses that contain the reviews return these fields unchanged.
    restaurant_id: Any = _unused("a review counts for the restaurant it is listed under", 1, None)
    member_id: Any = _unused("the member's id, or null", 3, None)
    group_id: Any = _unused("the group's id, or null", 7, None)
    subgroup_id: Any = _unused("the subgroup's id, or null", 9, None)
    is_recommended: Any = _unused("true, false or null", True, None)
    created_at: Any = _unused("a time as text, or null", "2026-01-31T12:00:00", None)
    updated_at: Any = _unused("a time as text, or null", "2026-01-31T12:00:00", None)

    def as_item(self) -> Mapping[str, Any]:
        """Return the fields that the tasks use."""
        return {"content": self.content, "id": self.id}


class SentimentReviewInput(BaseModel):
    """A review to label; without an `id` it is identified by its position."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", strict=True)

    id: Id | None = None
    restaurant_id: Any = _unused("a review counts for the restaurant it is listed under", 1, None)
    content: str

    def as_item(self) -> Mapping[str, Any]:
        """Return the fields that the task uses."""
        return {"content": self.content, "id": self.id}


# fail_fast: the first invalid element describes the problem; an error per element would cost more than the list.
Reviews = Annotated[list[ReviewModel], Field(fail_fast=True)]


class RestaurantToSummarize(_Request):
    """A restaurant whose reviews are found by search."""

    restaurant_id: Id
    limit: Annotated[int | None, Field(ge=1, le=100, description="Overrides the `limit` of the request.")] = (
        None
    )


class SummaryBatchRequest(_Request):
    """Summarise restaurants by aspect, from reviews found by search."""

    restaurants: Annotated[list[RestaurantToSummarize], Field(fail_fast=True)]
    limit: Annotated[int, Field(ge=1, le=100, description="Maximum number of reviews per aspect.")] = 10
    min_score: Annotated[
        float, Field(ge=0, le=1, description="Minimum similarity of a review to the aspect; 0 for no bound.")
    ] = 0.0


class RestaurantWithReviews(_Request):
    """A restaurant and its reviews, by polarity."""

    restaurant_id: Id
    positive_reviews: Reviews
    negative_reviews: Reviews


class ReviewSummaryBatchRequest(_Request):
    """Summarise restaurants from the reviews in the request."""

    restaurants: Annotated[list[RestaurantWithReviews], Field(fail_fast=True)]
    max_tokens_per_batch: Budget = None


class RestaurantToJudge(_Request):
    """A restaurant and the reviews to label."""

    restaurant_id: Id
    reviews: Annotated[list[SentimentReviewInput], Field(fail_fast=True)]


class SentimentAnalysisBatchRequest(_Request):
    """Label the sentiment of reviews, and count the labels per restaurant."""

    restaurants: Annotated[list[RestaurantToJudge], Field(fail_fast=True)]
    max_tokens_per_batch: Budget = None


class RestaurantToCompare(_Request):
    """A restaurant, its reviews, and reviews of others; reviews that are left out are found by search."""

    target_restaurant_id: Id
    target_reviews: Reviews | None = None
    comparison_reviews: Reviews | None = None


class StrengthBatchRequest(_Request):
    """Derive the strengths of restaurants over others."""

    restaurants: Annotated[list[RestaurantToCompare], Field(fail_fast=True)]
    max_tokens_per_batch: Budget = None


def _choose_model(
    raw: Any, _union: ValidatorFunctionWrapHandler
) -> SummaryBatchRequest | ReviewSummaryBatchRequest:
    # Not left to the union, which would report the errors of both models.
    model = ReviewSummaryBatchRequest if _has_reviews(raw) else SummaryBatchRequest
    return model.model_validate(raw)


def _has_reviews(raw: Any) -> bool:
    if not isinstance(raw, Mapping):
        return False
    restaurants = raw.get("restaurants")
    if not restaurants:
        return "max_tokens_per_batch" in raw
    return any(REVIEW_FIELDS & restaurant.keys() for restaurant in _mappings(restaurants))


def _mappings(raw: Any) -> Iterator[Mapping[str, Any]]:
    return (element for element in raw if isinstance(element, Mapping)) if isinstance(raw, list) else iter(())


REVIEW_FIELDS = {"positive_reviews", "negative_reviews"}
"""Fields of a restaurant that make a request a `ReviewSummaryBatchRequest`."""

SummaryRequest = Annotated[SummaryBatchRequest | ReviewSummaryBatchRequest, WrapValidator(_choose_model)]
"""Body of a request for summaries, in either of its shapes: without reviews, or with reviews."""

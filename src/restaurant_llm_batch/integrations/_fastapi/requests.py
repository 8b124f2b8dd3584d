"""
Pydantic models of the request bodies. Field names are those of the service that this library was made for.

Its clients send several forms: one restaurant at the root or many in a list, reviews as texts or as objects with the
fields of either version, or no reviews at all. Unknown fields are ignored, and named in the response (`warnings`),
since they may be typing errors. Reviews are database records of the client, of which only some fields are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ...models import ItemId

MAX_ID_LENGTH = 200
MAX_INTEGER_ID = 2**63  # not 2**63 - 1, which is not a floating-point number, as OpenAPI stores bounds
MAX_QUERY_LENGTH = 1_000
MAX_PRIORITY = 2**31
USUAL_BUDGETS = range(1_000, 8_001)
"""Token budgets of the service that this library was made for; others are accepted with a warning."""
MIN_BUDGET, MAX_BUDGET = 500, 1_000_000
"""Token budgets that can be meant: about the instructions and one review, and the largest context of a model."""


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

UNUSED = "Not used: "
"""Beginning of the description of a field that a client of the other service may send, and that has no effect here."""


def unused(reason: str, *examples: Any) -> Any:
    """Return the field for a value that is accepted and not used."""
    return Field(None, description=f"{UNUSED}{reason}.", examples=list(examples))


Limit = Annotated[int | None, Field(ge=1, le=100)]
MinScore = Annotated[
    float | None,
    Field(ge=0, le=1, description="Minimum similarity of a review that is found by search; 0 for no bound."),
]
Query = Annotated[str | None, Field(max_length=MAX_QUERY_LENGTH)]
Budget = Annotated[
    int | None,
    Field(
        ge=MIN_BUDGET,
        le=MAX_BUDGET,
        description="Maximum tokens of a batch of reviews, prompt and reply, usually 1000 to 8000; null for the "
        "service's default.",
    ),
]


class CheckedBody(dict[str, Any]):
    """A decoded body that has been validated; `model` is the instance of its endpoint's model."""

    model: Any


def _unless_checked(raw: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return raw.model if isinstance(raw, CheckedBody) else validate(raw)


UnlessChecked = WrapValidator(_unless_checked)
"""Validates a body, unless that was done before, in a thread."""


class Fields(BaseModel):
    """Fields of a request or of a restaurant; unknown ones are kept, to be named in a warning."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    def records(self) -> Iterator[tuple[str, Fields]]:
        """Yield this request and the restaurants in it, each with its place."""
        yield "", self


class ReviewModel(BaseModel):
    """A review; of its fields only `content` is sent to the model."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore", strict=True)

    content: Annotated[
        str,
        Field(
            validation_alias=AliasChoices("content", "review"),
            description="Text of the review, also accepted as `review`; a blank one counts as failed and is not "
            "sent to the model.",
        ),
    ]
    id: Id | None = Field(
        None,
        validation_alias=AliasChoices("id", "review_id"),
        description="Id of the review, also accepted as `review_id`; without one it is identified by its position.",
    )
    # Not used, so not validated. Responses that contain the reviews return these fields unchanged.
    restaurant_id: Any = unused("a review counts for the restaurant it is listed under", 1, None)
    member_id: Any = unused("the member's id, or null", 3, None)
    group_id: Any = unused("the group's id, or null", 7, None)
    subgroup_id: Any = unused("the subgroup's id, or null", 9, None)
    is_recommended: Any = unused("true, false or null", True, None)
    created_at: Any = unused("a time as text, or null", "2026-01-31T12:00:00", None)
    updated_at: Any = unused("a time as text, or null", "2026-01-31T12:00:00", None)

    def as_item(self) -> Mapping[str, Any]:
        """Return the fields that the tasks use."""
        return {"content": self.content, "id": self.id}


def without_nulls(raw: Any, names: Mapping[str, str]) -> Any:
    """Return an object without nulls that have a value by their other name; `names` maps names to other names."""
    if not isinstance(raw, dict):
        return raw
    nulls = {name for name, other in names.items() if other in raw and raw.get(name, 0) is None}
    return {name: value for name, value in raw.items() if name not in nulls} if nulls else raw


def review_record(raw: Any) -> Any:
    """Return a review as an object: a text becomes one."""
    if isinstance(raw, str):
        return {"content": raw}
    if not isinstance(raw, dict):
        raise PydanticCustomError("review", 'Must be a text, or an object with "content"')
    return without_nulls(raw, {"content": "review", "id": "review_id"})


AnyReview = Annotated[ReviewModel, BeforeValidator(review_record, json_schema_input_type=ReviewModel | str)]
# fail_fast: the first invalid element describes the problem; an error per element would cost more than the list.
Reviews = Annotated[
    list[AnyReview],
    Field(fail_fast=True, description="The reviews, as objects or texts; null to find them by search."),
]


# Restaurants


class Restaurant(Fields):
    """A restaurant of any request."""

    ID_FIELD: ClassVar[str] = "restaurant_id"

    restaurant_id: Id
    restaurant_name: Annotated[str | None, Field(description="Returned with the result.")] = None
    priority: Annotated[
        int | None, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="Lower runs first; null for 0.")
    ] = None


class SearchedRestaurant(Restaurant):
    """A restaurant whose reviews may be found by search."""

    limit: Annotated[Limit, Field(description="Maximum number of reviews that a search finds.")] = None
    min_score: MinScore = None
    query: Annotated[Query, Field(description="Words to search for, in place of the usual ones.")] = None

    def overrides(self) -> Mapping[str, Any]:
        """Return the settings of the task that are others for this restaurant."""
        query = self.query if self.query and self.query.strip() else None
        settings = {"limit": self.limit, "min_score": self.min_score, "query": query}
        return {name: value for name, value in settings.items() if value is not None}


class RestaurantToSummarize(Restaurant):
    """A restaurant, with its reviews by polarity, or without: then they are found by search."""

    limit: Annotated[Limit, Field(description="Overrides the `limit` of the request.")] = None
    query: Annotated[Query, Field(description="Words added to those that each aspect is searched with.")] = (
        None
    )
    category: Annotated[Id | None, Field(description="Only reviews of this kind of food are searched.")] = (
        None
    )
    positive_reviews: Reviews | None = None
    negative_reviews: Reviews | None = None

    @property
    def has_reviews(self) -> bool:
        """Whether the request gives the reviews."""
        return self.positive_reviews is not None or self.negative_reviews is not None


class RestaurantToJudge(SearchedRestaurant):
    """A restaurant and the reviews to label."""

    reviews: Reviews | None = None
    category: Any = unused("a restaurant's own reviews are searched", 7, None)
    score_threshold: Any = unused("a label has no score", 0.8, None)


class RestaurantToCompare(SearchedRestaurant):
    """A restaurant, its reviews, and reviews of others; reviews that are left out are found by search."""

    ID_FIELD: ClassVar[str] = "target_restaurant_id"

    restaurant_id: Annotated[
        Id,
        Field(
            validation_alias=AliasChoices("target_restaurant_id", "restaurant_id"),
            description="Also accepted as `restaurant_id`.",
        ),
    ]
    target_reviews: Reviews | None = None
    comparison_reviews: Reviews | None = None
    category: Annotated[
        Id | None, Field(description="Only restaurants of this kind of food are searched to compare with.")
    ] = None
    top_k: Annotated[int | None, Field(ge=1, le=50, description="Another name of `limit`.")] = None
    comparison_restaurant_ids: Any = unused(
        "a restaurant is compared with all others, of its `category` if that is given", [2, 3], None
    )

    @model_validator(mode="before")
    @classmethod
    def _other_name(cls, raw: Any) -> Any:
        return without_nulls(raw, {"target_restaurant_id": "restaurant_id"})

    def overrides(self) -> Mapping[str, Any]:
        """Return the settings of the task that are others for this restaurant."""
        most = {} if self.top_k is None else {"limit": self.top_k}
        return {**most, **super().overrides()}


class RestaurantToRate(Restaurant):
    """A restaurant to compare with the average, aspect by aspect."""

    category: Annotated[
        Id | None, Field(description="Only restaurants of this kind of food are searched to compare with.")
    ] = None


# Options of a request, and requests


class SummaryOptions(Fields):
    """What a request for summaries says about all of its restaurants."""

    limit: Annotated[Limit, Field(description="Maximum number of reviews per aspect; null for 10.")] = None
    min_score: MinScore = None
    max_tokens_per_batch: Budget = None


class SentimentOptions(Fields):
    """What a request for sentiment says about all of its restaurants."""

    max_tokens_per_batch: Budget = None
    labels: Annotated[bool | None, Field(description="Whether results have the label of each review.")] = None


class StrengthOptions(Fields):
    """What a request for strengths says about all of its restaurants."""

    max_tokens_per_batch: Budget = None


class ComparisonOptions(Fields):
    """What a request for comparisons says about all of its restaurants."""

    all_average_data_path: Any = unused("averages are computed, or settings of the service", None, None)


class Single:
    """A request about one restaurant, whose fields are those of the request."""

    def each(self) -> Sequence[Any]:
        """Return the restaurant, in a list."""
        return (self,)

    def place(self, _index: int, field: str) -> tuple[str | int, ...]:
        """Return the place of a field of a restaurant."""
        return (field,)


class Batch(Fields):
    """A request about many restaurants."""

    restaurants: Sequence[Any]

    def each(self) -> Sequence[Any]:
        """Return the restaurants."""
        return self.restaurants

    def place(self, index: int, field: str) -> tuple[str | int, ...]:
        """Return the place of a field of a restaurant."""
        return ("restaurants", index, field)

    def records(self) -> Iterator[tuple[str, Fields]]:
        """Yield this request and the restaurants in it, each with its place."""
        yield "", self
        for index, restaurant in enumerate(self.restaurants):
            yield f"restaurants[{index}]", restaurant


class SummaryBatchRequest(Batch, SummaryOptions):
    """Summarise restaurants: by aspect, from reviews found by search, or from the reviews in the request."""

    restaurants: Annotated[list[RestaurantToSummarize], Field(fail_fast=True)]


class SummaryRequest(Single, RestaurantToSummarize, SummaryOptions):
    """Summarise one restaurant."""

    limit: Annotated[Limit, Field(description="Maximum number of reviews per aspect; null for 10.")] = None


class SentimentAnalysisBatchRequest(Batch, SentimentOptions):
    """Label the sentiment of reviews, and count the labels per restaurant."""

    restaurants: Annotated[list[RestaurantToJudge], Field(fail_fast=True)]


class SentimentAnalysisRequest(Single, RestaurantToJudge, SentimentOptions):
    """Label the sentiment of one restaurant's reviews."""


class StrengthBatchRequest(Batch, StrengthOptions):
    """Derive the strengths of restaurants over others."""

    restaurants: Annotated[list[RestaurantToCompare], Field(fail_fast=True)]


class StrengthRequest(Single, RestaurantToCompare, StrengthOptions):
    """Derive the strengths of one restaurant over others."""


class ComparisonBatchRequest(Batch, ComparisonOptions):
    """Compare restaurants with the average of all, aspect by aspect."""

    restaurants: Annotated[list[RestaurantToRate], Field(fail_fast=True)]


class ComparisonRequest(Single, RestaurantToRate, ComparisonOptions):
    """Compare one restaurant with the average of all, aspect by aspect."""

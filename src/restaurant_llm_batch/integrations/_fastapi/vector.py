"""Search for similar reviews, and uploads of reviews to the index that the runner searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from anyio import CapacityLimiter, from_thread, to_thread
from anyio.lowlevel import RunVar
from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from ...errors import ConfigurationError
from ...models import ItemId, SearchQuery
from ...steps import Flow, search
from ...tasks.comparison import NOBODY
from . import serialize as serializers
from .error_responses import RETRY_AFTER, APIError, detail
from .jobs import BatchJob, TaskSet, no_search
from .request_warnings import request_warnings
from .requests import (
    MAX_QUERY_LENGTH,
    Fields,
    Id,
    Limit,
    MinScore,
    ReviewModel,
    review_record,
    unused,
    without_nulls,
)
from .responses import UploadResponse

DEFAULT_LIMIT = 3
WAITING_UPLOADS = 8
"""Uploads that may wait for the one in progress."""


class SimilarReviewsRequest(Fields):
    """Find the reviews that are most similar to a text."""

    query_text: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_LENGTH)]
    restaurant_id: Annotated[
        Id | None, Field(description="Only reviews of this restaurant; null for all.")
    ] = None
    category: Annotated[Id | None, Field(description="Only reviews of this kind of food.")] = None
    limit: Annotated[Limit, Field(description="Maximum number of reviews; null for 3.")] = None
    min_score: MinScore = None
    fallback_min_score: Any = unused("there is one search, whose bound is min_score", 0.2, None)
    dense_prefetch_limit: Any = unused("the search chooses its number of candidates", 200, None)
    sparse_prefetch_limit: Any = unused("the search chooses its number of candidates", 300, None)


@dataclass(frozen=True)
class SearchReviews:
    """Run one query, under the runner's limits and with its retries; the result is a sequence of hits."""

    @property
    def name(self) -> str:
        """The task's name in events and errors: SearchReviews."""
        return "SearchReviews"

    @property
    def requires_search(self) -> bool:
        """True."""
        return True

    def parse_item(self, raw: Any, /) -> SearchQuery:
        """Return the query, which is valid."""
        query: SearchQuery = raw
        return query

    def item_key(self, item: SearchQuery, /) -> tuple[ItemId, int]:
        """Return the restaurant's id."""
        return item.restaurant_id, 0

    def flow(self, item: SearchQuery, /) -> Flow[Any]:
        """Return the flow of one query."""
        return search(item)


def similar_reviews(tasks: TaskSet, body: SimilarReviewsRequest) -> BatchJob:
    """
    Return the job of a request for similar reviews.

    Raises:
        APIError: There is no search backend (501).
    """
    if not tasks.can_search:
        raise no_search()
    # The search among all others than nobody is the search among all.
    every = body.restaurant_id is None
    query = SearchQuery(
        NOBODY if body.restaurant_id is None else body.restaurant_id,
        body.query_text,
        body.limit or DEFAULT_LIMIT,
        body.min_score or 0.0,
        "similar",
        "others" if every else "restaurant",
        body.category,
    )

    def serialize(hits: Any, _index: int, _debug: object) -> Mapping[str, Any]:
        return serializers.similar_reviews(hits)

    return BatchJob(
        SearchReviews(),
        [query],
        [query.restaurant_id],
        serialize,
        lambda _hits: [],
        request_warnings=request_warnings(body),
        is_single=True,
    )


# Uploads


Category = Annotated[
    Id | None,
    Field(
        validation_alias=AliasChoices("category", "food_category_id"),
        description="Kind of food, by which searches can be restricted; also accepted as `food_category_id`.",
    ),
]


class UploadedReview(ReviewModel):
    """A review to index. Of its fields, those of searches are kept: text, ids and kind of food."""

    restaurant_id: Annotated[
        Id | None, Field(description="Id of its restaurant; null for the one it is listed under.")
    ] = None
    id: Annotated[
        Id | None,
        Field(
            validation_alias=AliasChoices("id", "review_id"),
            description="Id of the review, also accepted as `review_id`; it replaces one with the same id. Without "
            "one, it gets an id derived from its text.",
        ),
    ] = None
    category: Category = None


def _uploaded_record(raw: Any) -> Any:
    return without_nulls(review_record(raw), {"category": "food_category_id"})


UploadedReviews = Annotated[
    list[
        Annotated[
            UploadedReview, BeforeValidator(_uploaded_record, json_schema_input_type=UploadedReview | str)
        ]
    ],
    Field(fail_fast=True),
]


class UploadedRestaurant(Fields):
    """A restaurant and its reviews."""

    id: Annotated[
        Id | None,
        Field(
            validation_alias=AliasChoices("id", "restaurant_id"),
            description="Id of the restaurant, also accepted as `restaurant_id`; null if its reviews have it.",
        ),
    ] = None
    name: Annotated[
        Any,
        Field(
            validation_alias=AliasChoices("name", "restaurant_name"),
            description="Name of the restaurant, which is not kept; also accepted as `restaurant_name`.",
        ),
    ] = None
    category: Category = None
    reviews: UploadedReviews | None = None

    @model_validator(mode="before")
    @classmethod
    def _other_name(cls, raw: Any) -> Any:
        return without_nulls(raw, {"id": "restaurant_id", "category": "food_category_id"})


UploadedRestaurants = Annotated[list[UploadedRestaurant], Field(fail_fast=True)]


class UploadData(Fields):
    """The content of an upload."""

    reviews: UploadedReviews | None = None
    restaurants: UploadedRestaurants | None = None

    def records(self) -> Iterator[tuple[str, Fields]]:
        """Yield this and the restaurants in it, each with its place."""
        yield "", self
        for index, restaurant in enumerate(self.restaurants or ()):
            yield f"restaurants[{index}]", restaurant

    def rows(self, place: tuple[str | int, ...]) -> Iterator[dict[str, Any]]:
        """
        Yield the reviews as rows of an index.

        Raises:
            APIError: A review has no restaurant.
        """
        for number, review in enumerate(self.reviews or ()):
            yield _row(review, None, (*place, "reviews", number))
        for index, restaurant in enumerate(self.restaurants or ()):
            for number, review in enumerate(restaurant.reviews or ()):
                yield _row(review, restaurant, (*place, "restaurants", index, "reviews", number))


class UploadRequest(UploadData):
    """Index reviews: in a list, by restaurant, or both; at the root, or in `data`."""

    data: UploadData | None = None

    def records(self) -> Iterator[tuple[str, Fields]]:
        """Yield this, its data, and the restaurants in both, each with its place."""
        yield from super().records()
        if self.data is not None:
            for place, record in self.data.records():
                yield f"data.{place}".removesuffix("."), record

    def all_rows(self) -> list[dict[str, Any]]:
        """
        Return the reviews as rows of an index.

        Raises:
            APIError: A review has no restaurant, or the request has no reviews at all.
        """
        if self.reviews is None and self.restaurants is None and self.data is None:
            message = "Field required: reviews, restaurants, or data"
            raise APIError(422, f"reviews: {message}", [detail(("reviews",), message, "missing")])
        rows = list(self.rows(()))
        return rows if self.data is None else [*rows, *self.data.rows(("data",))]


def _row(
    review: UploadedReview, restaurant: UploadedRestaurant | None, place: tuple[str | int, ...]
) -> dict[str, Any]:
    own, category = review.restaurant_id, review.category
    listed = None if restaurant is None else restaurant.id
    restaurant_id = own if listed is None else listed
    if restaurant_id is None:
        one = detail((*place, "restaurant_id"), "Field required", "missing")
        raise APIError(422, f"{one['field']}: {one['message']}", [one])
    if category is None and restaurant is not None:
        category = restaurant.category
    return {
        "restaurant_id": restaurant_id,
        "review_id": review.id,
        "content": review.content,
        "category": category,
    }


@dataclass(frozen=True)
class Uploads:
    """
    Uploads to a search backend's index, one at a time.

    Attributes:
        search: The backend, with `aindex_reviews` or `index_reviews`; the latter is called in a thread.

    Raises:
        ConfigurationError: It has neither, or is read only.
    """

    search: Any
    _turn: RunVar[CapacityLimiter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not any(hasattr(self.search, name) for name in ("aindex_reviews", "index_reviews")):
            raise ConfigurationError(
                "uploads=True needs a runner whose search can index reviews, such as EmbeddedSearch or QdrantSearch, "
                f"got search={self.search!r}"
            )
        if getattr(self.search, "read_only", False):
            raise ConfigurationError(
                f"uploads=True needs a search that is written to, got {self.search!r}; leave read_only=True out, "
                "which only one process can, or use QdrantSearch(url=...)"
            )
        # A frozen dataclass sets a derived field through `object`.
        object.__setattr__(self, "_turn", RunVar("restaurant_llm_batch uploads"))

    async def index(self, body: UploadRequest, rows: list[dict[str, Any]]) -> UploadResponse:
        """
        Index the reviews of a request.

        Args:
            body: The request.
            rows: Its reviews, from `all_rows`.

        Raises:
            APIError: Too many uploads wait (503).
            Exception: The index cannot be written.
        """
        report = await self._index(rows)
        left_out = {"without text": report.blank, "that could not be embedded": report.failed}
        warnings = [
            *request_warnings(body),
            *(f"reviews {which} were not indexed: {count}" for which, count in left_out.items() if count),
        ]
        count = report.reviews
        response = UploadResponse(
            message=f"indexed {count:,} review{'s' * (count != 1)}",
            points_count=count,
            collection_name=_name_of(self.search),
        )
        if warnings:
            response["warnings"] = warnings
        return response

    async def _index(self, rows: list[dict[str, Any]]) -> Any:
        turn = self._turn.get(None)
        if turn is None:
            turn = CapacityLimiter(1)
            self._turn.set(turn)
        if turn.statistics().tasks_waiting >= WAITING_UPLOADS:
            message = "too many uploads are waiting; send it again later"
            raise APIError(503, message, headers={"Retry-After": str(RETRY_AFTER)})
        index = getattr(self.search, "aindex_reviews", None)
        if index is None:
            return await to_thread.run_sync(self.search.index_reviews, _until_cancelled(rows), limiter=turn)
        async with turn:
            return await index(rows)


def _until_cancelled(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows to a thread, until its caller is cancelled: then reading them raises, which ends the thread's work."""
    for row in rows:
        from_thread.check_cancelled()
        yield row


def _name_of(search: object) -> str:
    """Return the name of the index of a search backend: its collection, or else its class."""
    name = getattr(search, "collection", None)
    return name if isinstance(name, str) else type(search).__name__

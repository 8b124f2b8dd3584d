"""
Pydantic schemas of items from the user.

Besides the settings and the FastAPI integration, the only module that imports pydantic. It is imported lazily, in the
functions that use it: pydantic takes as long to import as the rest of the library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from .._validation import as_whole
from .._values import composed, short
from ..errors import ConfigurationError
from ..models import Document, ItemId, RestaurantRef, Review, as_item_id

Schema = TypeVar("Schema", bound=BaseModel)


def _as_id(value: Any) -> ItemId:
    try:
        return as_item_id(value, "")
    except (ConfigurationError, TypeError):  # TypeError: a numpy array of several numbers
        raise ValueError("must be an integer or a string that is not empty") from None


def _as_id_or_none(value: Any) -> ItemId | None:
    return None if value is None else _as_id(value)


def _as_id_or_discard(value: Any) -> ItemId | None:
    try:
        return as_item_id(value, "")
    except (ConfigurationError, TypeError):
        return None


def _as_int(value: Any) -> Any:
    whole = as_whole(value)
    return value if whole is None else whole  # non-integers are left for pydantic to reject


def _as_bool_or_discard(value: Any, validate: ValidatorFunctionWrapHandler) -> bool | None:
    if getattr(value, "shape", None) == ():  # a numpy scalar
        value = value.item()
    try:
        return validate(value)  # type: ignore[no-any-return]
    except ValidationError:
        return None


Int = Annotated[StrictInt, BeforeValidator(_as_int)]
Id = Annotated[Any, BeforeValidator(_as_id)]
"""An id. Not a union of int and str, for which pydantic would report one error per member."""
OptionalId = Annotated[Any, BeforeValidator(_as_id_or_none)]
UnusedId = Annotated[Any, BeforeValidator(_as_id_or_discard)]
"""An id that no task uses: an invalid value, such as the empty cell of a table, becomes None instead of an error."""
UnusedBool = Annotated[bool | None, WrapValidator(_as_bool_or_discard)]
"""A boolean that no task uses; an invalid value becomes None."""


class RestaurantSchema(BaseModel):
    """Input form of a `RestaurantRef`."""

    model_config = ConfigDict(extra="forbid")

    restaurant_id: Id
    limit: Annotated[Int, Field(ge=1, le=1000)] | None = None
    priority: Int = 0
    query: StrictStr | None = None
    category: OptionalId = None


def as_list(value: Any) -> Any:
    """Return a sequence as a list; a string is left alone, for pydantic to reject."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else value


def _as_mapping(value: Any) -> Any:
    if isinstance(value, str):
        return {"content": value}
    if isinstance(value, Review):
        return asdict(value)
    if not isinstance(value, Mapping):
        raise ValueError('must be a text, a mapping with "content", or a Review')  # noqa: TRY004  # pydantic wants this
    return value


class ReviewSchema(BaseModel):
    """Input form of a `Review`; other fields of the record are ignored."""

    content: StrictStr
    id: OptionalId = Field(None, validation_alias=AliasChoices("id", "review_id"))
    restaurant_id: UnusedId = None
    is_recommended: UnusedBool = None
    category: UnusedId = None

    def review(self) -> Review:
        """Return the `Review`."""
        return Review(composed(self.content), self.id, self.restaurant_id, self.is_recommended, self.category)


Reviews = Annotated[list[Annotated[ReviewSchema, BeforeValidator(_as_mapping)]], BeforeValidator(as_list)]


def as_reviews(read: Sequence[ReviewSchema] | None) -> tuple[Review, ...] | None:
    """Return reviews that were read as `Review`s; None if they were not given."""
    return None if read is None else tuple(review.review() for review in read)


class RestaurantReviewsSchema(BaseModel):
    """Input form of a `RestaurantReviews`."""

    model_config = ConfigDict(extra="forbid")

    restaurant_id: Id
    reviews: Reviews | None = None
    priority: Int = 0


class ReviewsByPolaritySchema(BaseModel):
    """Input form of a `ReviewsByPolarity`."""

    model_config = ConfigDict(extra="forbid")

    restaurant_id: Id
    positive_reviews: Reviews = []
    negative_reviews: Reviews = []
    priority: Int = 0


class ComparisonSchema(BaseModel):
    """Input form of a `ComparisonItem`."""

    model_config = ConfigDict(extra="forbid")

    target_restaurant_id: Id
    target_reviews: Reviews | None = None
    comparison_reviews: Reviews | None = None
    category: OptionalId = None
    priority: Int = 0


def read_item(schema: type[Schema], raw: Any) -> Schema:
    """
    Validate an input item.

    Args:
        schema: Schema of the item.
        raw: A mapping, or a dataclass with the same fields.

    Raises:
        ConfigurationError: The item does not match the schema; the message names every wrong field.
    """
    if is_dataclass(raw) and not isinstance(raw, type):
        raw = {field.name: getattr(raw, field.name) for field in fields(raw)}
    if not isinstance(raw, Mapping):
        first = next(iter(schema.model_fields))
        raise ConfigurationError(f'must be a mapping such as {{"{first}": ..., ...}}, got {short(raw)}')
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        known = ", ".join(schema.model_fields)
        raise ConfigurationError(f"{describe_errors(error)} (fields: {known})") from error


def read_restaurant(raw: Any) -> RestaurantRef:
    """
    Return the `RestaurantRef` that a mapping describes.

    Raises:
        ConfigurationError: The mapping does not match the schema; the message names every wrong field.
    """
    item = read_item(RestaurantSchema, raw)
    query = item.query and composed(item.query)
    return RestaurantRef(item.restaurant_id, item.limit, item.priority, query, item.category)


def describe_errors(error: ValidationError) -> str:
    """Return a text that names every wrong field of an item, what is expected and what came."""
    messages = []
    for detail in error.errors(include_url=False):
        message = detail["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        messages.append(f"field {_path(detail['loc'])!r}: {message}, got {short(detail['input'])}")
    return "; ".join(messages)


def _path(loc: tuple[int | str, ...]) -> str:
    field, *rest = loc
    path = str(field)
    # After a list come an index and a field of the element. After any other field come members of a union: omit them.
    if rest and isinstance(rest[0], int):
        path += "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest[:2])
    return path


class DocumentSchema(BaseModel):
    """Input form of a `Document`."""

    model_config = ConfigDict(extra="forbid")

    document_id: Id
    chunks: Annotated[list[StrictStr], BeforeValidator(as_list)]
    priority: StrictInt = 0


def read_document(raw: Any) -> Document:
    """
    Return the `Document` that a mapping describes.

    Raises:
        ConfigurationError: The mapping does not match the schema; the message names every wrong field.
    """
    item = read_item(DocumentSchema, raw)
    return Document(item.document_id, tuple(map(composed, item.chunks)), item.priority)

"""
The forms that data from outside must have: items as users write them, answers as models write them.

The one place that names pydantic, and imported where it is used: it takes as long to import as all the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from .._llm_response import LLMResponse
from ..errors import ConfigurationError, OutputInvalid
from ..models import Document, ItemId, RestaurantRef, Review, as_item_id
from ..tokens.packing import as_whole
from ._prompts.vocabulary import PARTS_OF_SPEECH

Schema = TypeVar("Schema", bound=BaseModel)


def _as_id(value: Any) -> ItemId:
    try:
        return as_item_id(value, "")
    except (ConfigurationError, TypeError):  # of numpy's arrays, only those of one number are numbers
        raise ValueError("must be an integer or a string that is not empty") from None


def _as_id_or_none(value: Any) -> ItemId | None:
    return None if value is None else _as_id(value)


def _as_id_if_one(value: Any) -> ItemId | None:
    try:
        return as_item_id(value, "")
    except (ConfigurationError, TypeError):
        return None


def _as_int(value: Any) -> Any:
    whole = as_whole(value)
    return value if whole is None else whole  # what is none is for pydantic to complain of


def _as_bool_if_one(value: Any, validate: ValidatorFunctionWrapHandler) -> bool | None:
    if getattr(value, "shape", None) == ():  # one of numpy's
        value = value.item()
    try:
        return validate(value)  # type: ignore[no-any-return]
    except ValidationError:
        return None


Int = Annotated[StrictInt, BeforeValidator(_as_int)]
Id = Annotated[Any, BeforeValidator(_as_id)]
"""An id, with one complaint instead of one for each of its types."""
OptionalId = Annotated[Any, BeforeValidator(_as_id_or_none)]
UnreadId = Annotated[Any, BeforeValidator(_as_id_if_one)]
"""An id that no task reads, so that a table's empty cell is no reason to refuse the review."""
UnreadBool = Annotated[bool | None, WrapValidator(_as_bool_if_one)]


class RestaurantSchema(BaseModel):
    """A `RestaurantRef`, as users write it."""

    model_config = ConfigDict(extra="forbid")

    restaurant_id: Id
    limit: Annotated[Int, Field(ge=1, le=1000)] | None = None
    priority: Int = 0
    query: StrictStr | None = None


def as_list(value: Any) -> Any:
    """Return a sequence as a list; a text is one too, and never meant."""
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
    """A `Review`, as users write it; what else their records hold is left alone."""

    content: StrictStr
    id: OptionalId = Field(None, validation_alias=AliasChoices("id", "review_id"))
    restaurant_id: UnreadId = None
    is_recommended: UnreadBool = None
    category: UnreadId = None

    def review(self) -> Review:
        """Return the review."""
        return Review(self.content, self.id, self.restaurant_id, self.is_recommended, self.category)


Reviews = Annotated[list[Annotated[ReviewSchema, BeforeValidator(_as_mapping)]], BeforeValidator(as_list)]


class RestaurantReviewsSchema(BaseModel):
    """A `RestaurantReviews`, as users write it."""

    model_config = ConfigDict(extra="forbid")

    restaurant_id: Id
    reviews: Reviews
    priority: Int = 0


class ReviewsByPolaritySchema(BaseModel):
    """A `ReviewsByPolarity`, as users write it."""

    model_config = ConfigDict(extra="forbid")

    restaurant_id: Id
    positive_reviews: Reviews = []
    negative_reviews: Reviews = []
    priority: Int = 0


class ComparisonSchema(BaseModel):
    """A `ComparisonItem`, as users write it."""

    model_config = ConfigDict(extra="forbid")

    target_restaurant_id: Id
    target_reviews: Reviews | None = None
    comparison_reviews: Reviews | None = None
    category: OptionalId = None
    priority: Int = 0


def _empty_for_null(value: Any) -> Any:
    return [] if value is None else value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class AspectSchema(BaseModel):
    """One aspect, as the model answers it."""

    summary: Text
    bullets: Annotated[list[str], BeforeValidator(_empty_for_null)] = []
    evidence: Annotated[list[Any], BeforeValidator(_empty_for_null)] = []


class OverallSchema(BaseModel):
    """The overall summary, as the model answers it."""

    overall_summary: Text


def read_item(form: type[Schema], raw: Any) -> Schema:
    """
    Return an item in its form.

    Args:
        form: The form.
        raw: A mapping, or a dataclass with the same fields.

    Raises:
        ConfigurationError: When it does not have the form; every wrong field is named.
    """
    if is_dataclass(raw) and not isinstance(raw, type):
        raw = {field.name: getattr(raw, field.name) for field in fields(raw)}
    if not isinstance(raw, Mapping):
        first = next(iter(form.model_fields))
        raise ConfigurationError(f'must be a mapping such as {{"{first}": ..., ...}}, got {shown(raw)}')
    try:
        return form.model_validate(raw)
    except ValidationError as error:
        known = ", ".join(form.model_fields)
        raise ConfigurationError(f"{describe_errors(error)} (fields: {known})") from error


def shown(value: Any) -> str:
    """Return a value as an error shows it; reviews are not repeated at length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_restaurant(raw: Any) -> RestaurantRef:
    """
    Return the restaurant that a mapping describes.

    Raises:
        ConfigurationError: When it does not have the form; every wrong field is named.
    """
    form = read_item(RestaurantSchema, raw)
    return RestaurantRef(form.restaurant_id, form.limit, form.priority, form.query)


def validated(form: type[Schema], answer: Any, reply: LLMResponse) -> Schema:
    """
    Return a part of a model's answer in its form.

    Raises:
        OutputInvalid: When it does not have it; the first wrong field is named.
    """
    try:
        return form.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the answer"
        message = f"the answer does not have its form: {field}: {first['msg']}"
        raise OutputInvalid(message, reply=reply) from error


def describe_errors(error: ValidationError) -> str:
    """Return what is wrong with an item, field by field."""
    said = []
    for detail in error.errors(include_url=False):
        message = detail["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        said.append(f"field {_path(detail['loc'])!r}: {message}, got {shown(detail['input'])}")
    return "; ".join(said)


def _path(loc: tuple[int | str, ...]) -> str:
    field, *rest = loc
    path = str(field)
    # Below a list there are its places and their fields; elsewhere come the alternatives of a union.
    if rest and isinstance(rest[0], int):
        path += "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest[:2])
    return path


_MAX_ENTRY_LENGTH = 200

Entry = TypeVar("Entry", bound=BaseModel)
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=_MAX_ENTRY_LENGTH)]


class DocumentSchema(BaseModel):
    """A `Document`, as users write it."""

    model_config = ConfigDict(extra="forbid")

    document_id: Id
    chunks: Annotated[list[StrictStr], BeforeValidator(as_list)]
    priority: StrictInt = 0


def _part_of_speech(value: Any) -> str:
    said = value.strip().lower() if isinstance(value, str) else ""
    return said if said in PARTS_OF_SPEECH else ""


def _texts_of(value: Any) -> Any:
    if isinstance(value, list):
        return [text for text in value if isinstance(text, str) and text.strip()]
    return [] if value is None else value


def _text_for_null(value: Any) -> Any:
    return "" if value is None else value


class WordSchema(BaseModel):
    """A word, as the model writes it."""

    word: Name
    pos: Annotated[str, BeforeValidator(_part_of_speech)] = ""
    meanings: Annotated[list[str], BeforeValidator(_texts_of)] = []


class PhraseSchema(BaseModel):
    """A phrase, as the model writes it."""

    phrase: Name
    meaning: Annotated[str, BeforeValidator(_text_for_null)] = ""


def read_document(raw: Any) -> Document:
    """
    Return the document that a mapping describes.

    Raises:
        ConfigurationError: When it does not have the form; every wrong field is named.
    """
    form = read_item(DocumentSchema, raw)
    return Document(form.document_id, tuple(form.chunks), form.priority)


def valid_entries(form: type[Entry], listed: Iterable[object]) -> list[Entry]:
    """Return the entries of a list that have their form; one bad entry is no reason to lose the others."""
    entries = []
    for entry in listed:
        try:
            entries.append(form.model_validate(entry))
        except ValidationError:
            continue
    return entries

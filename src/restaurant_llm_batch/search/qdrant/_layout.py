"""Qdrant collection layout: names of vectors and payload fields, and the type in which ids are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from ...errors import ConfigurationError
from ...models import ItemId
from .._indexing import as_number, id_texts

IdForm: TypeAlias = Literal["string", "integer", "either"]
"""Type of the ids in a payload field, known from its index; "either" without an index."""


@dataclass(frozen=True, slots=True)
class CollectionSchema:
    """
    Names of a collection's vectors and payload fields; the defaults are those of collections created here.

    A dot leads into a nested field, as in ``"metadata.restaurant_id"``.

    Attributes:
        dense: Name of the dense vector; "" for an unnamed vector.
        sparse: Name of the sparse vector; None to rank by the dense vector only.
        restaurant: Field of the restaurant's id.
        review: Field of the review's id; if a point lacks it, ``id`` is read, then the point's own id.
        content: Field of the text.
        category: Field of the restaurant's category; None if there is none.

    Raises:
        ConfigurationError: If a name is empty or not a string.
    """

    dense: str = "dense"
    sparse: str | None = "sparse"
    restaurant: str = "restaurant_id"
    review: str = "review_id"
    content: str = "content"
    category: str | None = "food_category_id"

    def __post_init__(self) -> None:
        for attribute in fields(self):
            value: object = getattr(self, attribute.name)
            empty = {"dense": "", "sparse": None, "category": None}.get(attribute.name, ...)
            if value != empty and (not isinstance(value, str) or not value):
                raise ConfigurationError(
                    f"CollectionSchema.{attribute.name} must be a name, got {value!r}; for example "
                    f"CollectionSchema({attribute.name}={attribute.default!r})"
                )

    def payload_fields(self, *, restaurant: bool, content: bool = True) -> list[str]:
        """Return the payload fields that are needed; others would cost time to transfer and parse."""
        names = [self.review, "id"] + [self.content] * content + [self.restaurant] * restaurant
        return list(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class IdLayout:
    """
    The types in which a collection stores ids.

    Attributes:
        forms: Type by field; a field without one may hold either type.
    """

    forms: Mapping[str, IdForm] = field(default_factory=dict)

    def form(self, name: str) -> IdForm:
        """Return the type of the ids in a field."""
        return self.forms.get(name, "either")


def id_variants(value: ItemId, form: IdForm) -> list[ItemId]:
    """
    Return the values to filter by, so that an id is found whether it was indexed as an int or a string.

    The last one is the value to store. Omits a type that the field's index does not support: filtering by it would make
    the server scan all reviews, or reject the request.
    """
    number = as_number(value)
    if form == "string" or number is None:
        return [*reversed(id_texts(value))]
    return [number] if form == "integer" else [str(value), number]


def get_path(payload: Mapping[str, Any], name: str) -> Any:
    """Return a field of a payload, or None; dots lead into nested objects."""
    if name in payload:
        return payload[name]
    value: Any = payload
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def set_path(payload: dict[str, Any], name: str, value: Any) -> None:
    """Set a field of a payload; dots lead into nested objects, which are created."""
    *outer, last = name.split(".")
    for part in outer:
        payload = payload.setdefault(part, {})
    payload[last] = value

"""What a collection calls its vectors and payload fields, and which form of an id it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from ...errors import ConfigurationError
from ...models import ItemId
from .._indexing import as_number

IdForm: TypeAlias = Literal["string", "integer", "either"]
"""How a payload field holds ids, as its index tells; without an index both are looked for."""


@dataclass(frozen=True, slots=True)
class CollectionSchema:
    """
    The names in a collection that somebody else made; the defaults are those of ours.

    A field inside another is named with a dot, as in ``"metadata.restaurant_id"``.

    Attributes:
        dense: The dense vector; "" for a vector without a name.
        sparse: The sparse vector; None where there is none, so that the dense one ranks alone.
        restaurant: The field that holds the restaurant's id.
        review: The field that holds the review's id; without it, ``id`` is read, then the point's own.
        content: The field that holds the text.
        category: The field that holds the restaurant's kind of food; None where there is none.
    """

    dense: str = "dense"
    sparse: str | None = "sparse"
    restaurant: str = "restaurant_id"
    review: str = "review_id"
    content: str = "content"
    category: str | None = "food_category_id"

    def __post_init__(self) -> None:
        for one in fields(self):
            value: object = getattr(self, one.name)
            empty = {"dense": "", "sparse": None, "category": None}.get(one.name, ...)
            if value != empty and (not isinstance(value, str) or not value):
                raise ConfigurationError(f"names: {one.name} must be a name, got {value!r}")

    def wanted(self, *, restaurant: bool) -> list[str]:
        """Return the payload fields that a search needs, and no others: they cost time to send and read."""
        found = [self.review, "id", self.content, *([self.restaurant] if restaurant else [])]
        return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class IdLayout:
    """
    A collection as it was found.

    Attributes:
        forms: How its fields hold ids; a field that is not named may hold either.
    """

    forms: Mapping[str, IdForm] = field(default_factory=dict)

    def form(self, name: str) -> IdForm:
        """Return how a field holds ids."""
        return self.forms.get(name, "either")


def id_variants(value: ItemId, form: IdForm) -> list[ItemId]:
    """
    Return what to look for so that an id is found however it was given.

    An index serves one form only, and a condition on the other one makes the server read every review of
    every restaurant, or refuse.
    """
    number = as_number(value)
    if form == "string" or number is None:
        return [str(value)]
    return [number] if form == "integer" else [str(value), number]


def get_path(payload: Mapping[str, Any], name: str) -> Any:
    """Return a field of a payload, or None; dots lead into objects."""
    if name in payload:
        return payload[name]
    value: Any = payload
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def set_path(payload: dict[str, Any], name: str, value: Any) -> None:
    """Set a field of a payload; dots lead into objects, which are made."""
    *outer, last = name.split(".")
    for part in outer:
        payload = payload.setdefault(part, {})
    payload[last] = value

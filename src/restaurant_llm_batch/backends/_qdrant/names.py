"""What a collection calls its vectors and payload fields, and which form of an id it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from ...errors import ConfigurationError
from ...models import ItemId

IdForm: TypeAlias = Literal["string", "integer", "either"]
"""How a payload field holds ids, as its index tells; without an index both are looked for."""

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class QdrantNames:
    """
    The names in a collection that somebody else made; the defaults are those of ours.

    A field inside another is named with a dot, as in ``"metadata.restaurant_id"``.

    Attributes:
        dense: The dense vector; "" for a vector without a name.
        sparse: The sparse vector; None where there is none, so that the dense one ranks alone.
        restaurant: The field that holds the restaurant's id.
        review: The field that holds the review's id; without it, ``id`` is read, then the point's own.
        content: The field that holds the text.
    """

    dense: str = "dense"
    sparse: str | None = "sparse"
    restaurant: str = "restaurant_id"
    review: str = "review_id"
    content: str = "content"

    def __post_init__(self) -> None:
        for one in fields(self):
            value: object = getattr(self, one.name)
            empty = {"dense": "", "sparse": None}.get(one.name, ...)
            if value != empty and (not isinstance(value, str) or not value):
                raise ConfigurationError(f"names: {one.name} must be a name, got {value!r}")

    @property
    def wanted(self) -> list[str]:
        """The payload fields that a search needs, and no others: they cost time to send and read."""
        return list(dict.fromkeys([self.review, "id", self.content]))


@dataclass(frozen=True, slots=True)
class Layout:
    """
    A collection as it was found.

    Attributes:
        forms: How its fields hold ids; a field that is not named may hold either.
    """

    forms: Mapping[str, IdForm] = field(default_factory=dict)

    def form(self, name: str) -> IdForm:
        """Return how a field holds ids."""
        return self.forms.get(name, "either")


def spellings(value: ItemId, form: IdForm) -> list[ItemId]:
    """
    Return what to look for so that an id is found however it was given.

    An index serves one form only, and a condition on the other one makes the server read every review of
    every restaurant, or refuse.
    """
    number = as_number(value)
    if form == "string" or number is None:
        return [str(value)]
    return [number] if form == "integer" else [str(value), number]


def as_number(value: ItemId) -> int | None:
    """Return an id as an integer if it is one, or a string that is written exactly like one."""
    if isinstance(value, int):
        return value
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(value) > 20:
        return None
    number = int(value)
    return number if str(number) == value and number in _INT64 else None


def look_up(payload: Mapping[str, Any], name: str) -> Any:
    """Return a field of a payload, or None; dots lead into objects."""
    if name in payload:
        return payload[name]
    value: Any = payload
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def put(payload: dict[str, Any], name: str, value: Any) -> None:
    """Set a field of a payload; dots lead into objects, which are made."""
    *outer, last = name.split(".")
    for part in outer:
        payload = payload.setdefault(part, {})
    payload[last] = value

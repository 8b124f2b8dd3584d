"""Among which reviews a query looks."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigurationError
from ..models import ItemId, SearchQuery
from ._ids import read_id


@dataclass(frozen=True, slots=True)
class Scope:
    """
    Among which reviews a query looks, checked.

    Attributes:
        restaurant_id: The restaurant that the query names.
        others: Whether its reviews are the only ones left out, and not the only ones looked at.
        category: What the category of each review must be; None for any.
    """

    restaurant_id: ItemId
    others: bool = False
    category: ItemId | None = None


def scope_of(query: SearchQuery) -> Scope:
    """
    Return among which reviews a query looks.

    Raises:
        ConfigurationError: It names no restaurant, or says nothing that can be looked among.
    """
    among: object = query.among
    if among not in ("own", "others"):
        raise ConfigurationError(f'among must be "own" or "others", got {among!r}')
    restaurant_id = read_id(query.restaurant_id, "restaurant_id")
    category = None if query.category is None else read_id(query.category, "category")
    if isinstance(category, str) and not category.strip():
        raise ConfigurationError("category is blank: leave it out to search in all of them")
    return Scope(restaurant_id, among == "others", category)

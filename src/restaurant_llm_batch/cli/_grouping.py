"""Reviews by restaurant, as a file has them: for what reads every review and searches for none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models import ItemId, Review
from ._reading import ReviewLines
from ._sources import Known, review_file


@dataclass(frozen=True, kw_only=True)
class Grouped(Known):
    """
    Restaurants and all of their reviews.

    Attributes:
        reviews: The reviews by the restaurant's id as a string, in the order of the file.
    """

    reviews: Mapping[str, Sequence[Review]]

    def of(self, restaurant_id: ItemId) -> Sequence[Review]:
        """Return the reviews of a restaurant."""
        return self.reviews.get(str(restaurant_id), ())


def read_grouped(path: Path | None, kind: type[ReviewLines] = ReviewLines) -> Grouped:
    """
    Read a file of reviews; its restaurants are in the order of their first appearance.

    Args:
        path: The file; None for the sample.
        kind: What reads its lines.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    with review_file(path) as (file, label):
        lines = kind(file)
        reviews = _by_restaurant(lines)
    return Grouped(label=label, ids=list(lines.restaurants.values()), names=lines.names, reviews=reviews)


def _by_restaurant(reviews: Iterable[Review]) -> dict[str, list[Review]]:
    found: dict[str, list[Review]] = {}
    for review in reviews:
        found.setdefault(str(review.restaurant_id), []).append(review)
    return found

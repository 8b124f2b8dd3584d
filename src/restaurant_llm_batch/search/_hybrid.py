"""
Hybrid ranking as pure functions: reciprocal rank fusion (RRF) of dense and sparse rankings, stable top-k, and scopes.

RRF: Cormack, Clarke and Buettcher 2009, https://doi.org/10.1145/1571941.1572114.

Engines order equal scores arbitrarily, and equal scores are common: a hundred reviews say "맛있어요". So all functions
order by score and then by id. If an engine cut a list in the middle of equal scores, that score is dropped, since
some of its points are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeAlias

from ..errors import ConfigurationError
from ..models import ItemId, SearchQuery
from ._indexing import as_number, id_order, read_id

RRF_K = 2
"""RRF's constant, as Qdrant's default: the first of a list scores 1/2, the second 1/3."""

RankedPoint: TypeAlias = tuple[Hashable, float]
"""The key of a review in the engine, and its score; a search makes hundreds, so it is no class."""

_score: Callable[[RankedPoint], float] = itemgetter(1)
_key: Callable[[tuple[Any, RankedPoint]], Any] = itemgetter(0)


@dataclass(slots=True)  # not frozen: a frozen one takes three times as long to make
class FoundReview:
    """
    What is known of a review that was ranked.

    Attributes:
        review_id: Its id as indexed; breaks ties of the score.
        content: Its text.
        restaurant_id: Its restaurant's id if several restaurants are searched; breaks ties of the review id.
    """

    review_id: ItemId
    content: str
    restaurant_id: ItemId | None = None


Reviews: TypeAlias = Mapping[Hashable, FoundReview | None]
"""Reviews by their keys, as far as they are loaded; None for a point that is no review."""


def by_score(found: Iterable[RankedPoint]) -> list[RankedPoint]:
    """Return points by score, best first, equal scores as they come."""
    return sorted(found, key=_score, reverse=True)


def tied_points(ordered: Sequence[RankedPoint]) -> list[Hashable]:
    """Return the keys of points whose score another one has too, given points by score."""
    if len(set(map(_score, ordered))) == len(ordered):
        return []
    return [point for start, end in _runs(ordered) for point, _ in ordered[start:end]]


def order_ties(ordered: list[RankedPoint], reviews: Reviews) -> None:
    """Order equal scores by id where all of their ids are loaded, given points by score."""
    if len(set(map(_score, ordered))) == len(ordered):
        return
    for start, end in list(_runs(ordered)):
        run = ordered[start:end]
        found = [reviews.get(point) for point, _ in run]
        keys = [_id_key(review, one[0]) for review, one in zip(found, run, strict=True) if review is not None]
        if len(keys) == len(run):
            ordered[start:end] = [one for _, one in sorted(zip(keys, run, strict=True), key=_key)]


def _runs(ordered: Sequence[RankedPoint]) -> Iterator[tuple[int, int]]:
    """Return where two and more points have one score: the first's position and that behind the last."""
    start, last = 0, ordered[0][1]
    for position, (_, score) in enumerate(ordered):
        if score != last:
            if position - start > 1:
                yield start, position
            start, last = position, score
    if len(ordered) - start > 1:
        yield start, len(ordered)


def stable_top_k(
    ordered: list[RankedPoint], reviews: Reviews, *, wanted: int, asked: float
) -> list[RankedPoint] | None:
    """
    Return the top points, independently of how the engine orders equal scores.

    Args:
        ordered: The best points by score; it is reordered.
        reviews: The reviews of those with equal scores.
        wanted: Number of points needed.
        asked: Number of points requested, more than `wanted`; infinity if no more will be requested, so
            that ties beyond the cut are ignored.

    Returns:
        At most `wanted` points, or None if more must be requested.
    """
    order_ties(ordered, reviews)
    if len(ordered) >= asked:
        # The cut may have separated points with the last score, so drop that score.
        ordered = [one for one in ordered if one[1] > ordered[-1][1]]
        if len(ordered) < wanted:
            return None
    return ordered[:wanted]


def fuse(dense: Sequence[RankedPoint], sparse: Sequence[RankedPoint], *, k: int = RRF_K) -> list[RankedPoint]:
    """
    Fuse two ranked lists by reciprocal rank fusion (RRF): a point scores the sum of 1/(rank + k), ranks from 0.

    Args:
        dense: Points of the dense ranking, best first; their scores are cosines.
        sparse: Points of the sparse ranking, best first.
        k: RRF's constant; a larger one gives the first ranks less weight.

    Returns:
        Each point once, best first, equal scores in any order.
    """
    scores = {point: 1 / rank for rank, (point, _) in enumerate(dense, k)}
    for rank, (point, _) in enumerate(sparse, k):
        scores[point] = scores.get(point, 0.0) + 1 / rank
    return by_score(scores.items())


def missing_similarities(fused: Iterable[RankedPoint], dense: Iterable[RankedPoint]) -> list[Hashable]:
    """Return the points whose similarity must be fetched before `min_score` can be applied."""
    known = dict(dense)
    return [point for point, _ in fused if point not in known]


def select_similar(
    fused: Sequence[RankedPoint], min_score: float, similarities: Mapping[Hashable, float]
) -> list[RankedPoint]:
    """
    Return the points that reach a minimum similarity.

    Args:
        fused: The fused list, best first.
        min_score: Minimum dense cosine, whichever ranking found the point; 0.0 for no minimum.
        similarities: Cosines by point; a point without one is dropped if there is a minimum.
    """
    if not min_score:
        return list(fused)
    return [one for one in fused if similarities.get(one[0], -2.0) >= min_score]


def _id_key(review: FoundReview, point: Hashable) -> tuple[Any, ...]:
    return id_order(review.review_id), _restaurant_order(review.restaurant_id), point


def _restaurant_order(restaurant_id: ItemId | None) -> tuple[int, int, str]:
    if restaurant_id is None:
        return id_order(0)
    # Some engines return 7 where "7" was indexed; the order must be the same.
    number = as_number(restaurant_id)
    return id_order(restaurant_id if number is None else number)


@dataclass(frozen=True, slots=True)
class Scope:
    """
    The validated scope of a query: which reviews it searches.

    Attributes:
        restaurant_id: The query's restaurant.
        others: Search all restaurants except this one, instead of this one only.
        category: Search restaurants of this category only; None for any.
    """

    restaurant_id: ItemId
    others: bool = False
    category: ItemId | None = None


def scope_of(query: SearchQuery) -> Scope:
    """
    Return the scope of a query.

    Raises:
        ConfigurationError: If its scope, restaurant id or category is invalid.
    """
    try:
        return _scope_of(query)
    except ConfigurationError as error:
        error.of_one_item = True
        raise


def _scope_of(query: SearchQuery) -> Scope:
    scope: object = query.scope
    if scope not in ("restaurant", "others"):
        raise ConfigurationError(f'scope must be "restaurant" or "others", got {scope!r}')
    restaurant_id = read_id(query.restaurant_id, "restaurant_id")
    category = None if query.category is None else read_id(query.category, "category")
    if isinstance(category, str) and not category.strip():
        raise ConfigurationError("category is blank: leave it out to search in all of them")
    return Scope(restaurant_id, scope == "others", category)

"""
Hybrid ranking as pure functions: reciprocal rank fusion (RRF) of dense and sparse rankings, stable top-k, and scopes.

RRF: Cormack, Clarke and Buettcher 2009, https://doi.org/10.1145/1571941.1572114.

Engines order equal scores arbitrarily, and equal scores are common: a hundred reviews say "맛있어요". So all functions
order by score and then by id. If an engine cut a list in the middle of equal scores, that score is dropped, since
some of its candidates are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

from ..errors import ConfigurationError
from ..models import ItemId, SearchQuery
from ._indexing import as_number, id_order, read_id

T = TypeVar("T", "Candidate", "Fused")

RRF_K = 2
"""RRF's constant, as Qdrant's default: the first of a list scores 1/2, the second 1/3."""


@dataclass(
    slots=True
)  # not frozen: a search makes hundreds, and a frozen one takes three times as long to make
class Candidate:
    """
    A review in one ranked list.

    Attributes:
        point: Its key in the engine.
        review_id: Its id as indexed; breaks ties of the score.
        content: Its text.
        score: Its score in this list.
        restaurant_id: Its restaurant's id if several restaurants are searched; breaks ties of the review id.
        is_loaded: Whether its ids and text are known; otherwise only its key and score are.
    """

    point: Hashable
    review_id: ItemId
    content: str
    score: float
    restaurant_id: ItemId | None = None
    is_loaded: bool = True


@dataclass(slots=True)
class Fused:
    """A candidate after fusion; `similarity` is its dense cosine, or None while unknown."""

    candidate: Candidate
    score: float
    similarity: float | None


def stable_top_k(found: Sequence[Candidate], *, wanted: int, asked: float) -> list[Candidate] | None:
    """
    Return the top candidates, independently of how the engine orders equal scores.

    Args:
        found: The best candidates, in the engine's order.
        wanted: Number of candidates needed.
        asked: Number of candidates requested, more than `wanted`; infinity if no more will be requested, so
            that ties beyond the cut are ignored.

    Returns:
        At most `wanted` candidates, or None if more must be requested.
    """
    ordered = sorted(found, key=attrgetter("score"), reverse=True)
    _order_ties(ordered, _id_key)
    if len(ordered) >= asked:
        # The cut may have separated candidates with the last score, so drop that score.
        ordered = [candidate for candidate in ordered if candidate.score > ordered[-1].score]
        if len(ordered) < wanted:
            return None
    return ordered[:wanted]


def fuse(dense: Sequence[Candidate], sparse: Sequence[Candidate], *, k: int = RRF_K) -> list[Fused]:
    """
    Fuse two ranked lists by reciprocal rank fusion (RRF): a candidate scores the sum of 1/(rank + k), ranks from 0.

    Args:
        dense: Candidates of the dense ranking, best first; their scores are cosines.
        sparse: Candidates of the sparse ranking, best first.
        k: RRF's constant; a larger one gives the first ranks less weight.

    Returns:
        Each candidate once, best first, ties by id unless a candidate's id is not loaded.
    """
    scores: dict[Hashable, float] = {}
    for ranked in (dense, sparse):
        for rank, candidate in enumerate(ranked):
            scores[candidate.point] = scores.get(candidate.point, 0.0) + 1 / (rank + k)
    similarities = {candidate.point: candidate.score for candidate in dense}
    candidates = {candidate.point: candidate for candidate in (*sparse, *dense)}
    fused = [
        Fused(candidate, scores[point], similarities.get(point)) for point, candidate in candidates.items()
    ]
    return order_fused(fused)


def order_fused(fused: Iterable[Fused]) -> list[Fused]:
    """Return candidates by score, best first, and equal scores by id where all of their ids are loaded."""
    ordered = sorted(fused, key=attrgetter("score"), reverse=True)
    _order_ties(ordered, lambda one: _id_key(one.candidate))
    return ordered


def missing_similarities(fused: Iterable[Fused]) -> list[Hashable]:
    """Return the points whose similarity must be fetched before `min_score` can be applied."""
    return [one.candidate.point for one in fused if one.similarity is None]


def select_top(
    fused: Iterable[Fused],
    *,
    limit: int,
    min_score: float = 0.0,
    similarities: Mapping[Hashable, float] | None = None,
) -> list[Fused]:
    """
    Return the best candidates that reach a minimum similarity.

    Args:
        fused: The fused list, best first.
        limit: Maximum number of candidates.
        min_score: Minimum dense cosine, whichever ranking found the candidate; 0.0 for no minimum.
        similarities: Cosines by point, for candidates that only the sparse ranking found; a candidate without
            one is dropped.
    """
    if not min_score:
        return list(fused)[:limit]
    known = similarities or {}
    similar = [one for one in fused if _similarity(one, known) >= min_score]
    return similar[:limit]


def _similarity(one: Fused, known: Mapping[Hashable, float]) -> float:
    return known.get(one.candidate.point, -2.0) if one.similarity is None else one.similarity


def _id_key(candidate: Candidate) -> tuple[Any, ...]:
    return id_order(candidate.review_id), _restaurant_order(candidate.restaurant_id), candidate.point


def _restaurant_order(restaurant_id: ItemId | None) -> tuple[int, int, str]:
    if restaurant_id is None:
        return id_order(0)
    # Some engines return 7 where "7" was indexed; the order must be the same.
    number = as_number(restaurant_id)
    return id_order(restaurant_id if number is None else number)


def _order_ties(ordered: list[T], key: Callable[[T], Any]) -> None:
    """Order runs of equal scores by a key, which is not computed for a score that occurs once."""
    scores = [one.score for one in ordered]
    if len(set(scores)) == len(scores):
        return
    start = 0
    for end in range(1, len(scores) + 1):
        if end < len(scores) and scores[end] == scores[start]:
            continue
        if end - start > 1 and all(map(_is_loaded, ordered[start:end])):
            ordered[start:end] = sorted(ordered[start:end], key=key)
        start = end


def _is_loaded(one: Candidate | Fused) -> bool:
    return one.is_loaded if isinstance(one, Candidate) else one.candidate.is_loaded


def tied(found: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates whose score another one has too."""
    candidates = list(found)
    scores = [candidate.score for candidate in candidates]
    if len(set(scores)) == len(scores):
        return []
    counts = Counter(scores)
    return [one for one in candidates if counts[one.score] > 1]


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

"""
Hybrid ranking, as pure functions: what a dense and a sparse search found, made into one list.

Engines order equal scores as they please, and equal scores are common: a hundred reviews say
"맛있어요". Everything here therefore orders by score and then by id, and a list that an engine cut
in the middle of equals is not trusted beyond the last score that is there in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..models import ItemId, SearchQuery
from ._indexing import as_number, id_order, read_id

RRF_K = 2
"""Qdrant's default; the first of a list counts 1/2, the second 1/3."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    A review that one search found.

    Attributes:
        point: Its key in the engine.
        review_id: Its id as the user knows it; ties are ordered by it.
        content: Its text.
        score: How well it matched in that search.
        restaurant_id: Its restaurant, where reviews of several are searched; ties of the id are ordered by it.
    """

    point: str
    review_id: ItemId
    content: str
    score: float
    restaurant_id: ItemId | None = None


@dataclass(frozen=True, slots=True)
class Fused:
    """A candidate after fusion; `similarity` is its dense cosine, or None while unknown."""

    candidate: Candidate
    score: float
    similarity: float | None


def stable_top_k(found: Sequence[Candidate], *, wanted: int, asked: float) -> list[Candidate] | None:
    """
    Order what a search found, and cut it, so that nothing depends on the engine's order of equals.

    Args:
        found: The best candidates, as the engine gave them.
        wanted: How many are needed.
        asked: How many the engine was asked for, more than are wanted; infinity if no more will be asked for,
            so that what it left out does not count.

    Returns:
        At most `wanted` candidates, or None when the engine must be asked for more.
    """
    ordered = sorted(found, key=_candidate_order)
    if len(ordered) >= asked:
        # More candidates with the last score may lie beyond the cut: those inside do not count.
        ordered = [candidate for candidate in ordered if candidate.score > ordered[-1].score]
        if len(ordered) < wanted:
            return None
    return ordered[:wanted]


def fuse(dense: Sequence[Candidate], sparse: Sequence[Candidate], *, k: int = RRF_K) -> list[Fused]:
    """
    Join two ranked lists by reciprocal rank: each place counts 1/(place + k), from 0.

    Args:
        dense: Candidates of the dense search, best first; their scores are cosines.
        sparse: Candidates of the sparse search, best first.
        k: The larger, the less the first places stand out.

    Returns:
        Every candidate once, best first, equals by id.
    """
    scores: dict[str, float] = {}
    for ranked in (dense, sparse):
        for place, candidate in enumerate(ranked):
            scores[candidate.point] = scores.get(candidate.point, 0.0) + 1 / (place + k)
    similarities = {candidate.point: candidate.score for candidate in dense}
    candidates = {candidate.point: candidate for candidate in (*sparse, *dense)}
    fused = [
        Fused(candidate, scores[point], similarities.get(point)) for point, candidate in candidates.items()
    ]
    return sorted(fused, key=lambda one: (-one.score, *_identity(one.candidate)))


def missing_similarities(fused: Iterable[Fused]) -> list[str]:
    """Return the points whose similarity has to be fetched before a bound on it can be applied."""
    return [one.candidate.point for one in fused if one.similarity is None]


def select_top(
    fused: Iterable[Fused],
    *,
    limit: int,
    min_score: float = 0.0,
    similarities: Mapping[str, float] | None = None,
) -> list[Fused]:
    """
    Keep the best, and of them only those that are similar enough.

    Args:
        fused: The fused list, best first.
        limit: The most to keep.
        min_score: Least dense cosine, whichever search found the candidate; 0.0 means no bound.
        similarities: Cosines by point, of those that only the sparse search found; one without is
            dropped.
    """
    if not min_score:
        return list(fused)[:limit]
    known = similarities or {}
    near = [one for one in fused if _similarity(one, known) >= min_score]
    return near[:limit]


def _similarity(one: Fused, known: Mapping[str, float]) -> float:
    return known.get(one.candidate.point, -2.0) if one.similarity is None else one.similarity


def _identity(candidate: Candidate) -> tuple[tuple[int, int, str], tuple[int, int, str], str]:
    return id_order(candidate.review_id), _restaurant_order(candidate.restaurant_id), candidate.point


def _restaurant_order(restaurant_id: ItemId | None) -> tuple[int, int, str]:
    if restaurant_id is None:
        return id_order(0)
    # Engines differ in whether they remember that "7" was given, and may not in the order.
    number = as_number(restaurant_id)
    return id_order(restaurant_id if number is None else number)


def _candidate_order(candidate: Candidate) -> tuple[float, tuple[int, int, str], tuple[int, int, str], str]:
    return (-candidate.score, *_identity(candidate))


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
    scope: object = query.scope
    if scope not in ("restaurant", "others"):
        raise ConfigurationError(f'scope must be "restaurant" or "others", got {scope!r}')
    restaurant_id = read_id(query.restaurant_id, "restaurant_id")
    category = None if query.category is None else read_id(query.category, "category")
    if isinstance(category, str) and not category.strip():
        raise ConfigurationError("category is blank: leave it out to search in all of them")
    return Scope(restaurant_id, scope == "others", category)

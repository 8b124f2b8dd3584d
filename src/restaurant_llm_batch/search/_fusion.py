"""
Hybrid search flow: dense and sparse rankings of each query, fused by reciprocal rank fusion (RRF).

`run_hybrid` is a generator that yields lists of `RankRequest` and is sent the candidates; a backend drives it with one
round trip per yield. It requests more only in two cases: a list was cut among equal scores, so that its order would
depend on the engine (`_stable_lists`), or a bound on the similarity needs cosines of candidates that only the
sparse ranking found (`_similarities`). The pure ranking functions are in `_hybrid`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias, TypeVar

from ..models import Hit, SearchQuery
from ..protocols import Embedding
from ._hybrid import Candidate, Fused, Scope, fuse, missing_similarities, select_top, stable_top_k

T = TypeVar("T")

ListName: TypeAlias = Literal["dense", "sparse"]

_MIN_DEPTH = 20
_GROWTH = 4
_MAX_TIES = 1000


@dataclass(frozen=True, slots=True)
class RankRequest:
    """
    A ranked list to request from the engine.

    Attributes:
        scope: Which reviews to rank.
        vector: The query's embedding.
        using: Which half of the embedding to rank by.
        limit: Maximum length of the list.
        points: Rank these points only; empty for all points of the scope.
    """

    scope: Scope
    vector: Embedding
    using: ListName
    limit: int
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PreparedQuery:
    """A query with a validated scope and an embedded text."""

    query: SearchQuery
    scope: Scope
    vector: Embedding

    @property
    def depth(self) -> int:
        """Length of each ranked list before fusion."""
        # Short lists fuse badly: a review that is fair in both rankings must appear in both.
        return max(_MIN_DEPTH, self.query.limit)

    def lists(self) -> list[ListName]:
        """Return the rankings that the embedding supports; none for a text without words."""
        names: list[ListName] = []
        # A zero vector has no direction, and would rank reviews by their ids only.
        if any(self.vector.dense):
            names.append("dense")
        if self.vector.sparse.indices:
            names.append("sparse")
        return names

    def ranking(self, using: ListName, limit: int, points: tuple[str, ...] = ()) -> RankRequest:
        """Return the request for a ranked list."""
        return RankRequest(self.scope, self.vector, using, limit, points)


RankFlow: TypeAlias = Generator[list[RankRequest], Sequence[Sequence[Candidate | None]], T]
"""
A generator that yields rankings to request in one round trip, is sent the candidates of each, and returns a `T`.

None stands for a point that the engine ranked but that is no review, such as one without a text.
"""


def run_hybrid(queries: Sequence[PreparedQuery]) -> RankFlow[list[list[Hit]]]:
    """
    Run hybrid searches, as a flow: dense and sparse rankings, fused by RRF, bounded by similarity.

    Takes one round trip, and more only for lists that were cut among equal scores and for similarities that a bound
    needs.

    Args:
        queries: The queries.

    Returns:
        The hits of each query, best first.
    """
    wanted = [(i, using) for i, prepared in enumerate(queries) for using in prepared.lists()]
    stable = yield from _stable_lists([(queries[i], using) for i, using in wanted])
    lists = dict(zip(wanted, stable, strict=True))
    fused = [fuse(lists.get((i, "dense"), []), lists.get((i, "sparse"), [])) for i in range(len(queries))]
    similarities = yield from _similarities(queries, fused)
    return [_hits(*parts) for parts in zip(queries, fused, similarities, strict=True)]


def _stable_lists(wanted: Sequence[tuple[PreparedQuery, ListName]]) -> RankFlow[list[list[Candidate]]]:
    """Fetch ranked lists whose order does not depend on how the engine orders equal scores."""
    lists: list[list[Candidate]] = [[] for _ in wanted]
    unstable = list(range(len(wanted)))
    factor = 1
    while unstable:
        # Request one more than needed, to see whether scores equal to the last one continue beyond the cut.
        limits = {i: factor * wanted[i][0].depth + 1 for i in unstable}
        results = yield [wanted[i][0].ranking(wanted[i][1], limit) for i, limit in limits.items()]
        unstable = []
        for (i, limit), found in zip(limits.items(), results, strict=True):
            usable = [candidate for candidate in found if candidate is not None]
            asked = _tie_limit(wanted[i][0], limit) - (len(found) - len(usable))
            top = stable_top_k(usable, wanted=wanted[i][0].depth, asked=asked)
            if top is None:
                unstable.append(i)
            else:
                lists[i] = top
        # Geometric growth ends after a few rounds, even if all reviews of a restaurant have the same score.
        factor *= _GROWTH
    return lists


def _tie_limit(prepared: PreparedQuery, limit: int) -> float:
    """Return the list length from which on equal scores may lie beyond the cut; infinity to ignore such ties."""
    # One restaurant has few equal reviews. All other restaurants may have millions, and fetching them only to order
    # them by id would take longer than the search itself.
    return inf if prepared.scope.others and limit > _MAX_TIES else limit


def _similarities(
    queries: Sequence[PreparedQuery], fused: Sequence[Sequence[Fused]]
) -> RankFlow[list[dict[str, float]]]:
    """Fetch the cosines of candidates that only the sparse ranking found, for queries with `min_score`."""
    similarities: list[dict[str, float]] = [{} for _ in queries]
    bounded = (i for i, prepared in enumerate(queries) if prepared.query.min_score)
    points = {i: missing for i in bounded if (missing := tuple(missing_similarities(fused[i])))}
    if points:
        results = yield [queries[i].ranking("dense", len(missing), missing) for i, missing in points.items()]
        for i, found in zip(points, results, strict=True):
            similarities[i] = {candidate.point: candidate.score for candidate in found if candidate}
    return similarities


def _hits(prepared: PreparedQuery, fused: Sequence[Fused], similarities: dict[str, float]) -> list[Hit]:
    query = prepared.query
    best = select_top(fused, limit=query.limit, min_score=query.min_score, similarities=similarities)
    return [_hit(candidate, prepared.scope) for candidate in best]


def _hit(fused: Fused, scope: Scope) -> Hit:
    # Return the queried restaurant's id in the query's form, even if 7 was indexed as "7".
    found = fused.candidate.restaurant_id if scope.others else None
    restaurant_id = scope.restaurant_id if found is None else found
    return Hit(fused.candidate.review_id, fused.candidate.content, fused.score, restaurant_id)

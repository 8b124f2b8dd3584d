"""
Hybrid search flow: dense and sparse rankings of each query, fused by reciprocal rank fusion (RRF).

`run_hybrid` is a generator that yields lists of `RankRequest` and is sent a `Ranking` for each; a backend drives it
with one round trip per yield. It requests more only in two cases: a list was cut among equal scores, so that its order
would depend on the engine (`_stable_lists`), or a bound on the similarity needs cosines of points that only the sparse
ranking found (`_similar`). The pure ranking functions are in `_hybrid`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from ..models import Hit, ItemId, SearchQuery
from ..protocols import Embedding
from ._hybrid import (
    FoundReview,
    RankedPoint,
    Reviews,
    Scope,
    by_score,
    fuse,
    missing_similarities,
    order_ties,
    select_similar,
    stable_top_k,
    tied_points,
)

T = TypeVar("T")

ListName: TypeAlias = Literal["dense", "sparse"]

_MIN_DEPTH = 20
_GROWTH = 4
_MAX_TIES = 1000

_point: Callable[[RankedPoint], Hashable] = itemgetter(0)


@dataclass(slots=True)  # not frozen: a search makes many, and a frozen one takes three times as long to make
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
    points: tuple[Hashable, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """
    Reviews whose ids and text are to be read, for an engine that ranks without them.

    Attributes:
        points: Their keys.
    """

    points: tuple[Hashable, ...]


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

    def ranking(self, using: ListName, limit: int, points: tuple[Hashable, ...] = ()) -> RankRequest:
        """Return the request for a ranked list."""
        return RankRequest(self.scope, self.vector, using, limit, points)


class Ranking(NamedTuple):
    """
    A ranked list, as an engine has found it.

    Attributes:
        points: Its points; equal scores may be in any order.
        reviews: Their reviews, if the engine loads them with the ranking; None for a point that is no review, such as
            one without a text. Empty if they are to be requested.
    """

    points: Sequence[RankedPoint]
    reviews: Reviews = MappingProxyType({})


RankFlow: TypeAlias = Generator[list[RankRequest] | LoadRequest, Any, T]
"""
A generator that yields rankings to request in one round trip, is sent the `Ranking` of each, and returns a `T`.

If reviews are not loaded with them, the flow also yields a `LoadRequest` for those that it needs, and is sent these by
key, without points that are no reviews.
"""


class _Loaded:
    """
    What is known of points, those found among others apart: only these must have their restaurant's id.

    Attributes:
        own: Reviews that were found among the restaurant's own; None for a point that is no review.
        others: Those that were found among the others'.
        has_odd: Whether one of the points is no review.
    """

    def __init__(self) -> None:
        self.own: dict[Hashable, FoundReview | None] = {}
        self.others: dict[Hashable, FoundReview | None] = {}
        self.has_odd = False

    def of(self, query: PreparedQuery) -> dict[Hashable, FoundReview | None]:
        """Return what is known of the points of a query."""
        return self.others if query.scope.others else self.own

    def add(self, query: PreparedQuery, reviews: Reviews) -> None:
        """Keep what came with a query's ranking."""
        if reviews:
            self.of(query).update(reviews)
            self.has_odd = self.has_odd or any(review is None for review in reviews.values())

    def load(self, wanted: Iterable[tuple[PreparedQuery, Iterable[Hashable]]]) -> RankFlow[None]:
        """Load the reviews of queries' points that are not loaded yet, all in one request."""
        missing = []
        for query, points in wanted:
            known = self.of(query)
            absent = [point for point in points if point not in known]
            if absent:
                missing.append((known, absent))
        if not missing:
            return
        found = yield LoadRequest(tuple(dict.fromkeys([point for _, points in missing for point in points])))
        for known, points in missing:
            known.update(zip(points, map(found.get, points), strict=True))
            self.has_odd = self.has_odd or not all(map(found.__contains__, points))


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
    loaded = _Loaded()
    wanted = [(i, using) for i, prepared in enumerate(queries) for using in prepared.lists()]
    stable = yield from _stable_lists([(queries[i], using) for i, using in wanted], loaded)
    lists = dict(zip(wanted, stable, strict=True))
    dense = [lists.get((i, "dense"), []) for i in range(len(queries))]
    fused = [fuse(one, lists.get((i, "sparse"), [])) for i, one in enumerate(dense)]
    if any(prepared.query.min_score for prepared in queries):
        fused = yield from _similar(queries, fused, dense)
    best = yield from _best(queries, fused, loaded)
    return [
        _hits(points, prepared.scope, loaded.of(prepared))
        for prepared, points in zip(queries, best, strict=True)
    ]


def _stable_lists(
    wanted: Sequence[tuple[PreparedQuery, ListName]], loaded: _Loaded
) -> RankFlow[list[list[RankedPoint]]]:
    """Fetch ranked lists whose order does not depend on how the engine orders equal scores."""
    lists: list[list[RankedPoint]] = [[] for _ in wanted]
    unstable = list(range(len(wanted)))
    factor = 1
    while unstable:
        # Request one more than needed, to see whether scores equal to the last one continue beyond the cut.
        limits = [factor * wanted[i][0].depth + 1 for i in unstable]
        results: list[Ranking] = yield [
            wanted[i][0].ranking(wanted[i][1], limit) for i, limit in zip(unstable, limits, strict=True)
        ]
        queries = [wanted[i][0] for i in unstable]
        for query, result in zip(queries, results, strict=True):
            loaded.add(query, result.reviews)
        ranked = [by_score(result.points) for result in results]
        yield from loaded.load(zip(queries, map(tied_points, ranked), strict=True))
        cut = []
        for i, query, limit, points in zip(unstable, queries, limits, ranked, strict=True):
            reviews = loaded.of(query)
            usable = _usable(points, reviews) if loaded.has_odd else points
            asked = _tie_limit(query, limit) - (len(points) - len(usable))
            top = stable_top_k(usable, reviews, wanted=query.depth, asked=asked)
            if top is None:
                cut.append(i)
            else:
                lists[i] = top
        unstable = cut
        # Geometric growth ends after a few rounds, even if all reviews of a restaurant have the same score.
        factor *= _GROWTH
    return lists


def _usable(points: list[RankedPoint], reviews: Reviews) -> list[RankedPoint]:
    """Return points without those that are known to be no reviews."""
    return [one for one in points if one[0] not in reviews or reviews[one[0]] is not None]


def _tie_limit(prepared: PreparedQuery, limit: int) -> float:
    """Return the list length from which on equal scores may lie beyond the cut; infinity to ignore such ties."""
    # One restaurant has few equal reviews. All other restaurants may have millions, and fetching them only to order
    # them by id would take longer than the search itself.
    return inf if prepared.scope.others and limit > _MAX_TIES else limit


def _similar(
    queries: Sequence[PreparedQuery], fused: list[list[RankedPoint]], dense: Sequence[Sequence[RankedPoint]]
) -> RankFlow[list[list[RankedPoint]]]:
    """Return the points that reach the bounds; fetch the cosines of those that only the sparse ranking found."""
    similarities = [dict(points) for points in dense]
    bounded = (i for i, prepared in enumerate(queries) if prepared.query.min_score)
    points = {i: missing for i in bounded if (missing := tuple(missing_similarities(fused[i], dense[i])))}
    if points:
        results: list[Ranking] = yield [
            queries[i].ranking("dense", len(missing), missing) for i, missing in points.items()
        ]
        for i, found in zip(points, results, strict=True):
            similarities[i] = {**dict(found.points), **similarities[i]}
    return [
        select_similar(found, prepared.query.min_score, known)
        for prepared, found, known in zip(queries, fused, similarities, strict=True)
    ]


def _best(
    queries: Sequence[PreparedQuery], similar: Sequence[list[RankedPoint]], loaded: _Loaded
) -> RankFlow[list[list[RankedPoint]]]:
    """Return the best points of each query, and load only these and the ones that tie with the last of them."""
    best: list[list[RankedPoint]] = [[] for _ in queries]
    pending = list(range(len(queries)))
    while pending:
        heads = [similar[i][: _head(similar[i], queries[i].query.limit)] for i in pending]
        yield from loaded.load(
            (queries[i], map(_point, head)) for i, head in zip(pending, heads, strict=True)
        )
        short = []
        for i, head in zip(pending, heads, strict=True):
            limit, reviews = queries[i].query.limit, loaded.of(queries[i])
            if loaded.has_odd:
                length = len(head)
                head = similar[i][:length] = _usable(head, reviews)
            order_ties(head, reviews)
            best[i] = head[:limit]
            # A point that is no review makes room for the next.
            if len(best[i]) < limit and len(similar[i]) > len(best[i]):
                short.append(i)
        pending = short
    return best


def _head(ordered: Sequence[RankedPoint], limit: int) -> int:
    """Return how many points the first `limit` are, with those that tie with the last of these."""
    end = min(limit, len(ordered))
    while 0 < end < len(ordered) and ordered[end][1] == ordered[end - 1][1]:
        end += 1
    return end


def _hits(points: Sequence[RankedPoint], scope: Scope, reviews: Reviews) -> list[Hit]:
    found = [(reviews[point], score) for point, score in points]
    own = scope.restaurant_id
    # Return the queried restaurant's id in the query's form, even if 7 was indexed as "7".
    return [
        Hit(one.review_id, one.content, score, _or(one.restaurant_id, own) if scope.others else own)
        for one, score in found
        if one is not None
    ]


def _or(restaurant_id: ItemId | None, own: ItemId) -> ItemId:
    return own if restaurant_id is None else restaurant_id

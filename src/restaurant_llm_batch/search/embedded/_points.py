"""Reviews and rankings in the words of Qdrant's engine, and its answers in ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from ...protocols import Embedding
from .._fusion import Ranking
from .._hybrid import Candidate
from .._indexing import Entry

if TYPE_CHECKING:
    from qdrant_edge import Filter, Point, Query, QueryRequest, ScoredPoint


def point_of(entry: Entry, vector: Embedding) -> Point:
    """Return a review and its vectors as the engine stores them."""
    from qdrant_edge import Point, SparseVector

    sparse = SparseVector(list(vector.sparse.indices), list(vector.sparse.values))
    # Filters match strings only by string, so the restaurant is stored in one form, and as given.
    payload = {
        "restaurant": entry.restaurant,
        "restaurant_id": entry.restaurant_id,
        "review_id": entry.review_id,
        "content": entry.content,
    }
    if entry.category is not None:
        payload["category"] = entry.category
    return Point(entry.point, {"dense": list(vector.dense), "sparse": sparse}, payload)


def request_of(ranking: Ranking) -> QueryRequest:
    """Return the engine's request for a ranking."""
    from qdrant_edge import QueryRequest

    return QueryRequest(
        limit=ranking.limit,
        query=_query(ranking),
        filter=_filter(ranking),
        with_payload=["review_id", "content", *(["restaurant_id"] if ranking.scope.others else [])],
    )


def _query(ranking: Ranking) -> Query:
    from qdrant_edge import Query, SparseVector

    sparse = ranking.vector.sparse
    if ranking.using == "sparse":
        vector = SparseVector(list(sparse.indices), list(sparse.values))
        return Query.Nearest(vector, using="sparse")
    return Query.Nearest(list(ranking.vector.dense), using="dense")


def _filter(ranking: Ranking) -> Filter:
    from qdrant_edge import FieldCondition, Filter, HasIdCondition, MatchValue

    scope = ranking.scope
    must: list[Any] = []
    must_not: list[Any] = []
    restaurant = FieldCondition("restaurant", match=MatchValue(str(scope.restaurant_id)))
    (must_not if scope.others else must).append(restaurant)
    if scope.category is not None:
        must.append(FieldCondition("category", match=MatchValue(str(scope.category))))
    if ranking.points:
        must.append(HasIdCondition({UUID(point) for point in ranking.points}))
    return Filter(must=must, must_not=must_not)


def candidate_of(point: ScoredPoint) -> Candidate:
    """Return what the engine found as a candidate."""
    payload = point.payload or {}
    return Candidate(
        str(point.id), payload["review_id"], payload["content"], point.score, payload.get("restaurant_id")
    )

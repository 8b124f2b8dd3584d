"""
Qdrant Edge shard: opens the in-process engine on first use, writes and ranks reviews, and converts to its types.

All use of `qdrant_edge` is in this module and in `_engine`. `Shard` may be closed at any time: closing waits for the
calls in flight in other threads, and the next call opens the engine again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from ... import _fork
from ..._threads import SignalSafeEvent
from ...errors import BatchError, ConfigurationError
from ...models import ItemId
from ...protocols import Embedder, Embedding
from ...steps import drive
from .._fusion import ListName, LoadRequest, RankFlow, Ranking, RankRequest
from .._hybrid import FoundReview
from .._indexing import IndexEntry, former_keys, id_texts, point_key
from ._engine import EngineFolder, engine_error
from ._folder import check_folder, check_space
from ._others import OthersCache, PlacedPoint
from ._point_ids import number_of

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard, FieldCondition, Filter, Point, Query, QueryRequest


T = TypeVar("T")

log = logging.getLogger("restaurant_llm_batch.search")

_MAX_QUERIES = 256
_ID_TYPES = frozenset({int, str})

# Rough sizes on disk, with the write-ahead log, to compare with the free space.
_POINT_BYTES, _CHARACTER_BYTES = 8_192, 8


class Shard:
    """A Qdrant Edge engine in a folder, opened on first use. Thread-safe."""

    def __init__(self, folder: Path, embedder: Embedder, *, temporary: bool, read_only: bool = False) -> None:
        """
        Check a folder; opens and writes nothing.

        Args:
            folder: Folder of the engine's files.
            embedder: Embedder whose name and vector size the index has.
            temporary: Whether the folder is deleted with this object; it then has no write-ahead log, and does not
                survive a crash.
            read_only: Whether it is only read. Then others may read it at the same time.

        Raises:
            ConfigurationError: If the folder holds other files, or vectors of another embedder.
        """
        self._folder = folder
        self._files = EngineFolder(folder, embedder, temporary=temporary, read_only=read_only)
        self._temporary = temporary
        self._lock = RLock()  # reentrant: a temporary one that is collected meanwhile is closed
        self._users = self._closing = 0
        self._unused = SignalSafeEvent()  # once there are no users, while it is being closed
        self._closed = SignalSafeEvent()  # set unless it is being closed
        self._closed.set()
        self._engine: EdgeShard | None = None
        self._others = OthersCache()
        self._engine_queries: dict[tuple[int, ListName], tuple[Embedding, Query]] = {}
        self._has_warned = False
        self._forks = _fork.count
        check_folder(folder, embedder.name)

    def write(self, reviews: Sequence[tuple[IndexEntry, Embedding]]) -> None:
        """Write reviews; a review replaces the one with the same key."""
        text = sum([len(entry.content) for entry, _ in reviews])
        check_space(self._folder, len(reviews) * _POINT_BYTES + text * _CHARACTER_BYTES)
        with self._lease() as engine:
            from qdrant_edge import UpdateOperation

            of_key = self._files.ids.of_key
            points = to_points(reviews, of_key)
            former: list[Any] = [
                of_key(key) for one, _ in reviews for key in former_keys(one.restaurant_id, one.review_id)
            ]
            try:
                engine.update(UpdateOperation.upsert_points(points))
                if former:
                    engine.update(UpdateOperation.delete_points(former))
            finally:
                self._others.clear()

    def delete(self, restaurant_id: ItemId, review_ids: Sequence[ItemId] | None) -> int:
        """Delete reviews of a restaurant, or all of them if `review_ids` is None; return how many there were."""
        with self._lease() as engine:
            from qdrant_edge import CountRequest, Filter, HasIdCondition, UpdateOperation

            must: list[Any] = [_restaurant(restaurant_id)]
            if review_ids is not None:
                names = [
                    name
                    for one in review_ids
                    for name in (point_key(restaurant_id, one), *former_keys(restaurant_id, one))
                ]
                keys: set[Any] = set(map(self._files.ids.of_key, names))
                must.append(HasIdCondition(keys))
            chosen = Filter(must=must)
            try:
                count = engine.count(CountRequest(exact=True, filter=chosen))
                if count:
                    engine.update(UpdateOperation.delete_points_by_filter(chosen))
            finally:
                self._others.clear()
        self.flush()
        return count

    def run(self, flow: RankFlow[T]) -> T:
        """Run a flow of `run_hybrid`, with one lease of the engine for all of its steps."""
        with self._lease() as engine:
            return drive(flow, partial(self._perform, engine))

    def _perform(self, engine: EdgeShard, step: list[RankRequest] | LoadRequest) -> Any:
        return self._load(engine, step.points) if isinstance(step, LoadRequest) else self._rank(engine, step)

    def _rank(self, engine: EdgeShard, rankings: Sequence[RankRequest]) -> list[Ranking]:
        """Return each ranking, without reviews: payloads cost more than the ranking itself."""
        from qdrant_edge import QueryBatchRequest

        results: list[Ranking | None] = [None] * len(rankings)
        for i, ranking in enumerate(rankings):
            if ranking.scope.others and not ranking.points:
                among_others = self._others.rank(ranking, partial(_rank_all, engine))
                results[i] = None if among_others is None else Ranking(among_others)
        rest = [i for i, found in enumerate(results) if found is None]
        if rest:
            ranked = self._files.ids.ranked
            requests = self._requests([rankings[i] for i in rest])
            for i, points in zip(rest, engine.query_batch(QueryBatchRequest(requests)), strict=True):
                results[i] = Ranking(list(map(ranked, points)))
        return [found for found in results if found is not None]

    def _requests(self, rankings: Iterable[RankRequest]) -> list[QueryRequest]:
        """Convert ranking requests to the engine's query requests; successive ones of one scope share their filter."""
        from qdrant_edge import QueryRequest

        requests: list[QueryRequest] = []
        last: RankRequest | None = None
        chosen: Filter | None = None
        for ranking in rankings:
            if last is None or ranking.scope != last.scope or ranking.points != last.points:
                last, chosen = ranking, _filter(ranking, self._files.ids.of_number)
            query = self._query(ranking)
            requests.append(QueryRequest(limit=ranking.limit, query=query, filter=chosen, with_payload=False))
        return requests

    def _query(self, ranking: RankRequest) -> Query:
        # Every restaurant of a run is searched with the same few vectors.
        key = id(ranking.vector), ranking.using
        known = self._engine_queries.get(key)
        if known is not None and known[0] is ranking.vector:
            return known[1]
        query = _query(ranking)
        if len(self._engine_queries) >= _MAX_QUERIES:
            self._engine_queries.clear()
        self._engine_queries[key] = ranking.vector, query
        return query

    def _load(self, engine: EdgeShard, points: Sequence[Any]) -> dict[Hashable, FoundReview]:
        """Return the reviews of points, without those that hold none."""
        ids = self._files.ids
        # The whole payload: to choose of its few fields costs the engine more than to return all.
        records = engine.retrieve(list(map(ids.of_number, points)), True, False)
        found: dict[Hashable, FoundReview] = {}
        for record in records:
            review = to_review(record.payload or {})
            if review is not None:
                found[ids.number(record)] = review
        if len(found) < len(points):
            missing = [point for point in points if point not in found]
            log.log(
                logging.DEBUG if self._has_warned else logging.WARNING,
                "%d of %d points that a search found were left out: point %s holds no review",
                len(missing),
                len(points),
                ids.of_number(missing[0]),
            )
            self._has_warned = True
        return found

    def count(self) -> int:
        """Return the number of reviews."""
        with self._lease() as engine:
            from qdrant_edge import CountRequest

            return engine.count(CountRequest(exact=True))

    def values(self, key: str) -> list[Any]:
        """Return the distinct values of an indexed field."""
        limit = max(1, self.count())
        with self._lease() as engine:
            from qdrant_edge import FacetRequest

            hits = engine.facet(FacetRequest(key, limit=limit, exact=True))
            return [hit.value for hit in hits if hit.count]  # a value whose points were deleted has 0

    def flush(self) -> None:
        """Flush written reviews to disk."""
        if not self._temporary:
            with self._lease() as engine:
                engine.flush()
        self._files.tighten()

    def close(self) -> None:
        """Release the folder after the calls in flight; the next call opens it again."""
        # A forked child has none of the engine's threads, and would wait for them forever.
        if self._forks != _fork.count:
            return
        closing = False
        try:
            with self._lock:
                self._closing, closing = self._closing + 1, True
                self._closed.clear()
                if self._users:  # otherwise another `close`, which waits, would not see that it was set
                    self._unused.clear()
            while self._users:
                self._unused.wait()
            with self._lock:
                engine, self._engine = self._engine, None
                # Another process may write to the folder until it is opened again.
                self._others.clear()
                if engine is not None:
                    self._files.close(engine)
        finally:
            with self._lock:
                self._closing -= closing
                if not self._closing:
                    self._closed.set()

    def discard(self) -> None:
        """Close the engine and delete a temporary folder, except in a forked child."""
        if self._forks != _fork.count:
            return
        try:
            self.close()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _lease(self) -> Iterator[EdgeShard]:
        # Check before taking the lock, which the fork may have copied while another thread held it.
        if self._forks != _fork.count and (self._temporary or self._engine is not None):
            raise ConfigurationError(
                "this EmbeddedSearch was open when the process forked, which its engine does not survive: make one in "
                "each worker process, with a folder of its own, or use QdrantSearch(url=...), whose server all share"
            )
        used = False
        try:
            while True:
                with self._lock:
                    # New calls wait for `close`; otherwise a steady stream of them would keep it waiting forever.
                    if not self._closing:
                        if self._engine is None:
                            self._engine, self._forks = self._files.open(), _fork.count
                        engine = self._engine
                        self._users, used = self._users + 1, True
                        break
                self._closed.wait()
            with _errors_of_engine():
                yield engine
        finally:
            with self._lock:
                self._users -= used
                if self._closing and not self._users:
                    self._unused.set()


@contextmanager
def _errors_of_engine() -> Iterator[None]:
    try:
        yield
    except BatchError:
        raise
    except Exception as error:
        raise engine_error(error) from error


def to_points(reviews: Iterable[tuple[IndexEntry, Embedding]], of_key: Callable[[str], Any]) -> list[Point]:
    """Convert reviews and their vectors to points."""
    from qdrant_edge import Point, SparseVector

    points = []
    for entry, vector in reviews:
        sparse = SparseVector(_as_list(vector.sparse.indices), _as_list(vector.sparse.values))
        # A string filter matches strings only, so store the restaurant as text, and its id in the original type.
        payload = {
            "restaurant": entry.restaurant,
            "restaurant_id": entry.restaurant_id,
            "review_id": entry.review_id,
            "content": entry.content,
        }
        if entry.category is not None:
            payload["category"] = entry.category
        points.append(
            Point(of_key(entry.point), {"dense": _as_list(vector.dense), "sparse": sparse}, payload)
        )
    return points


def _as_list(numbers: Sequence[T]) -> list[T]:
    return numbers if type(numbers) is list else list(numbers)


def _rank_all(engine: EdgeShard, ranking: RankRequest, limit: int) -> list[PlacedPoint]:
    """Rank the reviews of all restaurants, the query's own included."""
    from qdrant_edge import Filter, QueryRequest

    category: list[Any] = [] if ranking.scope.category is None else [_category(ranking.scope.category)]
    points = engine.query(
        QueryRequest(
            limit=limit,
            query=_query(ranking),
            filter=Filter(must=category) if category else None,
            with_payload=["restaurant"],
        )
    )
    return [(number_of(point), point.score, (point.payload or {}).get("restaurant", "")) for point in points]


def _query(ranking: RankRequest) -> Query:
    from qdrant_edge import Query, SparseVector

    sparse = ranking.vector.sparse
    if ranking.using == "sparse":
        vector = SparseVector(list(sparse.indices), list(sparse.values))
        return Query.Nearest(vector, using="sparse")
    return Query.Nearest(list(ranking.vector.dense), using="dense")


def _filter(ranking: RankRequest, of_number: Callable[[Any], Any]) -> Filter:
    from qdrant_edge import Filter, HasIdCondition

    scope = ranking.scope
    must: list[Any] = []
    must_not: list[Any] = []
    (must_not if scope.others else must).append(_restaurant(scope.restaurant_id))
    if scope.category is not None:
        must.append(_category(scope.category))
    if ranking.points:
        points: set[Any] = set(map(of_number, ranking.points))
        must.append(HasIdCondition(points))
    return Filter(must=must, must_not=must_not)


def _restaurant(restaurant_id: ItemId) -> FieldCondition:
    return _has_id("restaurant", restaurant_id)


def _category(category: ItemId) -> FieldCondition:
    return _has_id("category", category)


def _has_id(name: str, value: ItemId) -> FieldCondition:
    from qdrant_edge import FieldCondition, MatchAny, MatchValue

    texts = id_texts(value)
    return FieldCondition(name, match=MatchValue(texts[0]) if len(texts) == 1 else MatchAny(texts))


def to_review(payload: Mapping[str, Any]) -> FoundReview | None:
    """Convert a point's payload to a review; None if it holds none."""
    content: Any = payload.get("content")
    review_id: Any = payload.get("review_id")
    restaurant_id: Any = payload.get("restaurant_id")
    if type(content) is not str or type(review_id) not in _ID_TYPES or type(restaurant_id) not in _ID_TYPES:
        return None
    return FoundReview(review_id, content, restaurant_id)

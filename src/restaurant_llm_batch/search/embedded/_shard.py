"""
Qdrant Edge shard: opens the in-process engine on first use, writes and ranks reviews, and converts to its types.

All use of `qdrant_edge` is in this module. `Shard` may be closed at any time: closing waits for the calls in flight in
other threads, and the next call opens the engine again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from ...errors import BatchError, ConfigurationError, PermanentBackendError
from ...protocols import Embedder, Embedding
from .._fusion import RankRequest
from .._hybrid import Candidate
from .._indexing import IndexEntry
from ._folder import check_folder, check_space, folder_error, shortage_error, write_label

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard, Filter, Point, Query, QueryRequest, ScoredPoint


T = TypeVar("T")

# Rough sizes on disk, with the write-ahead log, to compare with the free space.
_POINT_BYTES, _CHARACTER_BYTES = 8_192, 8


class Shard:
    """A Qdrant Edge engine in a folder, opened on first use. Thread-safe."""

    def __init__(self, folder: Path, embedder: Embedder, *, temporary: bool) -> None:
        """
        Check a folder; opens and writes nothing.

        Args:
            folder: Folder of the engine's files.
            embedder: Embedder whose name and vector size the index has.
            temporary: Whether the folder is deleted with this object; it then has no write-ahead log, and does not
                survive a crash.

        Raises:
            ConfigurationError: If the folder holds other files, or vectors of another embedder.
        """
        self._folder = folder
        self._embedder = embedder
        self._temporary = temporary
        self._state = Condition()
        self._users = self._closing = 0
        self._engine: EdgeShard | None = None
        self._pid = os.getpid()
        check_folder(folder, embedder.name)

    def write(self, reviews: Sequence[tuple[IndexEntry, Embedding]]) -> None:
        """Write reviews; a review replaces the one with the same key."""
        text = sum([len(entry.content) for entry, _ in reviews])
        check_space(self._folder, len(reviews) * _POINT_BYTES + text * _CHARACTER_BYTES)
        with self._lease() as engine:
            from qdrant_edge import UpdateOperation

            points = [to_point(entry, vector) for entry, vector in reviews]
            engine.update(UpdateOperation.upsert_points(points))

    def rank(self, rankings: Sequence[RankRequest]) -> list[list[Candidate]]:
        """Return the candidates of each ranking, in one batch request."""
        with self._lease() as engine:
            from qdrant_edge import QueryBatchRequest

            results = engine.query_batch(QueryBatchRequest([query_request(ranking) for ranking in rankings]))
        return [[to_candidate(point) for point in points] for points in results]

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

            return [hit.value for hit in engine.facet(FacetRequest(key, limit=limit, exact=True))]

    def flush(self) -> None:
        """Flush written reviews to disk."""
        if not self._temporary:
            with self._lease() as engine:
                engine.flush()

    def close(self) -> None:
        """Release the folder after the calls in flight; the next call opens it again."""
        # A forked child has none of the engine's threads, and would wait for them forever.
        if self._pid != os.getpid():
            return
        with self._state:
            self._closing += 1
            try:
                self._state.wait_for(lambda: not self._users)
                engine, self._engine = self._engine, None
                if engine is not None:
                    with _engine_errors():
                        engine.flush()
                        engine.close()
            finally:
                self._closing -= 1
                self._state.notify_all()

    def discard(self) -> None:
        """Close the engine and delete a temporary folder, except in a forked child."""
        if self._pid != os.getpid():
            return
        try:
            self.close()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _lease(self) -> Iterator[EdgeShard]:
        # Check before taking the lock, which the fork may have copied while another thread held it.
        if self._pid != os.getpid() and (self._temporary or self._engine is not None):
            raise ConfigurationError(
                "this EmbeddedSearch was made before the process forked, which its engine does not "
                "survive: make one in each worker process"
            )
        with self._state:
            # New calls wait for `close`; otherwise a steady stream of them would keep it waiting forever.
            self._state.wait_for(lambda: not self._closing)
            if self._engine is None:
                self._engine, self._pid = self._open(), os.getpid()
            engine = self._engine
            self._users += 1
        try:
            with _engine_errors():
                yield engine
        finally:
            with self._state:
                self._users -= 1
                self._state.notify_all()

    def _open(self) -> EdgeShard:
        try:
            from qdrant_edge import EdgeShard
        except ImportError as error:
            raise ConfigurationError(
                "EmbeddedSearch needs Qdrant Edge; install it with: pip install qdrant-edge-py"
            ) from error
        # Check again: another process may have created the folder since the constructor's check.
        check_folder(self._folder, self._embedder.name)
        shard_folder = self._folder / "shard"
        try:
            exists = shard_folder.exists()
            engine = EdgeShard.load(str(shard_folder)) if exists else self._create(shard_folder)
            _index_fields(engine)
        except Exception as error:
            raise folder_error(self._folder, error) from error
        return engine

    def _create(self, shard_folder: Path) -> EdgeShard:
        from qdrant_edge import (
            Distance,
            EdgeConfig,
            EdgeShard,
            EdgeSparseVectorParams,
            EdgeVectorParams,
            Modifier,
        )

        check_space(self._folder, 0)
        write_label(self._folder, self._embedder.name)
        config = EdgeConfig(
            vectors={"dense": EdgeVectorParams(self._embedder.size, Distance.Cosine)},
            sparse_vectors={"sparse": EdgeSparseVectorParams(modifier=Modifier.Idf)},
            # The write-ahead log also locks the folder, so only a temporary (private) one can do without it.
            wal_enabled=not self._temporary,
        )
        try:
            return EdgeShard.create(str(shard_folder), config)
        except Exception:
            # A half-made shard could never be opened again.
            shutil.rmtree(shard_folder, ignore_errors=True)
            raise


def _index_fields(engine: EdgeShard) -> None:
    """Create the payload indexes that are missing, also in a folder of an older version or after a crash."""
    from qdrant_edge import IntegerIndexParams, KeywordIndexParams, UpdateOperation

    existing = engine.info().payload_schema
    if "restaurant" not in existing:
        tenant = KeywordIndexParams(is_tenant=True)
        engine.update(UpdateOperation.create_field_index("restaurant", tenant))
    if "restaurant_id" not in existing:
        number = IntegerIndexParams(lookup=True, range=False)
        engine.update(UpdateOperation.create_field_index("restaurant_id", number))
    if "category" not in existing:
        engine.update(UpdateOperation.create_field_index("category", KeywordIndexParams()))


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except BatchError:
        raise
    except Exception as error:
        shortage = shortage_error("the index", error)
        if shortage is not None:
            raise shortage from error
        message = f"the search engine failed: {error}"
        raise PermanentBackendError(message, backend="embedded") from error


def to_point(entry: IndexEntry, vector: Embedding) -> Point:
    """Convert a review and its vectors to a point."""
    from qdrant_edge import Point, SparseVector

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
    return Point(entry.point, {"dense": _as_list(vector.dense), "sparse": sparse}, payload)


def _as_list(numbers: Sequence[T]) -> list[T]:
    return numbers if type(numbers) is list else list(numbers)


def query_request(ranking: RankRequest) -> QueryRequest:
    """Convert a ranking request to the engine's query request."""
    from qdrant_edge import QueryRequest

    return QueryRequest(
        limit=ranking.limit,
        query=_query(ranking),
        filter=_filter(ranking),
        with_payload=["review_id", "content", *(["restaurant_id"] if ranking.scope.others else [])],
    )


def _query(ranking: RankRequest) -> Query:
    from qdrant_edge import Query, SparseVector

    sparse = ranking.vector.sparse
    if ranking.using == "sparse":
        vector = SparseVector(list(sparse.indices), list(sparse.values))
        return Query.Nearest(vector, using="sparse")
    return Query.Nearest(list(ranking.vector.dense), using="dense")


def _filter(ranking: RankRequest) -> Filter:
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


def to_candidate(point: ScoredPoint) -> Candidate:
    """Convert a scored point to a candidate."""
    payload = point.payload or {}
    return Candidate(
        str(point.id), payload["review_id"], payload["content"], point.score, payload.get("restaurant_id")
    )

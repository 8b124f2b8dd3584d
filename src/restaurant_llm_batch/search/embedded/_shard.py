"""
The one place that speaks to Qdrant's engine in process: opening, writing, ranking.

`Shard` opens the engine when it is first used and may be closed at any time; a call in another
thread that is under way ends first, and the next one opens it again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import TYPE_CHECKING, Any

from ...errors import BatchError, ConfigurationError, PermanentBackendError
from ...protocols import Embedder, Embedding
from .._fusion import RankRequest
from .._hybrid import Candidate
from .._indexing import IndexEntry
from ._folder import check_folder, unusable, write_label

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard


from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from qdrant_edge import Filter, Point, Query, QueryRequest, ScoredPoint


class Shard:
    """An engine in a folder, opened when needed."""

    def __init__(self, folder: Path, embedder: Embedder, *, temporary: bool) -> None:
        """
        Name a folder; nothing is opened or written yet.

        Args:
            folder: Where the engine keeps its files.
            embedder: Gives the vectors their size and their name.
            temporary: Whether the folder goes with this object; it is then not protected against
                crashes.

        Raises:
            ConfigurationError: The folder holds something else, or vectors of another embedder.
        """
        self._folder = folder
        self._embedder = embedder
        self._temporary = temporary
        self._state = Condition()
        self._users = self._closing = 0
        self._engine: EdgeShard | None = None
        self._process = os.getpid()
        check_folder(folder, embedder.name)

    def write(self, entries: Sequence[IndexEntry], embeddings: Sequence[Embedding]) -> None:
        """Add reviews, replacing those of the same key."""
        with self._lease() as engine:
            from qdrant_edge import UpdateOperation

            points = [point_of(*pair) for pair in zip(entries, embeddings, strict=True)]
            engine.update(UpdateOperation.upsert_points(points))

    def rank(self, rankings: Sequence[RankRequest]) -> list[list[Candidate]]:
        """Return the candidates of each ranking, all in one request to the engine."""
        with self._lease() as engine:
            from qdrant_edge import QueryBatchRequest

            answers = engine.query_batch(QueryBatchRequest([request_of(one) for one in rankings]))
        return [[candidate_of(point) for point in points] for points in answers]

    def count(self) -> int:
        """Return how many reviews there are."""
        with self._lease() as engine:
            from qdrant_edge import CountRequest

            return engine.count(CountRequest(exact=True))

    def values(self, key: str) -> list[Any]:
        """Return the distinct values of an indexed field."""
        most = max(1, self.count())
        with self._lease() as engine:
            from qdrant_edge import FacetRequest

            return [hit.value for hit in engine.facet(FacetRequest(key, limit=most, exact=True))]

    def flush(self) -> None:
        """Make what was written durable."""
        if not self._temporary:
            with self._lease() as engine:
                engine.flush()

    def close(self) -> None:
        """Release the folder once the calls under way have ended; the next use opens it again."""
        # In a forked copy the engine's threads are missing, and waiting for them would never end.
        if self._process != os.getpid():
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
        """Close and remove a temporary folder, unless this is a forked copy of its owner."""
        if self._process != os.getpid():
            return
        try:
            self.close()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _lease(self) -> Iterator[EdgeShard]:
        # Asked first: the lock itself may have been copied while another thread held it.
        if self._process != os.getpid() and (self._temporary or self._engine is not None):
            raise ConfigurationError(
                "this EmbeddedSearch was made before the process forked, which its engine does not "
                "survive: make one in each worker process"
            )
        with self._state:
            # Newcomers wait, or a steady stream of them would keep `close` waiting for ever.
            self._state.wait_for(lambda: not self._closing)
            if self._engine is None:
                self._engine, self._process = self._open(), os.getpid()
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
                "EmbeddedSearch needs Qdrant's engine: pip install qdrant-edge-py"
            ) from error
        # Asked again: another process may have made the folder since.
        check_folder(self._folder, self._embedder.name)
        home = self._folder / "shard"
        try:
            engine = EdgeShard.load(str(home)) if home.exists() else self._create(home)
            _index_fields(engine)
        except Exception as error:
            raise unusable(self._folder, error) from error
        return engine

    def _create(self, home: Path) -> EdgeShard:
        from qdrant_edge import (
            Distance,
            EdgeConfig,
            EdgeShard,
            EdgeSparseVectorParams,
            EdgeVectorParams,
            Modifier,
        )

        write_label(self._folder, self._embedder.name)
        config = EdgeConfig(
            vectors={"dense": EdgeVectorParams(self._embedder.size, Distance.Cosine)},
            sparse_vectors={"sparse": EdgeSparseVectorParams(modifier=Modifier.Idf)},
            # The log also locks the folder, so only a private one can go without.
            wal_enabled=not self._temporary,
        )
        return EdgeShard.create(str(home), config)


def _index_fields(engine: EdgeShard) -> None:
    """Index what is filtered and listed by, also where a crash or an older version left it out."""
    from qdrant_edge import IntegerIndexParams, KeywordIndexParams, UpdateOperation

    there = engine.info().payload_schema
    if "restaurant" not in there:
        tenant = KeywordIndexParams(is_tenant=True)
        engine.update(UpdateOperation.create_field_index("restaurant", tenant))
    if "restaurant_id" not in there:
        number = IntegerIndexParams(lookup=True, range=False)
        engine.update(UpdateOperation.create_field_index("restaurant_id", number))
    if "category" not in there:
        engine.update(UpdateOperation.create_field_index("category", KeywordIndexParams()))


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except BatchError:
        raise
    except Exception as error:
        message = f"the search engine failed: {error}"
        raise PermanentBackendError(message, backend="embedded") from error


def point_of(entry: IndexEntry, vector: Embedding) -> Point:
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


def request_of(ranking: RankRequest) -> QueryRequest:
    """Return the engine's request for a ranking."""
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


def candidate_of(point: ScoredPoint) -> Candidate:
    """Return what the engine found as a candidate."""
    payload = point.payload or {}
    return Candidate(
        str(point.id), payload["review_id"], payload["content"], point.score, payload.get("restaurant_id")
    )

"""Qdrant search flows: search, index, count and list restaurants, driven by the sync and async methods alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, cast

from ...cancellation import CancelToken, run_with_token
from ...errors import PermanentBackendError
from ...models import Hit, ItemId, Review, SearchQuery
from ...protocols import Embedder, Embedding, SparseVector
from ...steps import intercept
from .._batch_embedding import BatchEmbedder
from .._embedding_cache import QueryEmbeddingCache
from .._fusion import LoadRequest, PreparedQuery, Ranking, RankRequest, run_hybrid
from .._hybrid import FoundReview, scope_of
from .._indexing import (
    BadRows,
    IndexEntry,
    IndexFailure,
    IndexReport,
    IndexTally,
    as_number,
    former_keys,
    id_order,
    id_text,
    read_batches,
)
from ._codec import QdrantCodec
from ._layout import CollectionSchema, IdLayout
from ._schema import CollectionManager
from ._steps import ClientCall, CPUWork, QdrantFlow

log = logging.getLogger("restaurant_llm_batch.search")

_NO_TERMS = SparseVector((), ())
_SCROLLED = _DELETED = 1_000
"""Points of one request; a restaurant may have a hundred thousand."""


class Collection:
    """
    The flows of one collection.

    Args:
        names: Names of its vectors and payload fields.
        where: Payload values that every review has besides its restaurant.
        embedder: Embeds texts for it.
        schema: Creates and checks it.
    """

    def __init__(
        self,
        names: CollectionSchema,
        where: Mapping[str, ItemId],
        embedder: Embedder,
        schema: CollectionManager,
    ) -> None:
        self._names = names
        self._embedder = embedder
        self._queries = QueryEmbeddingCache(embedder)
        self._codec = QdrantCodec(names, where)
        self._schema = schema
        self._layout: IdLayout | None = None
        self._has_reviews = self._has_warned = False

    def search(self, queries: Sequence[SearchQuery]) -> QdrantFlow[list[list[Hit]]]:
        """Run queries in one round trip, except for what `run_hybrid` has to request again."""
        scopes = [scope_of(query) for query in queries]
        searched = [i for i, query in enumerate(queries) if query.limit > 0 and query.text.strip()]
        vectors = yield from self._embed([queries[i].text for i in searched])
        prepared = {
            i: PreparedQuery(queries[i], scopes[i], vector)
            for i, vector in zip(searched, vectors, strict=True)
        }
        prepared = {i: query for i, query in prepared.items() if query.lists()}
        results: list[list[Hit]] = [[] for _ in queries]
        found = yield from self._run_hybrid([*prepared.values()])
        for i, hits in zip(prepared, found, strict=True):
            results[i] = hits
        return results

    def create(self) -> QdrantFlow[None]:
        """Create the collection and its indexes, unless they exist."""
        self._layout = yield from self._schema.create()

    def index(
        self,
        reviews: Iterable[Review | Mapping[str, Any]],
        batch_size: int,
        on_progress: Callable[[int], object] | None,
        bad_rows: BadRows,
    ) -> QdrantFlow[IndexReport]:
        """Create the collection if it is missing, and write reviews in batches."""
        batches = read_batches(reviews, batch_size, bad_rows)
        layout = self._layout = yield from self._schema.create()
        tally = IndexTally()
        embedder = BatchEmbedder(self._embedder)
        # A cancelled caller leaves the thread that embeds: it must not go on retrying.
        token = CancelToken()
        try:
            for batch in batches:
                work = partial(self._points, embedder, batch.entries, layout)
                points, failures = yield CPUWork(partial(run_with_token, token, work))
                if points:
                    yield ClientCall("upsert", {"points": points, "wait": True})
                written = {point.id for point in points}
                former = [
                    key
                    for one in batch.entries
                    if one.point in written
                    for key in former_keys(one.restaurant_id, one.review_id)
                ]
                if former:
                    yield ClientCall("delete", {"points_selector": former, "wait": True})
                tally.add(batch, failures)
                if on_progress is not None:
                    on_progress(tally.reviews)
        except Exception as error:
            tally.annotate(error)
            raise
        finally:
            token.set()
        return tally.report()

    def count(self) -> QdrantFlow[int]:
        """Return the number of reviews."""
        result = yield ClientCall("count", {"exact": True})
        return cast("int", result.count)

    def restaurants(self) -> QdrantFlow[list[ItemId]]:
        """Return the ids of restaurants that have reviews."""
        count = yield from self.count()
        arguments = {"key": self._names.restaurant, "limit": max(1, count), "exact": True}
        facets = yield ClientCall("facet", arguments)
        # An id that was indexed as 7 may be stored as "7". A search finds both, so return the integer.
        values = [hit.value for hit in facets.hits if hit.count]
        numbers = [as_number(value) for value in values]
        ids = {
            id_text(value) if number is None else number
            for value, number in zip(values, numbers, strict=True)
        }
        return sorted(ids, key=id_order)

    def delete(self, restaurant_id: ItemId, review_ids: Sequence[ItemId] | None) -> QdrantFlow[int]:
        """Delete reviews of a restaurant, or all of them if `review_ids` is None; return how many there were."""
        layout = yield from self._read_layout()
        chosen = self._codec.restaurant_filter(restaurant_id, layout)
        # Read them and delete by key: an id is in one of three places, and a server may refuse to filter by those.
        points = yield from self._points_of(
            chosen, None if review_ids is None else set(map(id_text, review_ids))
        )
        for start in range(0, len(points), _DELETED):
            yield ClientCall("delete", {"points_selector": points[start : start + _DELETED], "wait": True})
        return len(points)

    def _points_of(self, chosen: Any, review_ids: AbstractSet[str] | None) -> QdrantFlow[list[Any]]:
        """Return the keys of points that a filter chooses, whose reviews have the ids."""
        found: list[Any] = []
        offset: Any = None
        while True:
            arguments = {
                "scroll_filter": chosen,
                "limit": _SCROLLED,
                "offset": offset,
                "with_payload": self._names.payload_fields(restaurant=False, content=False),
            }
            points, offset = yield ClientCall("scroll", arguments)
            found += [
                point.id
                for point in points
                if review_ids is None
                or id_text(self._codec.review_id(point.payload or {}, point.id)) in review_ids
            ]
            if offset is None:
                return found

    def _embed(self, texts: list[str]) -> QdrantFlow[list[Embedding]]:
        if not all(self._queries.is_cached(text) for text in texts):
            yield CPUWork(lambda: [self._queries.embed(text) for text in texts])
        vectors = [self._queries.embed(text) for text in texts]
        if self._names.sparse is None:
            return [Embedding(vector.dense, _NO_TERMS) for vector in vectors]
        return vectors

    def _run_hybrid(self, queries: list[PreparedQuery]) -> QdrantFlow[list[list[Hit]]]:
        if not queries:
            return []
        layout = yield from self._read_layout()
        return (yield from intercept(run_hybrid(queries), partial(self._rank, layout)))

    def _rank(self, layout: IdLayout, rankings: list[RankRequest] | LoadRequest) -> QdrantFlow[list[Ranking]]:
        assert not isinstance(rankings, LoadRequest), "all reviews are loaded with their ranking"
        requests = [self._codec.request(ranking, layout) for ranking in rankings]
        results = yield ClientCall("query_batch_points", {"requests": requests})
        found = [
            {str(point.id): self._codec.review(point, ranking) for point in result.points}
            for result, ranking in zip(results, rankings, strict=True)
        ]
        self._check_points([one for reviews in found for one in reviews.values()])
        return [
            Ranking(
                [(str(point.id), point.score) for point in result.points],
                {key: one if isinstance(one, FoundReview) else None for key, one in reviews.items()},
            )
            for result, reviews in zip(results, found, strict=True)
        ]

    def _check_points(self, found: Sequence[FoundReview | PermanentBackendError]) -> None:
        """Log points that are left out; raise if no point of the collection has been usable yet."""
        unusable = [one for one in found if isinstance(one, PermanentBackendError)]
        self._has_reviews = self._has_reviews or len(unusable) < len(found)
        if not unusable:
            return
        if not self._has_reviews:
            # The schema names the wrong field: an empty result would look like "no reviews".
            raise unusable[0]
        log.log(
            logging.DEBUG if self._has_warned else logging.WARNING,
            "%d of %d points that a search found were left out; the first: %s",
            len(unusable),
            len(found),
            unusable[0],
        )
        self._has_warned = True

    def _read_layout(self) -> QdrantFlow[IdLayout]:
        """Return how the collection stores its ids; reads it once."""
        if self._layout is None:
            try:
                self._layout = yield from self._schema.read()
            except PermanentBackendError:
                # The key may allow searching but not reading the collection's info. If the collection is missing, the
                # search will raise.
                return IdLayout()
        return self._layout

    def _points(
        self, embedder: BatchEmbedder, entries: Sequence[IndexEntry], layout: IdLayout
    ) -> tuple[list[Any], list[IndexFailure]]:
        embedded, failures = embedder.embed_entries(entries)
        return [self._codec.point(*pair, layout) for pair in embedded], failures

"""What `QdrantSearch` does, as flows: each is written once and driven in either colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from ...errors import PermanentBackendError
from ...models import Hit, ItemId, Review, SearchQuery
from ...protocols import Embedder, Embedding, SparseVector
from ...steps import Flow
from .._embedding_cache import QueryEmbeddingCache
from .._fusion import PreparedQuery, RankRequest, run_hybrid
from .._hybrid import Candidate, scope_of
from .._indexing import IndexEntry, IndexReport, as_number, id_order, read_batches
from ._codec import QdrantCodec
from ._layout import CollectionSchema, IdLayout
from ._schema import CollectionManager
from ._steps import ClientCall, CPUWork

_NO_TERMS = SparseVector((), ())


class Collection:
    """
    The flows of one collection.

    Args:
        names: Its names.
        where: What every review has in its payload, besides its restaurant.
        embedder: Makes its vectors.
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

    def search(self, queries: Sequence[SearchQuery]) -> Flow[list[list[Hit]]]:
        """Answer queries in one round trip, but for what `answer` has to ask again."""
        scopes = [scope_of(query) for query in queries]
        asked = [i for i, query in enumerate(queries) if query.limit > 0 and query.text.strip()]
        vectors = yield from self._embed([queries[i].text for i in asked])
        questions = {
            i: PreparedQuery(queries[i], scopes[i], vector) for i, vector in zip(asked, vectors, strict=True)
        }
        questions = {i: question for i, question in questions.items() if question.lists()}
        found: list[list[Hit]] = [[] for _ in queries]
        hits = yield from self._answer([*questions.values()])
        for i, some in zip(questions, hits, strict=True):
            found[i] = some
        return found

    def create(self) -> Flow[None]:
        """Make the collection and its indexes, as far as they are missing."""
        self._layout = yield from self._schema.create()

    def index(
        self,
        reviews: Iterable[Review | Mapping[str, Any]],
        batch_size: int,
        on_progress: Callable[[int], object] | None,
    ) -> Flow[IndexReport]:
        """Write reviews, a batch at a time."""
        batches = read_batches(reviews, batch_size)
        layout = self._layout = yield from self._schema.create()
        done = IndexReport(0, 0)
        for batch in batches:
            if batch.entries:
                points = yield CPUWork(partial(self._points, batch.entries, layout))
                yield ClientCall("upsert", {"points": points, "wait": True})
            done = batch.done
            if on_progress is not None:
                on_progress(done.reviews)
        return done

    def count(self) -> Flow[int]:
        """Count the reviews."""
        counted = yield ClientCall("count", {"exact": True})
        return cast("int", counted.count)

    def restaurants(self) -> Flow[list[ItemId]]:
        """List the restaurants."""
        most = yield from self.count()
        arguments = {"key": self._names.restaurant, "limit": max(1, most), "exact": True}
        facets = yield ClientCall("facet", arguments)
        # What was written as a string may have been an integer; whoever asks for either finds it.
        numbers = [as_number(hit.value) for hit in facets.hits]
        ids = {
            hit.value if number is None else number for hit, number in zip(facets.hits, numbers, strict=True)
        }
        return sorted(ids, key=id_order)

    def _embed(self, texts: list[str]) -> Flow[list[Embedding]]:
        if not all(self._queries.is_cached(text) for text in texts):
            yield CPUWork(lambda: [self._queries.embed(text) for text in texts])
        vectors = [self._queries.embed(text) for text in texts]
        if self._names.sparse is None:
            return [Embedding(vector.dense, _NO_TERMS) for vector in vectors]
        return vectors

    def _answer(self, questions: list[PreparedQuery]) -> Flow[list[list[Hit]]]:
        if not questions:
            return []
        layout = yield from self._known()
        asking = run_hybrid(questions)
        rankings = next(asking)
        while True:
            candidates = yield from self._rank(rankings, layout)
            try:
                rankings = asking.send(candidates)
            except StopIteration as stop:
                return cast("list[list[Hit]]", stop.value)

    def _rank(self, rankings: list[RankRequest], layout: IdLayout) -> Flow[list[list[Candidate]]]:
        requests = [self._codec.request(ranking, layout) for ranking in rankings]
        answers = yield ClientCall("query_batch_points", {"requests": requests})
        return [
            [self._codec.candidate(point, ranking) for point in one.points]
            for one, ranking in zip(answers, rankings, strict=True)
        ]

    def _known(self) -> Flow[IdLayout]:
        """Find out once how the collection holds its ids."""
        if self._layout is None:
            try:
                self._layout = yield from self._schema.read()
            except PermanentBackendError:
                # Whoever may search need not be allowed to look; and what is missing, the search will tell.
                return IdLayout()
        return self._layout

    def _points(self, entries: Sequence[IndexEntry], layout: IdLayout) -> list[Any]:
        vectors = self._embedder.embed_documents([entry.content for entry in entries])
        return [self._codec.point(*pair, layout) for pair in zip(entries, vectors, strict=True)]

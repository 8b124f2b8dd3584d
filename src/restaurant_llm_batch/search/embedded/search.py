"""Search in process: Qdrant's own engine, without a server."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigurationError
from ...models import Hit, ItemId, Review, SearchQuery
from ...protocols import Embedder
from ...steps import drive
from .._embedding_cache import QueryEmbeddingCache, check_embedder
from .._fusion import PreparedQuery, run_hybrid
from .._hybrid import scope_of
from .._indexing import IndexBatch, IndexReport, id_order, read_batches
from ..embedders.hashing import HashingEmbedder
from ._folder import require_folder
from ._shard import Shard

__all__ = ["EmbeddedSearch", "IndexReport"]


class EmbeddedSearch:
    """
    Hybrid search among reviews, in this process: nothing to start, nothing to download.

        search = EmbeddedSearch()
        search.index_reviews([{"restaurant_id": 1, "id": 7, "content": "음식이 맛있어요"}])
        hits = search.search(SearchQuery(1, "맛"))

    A dense and a sparse ranking are joined by reciprocal rank; equals are ordered by review id.
    One object may be used from many threads, also while reviews are being indexed. A folder
    belongs to one process at a time.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, embedder: Embedder | None = None
    ) -> None:
        """
        Name a place for the reviews; the engine starts when it is first needed.

        Args:
            path: A folder that keeps them, made by `index_reviews` if it does not exist; None keeps
                them as long as this object.
            embedder: Turns texts into vectors; `HashingEmbedder` if not given. A folder remembers
                which.

        Raises:
            ConfigurationError: The folder holds something else, or vectors of another embedder; or an argument is
                of the wrong kind.
        """
        self._path = None if path is None else _checked(path)
        self._embedder = HashingEmbedder() if embedder is None else embedder
        check_embedder(self._embedder)
        self._queries = QueryEmbeddingCache(self._embedder)
        if self._path is not None:
            self._shard = Shard(self._path, self._embedder, temporary=False)
        else:
            # The engine cannot do without files; these are gone when this object is.
            folder = Path(tempfile.mkdtemp(prefix="restaurant-llm-batch-"))
            self._shard = Shard(folder, self._embedder, temporary=True)
            weakref.finalize(self, self._shard.discard)

    def __repr__(self) -> str:
        path = None if self._path is None else str(self._path)
        return f"{type(self).__name__}(path={path!r}, embedder={self._embedder.name!r})"

    def __enter__(self) -> EmbeddedSearch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write out and release the folder until the next use; without a folder, do nothing."""
        if self._path is not None:
            self._shard.close()

    def count(self) -> int:
        """
        Return how many reviews are indexed.

        Raises:
            ConfigurationError: The folder does not exist.
        """
        return self._reader().count()

    def restaurant_ids(self) -> list[ItemId]:
        """
        Return the restaurants that have reviews, as given: integers in order, then strings.

        Raises:
            ConfigurationError: The folder does not exist.
        """
        shard = self._reader()
        numbers = shard.values("restaurant_id")
        known = {str(number) for number in numbers}
        names = [name for name in shard.values("restaurant") if name not in known]
        return sorted([*numbers, *names], key=id_order)

    def index_reviews(
        self,
        reviews: Iterable[Review | Mapping[str, Any]],
        *,
        batch_size: int = 256,
        on_progress: Callable[[int], object] | None = None,
    ) -> IndexReport:
        """
        Add reviews, a batch at a time, so that they need not fit into memory.

        A review of the same restaurant and id replaces the one that was there; indexing again
        after an interruption is safe. One without an id is named after its text, so equal texts of
        a restaurant become one review: give ids where each is to count.

        Args:
            reviews: Reviews, or mappings with ``restaurant_id``, ``content``, ``review_id`` or ``id``, and,
                where the restaurant's kind of food is known, ``category`` or ``food_category_id``; other
                keys are ignored.
            batch_size: Reviews embedded and written together.
            on_progress: Called after each batch with the number of reviews written so far.

        Raises:
            ConfigurationError: A review cannot be used; names its position and field. Batches
                before it are written.
        """
        done = IndexReport(0, 0)
        for batch in read_batches(reviews, batch_size):
            self._write(batch)
            done = batch.done
            if on_progress is not None:
                on_progress(done.reviews)
        self._shard.flush()
        return done

    def search(self, query: SearchQuery, /) -> list[Hit]:
        """
        Return the best hits first, all of the query's restaurant, or of all others if it says so.

        A hit among the others has its own restaurant's id, as it was given when it was indexed.

        Args:
            query: What to look for; a text without words finds nothing.

        Raises:
            ConfigurationError: The folder does not exist, or the query names nothing to look among.
            PermanentBackendError: The engine failed.
        """
        return self.search_many([query])[0]

    def search_many(self, queries: Sequence[SearchQuery], /) -> list[list[Hit]]:
        """
        Answer several queries in one request to the engine.

        Args:
            queries: What to look for.

        Returns:
            The hits of each query, as `search` would return them.

        Raises:
            ConfigurationError: The folder does not exist.
            PermanentBackendError: The engine failed.
        """
        shard = self._reader()
        found: list[list[Hit]] = [[] for _ in queries]
        asked = {i: question for i, query in enumerate(queries) if (question := self._ask(query))}
        for i, hits in zip(asked, drive(run_hybrid([*asked.values()]), shard.rank), strict=True):
            found[i] = hits
        return found

    def _reader(self) -> Shard:
        # The engine makes a missing folder, so a misspelt one would seem to hold no reviews.
        if self._path is not None:
            require_folder(self._path)
        return self._shard

    def _write(self, batch: IndexBatch) -> None:
        if batch.entries:
            vectors = self._embedder.embed_documents([entry.content for entry in batch.entries])
            self._shard.write(batch.entries, vectors)

    def _ask(self, query: SearchQuery) -> PreparedQuery | None:
        scope = scope_of(query)
        if query.limit < 1 or not query.text.strip():
            return None
        question = PreparedQuery(query, scope, self._queries.embed(query.text))
        return question if question.lists() else None


def _checked(path: object) -> Path:
    if isinstance(path, (str, os.PathLike)):
        return Path(path)
    raise ConfigurationError(
        f'path must be that of a folder, got {path!r}; for example path="reviews.index", or leave it out'
    )

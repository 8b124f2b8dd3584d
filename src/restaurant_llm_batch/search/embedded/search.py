"""Embedded hybrid search: Qdrant Edge in this process, without a server."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._http.recipe import PickledAsRecipe, arguments_of
from ...errors import BackendError, ConfigurationError
from ...models import Hit, ItemId, Review, SearchQuery
from ...protocols import Embedder
from .._batch_embedding import BatchEmbedder
from .._embedding_cache import QueryEmbeddingCache, check_embedder
from .._fusion import PreparedQuery, run_hybrid
from .._hybrid import scope_of
from .._indexing import BadRows, IndexReport, IndexTally, id_order, id_text, read_batches, read_id, read_ids
from ..embedders.hashing import HashingEmbedder
from ._folder import require_folder, temporary_folder
from ._shard import Shard

__all__ = ["EmbeddedSearch", "IndexReport"]


class EmbeddedSearch(PickledAsRecipe):
    """
    Hybrid search over reviews in this process; needs no server and no download.

        search = EmbeddedSearch()
        search.index_reviews([{"restaurant_id": 1, "id": 7, "content": "음식이 맛있어요"}])
        hits = search.search(SearchQuery(1, "맛"))

    Fuses a dense and a sparse ranking by reciprocal rank fusion (RRF); ties are ordered by review id.
    Thread-safe, also while reviews are being indexed. A folder is written to by one object at a time, and meanwhile
    read by no other. With ``read_only=True``, any number of objects and processes read it at once.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        embedder: Embedder | None = None,
        read_only: bool = False,
    ) -> None:
        """
        Configure the index; the engine is opened on first use.

        Args:
            path: Folder of the index, which `index_reviews` creates if it does not exist; None for a temporary index
                that is deleted with this object.
            embedder: Embeds texts; None for `HashingEmbedder`. A folder stores the embedder's name.
            read_only: Whether the folder is only searched. Others may search it at the same time, in any process, and
                share its memory; who wants to write to it meanwhile gets an error, and has to wait until all of them
                are closed.

        Raises:
            ConfigurationError: If the folder holds other files or vectors of another embedder, or an argument has the
                wrong type; or if a temporary index is to be read only.
            PermanentBackendError: If the folder cannot be read, or no temporary folder can be created.
        """
        self._made_with = arguments_of(locals())
        self._path = None if path is None else _checked_path(path)
        self._read_only = _checked_read_only(read_only, self._path)
        self._embedder = HashingEmbedder() if embedder is None else embedder
        check_embedder(self._embedder)
        self._queries = QueryEmbeddingCache(self._embedder)
        if self._path is not None:
            self._shard = Shard(self._path, self._embedder, temporary=False, read_only=read_only)
        else:
            # The engine needs a folder; this one is deleted with the object.
            self._shard = Shard(temporary_folder(), self._embedder, temporary=True)
            weakref.finalize(self, self._shard.discard)

    def __repr__(self) -> str:
        path = None if self._path is None else str(self._path)
        how = ", read_only=True" if self._read_only else ""
        return f"{type(self).__name__}(path={path!r}, embedder={self._embedder.name!r}{how})"

    @property
    def read_only(self) -> bool:
        """Whether the folder is only searched."""
        return self._read_only

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None:
            raise self._not_pickled("its index is a temporary one of this process; index into a folder")
        self._made_with["path"] = str(
            self._path.absolute()
        )  # another process may have another working directory
        return super().__reduce__()

    @property
    def path(self) -> Path | None:
        """The folder of the index; None for a temporary one."""
        return self._path

    def __enter__(self) -> EmbeddedSearch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush and release the folder until the next call; does nothing for a temporary index."""
        if self._path is not None:
            self._shard.close()

    def count(self) -> int:
        """
        Return the number of indexed reviews.

        Raises:
            ConfigurationError: If the folder does not exist.
        """
        return self._existing_shard().count()

    def restaurant_ids(self) -> list[ItemId]:
        """
        Return the ids of restaurants that have reviews, in their original types: integers in order, then strings.

        Raises:
            ConfigurationError: If the folder does not exist.
        """
        shard = self._existing_shard()
        numbers = shard.values("restaurant_id")
        known = {str(number) for number in numbers}
        names = {id_text(name) for name in shard.values("restaurant") if name not in known}
        return sorted([*numbers, *names], key=id_order)

    def index_reviews(
        self,
        reviews: Iterable[Review | Mapping[str, Any]],
        *,
        batch_size: int = 256,
        on_progress: Callable[[int], object] | None = None,
        bad_rows: BadRows = "refuse",
    ) -> IndexReport:
        """
        Index reviews in batches, without holding all of them in memory.

        A review replaces an indexed one with the same restaurant and id, so indexing again after an interruption is
        safe. A review without an id gets one derived from its text, so equal texts of a restaurant become one review;
        pass ids to keep them apart.

        Args:
            reviews: Reviews, or mappings with ``restaurant_id``, ``content``, ``review_id`` or ``id``, and optionally
                the restaurant's ``category`` or ``food_category_id``. Other keys are ignored.
            batch_size: Reviews embedded and written together.
            on_progress: Called after each batch with the number of reviews written so far.
            bad_rows: "refuse" to raise an error for a row that is not a valid review, "skip" to leave it out and name
                it in the report.

        Returns:
            The numbers of written and blank reviews, and the reviews that were left out because they cannot be
            embedded, by id.

        Raises:
            ConfigurationError: If a review is invalid; the message names its position and field. Earlier batches stay
                written. If this object is read only, before anything is written.
            Exception: The embedder's error, after the retries of `RetryPolicy`, if it fails for every text. Earlier
                batches stay written.
            PermanentBackendError: If the folder cannot be written.
        """
        self._check_writable()
        tally = IndexTally()
        embedder = BatchEmbedder(self._embedder)
        try:
            for batch in read_batches(reviews, batch_size, bad_rows):
                embedded, failures = embedder.embed_entries(batch.entries)
                if embedded:
                    self._shard.write(embedded)
                tally.add(batch, failures)
                if on_progress is not None:
                    on_progress(tally.reviews)
        except Exception as error:
            tally.annotate(error)
            if tally.reviews:
                with suppress(BackendError):
                    self._shard.flush()
            raise
        self._shard.flush()
        return tally.report()

    def delete_reviews(self, restaurant_id: ItemId, review_ids: Iterable[ItemId]) -> int:
        """
        Delete reviews of a restaurant, by their ids as `search` returns them.

        Args:
            restaurant_id: The restaurant's id; 7 and "7" are the same.
            review_ids: Ids of its reviews; those that are not in the index are ignored.

        Returns:
            The number of reviews that were deleted.

        Raises:
            ConfigurationError: If the folder does not exist, an id is invalid, or this object is read only.
            PermanentBackendError: If the engine fails.
        """
        self._check_writable()
        ids = read_ids(review_ids, "review_ids")
        return self._existing_shard().delete(read_id(restaurant_id, "restaurant_id"), ids)

    def delete_restaurant(self, restaurant_id: ItemId) -> int:
        """
        Delete all reviews of a restaurant.

        Args:
            restaurant_id: The restaurant's id; 7 and "7" are the same.

        Returns:
            The number of reviews that were deleted; 0 if the restaurant has none.

        Raises:
            ConfigurationError: If the folder does not exist, the id is invalid, or this object is read only.
            PermanentBackendError: If the engine fails.
        """
        self._check_writable()
        return self._existing_shard().delete(read_id(restaurant_id, "restaurant_id"), None)

    def search(self, query: SearchQuery, /) -> list[Hit]:
        """
        Search the reviews of the query's restaurant, or of all other restaurants, by the query's scope.

        Args:
            query: The query; a text without words has no hits.

        Returns:
            The hits, best first. With scope "others", each has its own restaurant's id, as indexed.

        Raises:
            ConfigurationError: If the folder does not exist, or the query's scope is invalid.
            PermanentBackendError: If the engine fails.
        """
        return self.search_many([query])[0]

    def search_many(self, queries: Sequence[SearchQuery], /) -> list[list[Hit]]:
        """
        Run several queries in one request to the engine.

        Args:
            queries: The queries.

        Returns:
            The hits of each query, as `search` returns them.

        Raises:
            ConfigurationError: If the folder does not exist, or a query's scope is invalid.
            PermanentBackendError: If the engine fails.
        """
        shard = self._existing_shard()
        results: list[list[Hit]] = [[] for _ in queries]
        prepared = {i: one for i, query in enumerate(queries) if (one := self._prepare(query))}
        for i, hits in zip(prepared, shard.run(run_hybrid([*prepared.values()])), strict=True):
            results[i] = hits
        return results

    def _check_writable(self) -> None:
        if self._read_only:
            raise ConfigurationError(
                f"this EmbeddedSearch of {str(self._path)!r} is read only: close all readers of the folder, and write "
                f"to it with EmbeddedSearch({str(self._path)!r})"
            )

    def _existing_shard(self) -> Shard:
        # The engine creates a missing folder, so a misspelt path would look like an empty index.
        if self._path is not None:
            require_folder(self._path)
        return self._shard

    def _prepare(self, query: SearchQuery) -> PreparedQuery | None:
        """Embed a query; None if it cannot have hits."""
        scope = scope_of(query)
        if query.limit < 1 or not query.text.strip():
            return None
        prepared = PreparedQuery(query, scope, self._queries.embed(query.text))
        return prepared if prepared.lists() else None


def _checked_path(path: object) -> Path:
    if isinstance(path, (str, os.PathLike)):
        return Path(path)
    raise ConfigurationError(
        f'path must be the path of a folder, got {path!r}; for example path="reviews.index", or leave it out'
    )


def _checked_read_only(read_only: object, path: Path | None) -> bool:
    if not isinstance(read_only, bool):
        raise ConfigurationError(
            f"read_only must be True or False, got {read_only!r}; for example read_only=True"
        )
    if read_only and path is None:
        raise ConfigurationError(
            "read_only=True needs the path of an index; for example EmbeddedSearch('reviews.index', read_only=True)"
        )
    return read_only

"""Qdrant hybrid search: sync and async search in a Qdrant collection, over REST, gRPC or local mode."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import to_thread

from ..._http.body import DEFAULT_MAX_ANSWER
from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._http.secrets import KeyLike, as_secret
from ...errors import ConfigurationError
from ...models import Hit, ItemId, Review, SearchQuery, as_item_id
from ...protocols import Embedder
from ...steps import adrive, drive
from .._embedding_cache import check_embedder
from .._indexing import BadRows, IndexReport, read_id, read_ids
from ..embedders.hashing import HashingEmbedder
from ._clients import QdrantClients
from ._flows import Collection
from ._layout import CollectionSchema
from ._location import MEMORY, resolve_location
from ._schema import CollectionManager
from ._steps import QdrantFlow

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

__all__ = ["CollectionSchema", "IndexReport", "QdrantSearch"]

T = TypeVar("T")


class QdrantSearch(PickledAsRecipe):
    """
    Hybrid search over the reviews in a Qdrant collection.

        search = QdrantSearch("reviews", url="http://localhost:6333")
        search.index_reviews([{"restaurant_id": 1, "id": 7, "content": "음식이 맛있어요"}])
        hits = search.search(SearchQuery(1, "맛"))

    Returns the same hits in the same order as `EmbeddedSearch` does for the same reviews: fuses a dense and a sparse
    ranking by reciprocal rank fusion (RRF) on the client, and orders ties by review id. Each method has an async
    variant with the prefix ``a``. Any number of threads and event loops may share one object, also after a fork.
    Connections are opened on first use.
    """

    def __init__(
        self,
        collection: str,
        *,
        url: str | None = None,
        path: str | os.PathLike[str] | None = None,
        client: QdrantClient | None = None,
        async_client: AsyncQdrantClient | None = None,
        api_key: KeyLike | None = None,
        prefer_grpc: bool = False,
        grpc_port: int = 6334,
        timeout: float = 30.0,
        pool_size: int | None = None,
        max_answer: int = DEFAULT_MAX_ANSWER,
        embedder: Embedder | None = None,
        schema: CollectionSchema | None = None,
        where: Mapping[str, ItemId] | None = None,
    ) -> None:
        """
        Configure the collection; connects to nothing and creates nothing.

        Args:
            collection: The collection's name.
            url: The server's URL, such as ``"http://localhost:6333"`` (6333 is the default port), or ``":memory:"``
                for tests.
            path: Folder of qdrant-client's local mode; `EmbeddedSearch` is far faster.
            client: Your own sync client, which you close; serves sync and async calls.
            async_client: Your own async client, which you close; it belongs to the event loop it was used on.
            api_key: The server's key, as text or in a ``SecretStr``.
            prefer_grpc: Use gRPC instead of REST.
            grpc_port: Port for gRPC.
            timeout: Maximum seconds of a request, from sending it to reading its whole response, rounded up to whole
                seconds.
            pool_size: For REST, the maximum number of connections; None for no maximum, so that the runner's limit
                applies. For gRPC, the number of channels; None for 3.
            max_answer: Greatest size of an answer in bytes, after decompression; the default is 64 MiB. A longer one
                is not read further, and fails its call.
            embedder: Embeds texts; None for `HashingEmbedder`. Must be the one that made the collection's vectors.
            schema: Names of the collection's vectors and fields, if they differ from the defaults.
            where: Payload values that every review must have, such as ``{"food_category_id": 3}``; searches filter by
                them, and `index_reviews` writes them.

        Raises:
            ConfigurationError: If an argument is invalid; the message gives an example.
        """
        self._made_with = arguments_of(locals())
        secret = as_secret(api_key)
        del api_key  # error trackers show the local variables of an error that is raised below
        name: object = collection
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f'collection must be a name, got {name!r}; for example "reviews"')
        location = resolve_location(
            url=url,
            path=path,
            client=client,
            async_client=async_client,
            api_key=secret,
            prefer_grpc=prefer_grpc,
            grpc_port=grpc_port,
            timeout=timeout,
            pool_size=pool_size,
            max_answer=max_answer,
        )
        embedder = HashingEmbedder() if embedder is None else embedder
        check_embedder(embedder)
        schema = CollectionSchema() if schema is None else schema
        filters = {name: as_item_id(value, f"where[{name!r}]") for name, value in (where or {}).items()}
        source = (
            "client=..."
            if location.has_user_client
            else f"path={path!r}"
            if path
            else f"url={location.name!r}"
        )
        self._name = collection
        self._is_local = location.local
        self._repr = f"{collection!r}, {source}, embedder={embedder.name!r}"
        self._clients = QdrantClients(location, collection)
        manager = CollectionManager(collection, schema, filters, embedder, indexes=not location.local)
        self._collection = Collection(schema, filters, embedder, manager)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._repr})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._made_with["url"] == MEMORY:
            raise self._not_pickled("its collection is in the memory of this process; name a server")
        return super().__reduce__()

    @property
    def collection(self) -> str:
        """The collection's name."""
        return self._name

    @property
    def is_local(self) -> bool:
        """Whether the collection is in this process or in a folder, without a server."""
        return self._is_local

    def __enter__(self) -> QdrantSearch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> QdrantSearch:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
        await to_thread.run_sync(self.close)

    def search(self, query: SearchQuery, /) -> list[Hit]:
        """
        Search the reviews of the query's restaurant, or of all other restaurants, by the query's scope.

        Args:
            query: The query; a text without words has no hits.

        Returns:
            The hits, best first. With scope "others", each has its own restaurant's id, as `restaurant_ids`
            returns it.

        Raises:
            TransientBackendError: If the server is unreachable, overloaded or failing, or a request timed out.
            RateLimited: If the server answers 429 and asks for a pause.
            AuthenticationFailed: If the server rejects the key.
            PermanentBackendError: If the server rejects the request, or the collection does not exist.
            ConfigurationError: If the collection's vectors are not those of the embedder, or the query's scope is
                invalid.
        """
        return self.search_many([query])[0]

    async def asearch(self, query: SearchQuery, /) -> list[Hit]:
        """Search as `search` does, on the running event loop."""
        return (await self.asearch_many([query]))[0]

    def search_many(self, queries: Sequence[SearchQuery], /) -> list[list[Hit]]:
        """
        Run several queries in one round trip.

        Further round trips: one before the first search, to read how the collection stores ids; and one or more after
        a search whose ranking was cut among equal scores, or whose `min_score` needs similarities.

        Args:
            queries: The queries.

        Returns:
            The hits of each query, as `search` returns them.

        Raises:
            BackendError: As `search`; one rejected query fails all of them.
        """
        return self._run(self._collection.search(queries))

    async def asearch_many(self, queries: Sequence[SearchQuery], /) -> list[list[Hit]]:
        """Search as `search_many` does, on the running event loop."""
        return await self._arun(self._collection.search(queries))

    def create_collection(self) -> None:
        """
        Create the collection and its payload indexes by restaurant and category, unless they exist.

        Raises:
            ConfigurationError: If it exists with vectors of another embedder.
            BackendError: As `search`.
        """
        self._run(self._collection.create())

    async def acreate_collection(self) -> None:
        """Create the collection as `create_collection` does, on the running event loop."""
        await self._arun(self._collection.create())

    def index_reviews(
        self,
        reviews: Iterable[Review | Mapping[str, Any]],
        *,
        batch_size: int = 256,
        on_progress: Callable[[int], object] | None = None,
        bad_rows: BadRows = "refuse",
    ) -> IndexReport:
        """
        Index reviews in batches; creates the collection if it does not exist. Does not retry Qdrant's requests.

        A review replaces an indexed one with the same restaurant and id, so indexing again after an interruption is
        safe. A review without an id gets one derived from its text, so equal texts of a restaurant become one review;
        pass ids to keep them apart.

        Args:
            reviews: Reviews, or mappings with ``restaurant_id``, ``content``, ``review_id`` or ``id``, and optionally
                the restaurant's ``category`` or ``food_category_id``. Other keys are ignored.
            batch_size: Reviews embedded and sent together.
            on_progress: Called after each batch with the number of reviews written so far.
            bad_rows: "refuse" to raise an error for a row that is not a valid review, "skip" to leave it out and name
                it in the report.

        Returns:
            The numbers of written and blank reviews, and the reviews that were left out because they cannot be
            embedded, by id.

        Raises:
            ConfigurationError: If a review is invalid; the message names its position and field, and earlier batches
                stay written. Or as `create_collection`.
            BackendError: As `search`. Or the embedder's error, after the retries of `RetryPolicy`, if it fails for
                every text; earlier batches stay written.
        """
        return self._run(self._collection.index(reviews, batch_size, on_progress, bad_rows))

    async def aindex_reviews(
        self,
        reviews: Iterable[Review | Mapping[str, Any]],
        *,
        batch_size: int = 256,
        on_progress: Callable[[int], object] | None = None,
        bad_rows: BadRows = "refuse",
    ) -> IndexReport:
        """Index reviews as `index_reviews` does, on the running event loop; iterating `reviews` must not block."""
        return await self._arun(self._collection.index(reviews, batch_size, on_progress, bad_rows))

    def delete_reviews(self, restaurant_id: ItemId, review_ids: Iterable[ItemId]) -> int:
        """
        Delete reviews of a restaurant, by their ids as `search` returns them.

        Args:
            restaurant_id: The restaurant's id; 7 and "7" are the same.
            review_ids: Ids of its reviews; those that are not in the collection are ignored.

        Returns:
            The number of reviews that were deleted.

        Raises:
            ConfigurationError: If an id is invalid.
            BackendError: As `search`.
        """
        return self._run(self._delete_reviews(restaurant_id, review_ids))

    async def adelete_reviews(self, restaurant_id: ItemId, review_ids: Iterable[ItemId]) -> int:
        """Delete reviews as `delete_reviews` does, on the running event loop."""
        return await self._arun(self._delete_reviews(restaurant_id, review_ids))

    def delete_restaurant(self, restaurant_id: ItemId) -> int:
        """
        Delete all reviews of a restaurant; with ``where=``, those that it chooses.

        Args:
            restaurant_id: The restaurant's id; 7 and "7" are the same.

        Returns:
            The number of reviews that were deleted; 0 if the restaurant has none.

        Raises:
            ConfigurationError: If the id is invalid.
            BackendError: As `search`.
        """
        return self._run(self._delete_restaurant(restaurant_id))

    async def adelete_restaurant(self, restaurant_id: ItemId) -> int:
        """Delete a restaurant's reviews as `delete_restaurant` does, on the running event loop."""
        return await self._arun(self._delete_restaurant(restaurant_id))

    def _delete_reviews(self, restaurant_id: ItemId, review_ids: Iterable[ItemId]) -> QdrantFlow[int]:
        ids = read_ids(review_ids, "review_ids")
        return self._collection.delete(read_id(restaurant_id, "restaurant_id"), ids)

    def _delete_restaurant(self, restaurant_id: ItemId) -> QdrantFlow[int]:
        return self._collection.delete(read_id(restaurant_id, "restaurant_id"), None)

    def count(self) -> int:
        """
        Return the number of reviews in the collection.

        Raises:
            BackendError: As `search`.
        """
        return self._run(self._collection.count())

    async def acount(self) -> int:
        """Count reviews as `count` does, on the running event loop."""
        return await self._arun(self._collection.count())

    def restaurant_ids(self) -> list[ItemId]:
        """
        Return the ids of restaurants that have reviews: integers in order, then strings.

        A collection does not store whether 7 or "7" was indexed; both are returned as 7.

        Raises:
            BackendError: As `search`.
        """
        return self._run(self._collection.restaurants())

    async def arestaurant_ids(self) -> list[ItemId]:
        """List restaurants as `restaurant_ids` does, on the running event loop."""
        return await self._arun(self._collection.restaurants())

    def close(self) -> None:
        """Close the connections of sync calls; the next call opens new ones. ``":memory:"`` keeps its reviews."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop; the next call opens new ones."""
        await self._clients.aclose()

    def _run(self, flow: QdrantFlow[T]) -> T:
        with self._clients.sync_client() as perform:
            return drive(flow, perform)

    async def _arun(self, flow: QdrantFlow[T]) -> T:
        async with self._clients.async_client() as perform:
            return await adrive(flow, perform)

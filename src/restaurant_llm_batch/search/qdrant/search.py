"""Search in a Qdrant server, over REST or gRPC, blocking or async."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import to_thread

from ..._http.secrets import KeyLike
from ...errors import ConfigurationError
from ...models import Hit, ItemId, Review, SearchQuery, as_item_id
from ...protocols import Embedder
from ...steps import Flow, adrive, drive
from .._embedding_cache import check_embedder
from .._indexing import IndexReport
from ..embedders.hashing import HashingEmbedder
from ._clients import QdrantClients
from ._flows import Collection
from ._layout import CollectionSchema
from ._location import resolve_location
from ._schema import CollectionManager

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

__all__ = ["CollectionSchema", "IndexReport", "QdrantSearch"]

T = TypeVar("T")


class QdrantSearch:
    """
    Hybrid search among the reviews in a Qdrant collection.

        search = QdrantSearch("reviews", url="http://localhost:6333")
        search.index_reviews([{"restaurant_id": 1, "id": 7, "content": "음식이 맛있어요"}])
        hits = search.search(SearchQuery(1, "맛"))

    It finds what `EmbeddedSearch` finds in the same reviews, in the same order: a dense and a sparse ranking,
    joined here by reciprocal rank, equals ordered by review id. Each method has an async twin with an ``a``
    in front. One object may be used from many threads and event loops, and in a process forked from this
    one; connections are made when they are first needed.
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
        embedder: Embedder | None = None,
        schema: CollectionSchema | None = None,
        where: Mapping[str, ItemId] | None = None,
    ) -> None:
        """
        Name a collection; nothing is connected or created yet.

        Args:
            collection: Its name.
            url: The server, such as ``"http://localhost:6333"``, the port being 6333 unless it is given; or
                ``":memory:"``, for tests.
            path: A folder, for the engine that is part of qdrant-client; `EmbeddedSearch` is far faster.
            client: A client of your own instead, which stays yours to close; both colours can use it.
            async_client: Likewise, for the async colour; it belongs to the loop that it was used on.
            api_key: The server's key, as text or in a ``SecretStr``.
            prefer_grpc: Speak gRPC instead of REST.
            grpc_port: The port for that.
            timeout: The longest a request may take, in seconds, rounded up to whole ones.
            pool_size: The most connections, for REST without a bound if not given, so that the runner's
                limit decides; the number of channels for gRPC, 3 if not given.
            embedder: Turns texts into vectors; `HashingEmbedder` if not given. It must be the one that made
                the vectors in the collection.
            schema: What the collection calls its vectors and fields, where somebody else made it.
            where: What each review must have in its payload besides, such as ``{"food_category_id": 3}``;
                `index_reviews` writes it there.

        Raises:
            ConfigurationError: An argument cannot work; says what to write instead.
        """
        given: object = collection
        if not isinstance(given, str) or not given:
            raise ConfigurationError(f'collection must be a name, such as "reviews"; got {given!r}')
        place = resolve_location(
            url=url,
            path=path,
            client=client,
            async_client=async_client,
            api_key=api_key,
            prefer_grpc=prefer_grpc,
            grpc_port=grpc_port,
            timeout=timeout,
            pool_size=pool_size,
        )
        embedder = HashingEmbedder() if embedder is None else embedder
        check_embedder(embedder)
        schema = CollectionSchema() if schema is None else schema
        only = {name: as_item_id(value, f"where[{name!r}]") for name, value in (where or {}).items()}
        where_it_is = "client=..." if place.given else f"path={path!r}" if path else f"url={place.name!r}"
        self._text = f"{collection!r}, {where_it_is}, embedder={embedder.name!r}"
        self._clients = QdrantClients(place, collection)
        manager = CollectionManager(collection, schema, only, embedder, indexes=not place.local)
        self._collection = Collection(schema, only, embedder, manager)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._text})"

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
        Return the best hits first, all of the query's restaurant, or of all others if it says so.

        A hit among the others has its own restaurant's id, as `restaurant_ids` returns it.

        Args:
            query: What to look for; a text without words finds nothing.

        Raises:
            TransientBackendError: The server could not be reached, took too long, or failed for now.
            RateLimited: It asks for a pause.
            AuthenticationFailed: It does not accept the key.
            PermanentBackendError: It refused the request, or there is no such collection.
            ConfigurationError: The collection's vectors are not those of the embedder, or the query names
                nothing to look among.
        """
        return self.search_many([query])[0]

    async def asearch(self, query: SearchQuery, /) -> list[Hit]:
        """Return what `search` returns, or raise what it raises."""
        return (await self.asearch_many([query]))[0]

    def search_many(self, queries: Sequence[SearchQuery], /) -> list[list[Hit]]:
        """
        Answer several queries in one round trip.

        There is another one, before the first search, to learn how the collection holds ids, and after a
        search whose list was cut among equals or whose bound needs similarities.

        Args:
            queries: What to look for.

        Returns:
            The hits of each query, as `search` would return them.

        Raises:
            BackendError: As in `search`; one refused query refuses all.
        """
        return self._run(self._collection.search(queries))

    async def asearch_many(self, queries: Sequence[SearchQuery], /) -> list[list[Hit]]:
        """Return what `search_many` returns, or raise what it raises."""
        return await self._arun(self._collection.search(queries))

    def create_collection(self) -> None:
        """
        Make the collection, as far as it is missing: vectors, and indexes by restaurant and category.

        Raises:
            ConfigurationError: It is there, but its vectors are not those of the embedder.
            BackendError: As in `search`.
        """
        self._run(self._collection.create())

    async def acreate_collection(self) -> None:
        """Do what `create_collection` does."""
        await self._arun(self._collection.create())

    def index_reviews(
        self,
        reviews: Iterable[Review | Mapping[str, Any]],
        *,
        batch_size: int = 256,
        on_progress: Callable[[int], object] | None = None,
    ) -> IndexReport:
        """
        Add reviews, a batch at a time; makes the collection if there is none.

        A review of the same restaurant and id replaces the one that was there; indexing again
        after an interruption is safe. One without an id is named after its text, so equal texts of
        a restaurant become one review: give ids where each is to count. Nothing is tried again here.

        Args:
            reviews: Reviews, or mappings with ``restaurant_id``, ``content``, ``review_id`` or ``id``, and,
                where the restaurant's kind of food is known, ``category`` or ``food_category_id``; other
                keys are ignored.
            batch_size: Reviews embedded and sent together.
            on_progress: Called after each batch with the number of reviews written so far.

        Raises:
            ConfigurationError: A review cannot be used, names its position and field; batches before it
                are written. Or the collection cannot be, as in `create_collection`.
            BackendError: As in `search`.
        """
        return self._run(self._collection.index(reviews, batch_size, on_progress))

    async def aindex_reviews(
        self,
        reviews: Iterable[Review | Mapping[str, Any]],
        *,
        batch_size: int = 256,
        on_progress: Callable[[int], object] | None = None,
    ) -> IndexReport:
        """Do what `index_reviews` does; reading `reviews` must not block."""
        return await self._arun(self._collection.index(reviews, batch_size, on_progress))

    def count(self) -> int:
        """
        Return how many reviews are in the collection.

        Raises:
            BackendError: As in `search`.
        """
        return self._run(self._collection.count())

    async def acount(self) -> int:
        """Return what `count` returns."""
        return await self._arun(self._collection.count())

    def restaurant_ids(self) -> list[ItemId]:
        """
        Return the restaurants that have reviews: integers in order, then strings.

        A collection does not remember whether 7 or "7" was given: it comes back as 7.

        Raises:
            BackendError: As in `search`.
        """
        return self._run(self._collection.restaurants())

    async def arestaurant_ids(self) -> list[ItemId]:
        """Return what `restaurant_ids` returns."""
        return await self._arun(self._collection.restaurants())

    def close(self) -> None:
        """Close the connections of blocking calls, until the next one; ``":memory:"`` keeps its reviews."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, until the next call on it."""
        await self._clients.aclose()

    def _run(self, flow: Flow[T]) -> T:
        with self._clients.sync_client() as perform:
            return drive(flow, perform)

    async def _arun(self, flow: Flow[T]) -> T:
        async with self._clients.async_client() as perform:
            return await adrive(flow, perform)

"""The connections of `QdrantSearch`: kept, shared, never too few, of one loop and process, closed in time."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from blockbuster import BlockBuster
from qdrant_client import AsyncQdrantClient, QdrantClient
from tests.support.local_server import LocalServer, Say, Seen
from tests.support.patience import PATIENCE
from tests.support.qdrant_server import Collections, Engine, Points, grpc_server, rest

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.protocols import Embedding
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder
from restaurant_llm_batch.search.qdrant._clients import _ClientSlot
from restaurant_llm_batch.search.qdrant.search import QdrantSearch

REVIEW = {"restaurant_id": 1, "id": 1, "content": "맛있어요"}
QUERY = SearchQuery(1, "맛")


class Slow:
    """A collection with one review, whose searches wait until so many are there at once."""

    def __init__(self, together: int = 1) -> None:
        self.handle = rest(Engine())
        self._together = together
        self._waiting = 0
        self._all_there: asyncio.Event | None = None

    async def __call__(self, seen: Seen) -> Say:
        if "query" in seen.path:
            self._all_there = self._all_there or asyncio.Event()
            self._waiting += 1
            if self._waiting >= self._together:
                self._all_there.set()
            await asyncio.wait_for(self._all_there.wait(), PATIENCE)
        return self.handle(seen)


def serve(together: int = 1) -> LocalServer:
    """Return a server; its searches are answered once `together` of them are there."""
    return LocalServer(Slow(together))


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """Return a server with one review."""
    with serve() as server:
        with QdrantSearch("reviews", url=server.url) as search:
            search.index_reviews([REVIEW])
        server.connections = 0
        yield server


async def many(search: QdrantSearch, count: int) -> None:
    """Search many times at once."""
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(search.asearch, QUERY)


def test_threads_keep_one_connection_each_at_most(server: LocalServer) -> None:
    with QdrantSearch("reviews", url=server.url) as search:
        for _ in range(10):
            assert search.search(QUERY)

        assert server.connections == 1


@pytest.mark.anyio
@pytest.mark.sample(1)
@pytest.mark.slow
async def test_a_loop_keeps_its_connections(server: LocalServer) -> None:
    async with QdrantSearch("reviews", url=server.url) as search:
        for _ in range(4):
            await many(search, 30)

        # 31 on a machine that is not busy; one that idles for 5 seconds is closed.
        assert server.connections <= 62


@pytest.mark.anyio
@pytest.mark.sample(1)
@pytest.mark.slow
async def test_150_awaited_searches_are_in_flight_at_once() -> None:
    with serve(together=150) as server:
        async with QdrantSearch("reviews", url=server.url, timeout=PATIENCE) as search:
            await search.aindex_reviews([REVIEW])
            await many(search, 150)

        assert server.peak >= 150


@pytest.mark.slow  # by default 150 awaited ones are
def test_120_blocking_searches_are_in_flight_at_once() -> None:
    with serve(together=120) as server, ThreadPoolExecutor(120) as pool:
        with QdrantSearch("reviews", url=server.url, timeout=PATIENCE) as search:
            search.index_reviews([REVIEW])
            found = list(pool.map(search.search, [QUERY] * 120))

        assert server.peak >= 120
    assert all(len(hits) == 1 for hits in found)


@pytest.mark.anyio
@pytest.mark.sample(1)
async def test_no_more_connections_than_allowed(server: LocalServer) -> None:
    async with QdrantSearch("reviews", url=server.url, pool_size=3) as search:
        await many(search, 30)

    assert server.connections == 3


@pytest.mark.parametrize("backends", [("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "trio")])
@pytest.mark.sample(1)
def test_two_loops_at_once_share_a_search(server: LocalServer, backends: tuple[str, str]) -> None:
    search = QdrantSearch("reviews", url=server.url)

    async def main() -> int:
        found = [await search.asearch(QUERY) for _ in range(5)]
        await search.aclose()
        return sum(map(len, found))

    def run(backend: str) -> int:
        return anyio.run(main, backend=backend)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, backends)) == [5, 5]


@pytest.mark.slow
def test_two_loops_after_each_other_share_a_grpc_search() -> None:
    engine = Engine()
    with grpc_server(Points(engine), Collections(engine)) as port:
        search = QdrantSearch("reviews", url="http://127.0.0.1:1", prefer_grpc=True, grpc_port=port)
        search.index_reviews([REVIEW])

        async def main() -> int:
            found = [await search.asearch(QUERY) for _ in range(3)]
            await search.aclose()
            return sum(map(len, found))

        assert [anyio.run(main, backend=name) for name in ("asyncio", "trio", "asyncio")] == [3, 3, 3]
        search.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.sample(1)
@pytest.mark.slow
def test_the_client_of_a_dead_loop_is_dropped(
    server: LocalServer, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []
    original = AsyncQdrantClient.__init__

    def remember(self: AsyncQdrantClient, **options: Any) -> None:
        original(self, **options)
        made.append(weakref.ref(self))

    monkeypatch.setattr(AsyncQdrantClient, "__init__", remember)
    search = QdrantSearch("reviews", url=server.url)

    for _ in range(3):  # nobody closes
        assert anyio.run(search.asearch, QUERY, backend=backend)
    gc.collect()

    assert [one() is None for one in made] == [True, True, False]
    del search
    gc.collect()  # here, where warnings about what nobody closed are expected
    assert made[2]() is None


@pytest.mark.sample(1)
@pytest.mark.anyio
async def test_closing_waits_for_the_searches_of_another_runner() -> None:
    with serve(together=2) as server:
        search = QdrantSearch("reviews", url=server.url)
        await search.aindex_reviews([REVIEW])
        found: list[int] = []

        async def ask() -> None:
            found.append(len(await search.asearch(QUERY)))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            while not any("query" in seen.path for seen in server.seen):
                await anyio.sleep(0.001)
            await search.aclose()
            assert not found
            group.start_soon(ask)  # on a new client; lets the first one go on
        await search.aclose()

    assert found == [1, 1]


def test_of_several_calls_under_way_the_last_one_closes() -> None:
    held: _ClientSlot[str] = _ClientSlot()
    held.client, held.users = "client", 2

    assert [held.retire(), held.exit(), held.exit()] == [None, None, "client"]


def test_closing_waits_for_the_searches_of_other_threads() -> None:
    with serve(together=2) as server, ThreadPoolExecutor(1) as pool:
        search = QdrantSearch("reviews", url=server.url)
        search.index_reviews([REVIEW])
        first = pool.submit(search.search, QUERY)
        while not any("query" in seen.path for seen in server.seen):
            threading.Event().wait(0.001)
        search.close()

        assert not first.done()
        assert len(search.search(QUERY)) == len(first.result(PATIENCE)) == 1
        search.close()


@pytest.mark.anyio
async def test_a_cancelled_search_is_cancelled_at_the_server() -> None:
    with serve(together=2) as server:
        async with QdrantSearch("reviews", url=server.url) as search:
            await search.aindex_reviews([REVIEW])
            with anyio.move_on_after(0.1) as scope:
                await search.asearch(QUERY)
            assert scope.cancelled_caught
            while not server.given_up:
                await anyio.sleep(0.001)
            assert await search.asearch(QUERY)


@pytest.mark.anyio
@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.sample(1)
async def test_the_loop_is_never_blocked(
    server: LocalServer, memory: bool, nothing_blocks: BlockBuster
) -> None:
    search = QdrantSearch("reviews", url=":memory:" if memory else server.url)
    async with search:
        await search.aindex_reviews([{**REVIEW, "id": number} for number in range(50)])
        await many(search, 5)
        assert (await search.acount(), await search.arestaurant_ids()) == (50, [1])


class Watching(QdrantClient):
    """Remembers the threads that it was called in."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.threads: set[int] = set()

    def query_batch_points(self, *arguments: Any, **options: Any) -> Any:
        """Search."""
        self.threads.add(threading.get_ident())
        return super().query_batch_points(*arguments, **options)


class WatchingEmbedder(HashingEmbedder):
    """Remembers the threads that it was called in."""

    def __init__(self) -> None:
        super().__init__(32)
        self.threads: set[int] = set()

    def embed_query(self, text: str, /) -> Embedding:
        """Embed."""
        self.threads.add(threading.get_ident())
        return super().embed_query(text)


@pytest.mark.anyio
async def test_a_local_engine_and_the_embedder_work_in_other_threads_than_the_loop() -> None:
    with closing(Watching()) as client:
        embedder = WatchingEmbedder()
        search = QdrantSearch("reviews", client=client, embedder=embedder)
        await search.aindex_reviews([REVIEW])
        await many(search, 5)

    assert client.threads
    assert embedder.threads
    assert threading.get_ident() not in client.threads | embedder.threads


def test_blocking_calls_make_no_loop_and_no_thread(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a loop was made")

    monkeypatch.setattr(asyncio.BaseEventLoop, "__init__", refuse)
    before = set(threading.enumerate())

    with QdrantSearch("reviews", url=server.url) as search:
        assert search.search(QUERY)
        assert set(threading.enumerate()) <= before


def in_a_child(work: Callable[[], object]) -> object:
    """Do work in a forked child and return its answer."""
    context = multiprocessing.get_context("fork")
    answers: Any = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(work()), daemon=True)
    child.start()
    child.join(PATIENCE)
    child.kill()
    assert child.exitcode == 0
    return answers.get()


def complaint(work: Callable[[], object]) -> str:
    """Return what a `ConfigurationError` says."""
    with pytest.raises(ConfigurationError) as caught:
        work()
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(server: LocalServer) -> None:
    with QdrantSearch("reviews", url=server.url) as search:
        found = search.search(QUERY)
        with search._clients._lock:  # as if another thread of the parent held it at the fork
            assert in_a_child(lambda: search.search(QUERY)) == found
        assert server.connections == 2

        assert search.search(QUERY) == found
        assert server.connections == 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_reviews_in_memory_do_not_go_along_with_a_fork() -> None:
    search = QdrantSearch("reviews", url=":memory:")
    search.index_reviews([REVIEW])

    said = in_a_child(lambda: complaint(lambda: search.search(QUERY)))

    assert "make one in each worker process, or use a server" in str(said)


def test_closing_keeps_reviews_in_memory() -> None:
    search = QdrantSearch("reviews", url=":memory:")

    async def main() -> int:
        await search.aindex_reviews([REVIEW])
        await search.aclose()
        search.close()
        return len(await search.asearch(QUERY))

    assert anyio.run(main) == 1
    assert len(search.search(QUERY)) == 1


def test_a_folder_is_released_by_closing(tmp_path: Path) -> None:
    with QdrantSearch("reviews", path=tmp_path / "q") as one:
        one.index_reviews([REVIEW])
    with QdrantSearch("reviews", path=tmp_path / "q") as other:
        with ThreadPoolExecutor(4) as pool:
            assert [len(hits) for hits in pool.map(other.search, [QUERY] * 8)] == [1] * 8
        assert f"path={tmp_path / 'q'!r}" in repr(other)

    assert one.count() == 1
    one.close()


def test_a_client_of_the_users_own_serves_sync_and_async_code_and_stays_open(server: LocalServer) -> None:
    options: dict[str, Any] = {"url": server.url, "check_compatibility": False}

    async def main(search: QdrantSearch) -> int:
        found = await search.asearch(QUERY)
        await search.aclose()
        return len(found)

    async def native() -> int:
        client = AsyncQdrantClient(**options)
        async with QdrantSearch("reviews", async_client=client) as search:
            found = await search.asearch(QUERY)
        assert (await client.count("reviews")).count == 1
        await client.close()
        assert "pass client= as well" in complaint(lambda: search.search(QUERY))
        return len(found)

    with closing(QdrantClient(**options)) as client:
        with QdrantSearch("reviews", client=client) as search:
            assert len(search.search(QUERY)) == anyio.run(main, search) == 1
        assert client.count("reviews").count == 1
    assert anyio.run(native) == 1


def test_an_async_client_that_would_block_the_loop_is_refused() -> None:
    said = complaint(lambda: QdrantSearch("reviews", async_client=AsyncQdrantClient(":memory:")))

    assert "pass client=QdrantClient(...) instead" in said

"""`EmbeddedSearch` shared between threads: texts embedded once, nothing lost meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Lock

import pytest

from restaurant_llm_batch._threads import SignalSafeEvent
from restaurant_llm_batch.models import ItemId, Review, SearchQuery
from restaurant_llm_batch.protocols import Embedding
from restaurant_llm_batch.search._embedding_cache import QueryEmbeddingCache
from restaurant_llm_batch.search.embedded._shard import Shard
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder

WAIT = 30
"""Seconds after which a thread that should have been released counts as stuck."""


def review(restaurant_id: ItemId, review_id: ItemId | None, content: str) -> Review:
    """Return a review."""
    return Review(content, review_id, restaurant_id)


class CountingEmbedder(HashingEmbedder):
    """Counts query texts, and answers one only once `release` is set."""

    def __init__(self) -> None:
        super().__init__(32)
        self.started = Event()
        self.release = Event()
        self.asked: list[str] = []
        self._lock = Lock()

    def embed_query(self, text: str, /) -> Embedding:
        """Count, announce, and wait to be released."""
        with self._lock:
            self.asked.append(text)
        self.started.set()
        assert self.release.wait(WAIT)
        return super().embed_query(text)


@pytest.fixture
def slow() -> Iterator[CountingEmbedder]:
    """Return an embedder that waits; it is released at the end, whatever happens."""
    embedder = CountingEmbedder()
    yield embedder
    embedder.release.set()


def test_sixteen_threads_embed_one_text_once(slow: CountingEmbedder) -> None:
    search = EmbeddedSearch(embedder=slow)
    search.index_reviews([review(number, 1, "맛있어요") for number in range(16)])
    ready = Barrier(17)

    def ask(number: int) -> int:
        ready.wait(WAIT)
        return len(search.search(SearchQuery(number, "맛")))

    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(ask, number) for number in range(16)]
        ready.wait(WAIT)
        assert slow.started.wait(WAIT)
        slow.release.set()
        assert [answer.result(WAIT) for answer in answers] == [1] * 16

    assert slow.asked == ["맛"]


def test_different_texts_are_embedded_concurrently() -> None:
    together = Barrier(2)

    class Meeting(HashingEmbedder):
        def embed_query(self, text: str, /) -> Embedding:
            together.wait(WAIT)
            return super().embed_query(text)

    search = EmbeddedSearch(embedder=Meeting(32))
    search.index_reviews([review(1, 1, "맛있어요")])

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(search.search, SearchQuery(1, text)) for text in ("맛", "값")]
        assert [len(answer.result(WAIT)) for answer in answers] == [1, 1]


def test_a_failed_embedding_is_raised_and_not_remembered() -> None:
    class Moody(HashingEmbedder):
        moods = iter([RuntimeError("not now"), None])

        def embed_query(self, text: str, /) -> Embedding:
            if mood := next(self.moods):
                raise mood
            return super().embed_query(text)

    search = EmbeddedSearch(embedder=Moody(32))
    search.index_reviews([review(1, 1, "맛있어요")])

    with pytest.raises(RuntimeError, match="not now"):
        search.search(SearchQuery(1, "맛"))
    assert len(search.search(SearchQuery(1, "맛"))) == 1


@pytest.mark.slow
def test_searches_from_threads_work_while_reviews_are_indexed_and_the_folder_is_closed(
    tmp_path: Path,
) -> None:
    search = EmbeddedSearch(tmp_path)
    search.index_reviews([review(1, number, "직원이 친절해요") for number in range(20)])
    done = Event()

    def ask() -> int:
        rounds = 0
        while not done.is_set() or not rounds:
            hits = search.search(SearchQuery(1, "직원", limit=5))
            assert [hit.review_id for hit in hits] == [0, 1, 2, 3, 4]
            rounds += 1
        return rounds

    with ThreadPoolExecutor(8) as pool:
        searches = [pool.submit(ask) for _ in range(8)]
        try:
            for number in range(10):
                search.index_reviews(review(2, f"{number}-{i}", "음식이 맛있어요") for i in range(100))
                search.close()
        finally:
            done.set()
        assert all(one.result(WAIT) for one in searches)

    assert search.count() == 1020
    search.close()


def test_one_who_closes_while_another_waits_to_does_not_hold_it_up(tmp_path: Path) -> None:
    about_to_wait, go_on = Event(), Event()

    class Late(SignalSafeEvent):
        """An event whose waiter gets no CPU until it is released."""

        def wait(self, timeout: float | None = None) -> bool:
            about_to_wait.set()
            go_on.wait(WAIT)
            return super().wait(timeout)

    shard = Shard(tmp_path / "index", HashingEmbedder(32), temporary=False)
    shard._unused = Late()
    with ThreadPoolExecutor(2) as pool:
        with shard._lease():
            first = pool.submit(shard.close)
            assert about_to_wait.wait(WAIT)
        pool.submit(shard.close).result(WAIT)
        go_on.set()
        try:
            first.result(WAIT)
        finally:
            shard._unused.set()  # otherwise a failure would hang

    assert shard.count() == 0
    shard.close()


def test_the_memory_of_query_texts_is_bounded() -> None:
    asked: list[str] = []

    class Noting(HashingEmbedder):
        def embed_query(self, text: str, /) -> Embedding:
            asked.append(text)
            return super().embed_query(text)

    once = QueryEmbeddingCache(Noting(32), size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        once.embed(text)

    assert asked == ["a", "b", "c", "b"]


def test_those_who_wait_for_a_failing_embedding_are_reported() -> None:
    both_asked = Barrier(3)

    class Failing(HashingEmbedder):
        def embed_query(self, text: str, /) -> Embedding:
            both_asked.wait(WAIT)
            raise RuntimeError("no answer")

    class Announcing:
        """A lock after which one more thread is known to have its place in the queue."""

        entered = 0
        lock = Lock()

        def __enter__(self) -> None:
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.entered += 1
            second = self.entered == 2
            self.lock.release()
            if second:
                both_asked.wait(WAIT)

    once = QueryEmbeddingCache(Failing(32))
    once._lock = Announcing()  # type: ignore[assignment]

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(once.embed, "맛") for _ in range(2)]
        both_asked.wait(WAIT)
        errors = [answer.exception(WAIT) for answer in answers]

    assert [str(error) for error in errors] == ["no answer", "no answer"]

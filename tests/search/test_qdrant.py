"""What `QdrantSearch` finds: exactly what `EmbeddedSearch` finds, wherever it looks and sync or async."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any, TypeAlias

import anyio
import pytest
from tests.support.qdrant_server import door
from tests.support.reviews import FlatEmbedder, review

from restaurant_llm_batch import BatchRunner, Strategy, SummarizeAspects
from restaurant_llm_batch.backends.offline.llm import OfflineLLM
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import Hit, SearchQuery
from restaurant_llm_batch.protocols import AsyncSearchBackend, SearchBackend
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch
from restaurant_llm_batch.search.qdrant.search import QdrantSearch

Found: TypeAlias = list[list[Hit]]
WORDS = ["직원 친절 서비스", "가격 대비 가성비", "음식 맛 pasta"]


@pytest.fixture(params=["memory", "rest", "grpc"])
def search(request: pytest.FixtureRequest) -> Iterator[QdrantSearch]:
    """Return an empty search behind each door."""
    with door(request.param) as search:
        yield search


def ask(search: QdrantSearch, mode: str, queries: Sequence[SearchQuery]) -> Found:
    """Search in one mode."""
    if mode == "blocking":
        return search.search_many(queries)

    async def main() -> Found:
        try:
            return await search.asearch_many(queries)
        finally:
            await search.aclose()

    return anyio.run(main, backend=mode)


def sample() -> list[dict[str, Any]]:
    """Return the shipped reviews of eight restaurants, Korean and English."""
    text = (files("restaurant_llm_batch") / "data" / "sample_reviews.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    chosen = rows[:4] + rows[-4:]
    return [{**one, "restaurant_id": row["restaurant_id"]} for row in chosen for one in row["reviews"]]


@pytest.fixture(scope="module")
def embedded() -> EmbeddedSearch:
    """Return what to agree with."""
    search = EmbeddedSearch()
    search.index_reviews(sample())
    return search


@pytest.fixture(scope="module", params=["memory", "rest", "grpc"])
def stocked(request: pytest.FixtureRequest) -> Iterator[QdrantSearch]:
    """Return a search behind each door, with the sample in it."""
    with door(request.param) as search:
        search.index_reviews(sample())
        yield search


@pytest.mark.parametrize("mode", ["blocking", "asyncio", "trio"])
@pytest.mark.sample(1)
def test_it_agrees_with_the_embedded_search(
    stocked: QdrantSearch, embedded: EmbeddedSearch, mode: str
) -> None:
    queries = [
        SearchQuery(name, text, limit, min_score)
        for name in embedded.restaurant_ids()
        for text in WORDS
        for limit, min_score in ((10, 0.0), (4, 0.15))
    ]

    found = ask(stocked, mode, queries)

    expected = embedded.search_many(queries)
    assert [[hit.review_id for hit in hits] for hits in found] == [
        [hit.review_id for hit in hits] for hits in expected
    ]
    assert [[hit.content for hit in hits] for hits in found] == [
        [hit.content for hit in hits] for hits in expected
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs])
    assert sum(map(len, found)) > 200


@pytest.mark.sample(1)
def test_it_counts_and_lists_as_the_embedded_search(stocked: QdrantSearch, embedded: EmbeddedSearch) -> None:
    assert stocked.count() == embedded.count() == len(sample())
    assert stocked.restaurant_ids() == embedded.restaurant_ids()


def test_it_is_a_search_backend_that_is_sync_and_async() -> None:
    search = QdrantSearch("reviews", url=":memory:")

    assert isinstance(search, SearchBackend)
    assert isinstance(search, AsyncSearchBackend)
    assert repr(search) == "QdrantSearch('reviews', url=':memory:', embedder='hashing-v1-384')"


@pytest.mark.sample(1)
def test_ids_match_whichever_type_they_have(search: QdrantSearch) -> None:
    search.index_reviews([review("7", "a", "맛있어요"), review(7, "b", "맛있어요"), review(0, 0, "맛있어요")])
    search.index_reviews([review("other", 1, "맛있어요")])

    [as_string, as_number] = search.search_many([SearchQuery("7", "맛"), SearchQuery(7, "맛")])
    [zero] = search.search(SearchQuery(0, "맛"))

    assert [h.review_id for h in as_string] == [h.review_id for h in as_number] == ["a", "b"]
    assert {h.restaurant_id for h in as_string} == {"7"}
    assert (zero.review_id, zero.restaurant_id) == (0, 0)
    assert search.restaurant_ids() == [0, 7, "other"]


@pytest.mark.sample(1)
def test_equals_are_ordered_by_id_wherever_they_are_cut(search: QdrantSearch) -> None:
    search.index_reviews([review(1, (number * 37) % 100, "맛있어요") for number in range(100)])

    for limit in (1, 5, 30):
        hits = search.search(SearchQuery(1, "맛있다", limit=limit))
        assert [hit.review_id for hit in hits] == list(range(limit))


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["memory", "rest", "grpc"])
def test_min_score_bounds_the_cosine_of_sparse_hits_too(name: str) -> None:
    with door(name, embedder=FlatEmbedder()) as search:
        near = [review(1, number, "1 0 | 1") for number in range(40)]
        search.index_reviews([*near, review(1, "far", "0 1 | 2"), review(1, "fair", "0.8 0.6 | 2")])

        free = search.search(SearchQuery(1, "1 0 | 2", limit=50))
        bound = search.search(SearchQuery(1, "1 0 | 2", limit=50, min_score=0.5))

    assert {"far", "fair"} <= {hit.review_id for hit in free}
    assert "fair" in {hit.review_id for hit in bound}
    assert "far" not in {hit.review_id for hit in bound}


@pytest.mark.parametrize("mode", ["blocking", "asyncio", "trio"])
@pytest.mark.sample(2)
def test_what_has_no_words_or_wants_nothing_finds_nothing(search: QdrantSearch, mode: str) -> None:
    search.index_reviews([review(1, 1, "맛있어요"), review(1, 2, "ㅋㅋㅋ")])
    nothing = [SearchQuery(1, text) for text in ("", " \n", "ㅋㅋㅋ", "!?")]

    found = ask(search, mode, [*nothing, SearchQuery(1, "맛", limit=0), SearchQuery("nobody", "맛")])

    assert found == [[]] * 6
    assert ask(search, mode, []) == []


def test_a_query_of_a_restaurant_that_is_no_id_is_refused(search: QdrantSearch) -> None:
    with pytest.raises(ConfigurationError, match="restaurant_id must be an integer or a string"):
        search.search(SearchQuery(True, "맛"))


@pytest.mark.parametrize("stage", [1, 2, 4])
@pytest.mark.slow
def test_the_main_job_runs_on_it_as_on_the_embedded_search(
    stocked: QdrantSearch, embedded: EmbeddedSearch, stage: int
) -> None:
    ids = embedded.restaurant_ids()
    runners = [
        BatchRunner(llm=OfflineLLM(), search=search, strategy=Strategy.stage(stage))
        for search in (stocked, embedded)
    ]

    ours, theirs = (runner.run(SummarizeAspects(), ids) for runner in runners)

    assert ours.results == theirs.results
    assert not ours.failures


@pytest.mark.slow
def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys; from restaurant_llm_batch.search.qdrant.search import QdrantSearch;"
        "QdrantSearch('reviews', url='http://localhost', prefer_grpc=True);"
        "sys.exit(str({'qdrant_client', 'httpx', 'grpc', 'numpy'} & set(sys.modules) or ''))"
    )

    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)

    assert ended.stderr == "\n"

"""What `EmbeddedSearch` finds: its promises about ids, ties, bounds and empty questions."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from tests.support.reviews import FlatEmbedder, review

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.protocols import SearchBackend
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch, IndexReport
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder


def test_it_is_a_search_backend(search: EmbeddedSearch) -> None:
    assert isinstance(search, SearchBackend)
    assert repr(search) == "EmbeddedSearch(path=None, embedder='hashing-v1-384')"


def test_a_restaurant_named_0_is_found_and_only_its_reviews(search: EmbeddedSearch) -> None:
    hits = search.search(SearchQuery(0, "직원 친절"))

    assert hits[0].content == "직원이 친절해요"
    assert {hit.review_id for hit in hits} == {0, 1, "1b"}
    assert {hit.restaurant_id for hit in hits} == {0}


def test_ids_match_whichever_type_they_have(search: EmbeddedSearch) -> None:
    search.index_reviews([review("7", "a", "맛있어요"), review(7, "b", "맛있어요")])

    as_string = search.search(SearchQuery("7", "맛"))
    as_number = search.search(SearchQuery(7, "맛"))

    assert [h.review_id for h in as_string] == [h.review_id for h in as_number] == ["a", "b"]
    assert search.restaurant_ids() == [0, 7, "other"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("limit", [1, 5, 30])
def test_equals_are_ordered_by_id_wherever_they_are_cut(limit: int) -> None:
    search = EmbeddedSearch()
    numbers = [(number * 37) % 100 for number in range(100)]
    search.index_reviews([review(1, number, "맛있어요") for number in numbers])

    hits = search.search(SearchQuery(1, "맛있다", limit=limit))

    assert [hit.review_id for hit in hits] == list(range(limit))


def test_the_order_of_indexing_does_not_change_the_answer() -> None:
    reviews = [review(1, n, text) for n, text in enumerate(["맛있어요", "친절해요", "비싸요"] * 30)]
    one, other = EmbeddedSearch(), EmbeddedSearch()
    one.index_reviews(reviews, batch_size=7)
    other.index_reviews(reversed(reviews))
    query = SearchQuery(1, "친절 가격 맛", limit=25)

    assert one.search(query) == other.search(query)


def test_min_score_bounds_the_cosine_of_sparse_hits_too() -> None:
    search = EmbeddedSearch(embedder=FlatEmbedder())
    near = [review(1, number, "1 0 | 1") for number in range(40)]
    search.index_reviews([*near, review(1, "far", "0 1 | 2"), review(1, "fair", "0.8 0.6 | 2")])

    free = search.search(SearchQuery(1, "1 0 | 2", limit=50))
    bound = search.search(SearchQuery(1, "1 0 | 2", limit=50, min_score=0.5))

    assert {"far", "fair"} <= {hit.review_id for hit in free}
    assert "fair" in {hit.review_id for hit in bound}
    assert "far" not in {hit.review_id for hit in bound}


def test_no_hit_is_lost_to_a_bound_that_all_reviews_pass() -> None:
    search = EmbeddedSearch(embedder=FlatEmbedder())
    search.index_reviews([review(1, number, f"1 0 | {number}") for number in range(60)])
    query = SearchQuery(1, "1 0 | 55", limit=10)

    bounded = SearchQuery(1, query.text, limit=10, min_score=0.99)

    assert search.search(bounded) == search.search(query)
    assert search.search(query)[0].review_id in {0, 55}


def test_many_queries_are_answered_as_one_by_one(search: EmbeddedSearch) -> None:
    queries = [
        SearchQuery(0, "직원 친절"),
        SearchQuery("other", "직원", limit=1),
        SearchQuery("nobody", "직원"),
        SearchQuery(0, ""),
        SearchQuery(0, "음식", min_score=0.3),
    ]

    assert search.search_many(queries) == [search.search(query) for query in queries]
    assert search.search_many([]) == []


@pytest.mark.sample(2)
@pytest.mark.parametrize("text", ["", "  \n", "ㅋㅋㅋ", "!?"])
def test_a_text_without_words_finds_nothing(search: EmbeddedSearch, text: str) -> None:
    assert search.search(SearchQuery(0, text)) == []


def test_an_empty_index_finds_nothing() -> None:
    search = EmbeddedSearch()

    assert search.search(SearchQuery(1, "맛")) == []
    assert (search.count(), search.restaurant_ids()) == (0, [])
    assert search.index_reviews([]) == IndexReport(reviews=0, blank=0)


def test_more_hits_wanted_than_there_are_is_fine(search: EmbeddedSearch) -> None:
    assert len(search.search(SearchQuery(0, "직원", limit=1000))) == 3


def test_a_query_of_a_restaurant_that_is_no_id_is_refused(search: EmbeddedSearch) -> None:
    with pytest.raises(ConfigurationError, match="restaurant_id must be an integer or a string"):
        search.search(SearchQuery(True, "맛"))


class Unasked(FlatEmbedder):
    """Says its name and its size only once it is needed, as one that loads a model would."""

    asked: list[str]

    def __init__(self) -> None:
        """Begin."""
        self.asked = []

    @property
    def size(self) -> int:  # type: ignore[override]
        """Note that it was asked."""
        self.asked.append("size")
        return 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"embedder": HashingEmbedder},
            r"got the class HashingEmbedder; for example embedder=HashingEmbedder\(\.\.\.\)",
        ),
        ({"embedder": "bge-m3"}, r"got the name 'bge-m3'; for example embedder=FastEmbedder\('bge-m3'\)"),
        ({"embedder": len}, "builtin_function_or_method has no name, size, embed_documents, embed_query"),
        ({"path": 7}, 'path must be the path of a folder, got 7; for example path="reviews.index"'),
        ({"path": HashingEmbedder()}, "path must be the path of a folder, got HashingEmbedder"),
    ],
)
def test_what_is_no_embedder_or_path_is_refused_with_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        EmbeddedSearch(**arguments)


def test_an_embedder_is_not_asked_anything_before_it_is_needed() -> None:
    embedder = Unasked()
    EmbeddedSearch(embedder=embedder)

    assert embedder.asked == []


@pytest.mark.slow
def test_importing_the_backends_does_not_import_the_engine() -> None:
    code = (
        "import sys; from restaurant_llm_batch import search; search.EmbeddedSearch;"
        "sys.exit('qdrant_edge' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Folders of format 1, whose points have UUIDs, are used as they are; new ones have numbers and find the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import SearchQuery
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.search._indexing import point_key
from restaurant_llm_batch.search.embedded import _folder
from restaurant_llm_batch.search.embedded._point_ids import NUMBERS, UUIDS
from restaurant_llm_batch.search.embedders import HashingEmbedder

REVIEWS = [
    {"restaurant_id": restaurant, "id": f"{restaurant}-{number}", "content": text, "category": "면"}
    for restaurant in (1, "마포", 3)
    for number, text in enumerate(
        ["국수가 맛있어요", "직원이 친절해요", "비싸요", "국수가 맛있어요", "friendly waiter"]
    )
]
QUERIES = [
    SearchQuery(1, "국수 맛", limit=2),
    SearchQuery("마포", "친절", limit=4, min_score=0.05),
    SearchQuery(3, "국수가 맛있어요", limit=3, scope="others"),
    SearchQuery(1, "waiter", limit=20, scope="others", category="면"),
]


def folder_of(index_format: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of a format with reviews."""
    with monkeypatch.context() as patched:
        patched.setattr(_folder, "FORMAT", index_format)
        with EmbeddedSearch(folder) as search:
            search.index_reviews(REVIEWS)
    assert json.loads(_folder.label_path(folder).read_text())["format"] == index_format
    return folder


def ids_in(search: EmbeddedSearch) -> list[Any]:
    """Return the ids of a restaurant's points, as the engine has them."""
    from qdrant_edge import ScrollRequest

    with search._shard._lease() as engine:
        points, _ = engine.scroll(ScrollRequest(limit=100))
        return [point.id for point in points]


@pytest.fixture(params=[1, 2])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of each format."""
    return folder_of(request.param, tmp_path / "index", monkeypatch)


@pytest.mark.sample(1)
def test_both_formats_find_the_same(folder: Path) -> None:
    new = EmbeddedSearch()
    new.index_reviews(REVIEWS)
    with EmbeddedSearch(folder) as search:
        assert search.search_many(QUERIES) == new.search_many(QUERIES)
        assert [search.search(query) for query in QUERIES] == new.search_many(QUERIES)
    with EmbeddedSearch(folder, read_only=True) as reader:
        assert reader.search_many(QUERIES) == new.search_many(QUERIES)


@pytest.mark.slow
def test_reviews_indexed_again_replace_those_of_either_format(folder: Path) -> None:
    with EmbeddedSearch(folder) as search:
        search.index_reviews([{**review, "content": "해물탕이 시원해요"} for review in REVIEWS[:5]])
        assert search.count() == len(REVIEWS)
        assert {hit.content for hit in search.search(SearchQuery(1, "해물탕"))} == {"해물탕이 시원해요"}
        assert len({type(point) for point in ids_in(search)}) == 1


@pytest.mark.slow
def test_reviews_of_either_format_are_deleted(folder: Path) -> None:
    with EmbeddedSearch(folder) as search:
        assert search.delete_reviews("마포", ["마포-0", "마포-4", "unknown"]) == 2
        assert search.delete_restaurant(3) == 5
        assert search.count() == 8
        assert {hit.review_id for hit in search.search(SearchQuery("마포", "국수 직원 비싸요"))} == {
            *("마포-1", "마포-2", "마포-3")
        }


@pytest.mark.slow
def test_a_new_folder_has_numbers_and_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedSearch(folder_of(2, tmp_path / "index", monkeypatch)) as search:
        search.index_reviews([{"restaurant_id": 9, "id": 9, "content": "국수"}])
        assert {type(point) for point in ids_in(search)} == {int}


@pytest.mark.parametrize("label", [3, "1", None])
def test_a_format_of_another_version_is_refused(label: Any, tmp_path: Path) -> None:
    _folder.label_path(tmp_path).write_text(json.dumps({"format": label, "embedder": HashingEmbedder().name}))

    with pytest.raises(ConfigurationError, match="index the reviews again into a new folder"):
        EmbeddedSearch(tmp_path)


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(max_size=20)), st.integers(0, 10**9))
def test_a_number_is_one_that_the_engine_takes_and_comes_back(restaurant: int | str, review: int) -> None:
    try:
        key = point_key(restaurant, review)
    except UnicodeEncodeError:
        return
    assert 0 <= NUMBERS.of_key(key) < 2**64
    assert NUMBERS.of_number(NUMBERS.of_key(key)) == NUMBERS.of_key(key)
    assert str(UUIDS.of_number(UUIDS.of_key(key).int)) == key


def test_the_numbers_of_many_reviews_differ() -> None:
    keys = [point_key(restaurant, review) for restaurant in range(50) for review in range(200)]

    assert len(set(map(NUMBERS.of_key, keys))) == 10_000

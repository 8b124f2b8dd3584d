"""An id in any Unicode form is one id, in both searches, also in an index of a version that kept ids as they came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unicodedata import normalize

import pytest
from tests.support.qdrant_server import Engine, door
from tests.support.reviews import review

from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.search import _indexing
from restaurant_llm_batch.search._indexing import id_texts, read_reviews
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch
from restaurant_llm_batch.search.qdrant._layout import CollectionSchema

CAFE, MAPO, OTHER = "café-1", "마포-3", "강남-7"
FORMS = ["NFC", "NFD"]


def form(name: Any, text: str) -> str:
    return normalize(name, text)


@pytest.fixture(params=["embedded", "memory", "rest"])
def search(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "embedded":
        yield EmbeddedSearch()
        return
    with door(request.param, *([Engine(strict=True)] if request.param == "rest" else [])) as made:
        yield made


def rows(name: str) -> list[Any]:
    return [
        review(form(name, MAPO), form(name, "리뷰-1"), "국수 하나"),
        review(form(name, MAPO), form(name, "리뷰-2"), "국수 둘"),
        review(form(name, CAFE), 3, "국수 셋"),
        review(form(name, OTHER), form(name, "리뷰-1"), "국수 넷"),
        review(5, 5, "국수 다섯"),
    ]


def found(search: Any, restaurant: Any, scope: Any = "restaurant") -> list[str]:
    hits = search.search(SearchQuery(restaurant, "국수", scope=scope))
    return sorted(hit.content.split()[1] for hit in hits)


def index_as_it_came(search: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(_indexing, "composed", lambda text: text)
        search.index_reviews(rows(name))


@pytest.mark.sample(2)
@pytest.mark.parametrize("indexed", FORMS)
@pytest.mark.parametrize("asked", FORMS)
@pytest.mark.parametrize("old", [False, True])
def test_what_was_indexed_by_one_form_is_found_by_the_other(
    search: Any, indexed: str, asked: str, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        index_as_it_came(search, indexed, monkeypatch)
    else:
        search.index_reviews(rows(indexed))
    assert found(search, form(asked, MAPO)) == ["둘", "하나"]
    assert found(search, form(asked, CAFE)) == ["셋"]
    assert found(search, form(asked, MAPO), "others") == ["넷", "다섯", "셋"]
    assert search.restaurant_ids() == [5, *sorted([CAFE, MAPO, OTHER])]


@pytest.mark.sample(2)
@pytest.mark.parametrize("indexed", FORMS)
@pytest.mark.parametrize("old", [False, True])
def test_reviews_and_restaurants_are_deleted_by_either_form(
    search: Any, indexed: str, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        index_as_it_came(search, indexed, monkeypatch)
    else:
        search.index_reviews(rows(indexed))
    other = "NFC" if indexed == "NFD" else "NFD"
    both = [form("NFC", "리뷰-1"), form("NFD", "리뷰-1")]
    assert search.delete_reviews(form(other, MAPO), both) == 1
    assert found(search, MAPO) == ["둘"]
    assert search.delete_restaurant(form(other, OTHER)) == 1
    assert search.count() == 3


@pytest.mark.sample(1)
@pytest.mark.parametrize("old", [False, True])
def test_indexing_again_in_the_other_form_replaces(
    search: Any, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old:
        index_as_it_came(search, "NFD", monkeypatch)
    else:
        search.index_reviews(rows("NFD"))
    search.index_reviews(rows("NFC"))
    assert search.count() == 5
    search.index_reviews([*rows("NFD"), *rows("NFC")])
    assert search.count() == 5
    assert found(search, MAPO) == ["둘", "하나"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("stored", FORMS)
@pytest.mark.parametrize("asked", FORMS)
def test_categories_and_fixed_values_of_either_form_are_one(stored: str, asked: str) -> None:
    kind = "분식"
    embedded = EmbeddedSearch()
    embedded.index_reviews(
        [{"restaurant_id": 1, "id": 1, "content": "국수 하나", "category": form(stored, kind)}]
    )
    query = SearchQuery(1, "국수", category=form(asked, kind))
    assert len(embedded.search(query)) == 1
    row = {"restaurant_id": 1, "id": 1, "content": "국수 하나", "category": form(stored, kind)}
    schema, engine = CollectionSchema(category="kind"), Engine(strict=True)
    with door("rest", engine, schema=schema, where={"tenant": form(stored, "가")}) as one:
        one.index_reviews([row])
        assert len(one.search(query)) == 1
    with door("rest", engine, schema=schema, where={"tenant": form(asked, "가")}) as another:
        assert len(another.search(query)) == 1


@pytest.mark.sample(1)
def test_hits_have_the_ids_as_they_came(search: Any) -> None:
    search.index_reviews(rows("NFD"))
    hits = search.search(SearchQuery(MAPO, "국수"))
    assert {hit.review_id for hit in hits} == {form("NFD", "리뷰-1"), form("NFD", "리뷰-2")}


def test_plain_ids_have_one_form_and_the_key_that_they_had() -> None:
    assert id_texts(7) == id_texts("7") == ["7"]
    assert id_texts("mapo") == ["mapo"]
    keys = [entry.point for entry in read_reviews([review(1, 7, "국수"), review("마포", "가", "국수")])]
    assert keys == ["374b7c8c-267d-54eb-9bd4-773bbb71643a", "876493a2-9260-59c7-92c0-7ef46c5310b9"]

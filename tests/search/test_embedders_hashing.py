"""`HashingEmbedder`: deterministic vectors of the promised form, in which related texts are near."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch._nlp import concepts
from restaurant_llm_batch._nlp.terms import terms
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.protocols import Embedding
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder

EMBEDDER = HashingEmbedder()


def cosine(one: str, other: str) -> float:
    """Return the similarity of a query to a document."""
    document = EMBEDDER.embed_documents([other])[0].dense
    return sum(a * b for a, b in zip(EMBEDDER.embed_query(one).dense, document, strict=True))


@given(st.text(max_size=300))
def test_vectors_have_the_promised_form(text: str) -> None:
    for embedding in (EMBEDDER.embed_query(text), EMBEDDER.embed_documents([text])[0]):
        length = math.hypot(*embedding.dense)
        indices = embedding.sparse.indices

        assert len(embedding.dense) == 384
        assert length == pytest.approx(1.0) or (length == 0.0 and not indices)
        assert len(set(indices)) == len(indices) == len(embedding.sparse.values)
        assert all(0 <= index < 2**32 for index in indices)
        assert all(value > 0 for value in embedding.sparse.values)


@pytest.mark.slow
def test_another_process_gets_the_same_vectors() -> None:
    """Python's own `hash` differs from process to process; ours must not."""
    code = (
        "from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder as H;"
        "e = H(32).embed_query('good pasta');"
        "print(repr((e.dense, e.sparse.indices)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    here = HashingEmbedder(32).embed_query("good pasta")

    assert repr((here.dense, here.sparse.indices)) == there


def test_documents_come_back_in_their_order_and_do_not_depend_on_company() -> None:
    texts = ["맛있어요", "", "slow service"]

    assert [EMBEDDER.embed_documents([text])[0] for text in texts] == EMBEDDER.embed_documents(texts)


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("직원 친절", "The waiter was very friendly", "The pasta was overcooked"),
        ("waiter", "사장님이 친절해요", "국물이 진해요"),
        ("가격 대비", "Way too expensive for what you get", "Lovely music"),
        ("평양 냉면", "파스타가 맛있어요", "직원이 불친절해요"),
        ("수제 버거", "수제버거가 최고예요", "주차가 편해요"),
        ("delicious", "delicous", "parking"),
    ],
)
def test_what_speaks_of_the_same_is_nearer(query: str, near: str, far: str) -> None:
    assert cosine(query, near) > cosine(query, far) + 0.05


def test_a_repeated_term_counts_more_in_a_document_but_once_in_a_query() -> None:
    once, twice = EMBEDDER.embed_documents(["pasta bread", "pasta pasta bread"])
    query = EMBEDDER.embed_query("pasta pasta bread")
    pasta = EMBEDDER.embed_query("pasta").sparse.indices[0]

    def weight(embedding: Embedding) -> float:
        sparse = embedding.sparse
        return dict(zip(sparse.indices, sparse.values, strict=True))[pasta]

    assert weight(twice) > weight(once)
    assert set(query.sparse.values) == {1.0}


def test_a_term_weighs_less_in_a_longer_document() -> None:
    short, long = EMBEDDER.embed_documents(["pasta", "pasta " + "bread soup wine salad " * 20])
    pasta = short.sparse.indices[0]

    assert dict(zip(long.sparse.indices, long.sparse.values, strict=True))[pasta] < short.sparse.values[0]


def test_the_name_tells_sizes_apart() -> None:
    assert HashingEmbedder(64).name != HashingEmbedder(128).name
    assert HashingEmbedder(64).size == 64
    assert repr(HashingEmbedder(64)) == "HashingEmbedder(size=64)"


@pytest.mark.parametrize("size", [0, 15, 65_537, True, 384.0, "384"])
def test_a_useless_size_is_refused_by_name(size: object) -> None:
    with pytest.raises(ConfigurationError, match="size must be an integer from 16"):
        HashingEmbedder(size)  # type: ignore[arg-type]


def test_no_word_of_the_lexicon_has_two_meanings() -> None:
    """The later would silently win: 서비스 once counted as a matter of price."""
    meanings: dict[str, set[str]] = {}
    for of_language in concepts._WORDS.values():
        for name, words in of_language.items():
            for stem in (stem for word in words.split() for stem in terms(word)):
                meanings.setdefault(stem, set()).add(name)

    assert {stem: names for stem, names in meanings.items() if len(names) > 1} == {}

"""Vectors of many texts at once are those of each alone, to the last bit; few texts need no NumPy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restaurant_llm_batch.search.embedders import HashingEmbedder, _signed_sums

SENTENCE = (
    "음식이 맛있었어요 직원분들도 친절하시고 수제버거 점심특선 재방문 재방문할게요 pasta noodles 拉面 1,000원"
)
WORDS = st.sampled_from(SENTENCE.split())
TEXTS = st.one_of(
    st.lists(WORDS, max_size=30).map(" ".join),
    st.text(max_size=40),
    st.just("맛" * 150 + " 맛"),
    st.just("맛 " * 40),
    st.just(""),
)


@given(st.lists(TEXTS, min_size=1, max_size=12), st.sampled_from([16, 37, 384]))
@settings(max_examples=60)
def test_many_texts_have_the_vectors_of_each_alone(texts: list[str], size: int) -> None:
    embedder = HashingEmbedder(size)
    read = [embedder._text_features(text) for text in texts]

    together = _signed_sums._vectors(read, size)
    assert together == [_signed_sums._vector(text, size) for text in read]
    assert all(type(value) is float for vector in together for value in vector)


@pytest.mark.parametrize("count", [_signed_sums._MANY - 1, _signed_sums._MANY, 300, 700])
def test_a_batch_of_any_size_is_embedded_as_its_texts_are(count: int) -> None:
    texts = [f"음식이 {number % 7} 정말 맛있어요 맛있어요" if number % 5 else "" for number in range(count)]
    embedder = HashingEmbedder(64)
    alone = {text: embedder.embed_documents([text])[0] for text in set(texts)}

    assert embedder.embed_documents(texts) == [alone[text] for text in texts]


def test_long_vectors_are_not_held_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(texts: Sequence[_signed_sums.TextFeatures], size: int) -> list[list[float]]:
        seen.append(len(texts))
        return _signed_sums.dense_vectors(texts, size)

    monkeypatch.setattr("restaurant_llm_batch.search.embedders.hashing.dense_vectors", counted)
    HashingEmbedder(65_536).embed_documents(["맛"] * 5)

    assert max(seen) * 65_536 <= 2**17


def test_few_texts_are_embedded_without_numpy() -> None:
    count = _signed_sums._MANY - 1
    code = (
        "import sys; from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder as H;"
        f"H(32).embed_documents(['맛있어요'] * {count}); H(32).embed_query('맛'); print('numpy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "False"

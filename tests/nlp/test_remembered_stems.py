"""Remembered stems and n-grams: equal to what is computed each time, to the last bit, and bounded."""

from __future__ import annotations

import threading
from hashlib import sha256
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch._nlp import korean_stems as korean
from restaurant_llm_batch._nlp import terms as analyzer
from restaurant_llm_batch._nlp.terms import terms
from restaurant_llm_batch.search._indexing import read_reviews
from restaurant_llm_batch.search.embedders import HashingEmbedder, HashingSparseEmbedder

TEXTS = [
    "음식이 정말 맛있었어요! 직원분들도 친절하시고 분위기가 좋네요.",
    "가격이 비싸지만 양이 많아서 만족합니다. 재방문할게요 ㅎㅎ 재방문 재방문",
    "수제버거가 짜고 느끼했는데 감자튀김은 바삭했다",
    "The waiters were friendly, the noodles weren't. $12.50!",
    "ラーメン 拉面 맛집 café crème 1,000원",
    "",
    "ㅋㅋㅋ 😀 ...",
]
WORDS = st.text(
    st.one_of(
        st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), st.sampled_from("이가는을에서요다고 네")
    ),
    max_size=40,
)


def test_the_vectors_are_those_of_version_1() -> None:
    """The digest was made before words were remembered; another one needs another name of the embedder."""
    digest = sha256()
    embedder = HashingEmbedder()
    for embedding in [*embedder.embed_documents(TEXTS), *map(embedder.embed_query, TEXTS)]:
        digest.update(pack(f"{len(embedding.sparse.values)}d", *embedding.sparse.values))
        digest.update(repr(list(embedding.sparse.indices)).encode())
        # The logarithm of a count may differ in its last bit between machines.
        digest.update(repr([round(value, 9) for value in embedding.dense]).encode())

    assert (embedder.name, digest.hexdigest()[:16]) == ("hashing-v1-384", "81e6625bc6433f5a")


def test_the_stems_of_forms_are_those_of_version_1() -> None:
    """The digest was made by another way to find endings; another one needs another name of the embedder."""
    bases = (
        "맛 직원 음식 친절 친절하 좋 맛있 없 비싸 비쌌 예뻤 느렸 갔 먹었 먹었겠 추우 추워 달라 불러 가게 바다 강아지 "
        "점심특선 기다리 만드 깨끗했 깨끗해 깨끗한 조용할 조용함 조용히 고기드렸 매운 넓은 좁네 싶지 같음 있었음 큰데 "
        "짠 단 긴 입니다 합니다 갑니다 놉니다 학생입니다 감사합니다"
    )
    more = ["", *["운", "데", "음", "네", "지", "니다", "했어요", "하고", "해요", "한", "히"]]
    words = {base + end for base in bases.split() for end in (*korean._ENDINGS, *korean._PARTICLES, *more)}
    stems = " ".join(korean.stem(word) for word in sorted(words))

    assert (len(words), sha256(stems.encode()).hexdigest()[:16]) == (6095, "542f5e3b82f48ddc")


@given(WORDS)
def test_remembered_stems_are_the_computed_ones(text: str) -> None:
    first = terms(text)
    again = terms(text)
    analyzer._known_stems.cache_clear()

    assert first == again == terms(text)


@given(st.text(max_size=60))
def test_stems_of_a_text_are_those_of_its_words(text: str) -> None:
    words = analyzer._TOKENS.findall(analyzer.normalise(text))

    assert terms(text) == [stem for word in words for stem in analyzer._stems(word)]


def test_endless_words_are_not_remembered() -> None:
    analyzer._known_stems.cache_clear()

    terms("맛" * 10_000)

    assert analyzer._known_stems.cache_info().currsize == 0
    assert analyzer._known_stems.cache_info().maxsize is not None


def test_threads_that_share_the_memory_get_the_same_vectors() -> None:
    alone = HashingEmbedder().embed_documents(TEXTS)
    embedder = HashingEmbedder()
    analyzer._known_stems.cache_clear()
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(embedder.embed_documents(TEXTS))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [alone] * 8


@pytest.mark.parametrize("text", ["좋아요 좋아요 음식", "음식 좋아요", "a a a", ""])
def test_a_text_with_and_without_repeated_words_weighs_as_bm25_says(text: str) -> None:
    stems = terms(text)
    [vector] = HashingSparseEmbedder().embed_documents([text])
    saturation = 1.2 * (1 - 0.75 + 0.75 * len(stems) / 16)
    counts = [stems.count(stem) for stem in dict.fromkeys(stems)]

    assert vector.values == [count * 2.2 / (count + saturation) for count in counts]


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(min_size=1)), st.integers(0, 10**6))
def test_the_key_of_a_review_is_its_uuid5(restaurant: int | str, review: int) -> None:
    import uuid

    from restaurant_llm_batch.search import _indexing

    try:
        str(restaurant).encode()
    except UnicodeEncodeError:
        return
    [entry] = read_reviews([{"restaurant_id": restaurant, "id": review, "content": "a"}])
    name = f"{len(str(restaurant))}:{restaurant}:{review}"
    assert entry.point == str(uuid.uuid5(_indexing._NAMESPACE, name))

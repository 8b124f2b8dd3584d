"""
`FastEmbedder` and `FastEmbedBM25`, with fastembed, ONNX and tokenizers as they are.

The model is made here, since none can be fetched in a test: a table of word vectors under the name and the
shape of the default one. So everything runs but the real model's weights.
"""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import SearchQuery
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.search.embedders.fastembed import FastEmbedBM25, FastEmbedder
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder, HashingSparseEmbedder

pytest.importorskip("fastembed")

WORDS = ["[PAD]", "[UNK]", "noodles", "pasta", "waiter", "friendly", "query", "passage", ":", "맛있어요"]
SIZE = 768
NEAR = {"pasta": "noodles", "friendly": "waiter"}


def field(number: int, value: int | bytes) -> bytes:
    """Return a field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def tensor_type(name: bytes, kind: int, *dims: bytes) -> bytes:
    shape = b"".join(field(1, field(2, dim)) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def table() -> list[list[float]]:
    """Return a vector per word: two directions for words that are near, one for all others."""
    rows = []
    for place, word in enumerate(WORDS):
        row = [0.0] * SIZE
        row[place] = 2.0
        if word in NEAR:
            row[WORDS.index(NEAR[word])] = 2.0
        rows.append(row)
    return rows


def onnx() -> bytes:
    """Return a model that looks the tokens up in the table: what is left of a transformer without layers."""
    weights = b"".join(struct.pack(f"<{SIZE}f", *row) for row in table())
    initial = field(1, len(WORDS)) + field(1, SIZE) + field(2, 1) + field(8, b"table") + field(9, weights)
    look_up = (
        field(1, b"table") + field(1, b"input_ids") + field(2, b"last_hidden_state") + field(4, b"Gather")
    )
    graph = (
        field(1, look_up)
        + field(2, b"words")
        + field(5, initial)
        + field(11, tensor_type(b"input_ids", 7, b"batch", b"length"))
        + field(11, tensor_type(b"attention_mask", 7, b"batch", b"length"))
        + field(12, tensor_type(b"last_hidden_state", 1, b"batch", b"length", b"size"))
    )
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    folder = tmp_path_factory.mktemp("model")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(onnx())
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512, "pad_token": "[PAD]"}')
    (folder / "special_tokens_map.json").write_text('{"pad_token": "[PAD]", "unk_token": "[UNK]"}')
    (folder / "config.json").write_text('{"pad_token_id": 0}')
    return folder


@pytest.fixture
def embedder(model: Path) -> FastEmbedder:
    return FastEmbedder(model_path=model, batch_size=2, threads=1)


def cosine(one: Any, other: Any) -> float:
    return math.fsum(a * b for a, b in zip(one.dense, other.dense, strict=True))


def test_texts_that_mean_the_same_are_near(embedder: FastEmbedder) -> None:
    noodles, waiter = embedder.embed_documents(["Noodles", "waiter"])
    query = embedder.embed_query("pasta")

    assert cosine(query, noodles) > 0.5 > cosine(query, waiter)


def test_dense_vectors_have_unit_length_and_come_in_order(embedder: FastEmbedder) -> None:
    texts = ["noodles pasta", "waiter", "friendly friendly waiter", "맛있어요", "noodles \ud83d"]
    together = embedder.embed_documents(texts)

    assert embedder.size == SIZE
    for text, embedding in zip(texts, together, strict=True):
        (alone,) = embedder.embed_documents([text])
        assert len(embedding.dense) == SIZE
        assert math.hypot(*embedding.dense) == pytest.approx(1.0)
        assert embedding.dense == pytest.approx(alone.dense)
        assert all(type(value) is float for value in embedding.dense)


def test_the_sparse_half_is_the_default_embedders_own(embedder: FastEmbedder) -> None:
    text = "직원분이 친절하고 음식이 맛있어요"
    whole = HashingEmbedder()

    assert embedder.embed_documents([text])[0].sparse == whole.embed_documents([text])[0].sparse
    assert embedder.embed_query(text).sparse == whole.embed_query(text).sparse


def test_prefixes_go_before_what_the_model_reads(model: Path) -> None:
    plain = FastEmbedder(model_path=model)
    e5 = FastEmbedder(model_path=model, query_prefix="query: ", document_prefix="passage: ")

    assert e5.embed_query("waiter").dense == plain.embed_query("query: waiter").dense
    assert e5.embed_documents(["waiter"])[0].dense == plain.embed_documents(["passage: waiter"])[0].dense
    assert e5.embed_query("waiter").sparse == plain.embed_query("waiter").sparse


@pytest.mark.slow
def test_the_name_changes_with_whatever_makes_the_vectors(model: Path) -> None:
    names = {
        FastEmbedder(model_path=model, **more).name
        for more in (
            {},
            {"query_prefix": "query: "},
            {"sparse": FastEmbedBM25()},
            {"sparse": FastEmbedBM25("german")},
            {"sparse": FastEmbedBM25(average_length=30)},
            {"sparse": FastEmbedBM25(stopwords=["the"])},
            {"sparse": FastEmbedBM25(stemmer=First())},
        )
    }
    assert len(names) == 7
    assert all("paraphrase-multilingual-mpnet-base-v2" in name for name in names)


def test_a_search_finds_by_meaning_and_by_word(model: Path) -> None:
    search = EmbeddedSearch(embedder=FastEmbedder(model_path=model, sparse=FastEmbedBM25()))
    contents = ["noodles", "friendly waiter", "closed on mondays"]
    search.index_reviews(
        [{"restaurant_id": 1, "review_id": str(i), "content": text} for i, text in enumerate(contents)]
    )
    try:
        assert search.search(SearchQuery(1, "pasta", limit=1))[0].content == "noodles"
        assert search.search(SearchQuery(1, "monday", limit=1))[0].content == "closed on mondays"
    finally:
        search.close()


class First:
    """Cuts words to their first two letters."""

    def stem_word(self, word: str, /) -> str:
        return word[:2]


@pytest.fixture
def no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("no_way_out")
def test_bm25_fetches_nothing_and_weighs_as_bm25_does() -> None:
    sparse = FastEmbedBM25(average_length=2)
    (vector,) = sparse.embed_documents(["noodles noodles"])

    (weight,) = vector.values
    assert weight == pytest.approx(2 * 2.2 / (2 + 1.2))
    assert sparse.embed_query("Noodle! noodles").values == [1.0]
    assert sparse.embed_query("noodle").indices == vector.indices
    assert all(0 <= index < 2**32 and type(index) is int for index in vector.indices)


@pytest.mark.slow
def test_bm25_in_korean_keeps_forms_apart_unless_a_stemmer_joins_them() -> None:
    plain, cut = FastEmbedBM25("korean"), FastEmbedBM25("korean", stemmer=First())

    assert plain.embed_query("음식이").indices != plain.embed_query("음식은").indices
    assert cut.embed_query("음식이").indices == cut.embed_query("음식은").indices
    assert (
        HashingSparseEmbedder().embed_query("음식이").indices
        == HashingSparseEmbedder().embed_query("음식은").indices
    )


def test_bm25_leaves_stopwords_out_and_stands_anything() -> None:
    sparse = FastEmbedBM25(stopwords=["The"])

    assert sparse.embed_query("the noodles") == sparse.embed_query("noodles")
    assert [len(vector.indices) for vector in sparse.embed_documents(["", "...", "\ud83d", "x"])] == [
        0,
        0,
        0,
        1,
    ]


def test_without_fastembed_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastembed", None)

    for make in (FastEmbedder, FastEmbedBM25):
        with pytest.raises(ConfigurationError, match=r"pip install 'restaurant-llm-batch\[fastembed\]'"):
            make()


def test_a_model_that_cannot_be_had_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="list_supported_models"):
        FastEmbedder("no/such-model")
    with pytest.raises(ConfigurationError, match="model_path"):
        FastEmbedder(model_path=tmp_path)

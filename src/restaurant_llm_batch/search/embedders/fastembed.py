"""Embeddings made in this process by fastembed: ``pip install 'restaurant-llm-batch[fastembed]'``."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ...errors import ConfigurationError
from ...protocols import Embedding, SparseVector
from .hashing import HashingSparseEmbedder, SparseEmbedder, joined, named

MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-mpnet-base-v2"
_BM25 = "Qdrant/bm25"


class FastEmbedder:
    """
    Dense vectors of a sentence model that runs in this process, on ONNX.

        search = EmbeddedSearch(embedder=FastEmbedder())

    The model is fetched when this is made, unless it is in `cache_dir` or `model_path`; the default one has
    1 GB, knows Korean, English and some 50 other languages, and reads the first 512 tokens of a text. Any
    number of threads may use it.

    Args:
        model: A model of ``fastembed.TextEmbedding.list_supported_models()``.
        sparse: Makes the sparse half; `HashingSparseEmbedder` if not given, which knows Korean.
        cache_dir: Where models are kept; fastembed's own place if not given.
        model_path: A folder with the model's files, which is used instead of fetching them.
        threads: How many threads one call may use; as many as there are cores if not given.
        batch_size: Texts put through the model together.
        query_prefix: What the model wants before a query, such as "query: " for E5.
        document_prefix: What it wants before a text to be found, such as "passage: ".

    Raises:
        ConfigurationError: When fastembed is not installed, or the model cannot be had.
    """

    def __init__(
        self,
        model: str = MULTILINGUAL,
        *,
        sparse: SparseEmbedder | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        model_path: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        batch_size: int = 64,
        query_prefix: str = "",
        document_prefix: str = "",
    ) -> None:
        self._model_name = model
        self._sparse = HashingSparseEmbedder() if sparse is None else sparse
        self._batch_size = batch_size
        self._prefixes = query_prefix, document_prefix
        kind = _fastembed().TextEmbedding
        try:
            self._model = kind(
                model,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                specific_model_path=None if model_path is None else os.fspath(model_path),
                threads=threads,
            )
            self._size = int(kind.get_embedding_size(model))
        except Exception as error:  # a hub's, the disk's and ONNX's errors have nothing in common
            raise ConfigurationError(
                f"fastembed cannot load the model {model!r}: {error}. Name one of TextEmbedding."
                "list_supported_models(); without a way to its hub, write model_path=<folder with its files>"
            ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model_name!r})"

    @property
    def name(self) -> str:
        """The name of these vectors: the model, its prefixes, and what makes the sparse half."""
        return named(f"fastembed:{self._model_name}", self._prefixes, self._sparse)

    @property
    def size(self) -> int:
        """The length of the dense vectors."""
        return self._size

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """Embed texts to be found, one embedding each, in their order."""
        prefixed = [self._prefixes[1] + _whole(text) for text in texts]
        dense = self._model.passage_embed(prefixed, batch_size=self._batch_size)
        return joined((vector.tolist() for vector in dense), self._sparse.embed_documents(texts))

    def embed_query(self, text: str, /) -> Embedding:
        """Embed a text to search with."""
        dense = self._model.query_embed(self._prefixes[0] + _whole(text))
        return joined((vector.tolist() for vector in dense), [self._sparse.embed_query(text)])[0]


class Stemmer(Protocol):
    """Cuts words to what their forms have in common."""

    def stem_word(self, word: str, /) -> str:
        """Return a word's stem; "" drops the word."""
        ...


class FastEmbedBM25:
    """
    Sparse vectors by fastembed's BM25, for `FastEmbedder` and `APIEmbedder`; nothing is fetched.

    Words are cut by Snowball's stemmer for the language. It has none for Korean: there 음식이 and 음식은 stay
    apart, unless `stemmer` joins them, and `HashingSparseEmbedder`, the default, is the better choice.

    Args:
        language: Its name in English, such as "english".
        stemmer: A stemmer of your own, such as one that asks kiwipiepy.
        stopwords: Words to leave out. None need be: the search engine weighs frequent words down.
        average_length: The usual length of a review, in words.

    Raises:
        ConfigurationError: When fastembed is not installed.
    """

    def __init__(
        self,
        language: str = "english",
        *,
        stemmer: Stemmer | None = None,
        stopwords: Collection[str] = (),
        average_length: float = 16.0,
    ) -> None:
        kind = _fastembed().SparseTextEmbedding
        supported = import_module("fastembed.sparse.bm25").supported_languages
        self._language = language
        parts = [f"bm25-{language}-{average_length:g}"]
        if stemmer is not None:
            parts.append(type(stemmer).__name__)
        if stopwords:
            parts.append(blake2b(" ".join(sorted(set(stopwords))).encode(), digest_size=4).hexdigest())
        self._name = "-".join(parts)
        self._model = kind(
            _BM25,
            language=language,
            stemmer=stemmer,
            disable_stemmer=stemmer is None and language not in supported,
            stopwords=set(stopwords),
            avg_len=average_length,
            specific_model_path=str(Path(__file__).parent),  # it would look for stopwords, but has them
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._language!r})"

    @property
    def name(self) -> str:
        """The name of these vectors; a stemmer of your own counts by its class."""
        return self._name

    def embed_documents(self, texts: Sequence[str], /) -> list[SparseVector]:
        """Embed texts to be found, one vector each, in their order."""
        return [_plain(vector) for vector in self._model.passage_embed(map(_whole, texts))]

    def embed_query(self, text: str, /) -> SparseVector:
        """Embed a text to search with; each distinct word counts once."""
        (vector,) = self._model.query_embed(_whole(text))
        return _plain(vector)


def _whole(text: str) -> str:
    # Half of a surrogate pair, which the tokenizers cannot read, becomes a question mark.
    return text.encode("utf-8", "replace").decode()


def _plain(vector: Any) -> SparseVector:
    return SparseVector(vector.indices.tolist(), [float(value) for value in vector.values])


def _fastembed() -> Any:
    try:
        return import_module("fastembed")
    except ImportError as error:
        raise ConfigurationError(
            "this needs fastembed; write pip install 'restaurant-llm-batch[fastembed]'"
        ) from error

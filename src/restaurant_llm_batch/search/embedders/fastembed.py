"""fastembed embedders, run in this process on ONNX: ``pip install 'restaurant-llm-batch[fastembed]'``."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ..._http.recipe import PickledAsRecipe, arguments_of
from ...errors import ConfigurationError
from ...protocols import Embedding, SparseVector
from ...tokens.tokenizers import replace_surrogates
from .hashing import HashingSparseEmbedder, SparseEmbedder, combine_halves, embedding_name

MULTILINGUAL = "sentence-transformers/paraphrase-multilingual-mpnet-base-v2"
_BM25 = "Qdrant/bm25"


class FastEmbedder(PickledAsRecipe):
    """
    Dense vectors of a sentence model that runs in this process, on ONNX.

        search = EmbeddedSearch(embedder=FastEmbedder())

    The constructor downloads the model unless it is in `cache_dir` or `model_path`. The default model has 1 GB,
    supports Korean, English and some 50 other languages, and reads the first 512 tokens of a text. Thread-safe.

    Args:
        model: A model of ``fastembed.TextEmbedding.list_supported_models()``.
        sparse: Embedder of the sparse half; None for `HashingSparseEmbedder`, which supports Korean.
        cache_dir: Folder for downloaded models; None for fastembed's default.
        model_path: Folder with the model's files, to use instead of downloading them.
        threads: Threads that one call may use; None for one per core.
        batch_size: Texts per forward pass of the model.
        query_prefix: Prefix that the model expects before a query, such as "query: " for E5.
        document_prefix: Prefix that the model expects before a document, such as "passage: ".

    Raises:
        ConfigurationError: If fastembed is not installed, or the model cannot be loaded.
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
        self._made_with = arguments_of(locals())
        self._model_name = model
        self._sparse = HashingSparseEmbedder() if sparse is None else sparse
        self._batch_size = batch_size
        self._prefixes = query_prefix, document_prefix
        text_embedding = _import_fastembed().TextEmbedding
        try:
            self._model = text_embedding(
                model,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                specific_model_path=None if model_path is None else os.fspath(model_path),
                threads=threads,
            )
            self._size = int(text_embedding.get_embedding_size(model))
        except Exception as error:  # errors of the hub, the disk and ONNX have no common base class
            raise ConfigurationError(
                f"fastembed cannot load the model {model!r}: {error}. Name one of TextEmbedding."
                "list_supported_models(). If its hub is unreachable, pass model_path=<folder with its files>"
            ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model_name!r})"

    @property
    def name(self) -> str:
        """Name of these vectors: the model with its prefixes, and the sparse embedder."""
        return embedding_name(f"fastembed:{self._model_name}", self._prefixes, self._sparse)

    @property
    def size(self) -> int:
        """Dimension of the dense vectors."""
        return self._size

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """Embed documents; returns one embedding per text, in order."""
        prefixed = [self._prefixes[1] + replace_surrogates(text) for text in texts]
        dense = self._model.passage_embed(prefixed, batch_size=self._batch_size)
        return combine_halves((vector.tolist() for vector in dense), self._sparse.embed_documents(texts))

    def embed_query(self, text: str, /) -> Embedding:
        """Embed a query."""
        dense = self._model.query_embed(self._prefixes[0] + replace_surrogates(text))
        return combine_halves((vector.tolist() for vector in dense), [self._sparse.embed_query(text)])[0]


class Stemmer(Protocol):
    """Reduces the forms of a word to their common stem."""

    def stem_word(self, word: str, /) -> str:
        """Return a word's stem; "" drops the word."""
        ...


class FastEmbedBM25(PickledAsRecipe):
    """
    Sparse BM25 vectors by fastembed, for `FastEmbedder` and `APIEmbedder`; downloads nothing.

    Uses Snowball's stemmer of the language. Snowball has none for Korean, so 음식이 and 음식은 count as different
    words unless `stemmer` unifies them; for Korean, prefer the default `HashingSparseEmbedder`.

    Args:
        language: The language's English name, such as "english".
        stemmer: Your own stemmer, for example one that uses kiwipiepy.
        stopwords: Words to ignore. None are needed, since the search engine weights words by rarity (IDF).
        average_length: Average length of a review in words, BM25's ``avgdl``.

    Raises:
        ConfigurationError: If fastembed is not installed.
    """

    def __init__(
        self,
        language: str = "english",
        *,
        stemmer: Stemmer | None = None,
        stopwords: Collection[str] = (),
        average_length: float = 16.0,
    ) -> None:
        self._made_with = arguments_of(locals())
        sparse_embedding = _import_fastembed().SparseTextEmbedding
        supported = import_module("fastembed.sparse.bm25").supported_languages
        self._language = language
        parts = [f"bm25-{language}-{average_length:g}"]
        if stemmer is not None:
            parts.append(type(stemmer).__name__)
        if stopwords:
            parts.append(blake2b(" ".join(sorted(set(stopwords))).encode(), digest_size=4).hexdigest())
        self._name = "-".join(parts)
        self._model = sparse_embedding(
            _BM25,
            language=language,
            stemmer=stemmer,
            disable_stemmer=stemmer is None and language not in supported,
            stopwords=set(stopwords),
            avg_len=average_length,
            specific_model_path=str(
                Path(__file__).parent
            ),  # any folder: it holds no stopwords, which are passed above
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._language!r})"

    @property
    def name(self) -> str:
        """Name of these vectors; your own stemmer appears by its class name."""
        return self._name

    def embed_documents(self, texts: Sequence[str], /) -> list[SparseVector]:
        """Embed documents; returns one vector per text, in order."""
        return [
            _to_sparse_vector(vector) for vector in self._model.passage_embed(map(replace_surrogates, texts))
        ]

    def embed_query(self, text: str, /) -> SparseVector:
        """Embed a query; each distinct word counts once."""
        (vector,) = self._model.query_embed(replace_surrogates(text))
        return _to_sparse_vector(vector)


def _to_sparse_vector(vector: Any) -> SparseVector:
    return SparseVector(vector.indices.tolist(), [float(value) for value in vector.values])


def _import_fastembed() -> Any:
    try:
        return import_module("fastembed")
    except ImportError as error:
        raise ConfigurationError(
            "this needs fastembed; install it with: pip install 'restaurant-llm-batch[fastembed]'"
        ) from error

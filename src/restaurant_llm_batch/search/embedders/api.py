"""Embeddings API client: dense vectors from OpenAI's ``/v1/embeddings`` as served by OpenAI, vLLM, TEI or Ollama."""

from __future__ import annotations

import os
import sys
from array import array
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from ..._http.border import call
from ..._http.exchange import HTTPClient, HTTPFlow, HTTPRequest, send_request
from ..._http.openai_api import chat_error, is_official
from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._http.secrets import HiddenHeaders, KeyLike, Secret, as_secret
from ..._http.status import encode, normalize_base_url, parse_body, parse_error_body
from ..._http.types import HTTPResponse, Timeout, Transport, as_timeout
from ..._validation import is_whole
from ...errors import ConfigurationError, PermanentBackendError, TransientBackendError
from ...protocols import Embedding
from .hashing import HashingSparseEmbedder, SparseEmbedder, combine_halves, embedding_name

_BACKEND = "embeddings"
_MAX_BATCH_CHARACTERS = 200_000  # OpenAI allows 300,000 tokens per request; a Korean syllable can be several
_MAX_BATCH_TEXTS = 2_048  # OpenAI's limit; https://platform.openai.com/docs/api-reference/embeddings


class APIEmbedder(PickledAsRecipe):
    """
    Dense vectors of a model behind an embeddings API.

        embedder = APIEmbedder("https://api.openai.com/v1", "text-embedding-3-small", size=1536)

    Sends batches one after the other, without retries. Thread-safe.

    Args:
        base_url: The service's base URL; ``/v1`` is added if it has no path.
        model: The model's name.
        api_key: The key; None for ``OPENAI_API_KEY`` with OpenAI, and for no key with other services.
        size: Dimension of the model's vectors; None to find out with one request.
        sparse: Embedder of the sparse half; None for `HashingSparseEmbedder`, which supports Korean.
        batch_size: Maximum texts per request. OpenAI accepts 2,048, TEI 32 by default.
        longest_text: Maximum characters of a text; the rest is cut off. OpenAI rejects more than 8,192 tokens.
        query_prefix: Prefix that the model expects before a query, such as "query: " for E5.
        document_prefix: Prefix that the model expects before a document, such as "passage: ".
        extra_body: Further fields of every request, such as ``{"dimensions": 256}``.
        timeout: Seconds for a whole request, or a `Timeout` with separate limits.
        transport: HTTP transport to use instead of an own `HTTPTransport`, for example
            ``HTTPTransport(proxy=...)``.

    Raises:
        ConfigurationError: If an argument has the wrong type or value, or there is no key.
    """

    _key_variable = "OPENAI_API_KEY"

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: KeyLike | None = None,
        size: int | None = None,
        sparse: SparseEmbedder | None = None,
        batch_size: int = 128,
        longest_text: int = 6_000,
        query_prefix: str = "",
        document_prefix: str = "",
        extra_body: Mapping[str, Any] | None = None,
        timeout: float | Timeout = Timeout(total=60.0),
        transport: Transport | None = None,
    ) -> None:
        self._made_with = arguments_of(locals())
        secret = as_secret(api_key)
        del api_key  # error trackers show the local variables of an error that is raised below
        _check_range("size", size if size is not None else 1, 65_536)
        _check_range("batch_size", batch_size, _MAX_BATCH_TEXTS)
        _check_range("longest_text", longest_text, _MAX_BATCH_CHARACTERS)
        _check_name(model)
        self._url = _embeddings_url(base_url)
        self._model = model
        self._size = size
        self._sparse = HashingSparseEmbedder() if sparse is None else sparse
        self._batch_size = batch_size
        self._max_characters = longest_text
        self._prefixes = query_prefix, document_prefix
        self._extra_body = dict(extra_body or {})
        self._timeout = as_timeout(timeout)
        self._client = HTTPClient(transport)
        self._secret = _key(secret, self._url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, {self._model!r})"

    @property
    def name(self) -> str:
        """Name of these vectors: the model with its dimensions and prefixes, and the sparse embedder."""
        shortened = self._extra_body.get("dimensions")
        model = f"{self._model}@{shortened}" if shortened else self._model
        return embedding_name(model, self._prefixes, self._sparse)

    @property
    def size(self) -> int:
        """Dimension of the dense vectors; may send a request, and then raises as `embed_query`."""
        if self._size is None:
            self._run(["size"])
        assert self._size is not None
        return self._size

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """
        Embed documents; returns one embedding per text, in order.

        Args:
            texts: The texts; an empty one is not sent and gets a zero dense vector.

        Raises:
            BackendError: As `embed_query`; results of earlier batches are lost.
        """
        dense = self._run([self._prepare(text, self._prefixes[1]) for text in texts])
        return combine_halves(dense, self._sparse.embed_documents(texts))

    def embed_query(self, text: str, /) -> Embedding:
        """
        Embed a query.

        Raises:
            TransientBackendError: If the service is overloaded, failing or unreachable.
            AuthenticationFailed: If the service rejects the key.
            PermanentBackendError: If the service rejects the request for another reason.
        """
        dense = self._run([self._prepare(text, self._prefixes[0])])
        return combine_halves(dense, [self._sparse.embed_query(text)])[0]

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._client.close()

    def _run(self, texts: Sequence[str]) -> list[list[float]]:
        return call(self._dense(texts), self._client, _BACKEND, self._secret)

    def _prepare(self, text: str, prefix: str) -> str:
        text = text[: self._max_characters].strip()
        return prefix + text if text else ""

    def _dense(self, texts: Sequence[str]) -> HTTPFlow[list[list[float]]]:
        non_empty = [text for text in texts if text]  # services reject empty texts
        vectors: list[list[float]] = []
        for batch in _batches(non_empty, self._batch_size):
            vectors += yield from self._embed(batch)
        if not non_empty and texts and self._size is None:
            yield from self._embed(["size"])  # any text will do, to learn the dimension
        remaining = iter(vectors)
        return [next(remaining) if text else [0.0] * (self._size or 0) for text in texts]

    def _embed(self, batch: list[str]) -> HTTPFlow[list[list[float]]]:
        headers = HiddenHeaders({"content-type": "application/json", "accept": "application/json"})
        if self._secret is not None:
            headers["authorization"] = f"Bearer {self._secret.reveal()}"
        body = encode({"model": self._model, "input": batch, **self._extra_body})
        response = yield from send_request(
            HTTPRequest("POST", self._url, headers, body, self._timeout), _BACKEND, self._secret
        )
        return self._read_vectors(response, len(batch))

    def _read_vectors(self, response: HTTPResponse, count: int) -> list[list[float]]:
        if response.status != 200:
            body = parse_error_body(response.body)
            raise chat_error(response.status, body, response.headers, _BACKEND, self._secret)
        body = parse_body(response.body)
        vectors = _vectors(body, count)
        if vectors is None:
            text = str(body)[:200] if self._secret is None else self._secret.redact(str(body))[:200]
            raise TransientBackendError(
                f"{_BACKEND}: expected {count} vectors, got {text}", backend=_BACKEND, status=200
            )
        sizes = {len(vector) for vector in vectors}
        if self._size is None and len(sizes) == 1:
            [self._size] = sizes
        if sizes != {self._size}:
            wrong = min(sizes - {self._size})
            expected = f"size {self._size}" if self._size else "one size"
            raise PermanentBackendError(
                f"{_BACKEND}: expected vectors of {expected}, got size {wrong}; set size={wrong} if that is the "
                "model's size",
                backend=_BACKEND,
                status=200,
            )
        return vectors


def _vectors(body: Any, count: int) -> list[list[float]] | None:
    """Return the vectors in the order of the texts, or None unless there is a valid one for each."""
    try:
        data = body["data"]
        # Some services leave the index out if the vectors are in order.
        ordered = all(entry.get("index") is None for entry in data)
        found = {
            place if ordered else entry["index"]: _vector(entry["embedding"])
            for place, entry in enumerate(data)
        }
        vectors = [found[index] for index in range(count)]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
        return None
    is_valid = len(data) == count and all(vector and all(map(isfinite, vector)) for vector in vectors)
    return vectors if is_valid else None


def _vector(embedding: Any) -> list[float]:
    if not isinstance(embedding, str):
        return [float(value) for value in embedding]
    # The form of `encoding_format="base64"`: little-endian 32-bit floats.
    numbers = array("f", b64decode(embedding, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def _batches(texts: Sequence[str], max_texts: int) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == max_texts or characters + len(text) > _MAX_BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch


def _embeddings_url(base_url: str) -> str:
    url = normalize_base_url(base_url)
    return f"{url}/embeddings" if urlsplit(url).path else f"{url}/v1/embeddings"


def _key(key: Secret | None, url: str) -> Secret | None:
    if key is None and is_official(url):
        # Never send OpenAI's key from the environment to another service.
        key = as_secret(os.environ.get("OPENAI_API_KEY"), "OPENAI_API_KEY")
        if key is None:
            raise ConfigurationError(
                'no API key: set the environment variable OPENAI_API_KEY, or pass api_key="sk-..."'
            )
    return key


def _check_name(model: Any) -> None:
    if not (isinstance(model, str) and model):
        raise ConfigurationError(f'model must be a name, got {model!r}; for example "text-embedding-3-small"')


def _check_range(field: str, value: Any, maximum: int) -> None:
    if not is_whole(value, 1) or value > maximum:
        raise ConfigurationError(f"{field} must be an integer from 1 to {maximum:,}, got {value!r}")

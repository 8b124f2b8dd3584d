"""Embeddings from a service that speaks OpenAI's ``/v1/embeddings``: OpenAI, vLLM, TEI, Ollama and others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from ..._http.exchange import HTTPClient, HTTPRequest, send_request
from ..._http.openai_api import chat_error, is_official
from ..._http.secrets import KeyLike, Secret, as_secret
from ..._http.status import encode
from ..._http.status import normalize_base_url as cleaned
from ..._http.types import HTTPResponse, Timeout, Transport, as_timeout
from ...errors import ConfigurationError, PermanentBackendError, TransientBackendError
from ...protocols import Embedding
from ...steps import Flow, drive
from .hashing import HashingSparseEmbedder, SparseEmbedder, joined, named

_BACKEND = "embeddings"
_MOST_LETTERS_TOGETHER = 200_000  # OpenAI takes 300,000 tokens at once; a Korean letter can be more than one
_MOST_TEXTS = 2_048  # OpenAI's limit


class APIEmbedder:
    """
    Dense vectors of a model behind an embeddings service.

        embedder = APIEmbedder("https://api.openai.com/v1", "text-embedding-3-small", size=1536)

    Texts go in batches, one request after the other; nothing is tried again here. Any number of threads may
    use it.

    Args:
        base_url: The service's address; one without a path gets ``/v1``.
        model: The model's name.
        api_key: The key; for OpenAI without one, ``OPENAI_API_KEY``.
        size: The length of the model's vectors; without it, the service is asked once.
        sparse: Makes the sparse half; `HashingSparseEmbedder` if not given, which knows Korean.
        batch_size: Most texts in a request. OpenAI takes 2,048, TEI 32 unless it was told otherwise.
        longest_text: Letters of a text that are sent, the rest is cut off; OpenAI refuses above 8,192 tokens.
        query_prefix: What the model wants before a query, such as "query: " for E5.
        document_prefix: What it wants before a text to be found, such as "passage: ".
        extra_body: Further fields of every request, such as ``{"dimensions": 256}``.
        timeout: Seconds to wait for an answer, or a `Timeout` that says more.
        transport: What carries the requests; see `restaurant_llm_batch._http.transport`.

    Raises:
        ConfigurationError: When an argument cannot be used, or there is no key.
    """

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
        _check_number("size", size if size is not None else 1, 65_536)
        _check_number("batch_size", batch_size, _MOST_TEXTS)
        _check_number("longest_text", longest_text, _MOST_LETTERS_TOGETHER)
        _check_name(model)
        self._url = _address(base_url)
        self._model = model
        self._size = size
        self._sparse = HashingSparseEmbedder() if sparse is None else sparse
        self._batch_size = batch_size
        self._longest = longest_text
        self._prefixes = query_prefix, document_prefix
        self._extra_body = dict(extra_body or {})
        self._timeout = as_timeout(timeout)
        self._client = HTTPClient(transport)
        self._secret = _key(api_key, self._url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, {self._model!r})"

    @property
    def name(self) -> str:
        """The name of these vectors: the model, how it is asked, and what makes the sparse half."""
        shortened = self._extra_body.get("dimensions")
        model = f"{self._model}@{shortened}" if shortened else self._model
        return named(model, self._prefixes, self._sparse)

    @property
    def size(self) -> int:
        """The length of the dense vectors; raises as `embed_query` does when the service has to be asked."""
        if self._size is None:
            drive(self._dense(["size"]), self._client.send)
        assert self._size is not None
        return self._size

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """
        Embed texts to be found, one embedding each, in their order.

        Args:
            texts: The texts; an empty one gets a zero dense vector, and is not sent.

        Raises:
            BackendError: As `embed_query` raises; nothing of the batches before it is kept.
        """
        dense = drive(
            self._dense([self._ready(text, self._prefixes[1]) for text in texts]), self._client.send
        )
        return joined(dense, self._sparse.embed_documents(texts))

    def embed_query(self, text: str, /) -> Embedding:
        """
        Embed a text to search with.

        Raises:
            TransientBackendError: When the service is busy, failing or out of reach.
            AuthenticationFailed: When it does not accept the key.
            PermanentBackendError: When it refuses the request for good.
        """
        dense = drive(self._dense([self._ready(text, self._prefixes[0])]), self._client.send)
        return joined(dense, [self._sparse.embed_query(text)])[0]

    def close(self) -> None:
        """Close the connections; they are made again when needed."""
        self._client.close()

    def _ready(self, text: str, prefix: str) -> str:
        text = text[: self._longest].strip()
        return prefix + text if text else ""

    def _dense(self, texts: Sequence[str]) -> Flow[list[list[float]]]:
        written = [text for text in texts if text]  # services refuse empty ones
        vectors: list[list[float]] = []
        for batch in _batches(written, self._batch_size):
            vectors += yield from self._ask(batch)
        if not written and texts and self._size is None:
            yield from self._ask(["size"])
        left = iter(vectors)
        return [next(left) if text else [0.0] * (self._size or 0) for text in texts]

    def _ask(self, batch: list[str]) -> Flow[list[list[float]]]:
        headers = {"content-type": "application/json", "accept": "application/json"}
        if self._secret is not None:
            headers["authorization"] = f"Bearer {self._secret.reveal()}"
        body = encode({"model": self._model, "input": batch, **self._extra_body})
        answer = yield from send_request(
            HTTPRequest("POST", self._url, headers, body, self._timeout), _BACKEND
        )
        return self._read(answer, len(batch))

    def _read(self, answer: HTTPResponse, count: int) -> list[list[float]]:
        try:
            body = json.loads(answer.body)
        except ValueError:
            body = answer.body.decode("utf-8", "replace")
        if answer.status != 200:
            raise chat_error(answer.status, body, answer.headers, _BACKEND, self._secret)
        vectors = _vectors(body, count)
        if vectors is None:
            words = str(body)[:200] if self._secret is None else self._secret.redact(str(body))[:200]
            raise TransientBackendError(f"{_BACKEND} sent no {count} vectors but {words}", backend=_BACKEND)
        self._size = self._size or len(vectors[0])
        if any(len(vector) != self._size for vector in vectors):
            raise PermanentBackendError(
                f"{_BACKEND} sent vectors of length {len(vectors[0])}; for example size={len(vectors[0])}",
                backend=_BACKEND,
            )
        return vectors


def _vectors(body: Any, count: int) -> list[list[float]] | None:
    """Return the vectors in the order of the texts, or None when there is not one for each."""
    try:
        found = {entry["index"]: [float(value) for value in entry["embedding"]] for entry in body["data"]}
        vectors = [found[index] for index in range(count)]
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    sound = len(body["data"]) == count and all(vector and all(map(isfinite, vector)) for vector in vectors)
    return vectors if sound else None


def _batches(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    batch: list[str] = []
    letters = 0
    for text in texts:
        if batch and (len(batch) == most or letters + len(text) > _MOST_LETTERS_TOGETHER):
            yield batch
            batch, letters = [], 0
        batch.append(text)
        letters += len(text)
    if batch:
        yield batch


def _address(base_url: str) -> str:
    url = cleaned(base_url)
    return f"{url}/embeddings" if urlsplit(url).path else f"{url}/v1/embeddings"


def _key(given: KeyLike | None, url: str) -> Secret | None:
    key = as_secret(given)
    if key is None and is_official(url):
        # Nobody else is sent OpenAI's key without being asked to.
        key = as_secret(os.environ.get("OPENAI_API_KEY"), "OPENAI_API_KEY")
        if key is None:
            raise ConfigurationError(
                'no API key: set the environment variable OPENAI_API_KEY, or write api_key="sk-..."'
            )
    return key


def _check_name(model: Any) -> None:
    if not (isinstance(model, str) and model):
        raise ConfigurationError(
            f'model must be a name, got {model!r}; for example "text-embedding-3-small"'
        )


def _check_number(field: str, value: Any, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigurationError(f"{field} must be an integer from 1 to {most:,}, got {value!r}")

"""Query embedding cache: single-flight LRU cache, so that concurrent threads embed a text once."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock

from ..errors import ConfigurationError, PermanentBackendError
from ..protocols import Embedder, Embedding
from ._batch_embedding import embedding_fault


class _Slot(Future[Embedding]):
    """The embedding of a text, which threads wait for; once it is there, it is read without the future's lock."""

    embedding: Embedding | None = None


class QueryEmbeddingCache:
    """
    LRU cache of query embeddings with single-flight computation. Thread-safe.

    A run uses the same few query texts for every restaurant. The first thread that needs a text embeds it; others wait
    for its result. Different texts do not wait for each other.
    """

    def __init__(self, embedder: Embedder, *, size: int = 1024) -> None:
        """
        Create an empty cache.

        Args:
            embedder: Embeds texts that are not cached.
            size: Maximum number of cached texts; the least recently used is evicted.
        """
        self._embedder = embedder
        self._size = size
        self._lock = Lock()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    def is_cached(self, text: str) -> bool:
        """Return whether `embed` would return without waiting."""
        slot = self._slots.get(text)
        return slot is not None and slot.done()

    def embed(self, text: str) -> Embedding:
        """
        Return the embedding of a query text.

        Args:
            text: The query text.

        Raises:
            Exception: The embedder's error; errors are not cached.
        """
        with self._lock:
            slot = self._slots.get(text)
            is_owner = slot is None
            if slot is None:
                slot = self._slots[text] = _Slot()
                if len(self._slots) > self._size:
                    self._slots.popitem(last=False)
            self._slots.move_to_end(text)
        # Outside the lock, so that a slow text does not delay others.
        if is_owner:
            self._fill(slot, text)
        found = slot.embedding
        return slot.result() if found is None else found

    def _fill(self, slot: _Slot, text: str) -> None:
        try:
            slot.embedding = self._checked(self._embedder.embed_query(text))
            slot.set_result(slot.embedding)
        except BaseException as error:
            with self._lock:
                if self._slots.get(text) is slot:
                    del self._slots[text]
            # Even for KeyboardInterrupt: otherwise waiting threads would wait forever.
            slot.set_exception(error)

    def _checked(self, embedding: Embedding) -> Embedding:
        # A number that is not finite would make the order of the hits arbitrary.
        fault = embedding_fault(embedding, None)
        if fault is not None:
            raise PermanentBackendError(f"{type(self._embedder).__name__}.embed_query returned {fault}")
        return embedding


_MEMBERS = ("name", "size", "embed_documents", "embed_query")


def check_embedder(embedder: object) -> None:
    """
    Check that an object is an `Embedder`, without calling it.

    Raises:
        ConfigurationError: If it is not; the message gives an example.
    """
    if isinstance(embedder, type):
        raise ConfigurationError(
            f"embedder must be an object, got the class {embedder.__name__}; for example "
            f"embedder={embedder.__name__}(...)"
        )
    if isinstance(embedder, str):
        raise ConfigurationError(
            f"embedder must be an object, got the name {embedder!r}; for example embedder=FastEmbedder({embedder!r}), "
            f"or embedder=APIEmbedder(url, {embedder!r}) if a service has it, or leave it out for HashingEmbedder()"
        )
    # dir() before hasattr(): a property may load a model or send a request.
    missing = [name for name in _MEMBERS if name not in dir(embedder) and not hasattr(embedder, name)]
    if missing:
        raise ConfigurationError(
            f"embedder must have {', '.join(_MEMBERS)}, but {type(embedder).__name__} has no {', '.join(missing)}; "
            "for example embedder=HashingEmbedder(), or leave it out"
        )

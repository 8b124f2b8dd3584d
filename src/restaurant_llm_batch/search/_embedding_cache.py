"""Query embedding cache: single-flight LRU cache, so that concurrent threads embed a text once."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from .._threads import SignalSafeEvent
from ..errors import ConfigurationError, PermanentBackendError
from ..protocols import Embedder, Embedding
from ._batch_embedding import embedding_fault


class _Slot:
    """The embedding of a text, which threads wait for, or the error."""

    def __init__(self) -> None:
        self.embedding: Embedding | None = None
        self.error: BaseException | None = None
        self.done: SignalSafeEvent = SignalSafeEvent()


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
        return slot is not None and slot.embedding is not None

    def embed(self, text: str) -> Embedding:
        """
        Return the embedding of a query text.

        Args:
            text: The query text.

        Raises:
            Exception: The embedder's error; errors are not cached.
        """
        while True:
            slot = self._slots.get(text)
            if slot is None or slot.embedding is None:
                slot = self._fill_or_wait(text)
            else:
                with self._lock:
                    if text in self._slots:
                        self._slots.move_to_end(text)
            if slot.embedding is not None:
                return slot.embedding
            if isinstance(slot.error, Exception):
                raise slot.error
            # Otherwise the thread that embedded it was interrupted, which is not this one's matter.

    def _fill_or_wait(self, text: str) -> _Slot:
        """Embed a text, or wait until another thread has done so; return its slot."""
        mine = _Slot()
        try:
            with self._lock:
                slot = self._slots.setdefault(text, mine)
                if len(self._slots) > self._size:
                    self._slots.popitem(last=False)
            # Outside the lock, so that a slow text does not delay others.
            if slot is mine:
                slot.embedding = self._checked(self._embedder.embed_query(text))
        except BaseException as error:
            with self._lock:
                if self._slots.get(text) is mine:
                    del self._slots[text]
            mine.error = error
            if not isinstance(error, Exception):
                raise
            slot = mine
        finally:
            mine.done.set()
        slot.done.wait()
        return slot

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

"""Every query text is embedded once, however many threads ask for it at the same time."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock

from ..errors import ConfigurationError
from ..protocols import Embedder, Embedding


class QueryEmbeddingCache:
    """
    A bounded memory of query embeddings, safe to share between threads.

    The query texts of a run are the same few for every restaurant. The first thread that asks for
    one embeds it; the others wait for that answer. Different texts do not wait for each other.
    """

    def __init__(self, embedder: Embedder, *, size: int = 1024) -> None:
        """
        Make an empty memory.

        Args:
            embedder: Embeds what is not remembered.
            size: How many texts are remembered; those not asked for longest go first.
        """
        self._embedder = embedder
        self._size = size
        self._lock = Lock()
        self._slots: OrderedDict[str, Future[Embedding]] = OrderedDict()

    def is_cached(self, text: str) -> bool:
        """Tell whether `embed` would answer at once."""
        slot = self._slots.get(text)
        return slot is not None and slot.done()

    def embed(self, text: str) -> Embedding:
        """
        Return the embedding of a query text.

        Args:
            text: The text to search with.

        Raises:
            Exception: What the embedder raised; it is not remembered.
        """
        with self._lock:
            slot = self._slots.get(text)
            mine = slot is None
            if slot is None:
                slot = self._slots[text] = Future()
                if len(self._slots) > self._size:
                    self._slots.popitem(last=False)
            self._slots.move_to_end(text)
        # Outside the lock, so that one slow text holds up nobody else.
        if mine:
            self._fill(slot, text)
        return slot.result()

    def _fill(self, slot: Future[Embedding], text: str) -> None:
        try:
            slot.set_result(self._embedder.embed_query(text))
        except BaseException as error:
            with self._lock:
                if self._slots.get(text) is slot:
                    del self._slots[text]
            # Those who wait must not wait for ever, whatever ended this attempt.
            slot.set_exception(error)


_MEMBERS = ("name", "size", "embed_documents", "embed_query")


def check_embedder(embedder: object) -> None:
    """
    Check that something is an `Embedder`, without asking it anything.

    Raises:
        ConfigurationError: It is none; says what to write instead.
    """
    if isinstance(embedder, type):
        raise ConfigurationError(
            f"embedder must be an object, got the class {embedder.__name__}; for example embedder={embedder.__name__}(...)"
        )
    if isinstance(embedder, str):
        raise ConfigurationError(
            f"embedder must be an object, got the name {embedder!r}; for example embedder=FastEmbedder({embedder!r}), or "
            f"embedder=APIEmbedder(url, {embedder!r}) where a service has it, or leave it out for HashingEmbedder()"
        )
    # Not getattr first: a property may load a model, or ask a service.
    missing = [name for name in _MEMBERS if name not in dir(embedder) and not hasattr(embedder, name)]
    if missing:
        raise ConfigurationError(
            f"embedder must have {', '.join(_MEMBERS)}, but {type(embedder).__name__} has no {', '.join(missing)}; "
            "write embedder=HashingEmbedder(), or leave it out"
        )

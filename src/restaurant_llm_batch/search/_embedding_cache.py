"""Every query text is embedded once, however many threads ask for it at the same time."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock

from ..protocols import Embedder, Embedding


class EmbedOnce:
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

    def knows(self, text: str) -> bool:
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

"""
Batch embedding for the index: retries, and halving down to the texts that cannot be embedded.

A service fails a whole request for one text that it cannot encode, or returns no usable vector for that text. So a
batch that failed is embedded in halves, and a half that failed in halves again, until the texts at fault are alone.
A text is only left out if the embedder works for other texts: if both halves fail, a text that is known to be good is
embedded as a probe, and if that fails too, the service is at fault and its error is raised.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from math import isfinite
from typing import TypeAlias

from .. import cancellation
from .._config.retry import AttemptCounts, RetryPolicy, next_retry_delay
from ..errors import (
    STOPS_THE_RUN,
    BackendError,
    BatchError,
    PermanentBackendError,
    RateLimited,
    TransientBackendError,
)
from ..protocols import Embedder, Embedding
from ._indexing import IndexEntry, IndexFailure

log = logging.getLogger("restaurant_llm_batch.search")

EmbeddingOrError: TypeAlias = "Embedding | Exception"

_PROBE = "good food"
_MAX_REASON = 300
_FLOAT32_MAX = 3.4e38
_UINT32_END = 2**32


class BatchEmbedder:
    """
    Embeds batches of documents, and returns an error in place of each text that cannot be embedded.

    Retries a transient error as `RetryPolicy` says, since no run does it for the index; blocks meanwhile.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        policy: RetryPolicy | None = None,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """
        Create a batch embedder for one indexing.

        Args:
            embedder: The embedder.
            policy: How often a failed request is tried again; None for the default policy.
            sleep: Waits for a number of seconds; None for `cancellation.sleep`.
        """
        self._embedder = embedder
        self._policy = RetryPolicy() if policy is None else policy
        self._sleep = cancellation.sleep if sleep is None else sleep
        self._size: int | None = None
        self._good_text: str | None = None

    def embed_entries(
        self, entries: Sequence[IndexEntry]
    ) -> tuple[list[tuple[IndexEntry, Embedding]], list[IndexFailure]]:
        """
        Embed reviews; return those with an embedding, and those without one.

        Raises:
            Exception: As `embed`.
        """
        embedded: list[tuple[IndexEntry, Embedding]] = []
        failures: list[IndexFailure] = []
        found = self.embed([entry.content for entry in entries]) if entries else []
        for entry, result in zip(entries, found, strict=True):
            if isinstance(result, Exception):
                reason = f"{type(result).__name__}: {result}"[:_MAX_REASON]
                failures.append(IndexFailure(entry.restaurant_id, entry.review_id, entry.position, reason))
            else:
                embedded.append((entry, result))
        return embedded, failures

    def embed(self, texts: Sequence[str]) -> list[EmbeddingOrError]:
        """
        Embed documents.

        Args:
            texts: The texts; at least one.

        Returns:
            For each text, in order, its embedding, or the error that says why it has none.

        Raises:
            Exception: The embedder's error, if it fails for every text, or can never succeed.
        """
        if self._size is None:
            # Known before any vector is: the first one may be the one that is too short.
            self._size = self._embedder.size
        found = self._try(texts, retry=True)
        if isinstance(found, Exception):
            found = self._split(texts, found, proven=False)
        elif all(isinstance(one, Exception) for one in found):
            self._probe(next(one for one in found if isinstance(one, Exception)))
        return found

    def _split(self, texts: Sequence[str], error: Exception, *, proven: bool) -> list[EmbeddingOrError]:
        """Embed a batch that failed in two halves; `proven` if the embedder works for other texts."""
        if len(texts) == 1:
            return [self._alone(texts, error, proven=proven)]
        middle = (len(texts) + 1) // 2
        halves = texts[:middle], texts[middle:]
        results = [self._try(half) for half in halves]
        errors = [result for result in results if isinstance(result, Exception)]
        if len(errors) == len(halves):
            self._probe(errors[0])
        found: list[EmbeddingOrError] = []
        for half, result in zip(halves, results, strict=True):
            found += self._split(half, result, proven=True) if isinstance(result, Exception) else result
        return found

    def _alone(self, texts: Sequence[str], error: Exception, *, proven: bool) -> EmbeddingOrError:
        if not proven:
            self._probe(error)
        elif isinstance(error, TransientBackendError):
            # A blip of the service may have hit this text by chance.
            result = self._try(texts, retry=True)
            return result if isinstance(result, Exception) else result[0]
        return error

    def _probe(self, error: Exception) -> None:
        """Raise the error unless the embedder works for a good text."""
        found = self._try([self._good_text or _PROBE])
        if isinstance(found, Exception) or isinstance(found[0], Exception):
            raise error

    def _try(self, texts: Sequence[str], *, retry: bool = False) -> list[EmbeddingOrError] | Exception:
        """Embed texts; return the error if that failed for all of them, and raise one that no halving mends."""
        counts = AttemptCounts()
        while True:
            try:
                return self._checked(texts, self._embedder.embed_documents(texts))
            except STOPS_THE_RUN:
                raise
            except Exception as error:
                if isinstance(error, BatchError) and not isinstance(error, BackendError):
                    raise
                refused = isinstance(error, RateLimited)
                counts = AttemptCounts(counts.failed + (not refused), counts.rate_limited + refused)
                wait = next_retry_delay(self._policy, error, counts, random.random())
                # A service that answered 200 with an unusable vector is up: it has the same for this text again.
                answered = isinstance(error, BackendError) and error.status == 200
                if wait is None or answered or not (retry or refused):
                    if refused:  # by the service's load, not because of a text
                        raise
                    return error
                log.info(
                    "embedding %d texts failed; it is tried again in %.1f s: %s", len(texts), wait, error
                )
            self._sleep(wait)

    def _checked(self, texts: Sequence[str], embeddings: Sequence[Embedding]) -> list[EmbeddingOrError]:
        name = type(self._embedder).__name__
        if len(embeddings) != len(texts):
            raise PermanentBackendError(
                f"{name}.embed_documents must return an embedding for each of {len(texts)} texts, got "
                f"{len(embeddings)}"
            )
        found: list[EmbeddingOrError] = []
        for text, embedding in zip(texts, embeddings, strict=True):
            fault = embedding_fault(embedding, self._size)
            if fault is None:
                found.append(embedding)
                self._good_text = text
            else:
                found.append(PermanentBackendError(f"{name} returned {fault}"))
        return found


def embedding_fault(embedding: Embedding, size: int | None) -> str | None:
    """
    Return what is wrong with an embedding, or None.

    Args:
        embedding: What an embedder returned.
        size: Dimension that its dense vector must have; None for any.
    """
    try:
        dense, sparse = embedding.dense, embedding.sparse
        if len(dense) != size and size is not None:
            return f"a dense vector of dimension {len(dense)}, expected {size}"
        # The sum is not finite if a number is not; it is several times faster than a look at each.
        if not -_FLOAT32_MAX < sum(dense) < _FLOAT32_MAX and not all(map(_is_float32, dense)):
            return "a dense vector with a number that is not finite"
        if len(sparse.indices) != len(sparse.values):
            return f"a sparse vector with {len(sparse.indices)} indices and {len(sparse.values)} values"
        if not isfinite(sum(sparse.values)) and not all(map(_is_float32, sparse.values)):
            return "a sparse vector with a number that is not finite"
        if len(set(sparse.indices)) != len(sparse.indices):
            return "a sparse vector with an index twice"
        if len(sparse.indices) and not 0 <= min(sparse.indices) <= max(sparse.indices) < _UINT32_END:
            return "a sparse vector with an index that does not fit 32 bits"
    except (TypeError, AttributeError):
        return "something else than an Embedding of numbers"
    return None


def _is_float32(value: float) -> bool:
    return -_FLOAT32_MAX < value < _FLOAT32_MAX

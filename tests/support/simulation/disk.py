"""A store of simulation tests: replies are durable after a while on virtual time, and outlive a kill."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from restaurant_llm_batch import LLMResponse
from restaurant_llm_batch._engine.virtual import VirtualTime
from restaurant_llm_batch._store.overlay import OverlayStore
from restaurant_llm_batch._store.writer import OnCommit
from restaurant_llm_batch.errors import StoreError

Kept = dict[bytes, LLMResponse]


class Disk(OverlayStore):
    """
    A store that commits after some virtual seconds.

    Args:
        time: Its time.
        kept: What is durable; shared with the store of the process after a kill.
        commit_seconds: Seconds from a change to its commit.

    Attributes:
        durable_since: When each reply became durable, for those of this process.
        pending: Changes that are not committed yet.
        discarded: Keys of replies that were deleted, or are to be.
        is_full: Whether every further commit fails.
    """

    vain = 9  # so that what starts together is looked up together

    def __init__(self, time: VirtualTime, kept: Kept, commit_seconds: float) -> None:
        super().__init__()
        self.kept = kept
        self.durable_since = dict.fromkeys(kept, -1.0)
        self.pending = 0
        self.discarded: set[bytes] = set()
        self.is_full = False
        self._discarding: set[bytes] = set()
        self._time = time
        self._commit_seconds = commit_seconds

    def get(self, key: bytes) -> LLMResponse | None:
        return None if key in self._discarding else self.kept.get(key)

    def absent(self, keys: Sequence[bytes]) -> AbstractSet[bytes]:
        return {key for key in keys if self.get(key) is None}

    def put(self, key: bytes, reply: LLMResponse, on_commit: OnCommit) -> None:
        self._plan(partial(self._put, key, reply, on_commit))

    def discard(self, key: bytes, on_commit: OnCommit) -> None:
        self._discarding.add(key)
        self.discarded.add(key)
        self._plan(partial(self._discard, key, on_commit))

    def _plan(self, commit: partial[None]) -> None:
        self.pending += 1
        self._time.call_later(self._commit_seconds, commit)

    def _put(self, key: bytes, reply: LLMResponse, on_commit: OnCommit) -> None:
        self.pending -= 1
        if self.is_full:
            on_commit(StoreError("the disk is full"))
            return
        self.kept[key] = reply
        self.durable_since[key] = self._time.now()
        self.discarded.discard(key)
        on_commit(None)

    def _discard(self, key: bytes, on_commit: OnCommit) -> None:
        self.pending -= 1
        self._discarding.discard(key)
        if not self.is_full:
            self.kept.pop(key, None)
            self.durable_since.pop(key, None)
        on_commit(StoreError("the disk is full") if self.is_full else None)

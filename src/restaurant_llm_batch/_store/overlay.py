"""Overlay store: what a store has, with changes that are kept in memory only."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from .._llm_response import LLMResponse
from .folder import StoreFolder
from .inflight import InFlightCalls
from .store import Store
from .writer import OnCommit


class OverlayStore:
    """
    The replies of a store, and those of a simulated run, which do not get into it.

    Args:
        store: What it has at first; None for nothing.
    """

    claim_seconds: float = 0.0
    """Seconds until a claim is certain."""
    vain: int = 0
    """None are counted: a lookup takes no query."""

    def __init__(self, store: Store | StoreFolder | OverlayStore | None = None) -> None:
        self.in_flight: InFlightCalls = InFlightCalls()
        self._store = store
        self._changes: dict[bytes, LLMResponse | None] = {}

    def get(self, key: bytes) -> LLMResponse | None:
        """Return the reply stored under a key, or None."""
        if key in self._changes or self._store is None:
            return self._changes.get(key)
        return self._store.get(key)

    def absent(self, keys: Sequence[bytes]) -> AbstractSet[bytes]:
        """Return those of some keys under which there is no reply; under the others there may be one."""
        others = [key for key in keys if key not in self._changes]
        return frozenset(others) if self._store is None else self._store.absent(others)

    def put(self, key: bytes, reply: LLMResponse, on_commit: OnCommit) -> None:
        """Keep a reply, replacing the one under that key."""
        self._changes[key] = reply
        on_commit(None)

    def discard(self, key: bytes, on_commit: OnCommit) -> None:
        """Forget a reply."""
        self._changes[key] = None
        on_commit(None)

    def job(self, key: bytes) -> str | None:
        """Return None: a simulated server has no jobs."""
        return None

    def record_job(self, key: bytes, backend: str, job_id: str, on_commit: OnCommit) -> None:
        """Do nothing but to call back."""
        on_commit(None)

    def claim_job(self, key: bytes, backend: str, job_id: str, on_commit: OnCommit) -> None:
        """Do nothing but to call back."""
        on_commit(None)

    def delete_job(self, key: bytes, job_id: str, on_commit: OnCommit) -> None:
        """Do nothing but to call back."""
        on_commit(None)


AnyStore: TypeAlias = Store | StoreFolder | OverlayStore

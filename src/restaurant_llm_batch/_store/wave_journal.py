"""
Wave journal: which requests a provider's batch is to answer, in the store, so that a later run collects the batch.

It uses the store's table of jobs. Each line of a wave has a row under the key of its reply, which names the wave; the
wave has a row of its own, which says how far it has come. Both are written before the batch is made: whatever a kill
leaves, the next run finds the wave of each line, and by its name the batch, which carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from .._llm_response import LLMResponse
from .keys import KEY_SIZE
from .overlay import AnyStore
from .writer import OnCommit


class WaveJournal:
    """
    The waves of one service in a store. Its methods return at once.

    Args:
        store: The store.
        name: Name of the service, without a space.
    """

    def __init__(self, store: AnyStore, name: str) -> None:
        self._store = store
        self._name = name

    def wave_of(self, key: bytes) -> str | None:
        """Return the wave that a request is in; None if it is in none of this service."""
        return self._read(key)

    def state_of(self, wave: str) -> str | None:
        """Return how far a wave has come; None if it is not known."""
        return self._read(_wave_key(wave))

    def record_lines(self, keys: Sequence[bytes], wave: str, on_commit: OnCommit) -> None:
        """Record that requests are in a wave; `on_commit` is called once all of them are durable."""
        failures: list[Exception] = []

        def keep(failure: Exception | None) -> None:
            if failure is not None:
                failures.append(failure)

        for key in keys[:-1]:
            self._store.record_job(key, self._name, f"{self._name} {wave}", keep)
        # Changes are durable in the order in which they were made.
        last = keys[-1]
        self._store.record_job(
            last,
            self._name,
            f"{self._name} {wave}",
            lambda failure: on_commit(failures[0] if failures else failure),
        )

    def record_state(self, wave: str, state: str, on_commit: OnCommit) -> None:
        """Record how far a wave has come, in place of what was recorded before."""
        self._store.record_job(_wave_key(wave), self._name, f"{self._name} {state}", on_commit)

    def keep(self, replies: Sequence[tuple[bytes, LLMResponse]], on_commit: OnCommit) -> None:
        """Store replies under their keys; `on_commit` is called once all of them are durable."""
        failures: list[Exception] = []

        def note(failure: Exception | None) -> None:
            if failure is not None:
                failures.append(failure)

        for key, reply in replies[:-1]:
            self._store.put(key, reply, note)
        key, reply = replies[-1]
        self._store.put(key, reply, lambda failure: on_commit(failures[0] if failures else failure))

    def forget_line(self, key: bytes, wave: str) -> None:
        """Delete the row of a request, unless it is in another wave since."""
        self._store.delete_job(key, f"{self._name} {wave}", _nothing)

    def forget_wave(self, wave: str) -> None:
        """Delete the row of a wave."""
        state = self.state_of(wave)
        if state is not None:
            self._store.delete_job(_wave_key(wave), f"{self._name} {state}", _nothing)

    def _read(self, key: bytes) -> str | None:
        found = self._store.job(key)
        name, _, rest = (found or "").partition(" ")
        return rest if name == self._name and rest else None


def _wave_key(wave: str) -> bytes:
    return blake2b(b"wave " + wave.encode(), digest_size=KEY_SIZE).digest()


def _nothing(_: Exception | None) -> None:
    """Do nothing: a row that stays is found to be stale."""

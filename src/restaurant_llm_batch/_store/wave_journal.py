"""
Wave journal: which requests a provider's batch is to answer, in the store, so that a later run collects the batch.

It uses the store's table of jobs. A wave has a row of its own, which says how far it has come (`WaveNote`) and which
process carries it; each of its lines has a row under the key of its reply, which names the wave. All of them are
written before the batch is made: whatever a kill leaves, the next run finds the wave of each line, and by its name the
batch, which carries it. The wave's own row is the first: a line whose wave has no row is in no wave.

Several processes may have one store. A line is claimed: of two waves that want it at the same time, one gets it, and
the other reads in the journal who has.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from secrets import token_hex
from typing import NamedTuple
from urllib.parse import quote, unquote

from .._llm_response import LLMResponse
from .keys import KEY_SIZE
from .overlay import AnyStore
from .writer import OnCommit

_LIFE = token_hex(4)
"""Tells this process from one before it with the same number, which is common in containers."""


class WaveNote(NamedTuple):
    """
    How far a wave has come.

    Attributes:
        owner: The process that carries it; "" if it is not known.
        file_id: Id of its file at the service, or "".
        batch_id: Id of its batch, or "" if it has none yet, or none that is known.
    """

    owner: str
    file_id: str = ""
    batch_id: str = ""

    def written(self) -> str:
        """Return it as the journal has it."""
        if self.batch_id:
            return f"b {quote(self.batch_id, safe='')} {self.owner}"
        return f"f {quote(self.file_id, safe='')} {self.owner}" if self.file_id else f"n {self.owner}"

    @classmethod
    def read(cls, written: str) -> WaveNote | None:
        """Return what the journal says; None if that is not understood."""
        kind, *rest = written.split()
        if kind == "n":
            return cls(*rest[:1]) if rest else cls("")
        if kind not in ("f", "b") or not rest:
            return None
        found, owner = unquote(rest[0]), rest[1] if len(rest) > 1 else ""
        return cls(owner, batch_id=found) if kind == "b" else cls(owner, file_id=found)


class WaveJournal:
    """
    The waves of one service in a store. Its methods return at once.

    Args:
        store: The store.
        name: Name of the service, without a space.

    Attributes:
        claim_seconds: Seconds after which it is certain which wave has a line that several claim.
    """

    def __init__(self, store: AnyStore, name: str) -> None:
        self.claim_seconds: float = store.claim_seconds
        self._store = store
        self._name = name

    def wave_of(self, key: bytes) -> str | None:
        """Return the wave that a request is in; None if it is in none of this service."""
        return self._read(key)

    def note_of(self, wave: str) -> WaveNote | None:
        """Return how far a wave has come; None if it is not known."""
        written = self._read(_wave_key(wave))
        return None if written is None else WaveNote.read(written)

    def claim_lines(self, keys: Sequence[bytes], wave: str, on_commit: OnCommit) -> None:
        """Record that requests are in a wave, unless they are in another one; `on_commit` is called at the end."""
        job = f"{self._name} {wave}"
        _for_all([partial(self._store.claim_job, key, self._name, job) for key in keys], on_commit)

    def record_note(self, wave: str, note: WaveNote, on_commit: OnCommit) -> None:
        """Record how far a wave has come, in place of what was recorded before."""
        self._store.record_job(_wave_key(wave), self._name, f"{self._name} {note.written()}", on_commit)

    def keep(self, replies: Sequence[tuple[bytes, LLMResponse]], on_commit: OnCommit) -> None:
        """Store replies under their keys; `on_commit` is called once all of them are durable."""
        _for_all([partial(self._store.put, key, reply) for key, reply in replies], on_commit)

    def forget_line(self, key: bytes, wave: str) -> None:
        """Delete the row of a request, unless it is in another wave."""
        self._store.delete_job(key, f"{self._name} {wave}", _nothing)

    def forget_wave(self, wave: str) -> None:
        """Delete the row of a wave."""
        written = self._read(_wave_key(wave))
        if written is not None:
            self._store.delete_job(_wave_key(wave), f"{self._name} {written}", _nothing)

    def _read(self, key: bytes) -> str | None:
        found = self._store.job(key)
        name, _, rest = (found or "").partition(" ")
        return rest if name == self._name and rest else None


def this_process() -> str:
    """Return the name of this process in the journal: until it ends, it may still create the batch."""
    return f"{os.getpid()}.{_LIFE}@{socket.gethostname()}"


def may_live(owner: str) -> bool:
    """Return whether a process of the journal may be alive; of another machine, that is not known."""
    process, _, host = owner.partition("@")
    number, _, life = process.partition(".")
    if host != socket.gethostname() or not number.isdecimal():
        return bool(host)
    if int(number) == os.getpid():
        return life in ("", _LIFE)
    if os.name != "posix":
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _wave_key(wave: str) -> bytes:
    return blake2b(b"wave " + wave.encode(), digest_size=KEY_SIZE).digest()


def _for_all(changes: Sequence[Callable[[OnCommit], object]], on_commit: OnCommit) -> None:
    """Make changes; call `on_commit` after the last one, as they are durable in the order in which they were made."""
    failures: list[Exception] = []

    def note(failure: Exception | None) -> None:
        if failure is not None:
            failures.append(failure)

    for change in changes[:-1]:
        change(note)
    changes[-1](lambda failure: on_commit(failures[0] if failures else failure))


def _nothing(_: Exception | None) -> None:
    """Do nothing: a row that stays is found to be stale."""

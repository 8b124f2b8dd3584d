"""Lookups: the replies of calls that start together are looked for in the store in one query."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from .frames import Frame
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .._store.overlay import AnyStore

Answers: TypeAlias = list[tuple[Frame, int | None]]
"""Frames, and what the `LookUp` step of each is answered with."""


class Lookups:
    """
    The frames that wait for a lookup, which is made after the current action and those that are queued.

    Args:
        store: The store.
        mailbox: Where the run lives.
        answer: Resumes the frames.
    """

    def __init__(self, store: AnyStore, mailbox: Mailbox, answer: Callable[[Answers], object]) -> None:
        self._store = store
        self._mailbox = mailbox
        self._answer = answer
        self._waiting: list[tuple[Frame, bytes]] = []

    def add(self, frame: Frame, key: bytes) -> None:
        """Look for the reply of a key with those of the other frames."""
        self._waiting.append((frame, key))
        if len(self._waiting) == 1:
            self._mailbox.post_deferred(self._look_up)

    def _look_up(self) -> None:
        waiting, self._waiting = self._waiting, []
        ended = self._store.in_flight.ended
        absent = self._store.absent([key for _, key in waiting])
        self._answer([(frame, ended if key in absent else None) for frame, key in waiting])

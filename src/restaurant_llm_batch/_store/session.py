"""What a store has open in this process: a connection to read, one to write, and the thread that writes."""

from __future__ import annotations

import os
import threading
import weakref
from queue import SimpleQueue

from .database import StoreFile
from .link import Link
from .writer import Change, Purge, Work, Writer

READ_WAIT = 1.0
"""Seconds that a read waits for a lock; it hardly ever meets one, and it may be an event loop that waits."""


class Session:
    """
    The open things of one store; they are opened when they are needed, also after `end`.

    Args:
        file: The store's file.

    Attributes:
        reading: The connection for reading, of whoever reads.
    """

    def __init__(self, file: StoreFile) -> None:
        self._file = file
        self.start_afresh()
        if hasattr(os, "register_at_fork"):
            _close_around_forks(weakref.ref(self))

    def start_afresh(self) -> None:
        """Have nothing open, and nothing to write."""
        self.reading = Link(self._file, min(READ_WAIT, self._file.wait))
        self._writing = Link(self._file, self._file.wait)
        self._lock = threading.RLock()  # the garbage collector may call `end` while it is held
        self._work: Work = SimpleQueue()
        self._writer: Writer | None = None

    @property
    def commits(self) -> int:
        """Commits so far."""
        return 0 if self._writer is None else self._writer.commits

    def hand_in(self, change: Change | Purge) -> None:
        """Have something written, after all that was handed in before; never waits for the disk."""
        with self._lock:
            self._work.put(
                change
            )  # first: a writer that is told to end now still meets it, or the next one does
            writer = self._writer
            if writer is None or writer.ending:
                self._writer = Writer(self._file, self._writing, self._work, writer)

    def end(self) -> None:
        """Wait until what was handed in is written, and close everything."""
        with self._lock:
            writer = self._writer
            if writer is not None and not writer.ending:
                writer.ending = True
                self._work.put(None)
        if writer is not None:
            writer.join()
        self.reading.close()

    def hold(self) -> None:
        """Close the connections and keep everybody from using them until `let_go`."""
        self.reading.hold()
        self._writing.hold()

    def let_go(self) -> None:
        """Allow uses again."""
        self._writing.let_go()
        self.reading.let_go()

    def __del__(self) -> None:
        # The store was not closed. Nothing is lost: the thread writes what is left, closes its file and ends.
        self._work.put(None)
        self.reading.close()


def _close_around_forks(mine: weakref.ref[Session]) -> None:
    """
    Have the file closed while this process forks, and begin anew in the child.

    SQLite does not survive a fork with a file open: the child would believe to hold its parent's locks, and
    write without any. The hooks stay for ever, the session need not.
    """
    held: list[Session] = []  # from before the fork until after it

    def before() -> None:
        session = mine()
        if session is not None:
            session.hold()
            held.append(session)

    def in_parent() -> None:
        if held:
            held.pop().let_go()

    def in_child() -> None:
        if held:
            held.pop().start_afresh()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)

"""
Connections of a database file: the open ones and the writer, opened when they are needed and closed around forks.

The store and the record use them alike; they differ in the `FileKind` and in the `Prepare` function.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from .._threads import SignalSafeEvent
from .database import StoreFile
from .repair import StoreCheck, verify
from .shared_connection import SharedConnection
from .writer import CommitFuture, Flush, GroupCommitWriter, Prepare, Tick, Work

READ_LOCK_TIMEOUT = 1.0
"""Seconds that a read waits for a lock. It rarely meets one, and the waiting thread may be an event loop's."""


class Connections:
    """
    The open connections and the writer of one file, opened when they are needed, also after `close`.

    Args:
        file: The file.
        prepare: Returns what is written for changes.
        gather_seconds: How long changes may gather until they are written; 0 for changes that are waited for.
        tick: What the writing thread does besides, or None.

    Attributes:
        reading: The connection for reads, shared by all threads.
    """

    def __init__(
        self, file: StoreFile, prepare: Prepare, gather_seconds: float = 0.0, tick: Tick | None = None
    ) -> None:
        self._tick = tick
        self._file = file
        self._prepare = prepare
        self._gather_seconds = gather_seconds
        self.reset_after_fork()
        if hasattr(os, "register_at_fork"):
            close_around_forks(weakref.ref(self))

    def reset_after_fork(self) -> None:
        """Start with nothing open and nothing queued."""
        self.reading: SharedConnection = SharedConnection(
            self._file, min(READ_LOCK_TIMEOUT, self._file.lock_timeout)
        )
        self._writing = SharedConnection(self._file, self._file.lock_timeout)
        self._checking = SharedConnection(self._file, self._file.lock_timeout)
        # Reentrant: the garbage collector may run code here that takes it again.
        self._lock = threading.RLock()
        self._work: Work = SimpleQueue()
        self._hurry = SignalSafeEvent()
        self._writer: GroupCommitWriter | None = None

    @property
    def commits(self) -> int:
        """Number of commits so far."""
        return self.count_commits()

    def count_commits(self) -> int:
        """Return the number of commits so far."""
        return 0 if self._writer is None else self._writer.commits

    def submit(self, change: Any) -> None:
        """Queue a change or a request, after those queued before it. Does not wait for the disk."""
        with self._lock:
            # First of all: if the writer is asked to end right now, it or the next one still finds the change.
            self._work.put(change)
            writer = self._writer
            if writer is None or writer.ending or not writer.started:
                self._start_writer()

    def _start_writer(self) -> GroupCommitWriter:
        """Start a writer, unless one is at work. After an interrupt, do what is left to do."""
        writer = self._writer
        if writer is None or writer.ending:
            if writer is not None:
                self._work.put(
                    writer
                )  # again, if it was asked to end already; otherwise the next one waits for it
            # Not a method: the thread would keep this object alive.
            gather = partial(_gather, self._hurry, self._gather_seconds) if self._gather_seconds else None
            writer = self._writer = GroupCommitWriter(
                *(self._file, self._writing, self.reading, self._work, self._prepare),
                *(gather, self._tick, writer),
            )
        writer.start()
        return writer

    def hurry(self) -> None:
        """Write what is queued now, and do not let it gather. Does not wait for the disk."""
        self._hurry.set()

    def flush(self, seconds: float | None = None) -> None:
        """
        Wait until all that is queued is written, or cannot be written.

        Args:
            seconds: How long to wait at most; None for no limit.
        """
        written = CommitFuture()
        self.submit(Flush(written))
        self.hurry()
        with suppress(Exception):  # an error is that of the changes, to whose callbacks it is reported
            written.exception(seconds)

    def close(self) -> None:
        """Wait until all queued changes are written, and close everything."""
        with self._lock:
            writer = self._writer
            if not self._work.empty():
                writer = self._start_writer()
            if writer is not None and not writer.over:
                writer.ending = True
                self._work.put(writer)
                self.hurry()
        if writer is not None:
            writer.join()
        self.reading.close()

    def check(self) -> StoreCheck:
        """Check every row, on a connection of its own."""
        try:
            with self._checking as connection:
                return verify(connection)
        finally:
            self._checking.close()

    def suspend(self) -> None:
        """Close the connections and block their use until `resume`."""
        for connection in (self.reading, self._writing, self._checking):
            connection.suspend()

    def resume(self) -> None:
        """Allow uses again, after `suspend`."""
        for connection in (self._checking, self._writing, self.reading):
            connection.resume()

    def __del__(self) -> None:
        # The file was not closed. Nothing is lost: the writer writes the queued changes, closes its connection and
        # ends.
        if self._writer is not None:
            self._work.put(self._writer)
            self.hurry()
        self.reading.close()


def _gather(hurry: SignalSafeEvent, seconds: float) -> None:
    hurry.wait(seconds)
    hurry.clear()


class Forkable(Protocol):
    """What has a database file open."""

    def suspend(self) -> object:
        """Close the file and block its use until `resume`."""
        ...

    def resume(self) -> object:
        """Allow uses again."""
        ...

    def reset_after_fork(self) -> object:
        """Start with nothing open, in a child."""
        ...


def close_around_forks(mine: weakref.ref[Any]) -> None:
    """
    Close the file of a `Forkable` while this process forks, and start afresh in the child.

    SQLite does not survive a fork with a file open: POSIX file locks are not inherited, so the child would believe it
    holds its parent's locks, and would write without any. Hooks cannot be unregistered; therefore they hold the
    connections by a weak reference only.
    """
    suspended: list[Forkable] = []  # alive from before the fork until after it

    def before() -> None:
        # Waits until no thread uses a connection, so that neither an open file nor a held lock gets into the child.
        connections: Forkable | None = mine()
        if connections is not None:
            connections.suspend()
            suspended.append(connections)

    def in_parent() -> None:
        if suspended:
            suspended.pop().resume()  # the next use opens the file again

    def in_child() -> None:
        # The child has no writer thread. Changes queued before the fork are the parent's to write.
        if suspended:
            suspended.pop().reset_after_fork()

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)

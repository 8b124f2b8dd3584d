"""
Threads, events and semaphores that are safe from Ctrl-C.

What `threading` and `concurrent.futures` have for this is written in Python, around a lock. An interrupt between two of
its lines leaves the lock taken (CPython 3.11 to 3.14): the thread that would set the event, or the future, then waits
for ever. A lock is written in C, where no interrupt lands.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

START_SECONDS = 2.0
"""Seconds to wait for a thread whose start was interrupted, until it counts as not started."""
LOOK_SECONDS = 0.5
"""
Longest wait at a lock, in seconds; then it is waited for again.

A signal that arrives just before a thread blocks does not interrupt the wait: without this limit, a Ctrl-C at the wrong
microsecond would take effect only when the wait ends.
"""


class SignalSafeEvent:
    """As `threading.Event`, safe from interrupts. One thread at most may clear it."""

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()  # taken while the event is not set
        self._lock.acquire()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it: all that wait go on."""
        self._is_set = True
        self._release()

    def clear(self) -> None:
        """Set it back."""
        self._is_set = False
        self._lock.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most `timeout` seconds (None: without limit); return whether it is."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_set:
            left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, deadline - time.monotonic())
            if left <= 0:
                break
            # If it is not set, a `clear` and a `set` at once have left the lock free: now it is taken again. If it is,
            # others go on, too; after an interrupt before this they see that it is set.
            if self._lock.acquire(timeout=left) and self._is_set:
                self._release()
        return self._is_set

    def _at_fork_reinit(self) -> None:  # CPython calls it in a forked child, for the event of a thread
        self._lock = threading.Lock()
        if not self._is_set:
            self._lock.acquire()

    def _release(self) -> None:
        with suppress(RuntimeError):  # it is free
            self._lock.release()


class SignalSafeSemaphore:
    """A number of slots, as `threading.Semaphore`, of which an interrupt takes none."""

    def __init__(self, slots: int) -> None:
        self.free: deque[None] = deque([None] * slots)
        self._freed = threading.Lock()  # as a binary semaphore: free if a slot was freed

    def slot(self) -> SemaphoreSlot:
        """Return a slot that is not held yet."""
        return SemaphoreSlot(self)

    def wake(self) -> None:
        """Have one of those that wait look for a free slot."""
        with suppress(RuntimeError):  # one is about to
            self._freed.release()

    def wait(self, timeout: float) -> None:
        """Wait until a slot may be free, at most `timeout` seconds."""
        self._freed.acquire(timeout=timeout)


class SemaphoreSlot:
    """A slot of a semaphore for one use. What an interrupt keeps from being released is, when it is collected."""

    def __init__(self, semaphore: SignalSafeSemaphore) -> None:
        self._semaphore = semaphore
        self._held: list[None] = []

    def acquire(self, timeout: float) -> bool:
        """Hold the slot, when one is free, at most `timeout` seconds later; return whether it is held."""
        deadline = time.monotonic() + timeout
        while not self._take():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._semaphore.wait(left)
        if self._semaphore.free:
            self._semaphore.wake()
        return True

    def _take(self) -> bool:
        try:
            self._held.extend(map(deque.popleft, (self._semaphore.free,)))  # in one call: both, or neither
        except IndexError:
            return False
        return True

    def release(self) -> None:
        """Free the slot, if it is held."""
        if self._held:
            deque(
                map(self._semaphore.free.append, map(list.pop, (self._held,))), maxlen=0
            )  # in one call, too
            self._semaphore.wake()

    def __del__(self) -> None:
        if self.__dict__.get("_held"):  # which an interrupt may have kept from being set
            self.release()


def _nothing() -> None:
    pass


class SignalSafeThread(threading.Thread):
    """
    A daemon thread; an interrupt of its `start` or its `join` holds nothing up.

    Args:
        work: What it does.
        name: Its name.
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._starting = False
        self._ended = SignalSafeEvent()
        # `Thread.start` waits at this, and the thread sets it before its work. Private to CPython, which has it in all
        # versions from 3.11 to 3.14.
        self._started = SignalSafeEvent()

    def start(self) -> None:
        """
        Start it. After an interrupt it is open whether it runs; starting it again then sees to it that it does.

        Raises:
            RuntimeError: It has been started, or the system starts no more threads, or the interpreter exits.
        """
        if self._starting and not self._started.is_set() and self._started.wait(LOOK_SECONDS):
            return  # an interrupt came when it was about to run
        self._starting = True
        try:
            super().start()
        except Exception:  # there is no thread
            self._starting = False
            raise

    def run(self) -> None:
        """Do its work."""
        try:
            self._work()
        finally:
            self._work = (
                _nothing  # often a method of what has the thread: a cycle, left to the garbage collector
            )
            self._ended.set()

    def join(self, timeout: float | None = None) -> None:
        """
        Wait until its work has ended, unless it was never started.

        Raises:
            RuntimeError: This is the thread itself.
        """
        if self is threading.current_thread():
            raise RuntimeError("a thread cannot wait for its own end")
        deadline = time.monotonic() + (START_SECONDS if timeout is None else timeout)
        while not self._ended.is_set():
            has_begun, left = self._started.is_set(), deadline - time.monotonic()
            # A forked child has none of its parent's threads.
            if not (self.is_alive() if has_begun else self._starting):
                return
            if left <= 0 and (timeout is not None or not has_begun):
                return
            self._ended.wait(LOOK_SECONDS if timeout is None else min(LOOK_SECONDS, left))
        with suppress(RuntimeError):  # it runs, and is about to say so
            super().join(timeout)

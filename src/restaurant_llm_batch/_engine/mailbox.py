"""
Mailbox: runs actions in the thread or event loop of a run, sent from any thread without blocking (actor mailbox).

A run lives in one thread or on one event loop, and everything it does happens there, one action at a time. A slot may
be freed anywhere, in a worker thread or on another loop; the thread that frees it *posts* an action to the run's
mailbox.

`_engine/loop_mailbox.py` has the mailbox of a run on an event loop.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from time import monotonic
from typing import Any, Protocol, TypeAlias

from .._threads import LOOK_SECONDS

Action = Callable[[], Any]

Clock: TypeAlias = Callable[[], float]
"""Returns the time in seconds since a fixed moment. Every driver has one, and the engine reads no other."""

thread_clock: Clock = monotonic
"""The clock of drivers that block a thread."""

POLL_INTERVAL = LOOK_SECONDS
"""Longest wait of a blocking caller, in seconds; then it waits again."""


class Mailbox(Protocol):
    """Runs actions where a run lives: in its thread or on its event loop."""

    @property
    def posted(self) -> object:
        """What is posted and waits to be run; true if something does. An attribute, since it is read for every item."""
        ...

    def post(self, action: Action) -> bool:
        """Run `action` where the run lives: at once if called there. Return False if it cannot run any more."""
        ...

    def post_deferred(self, action: Action) -> bool:
        """Run `action` where the run lives, after the current action. Return False if it cannot run any more."""
        ...

    def post_unattended(self, action: Action) -> bool:
        """Run `action`, which must not start tasks, even if the run is over. Return False if the loop is closed."""
        ...


class BlockingMailbox(Mailbox, Protocol):
    """A mailbox whose run waits in it."""

    def move_here(self) -> None:
        """Become the mailbox of the calling thread."""
        ...

    def wake(self) -> None:
        """Make `run_pending` return. Safe in a signal handler."""
        ...

    def run_pending(self, timeout: float | None = None) -> None:
        """Wait for one action and run it; return without one after `timeout` seconds, or earlier."""
        ...

    def wait(self, seconds: float, now: Clock, unless: Callable[[], bool]) -> None:
        """Run actions for `seconds` on the clock `now`, or until `unless` returns True."""
        ...


class QueueMailbox(ABC):
    """A mailbox of the thread that creates it, whose actions wait in a queue: the base of those of real runs."""

    __slots__ = (
        "_closed",
        "_ident",
        "posted",
    )

    def __init__(self) -> None:
        self._ident = get_ident()
        self.posted: deque[Action] = deque()
        self._closed = False

    def is_here(self) -> bool:
        """Return whether the caller runs in this thread."""
        return get_ident() == self._ident

    def post(self, action: Action) -> bool:
        """Run `action` in the thread: at once if called there. Return False if it cannot run any more."""
        if get_ident() == self._ident:
            action()
            return True
        return self.post_deferred(action)

    def post_deferred(self, action: Action) -> bool:
        """Run `action` in the thread, after the current action. Return False if it cannot run any more."""
        if self._closed:
            return False
        self.posted.append(action)
        if self._closed:  # meanwhile, so `close` may not have seen it
            with suppress(ValueError):  # it has run it
                self.posted.remove(action)
                return False
            return True
        return self._notify()

    @abstractmethod
    def _notify(self) -> bool:
        """Make the thread look at the queue; return False if it cannot any more."""

    def close(self) -> None:
        """Accept no more actions, and run those already posted, so that no slot and no thread is lost."""
        self._closed = True
        while self.posted:
            self._run_next()

    def _run_next(self) -> None:
        try:
            action = self.posted.popleft()
        except IndexError:
            return
        action()


class ThreadMailbox(QueueMailbox):
    """
    The mailbox of the thread that creates it; it runs actions when the thread calls `run_pending` or `wait`.

    Not a `SimpleQueue`: its `get` waits for ever if the time is up by the time that it finds its lock free and the
    queue empty, which happens after a `put` that was taken without waiting (CPython 3.11 to 3.13).
    """

    __slots__ = ("_posted",)

    def __init__(self) -> None:
        super().__init__()
        self._posted = threading.Lock()  # as a binary semaphore: free if something was posted
        self._posted.acquire()

    def _notify(self) -> bool:
        self.wake()
        return True

    def post_unattended(self, action: Action) -> bool:
        """Do as `post`: after the run, nothing is left to do in its thread."""
        return self.post(action)

    def move_here(self) -> None:
        """Become the mailbox of the calling thread."""
        self._ident = get_ident()

    def wake(self) -> None:
        """Make `run_pending` return. Safe in a signal handler."""
        if self._posted.locked():
            with suppress(RuntimeError):  # another thread has done so since
                self._posted.release()

    def run_pending(self, timeout: float | None = None) -> None:
        """Wait for one action and run it; return without one after `timeout` seconds, or earlier."""
        if not self.posted:
            self._posted.acquire(timeout=POLL_INTERVAL if timeout is None else min(timeout, POLL_INTERVAL))
        self._run_next()

    def wait(self, seconds: float, now: Clock, unless: Callable[[], bool]) -> None:
        """Run actions for `seconds` on the clock `now`, or until `unless` returns True."""
        deadline = now() + seconds
        while not unless() and (left := deadline - now()) > 0:
            self.run_pending(left)

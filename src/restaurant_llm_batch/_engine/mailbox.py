"""
Waking whoever drives a run, from any thread, without ever blocking.

Everything a run does happens at its *home*: the thread, or the event loop, that drives it. A slot may be
freed anywhere (another loop, a worker thread), so whoever frees it *posts* what is to be done. This is the
one file that names asyncio and trio: `anyio.Event.set` from another thread would never wake its waiter, and
a blocking call into another loop can deadlock two loops that wake each other.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  (this is the one place)
import sys
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Protocol, TypeAlias

import anyio

Action = Callable[[], Any]

Clock: TypeAlias = Callable[[], float]
"""Returns the time in seconds, from any fixed moment on. Every driver has one, and the engine reads no other."""

thread_clock: Clock = monotonic
"""The clock of drivers that block a thread."""

POLL_INTERVAL = 0.5
"""
Longest wait of a blocking caller in seconds, after which it looks around and waits again.

A signal that arrives just before a thread blocks does not interrupt it: without this, a Ctrl-C at the wrong
microsecond would not be heard before the next call ends.
"""


class Mailbox(Protocol):
    """Where a run lives."""

    def post(self, action: Action) -> bool:
        """Have `action` run at home, at once when called there; False when home is gone."""
        ...

    def post_deferred(self, action: Action) -> bool:
        """Have `action` run at home when it is done with what it does now; False when home is gone."""
        ...

    def post_unattended(self, action: Action) -> bool:
        """Have `action`, which starts nothing, run at home even when nobody attends to the post any more."""
        ...


class ThreadMailbox:
    """The calling thread as a home: it takes its post whenever it has nothing else to do."""

    def __init__(self) -> None:
        self._ident = threading.get_ident()
        self._post: SimpleQueue[Action] = SimpleQueue()
        self._closed = False

    def post(self, action: Action) -> bool:
        """Have `action` run in this thread; False when it takes no more post."""
        if self.is_here():
            action()
            return True
        return self.post_deferred(action)

    def post_deferred(self, action: Action) -> bool:
        """Have `action` run when this thread is done with what it does now; False as in `post`."""
        if self._closed:
            return False
        self._post.put(action)
        return True

    def post_unattended(self, action: Action) -> bool:
        """Do as `post`: who has left this home has nothing to do there."""
        return self.post(action)

    def is_here(self) -> bool:
        """Tell whether the caller is at home."""
        return threading.get_ident() == self._ident

    def wake(self) -> None:
        """Make a waiting home look around; safe in a signal handler."""
        self._post.put(_nothing)

    def run_pending(self, timeout: float | None = None) -> None:
        """Wait for one piece of post and do it; return without any after `timeout` seconds, or earlier."""
        try:
            action = self._post.get(timeout=POLL_INTERVAL if timeout is None else min(timeout, POLL_INTERVAL))
        except Empty:
            return
        action()

    def wait(self, seconds: float, unless: Callable[[], bool]) -> None:
        """Wait, taking post meanwhile, or until `unless` is true."""
        until = monotonic() + seconds
        while not unless() and (left := until - monotonic()) > 0:
            self.run_pending(left)

    def close(self) -> None:
        """Take no more post; what is already in it is done, so that no slot is lost."""
        self._closed = True
        while not self._post.empty():
            self.run_pending(0)


class EventLoopMailbox:
    """
    The running event loop, of asyncio or trio, as a home.

    Post from elsewhere waits for the task that attends to it: a bare callback of the loop could not start
    tasks.
    """

    def __init__(self) -> None:
        self._ident = threading.get_ident()
        self._post: deque[Action] = deque()
        self._pending_actions = anyio.Event()
        self._rung = False
        self._soon: Callable[[Action], object]
        self._gone: type[Exception] = RuntimeError  # asyncio's, when the loop is closed
        self._is_closed: Callable[[], bool]
        try:
            loop = asyncio.get_running_loop()
            self._soon, self._is_closed = loop.call_soon_threadsafe, loop.is_closed
        except RuntimeError:
            import trio  # noqa: TID251

            self._is_closed = bool  # trio's ends its tasks before it goes
            self._soon = trio.lowlevel.current_trio_token().run_sync_soon
            self._gone = trio.RunFinishedError

    def post(self, action: Action) -> bool:
        """Have `action` run on this loop, at once when called there; False when the loop is gone."""
        if self.is_here():
            action()
            return True
        return self.post_deferred(action)

    def post_unattended(self, action: Action) -> bool:
        """Have `action` run on this loop, also when the run is over; False when the loop is gone."""
        if self._is_closed():  # perhaps another one runs in its thread
            return False
        if self.is_here():
            action()
            return True
        try:
            self._soon(action)
        except self._gone:
            return False
        return True

    def is_here(self) -> bool:
        """Tell whether the caller is at home."""
        return threading.get_ident() == self._ident

    def post_deferred(self, action: Action) -> bool:
        """Have `action` run at home when it is done with what it does now; False when home is gone."""
        self._post.append(action)
        if not self._rung:
            self._rung = True
            try:
                self._soon(self._notify)
            except self._gone:
                self._rung = False
                return False
        return True

    def wake(self) -> None:
        """Make a waiting home look around; at home only."""
        self._pending_actions.set()

    async def run_pending(self) -> None:
        """Wait for post, or a nudge, and do it."""
        await self._pending_actions.wait()
        self._pending_actions = anyio.Event()
        self._rung = False
        while self._post:
            self._post.popleft()()

    def _notify(self) -> None:
        self._pending_actions.set()


def event_loop_clock() -> Clock:
    """
    Return the clock of the running event loop.

    It is the system's, as for threads, since limiters are shared between loops and threads. The exception is trio's
    `MockClock`: a run on it lives on virtual time, deadlines, rates and statistics included.
    """
    testing = sys.modules.get("trio.testing")
    if testing is None or _runs_asyncio():
        return thread_clock
    import trio  # noqa: TID251

    clock = trio.lowlevel.current_clock()
    return clock.current_time if isinstance(clock, testing.MockClock) else thread_clock


def _runs_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def is_being_cancelled() -> bool:
    """
    Tell whether a cancellation that just came is meant for the running task.

    An asyncio backend may also raise ``CancelledError`` because something it awaited was cancelled; a task
    that let it pass would vanish, and its call with it.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True  # trio: only trio itself can make a Cancelled
    return task is None or task.cancelling() > 0


def _nothing() -> None:
    pass

"""
Loop mailbox: the mailbox of a run on an event loop, and what else differs between asyncio and trio.

This is the only module that imports asyncio and trio. anyio has no function that is safe to call from any thread and
does not block: `anyio.Event.set` does not wake a waiter on another thread's loop, and a blocking call into another loop
can deadlock two loops that wake each other.
"""

from __future__ import annotations

import asyncio  # noqa: TID251  (this is the one place)
import sys
from collections.abc import Callable

import anyio

from .mailbox import Action, Clock, QueueMailbox, thread_clock


class EventLoopMailbox(QueueMailbox):
    """
    The mailbox of the running event loop, asyncio's or trio's.

    Posted actions wait for the task that calls `run_pending`, because a plain callback of the loop could not start
    tasks.
    """

    __slots__ = (
        "_call_soon",
        "_closed_error",
        "_is_closed",
        "_notified",
        "_pending",
    )

    def __init__(self) -> None:
        super().__init__()
        self._pending = anyio.Event()
        self._notified = False
        self._call_soon: Callable[[Action], object]
        self._closed_error: type[Exception] = RuntimeError  # asyncio's, if the loop is closed
        self._is_closed: Callable[[], bool]
        try:
            loop = asyncio.get_running_loop()
            self._call_soon, self._is_closed = loop.call_soon_threadsafe, loop.is_closed
        except RuntimeError:
            import trio  # noqa: TID251

            self._is_closed = bool  # False: trio ends all tasks before its loop
            self._call_soon = trio.lowlevel.current_trio_token().run_sync_soon
            self._closed_error = trio.RunFinishedError

    def post_unattended(self, action: Action) -> bool:
        """Run `action` on the loop, even if the run is over. Return False if the loop is closed."""
        if self._is_closed():  # and another loop may run in its thread
            return False
        if self.is_here():
            action()
            return True
        try:
            self._call_soon(action)
        except self._closed_error:
            return False
        return True

    def _notify(self) -> bool:
        if not self._notified:
            try:
                self._notified = True
                # The event is read after the action is there: `run_pending` replaces it before it looks for actions.
                self._call_soon(self._pending.set)
            except self._closed_error:
                self._notified = False
                return False
            except BaseException:
                self._notified = False  # otherwise no later action would be noticed
                raise
        return True

    def wake(self) -> None:
        """Make `run_pending` return. To be called on the loop."""
        self._pending.set()

    async def run_pending(self) -> None:
        """Wait for actions, or for `wake`, and run all actions."""
        await self._pending.wait()
        self._pending = anyio.Event()
        self._notified = False
        while self.posted:
            self._run_next()


def event_loop_clock() -> Clock:
    """
    Return the clock for runs on the running event loop.

    It is the system's clock, as for threads, because loops and threads share limiters. The exception is trio's
    `MockClock`: a run under it lives on virtual time, including deadlines, rates and statistics.
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


def is_cancellation(error: BaseException) -> bool:
    """Return whether an exception ends the running task or coroutine from outside, so that it must pass."""
    if isinstance(error, GeneratorExit):  # may come where no event loop runs, and anyio then knows no class
        return True
    return isinstance(error, anyio.get_cancelled_exc_class())


def is_being_cancelled() -> bool:
    """
    Return whether a cancellation exception that was just caught is meant for the running task.

    An asyncio backend may also raise ``CancelledError`` because something that it awaited was cancelled. A task that
    let such an exception pass would end, and its call would never finish.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True  # trio: only trio itself can make a Cancelled
    return task is None or task.cancelling() > 0

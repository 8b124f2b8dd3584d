"""Event loop thread: the private event loop of a runner's blocking callers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from .._threads import LOOK_SECONDS, START_SECONDS, SignalSafeEvent, SignalSafeThread
from .loop_mailbox import EventLoopMailbox

log: logging.Logger = logging.getLogger("restaurant_llm_batch")


class EventLoopThread:
    """
    A thread that runs an event loop, on which any thread may start tasks.

    Not anyio's `start_blocking_portal`: its clean-up runs when it is garbage-collected. In a forked child, which does
    not have the thread, it would wait for the thread for ever. And it waits at futures, where callers are not safe from
    a Ctrl-C: see `_threads.py`.
    """

    def __init__(self) -> None:
        self._tasks: TaskGroup | None = None
        self._mailbox: EventLoopMailbox | None = None
        self._own_variables: list[tuple[ContextVar[Any], Any]] = []  # such as which library the loop is of
        self._opened = SignalSafeEvent()
        self._starting = self._stopping = False
        self._thread = SignalSafeThread(self._run, "restaurant-llm-batch-loop")

    def start(self) -> None:
        """Start the thread, unless it has been started, and wait for its loop."""
        if not self._starting:
            self._starting = True
            try:
                self._thread.start()
            except Exception:  # there is no thread
                self._starting = False
                raise
        self._wait_for_loop()

    def start_task(self, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        """
        Start a task on the loop, with this thread's context variables, and do not wait for it.

        Raises:
            RuntimeError: The loop has not started, or has ended; or this is its own thread.
        """
        mailbox, tasks = self._mailbox, self._tasks
        if mailbox is None or tasks is None:
            raise RuntimeError("the event loop has not started")
        if mailbox.is_here():
            raise RuntimeError(
                "a task, an observer or an async backend of a run on an event loop cannot call `run` of the same "
                "runner, which would wait for itself; use another runner"
            )

        def start() -> None:
            for variable, value in self._own_variables:
                variable.set(value)
            tasks.start_soon(_guard, function, *args)

        # The caller's context variables reach the backend: tracing depends on it.
        if not mailbox.post_deferred(partial(copy_context().run, start)):
            raise RuntimeError("the event loop has ended")

    def call(self, function: Callable[[], Awaitable[object]]) -> None:
        """Call an async function on the loop and wait for it; do nothing if the loop has ended or never started."""
        ended = SignalSafeEvent()

        async def run() -> None:
            try:
                await function()
            finally:
                ended.set()

        if self._starting:
            self._wait_for_loop()
        try:
            self.start_task(run)
        except RuntimeError:
            return
        while not ended.wait(LOOK_SECONDS) and self._thread.is_alive():
            pass

    def stop(self) -> None:
        """Cancel the tasks that are left on the loop, and end the thread. Stopping it again does nothing."""
        self._stopping = True
        self.call(self._wake)
        self._thread.join()

    async def _wake(self) -> None:
        if self._mailbox is not None:
            self._mailbox.wake()

    def _wait_for_loop(self) -> None:
        """Wait until the loop runs, unless its thread has ended or was never started."""
        # An interrupt within its start leaves it open whether there will be a thread.
        if not self._opened.wait(START_SECONDS):
            while not self._opened.wait(LOOK_SECONDS) and self._thread.is_alive():
                pass

    def _run(self) -> None:
        anyio.run(self._serve, copy_context())

    async def _serve(self, outside: Context) -> None:
        inside = copy_context()
        self._own_variables = [
            (variable, value) for variable, value in inside.items() if value is not outside.get(variable)
        ]
        mailbox = EventLoopMailbox()
        async with anyio.create_task_group() as tasks:
            self._mailbox, self._tasks = mailbox, tasks
            self._opened.set()
            while not self._stopping:
                await mailbox.run_pending()
            mailbox.close()
            tasks.cancel_scope.cancel()


async def _guard(function: Callable[..., Awaitable[Any]], *args: object) -> None:
    """Do the work of a task; its failure is none of the others'."""
    try:
        await function(*args)
    except Exception:
        log.exception("a task of the private event loop failed")

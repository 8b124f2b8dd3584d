"""Event loop thread: the private event loop of a runner's blocking callers."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from anyio.from_thread import BlockingPortal

from .._threads import START_SECONDS, join_thread, start_thread

LOOK_SECONDS = 1.0
"""Seconds after which a waiting caller looks whether the loop's thread is still alive."""


class EventLoopThread:
    """
    A thread that runs an event loop, reached through its portal.

    Not anyio's `start_blocking_portal`: its clean-up runs when it is garbage-collected. In a forked child, which does
    not have the thread, it would wait for the thread for ever.

    Callers wait at plain locks, which the loop's thread releases. At a future they would not be safe from a Ctrl-C: one
    that comes as `Future.result` takes the future's own lock leaves it taken, and the loop waits for it for ever.
    """

    def __init__(self) -> None:
        self._portal: BlockingPortal | None = None
        self._gate = _closed_gate()
        self._starting = False
        self._thread = threading.Thread(target=self._run, name="restaurant-llm-batch-loop", daemon=True)

    def start(self) -> None:
        """Start the thread, unless it has been started, and wait for its loop."""
        if not self._starting:
            self._starting = True
            try:
                start_thread(self._thread)
            except Exception:  # there is no thread
                self._starting = False
                raise
        self._wait_for_loop()

    @property
    def portal(self) -> BlockingPortal:
        """
        The way into the loop, once the thread has been started.

        Raises:
            RuntimeError: The loop has not started.
        """
        if self._portal is None:
            raise RuntimeError("the event loop has not started")
        return self._portal

    def call(self, function: Callable[[], Awaitable[object]]) -> None:
        """Call an async function on the loop and wait for it; do nothing if the loop has ended or never started."""
        ended = _closed_gate()

        async def run() -> None:
            try:
                await function()
            finally:
                ended.release()

        if self._starting:
            self._wait_for_loop()
        with suppress(RuntimeError):  # the loop has ended, or has not started
            self.portal.start_task_soon(run)
            while not ended.acquire(timeout=LOOK_SECONDS) and self._thread.is_alive():
                pass

    def stop(self) -> None:
        """Cancel the tasks that are left on the loop, and end the thread. Stopping it again does nothing."""
        self.call(self._stop)
        join_thread(self._thread)

    async def _stop(self) -> None:
        await self.portal.stop(True)

    def _wait_for_loop(self) -> None:
        """Wait until the loop runs, unless its thread has ended or was never started."""
        # An interrupt within `Thread.start` leaves it open whether there will be a thread.
        if self._portal is None:
            opened = self._gate.acquire(timeout=START_SECONDS)
            while not opened and self._thread.is_alive():
                opened = self._gate.acquire(timeout=LOOK_SECONDS)
            if opened:
                self._gate.release()  # for others who wait

    def _run(self) -> None:
        anyio.run(self._serve)

    async def _serve(self) -> None:
        async with BlockingPortal() as portal:
            self._portal = portal
            self._gate.release()
            await portal.sleep_until_stopped()


def _closed_gate() -> threading.Lock:
    """Return a lock that is taken already: whoever waits for it waits until it is released."""
    gate = threading.Lock()
    gate.acquire()
    return gate

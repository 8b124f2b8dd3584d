"""
What a runner keeps open, and for how long.

Every run, and every `with` block, leases what it needs: worker threads, a loop, the private loop of blocking
callers. The first lease opens it, the last one closes it. Backends are told to let go of their connections on
the loop that they were made on (`aclose`), and of everything else at the very end (`close`).
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio import CancelScope, to_thread
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import EventLoopToken, current_token

from .run import log
from .threads import WorkerThreads


class LoopThread:
    """
    A thread with an event loop in it, reached through its portal.

    Not anyio's `start_blocking_portal`: its clean-up runs when it is collected, and would wait forever for
    this thread in a forked child, which does not have it.
    """

    def __init__(self) -> None:
        ready: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(
            target=anyio.run, args=(_serve, ready), name="restaurant-llm-batch-loop", daemon=True
        )
        self._thread.start()
        self.portal = ready.result()

    def stop(self) -> None:
        """Cancel what is left on the loop and end the thread."""
        self.portal.call(self.portal.stop, True)
        self._thread.join()


async def _serve(ready: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


class Leases:
    """
    The open things of one runner in this process.

    Args:
        backends: Told to close when their last lease ends.
    """

    def __init__(self, backends: Sequence[object]) -> None:
        self._backends = backends
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._count = 0
        self._threads: WorkerThreads | None = None
        self._loops: Counter[EventLoopToken] = Counter()
        self._portals = 0
        self._loop_thread: LoopThread | None = None

    @contextmanager
    def held(self) -> Iterator[WorkerThreads]:
        """Lease the worker threads, from a blocking caller; backends are closed with the last lease."""
        threads = self._enter()
        try:
            yield threads
        finally:
            if self._leave():
                self._close_backends()

    @contextmanager
    def portal(self) -> Iterator[BlockingPortal]:
        """Lease the private loop."""
        with self._lock:
            self._portals += 1
            if self._loop_thread is None:
                self._loop_thread = LoopThread()
            thread = self._loop_thread
        try:
            yield thread.portal
        finally:
            with self._lock:
                self._portals -= 1
                last = self._portals == 0
                if last:
                    self._loop_thread = None
            if last:
                thread.portal.call(self._close_on_loop)
                thread.stop()

    @asynccontextmanager
    async def on_loop(self) -> AsyncIterator[WorkerThreads]:
        """Lease the running loop and the worker threads."""
        threads = self._enter()
        token = current_token()
        with self._lock:
            self._loops[token] += 1
        try:
            yield threads
        finally:
            with self._lock:
                self._loops[token] -= 1
                last_here = self._loops[token] == 0
                if last_here:
                    del self._loops[token]
            with CancelScope(shield=True):
                if last_here:
                    await self._close_on_loop()
                if self._leave() and any(hasattr(backend, "close") for backend in self._backends):
                    await to_thread.run_sync(self._close_backends)

    def _enter(self) -> WorkerThreads:
        if os.getpid() != self._pid:
            self._start_afresh()  # a forked child has none of its parent's threads and loops
        with self._lock:
            self._count += 1
            if self._threads is None:
                self._threads = WorkerThreads()
            return self._threads

    def _leave(self) -> bool:
        """End a lease and return whether it was the last."""
        with self._lock:
            self._count -= 1
            if self._count:
                return False
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.close()
        return True

    def _close_backends(self) -> None:
        for backend in self._backends:
            close = getattr(backend, "close", None)
            if callable(close):
                try:
                    close()
                except Exception:
                    log.exception("%s.close() failed", type(backend).__name__)

    async def _close_on_loop(self) -> None:
        for backend in self._backends:
            aclose = getattr(backend, "aclose", None)
            if callable(aclose):
                try:
                    await aclose()
                except Exception:
                    log.exception("%s.aclose() failed", type(backend).__name__)

"""
What a runner keeps open, and for how long.

Every run, and every `with` block, leases what it needs: worker threads, a loop, the private loop of blocking
callers. The first lease opens it, the last one closes it. Backends are told to let go of their connections on
the loop that they were made on (`aclose`), and of everything else at the very end (`close`).
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager

import anyio
from anyio import CancelScope, to_thread
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import EventLoopToken, current_token

from .run import log
from .threads import DaemonThreadPool


class EventLoopThread:
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


class Lease:
    """
    A blocking caller's share in what a runner keeps open.

    A plain object, and not a context manager made of a generator: the garbage collector closes a generator
    wherever it happens to run, which is no place to wait for threads.
    """

    def __init__(
        self,
        leases: RunnerResources,
        threads: DaemonThreadPool,
        loop_thread: EventLoopThread | None,
        block: bool,
    ) -> None:
        self.is_context = block
        self.threads = threads
        self.loop_thread = loop_thread
        self._leases: RunnerResources | None = leases
        self._pid = os.getpid()

    def release(self) -> None:
        """End it; doing it twice does nothing."""
        leases, self._leases = self._leases, None
        # A forked child has no part in its parent's leases; at the interpreter's end no thread answers.
        if leases is not None and os.getpid() == self._pid and not sys.is_finalizing():
            leases.release(self)


class RunnerResources:
    """
    The open things of one runner in this process.

    Args:
        backends: Told to close when their last lease ends.
    """

    def __init__(self, backends: Sequence[object]) -> None:
        self._backends = backends
        self._reset_after_fork()

    def _reset_after_fork(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a stream that is collected while it is held ends its lease there
        self._count = 0
        self._block_count = 0
        self._threads: DaemonThreadPool | None = None
        self._loops: Counter[EventLoopToken] = Counter()
        self._portals = 0
        self._loop_thread: EventLoopThread | None = None

    def acquire(self, *, loop: bool, is_context: bool = False) -> Lease:
        """Lease the worker threads, and the private loop if `loop`, for a blocking run or `is_context`."""
        threads = self._enter(is_context)
        if not loop:
            return Lease(self, threads, None, is_context)
        try:
            with self._lock:
                if self._loop_thread is None:
                    self._loop_thread = EventLoopThread()
                self._portals += 1
                return Lease(self, threads, self._loop_thread, is_context)
        except BaseException:
            self._leave(is_context)
            raise

    def release(self, lease: Lease) -> None:
        """End a lease, and what it was the last to hold."""
        if lease.loop_thread is not None:
            self._leave_loop(lease.loop_thread)
        if self._leave(lease.is_context):
            self._close_backends()

    def _leave_loop(self, thread: EventLoopThread) -> None:
        with self._lock:
            self._portals -= 1
            last = self._portals == 0
            if last:
                self._loop_thread = None
        if last:
            thread.portal.call(self._close_on_loop)
            thread.stop()

    @asynccontextmanager
    async def on_loop(self, *, block: bool = False) -> AsyncIterator[DaemonThreadPool]:
        """Lease the running loop and the worker threads, for a run or a `block`."""
        threads = self._enter(block)
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
                try:
                    if last_here:
                        await self._close_on_loop()
                finally:  # asyncio's own cancellation goes through a shield
                    last = self._leave(block)
                if last and any(hasattr(backend, "close") for backend in self._backends):
                    await to_thread.run_sync(self._close_backends)

    def _enter(self, block: bool) -> DaemonThreadPool:
        if os.getpid() != self._pid:
            self._reset_after_fork()  # a forked child has none of its parent's threads and loops
        with self._lock:
            self._count += 1
            self._block_count += block
            if self._threads is None:
                self._threads = DaemonThreadPool()
            return self._threads

    def _leave(self, block: bool) -> bool:
        """End a lease and return whether it was that of the last block."""
        threads = None
        with self._lock:
            self._count -= 1
            self._block_count -= block
            if not self._count:
                threads, self._threads = self._threads, None
            last_block = block and not self._block_count
        if threads is not None:
            threads.close()
        return last_block

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

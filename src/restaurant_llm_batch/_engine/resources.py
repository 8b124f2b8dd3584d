"""
Runner resources: reference-counted leases on worker threads, event loops and backend clients.

Every run and every `with` block leases what it needs: the worker threads, the running event loop, or the private event
loop of blocking callers. The first lease opens a resource, the last one closes it. Backends close connections on the
event loop that opened them (`aclose`) when its last lease ends, and everything else (`close`) at the end of the last
`with` block.
"""

from __future__ import annotations

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

from .. import _fork
from .gc_threshold import GCThreshold
from .run import log
from .threads import DaemonThreadPool


class EventLoopThread:
    """
    A thread that runs an event loop, reached through its portal.

    Not anyio's `start_blocking_portal`: its clean-up runs when it is garbage-collected. In a forked child, which does
    not have the thread, it would wait for the thread for ever.
    """

    def __init__(self) -> None:
        ready: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(
            target=anyio.run, args=(_serve, ready), name="restaurant-llm-batch-loop", daemon=True
        )
        self._thread.start()
        self.portal = ready.result()

    def stop(self) -> None:
        """Cancel the tasks that are left on the loop, and end the thread."""
        self.portal.call(self.portal.stop, True)
        self._thread.join()


async def _serve(ready: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


class Lease:
    """
    A blocking caller's share in a runner's resources.

    A plain object, not a generator-based context manager: the garbage collector closes a generator wherever it happens
    to run, where waiting for threads could deadlock.

    Args:
        resources: The runner's resources.
        threads: The worker threads.
        loop_thread: The private event loop; None if the lease does not include it.
        is_context: Whether a `with` block holds the lease, rather than a run.
    """

    def __init__(
        self,
        resources: RunnerResources,
        threads: DaemonThreadPool,
        loop_thread: EventLoopThread | None,
        is_context: bool,
    ) -> None:
        self.is_context = is_context
        self.threads = threads
        self.loop_thread = loop_thread
        self._resources: RunnerResources | None = resources
        self._forks = _fork.count

    def release(self) -> None:
        """End the lease. Releasing it again does nothing."""
        resources, self._resources = self._resources, None
        # A forked child does not share its parent's resources. When the interpreter exits, daemon threads are frozen.
        if resources is not None and _fork.count == self._forks and not sys.is_finalizing():
            resources.release(self)


class RunnerResources:
    """
    The open resources of one runner in this process.

    Args:
        backends: Closed when the last lease on them ends.
        gc_threshold: The threshold of the garbage collector while there is a lease; None to leave it.
    """

    def __init__(self, backends: Sequence[object], gc_threshold: int | None = None) -> None:
        self._backends = backends
        self._gc_threshold = GCThreshold(gc_threshold)
        self._reset_after_fork()

    def _reset_after_fork(self) -> None:
        self._forks = _fork.count
        self._gc_threshold.restore()  # the parent's runs are not the child's
        # Reentrant: a stream that is garbage-collected while the lock is held releases its lease.
        self._lock = threading.RLock()
        self._count = 0
        self._context_count = 0
        self._threads: DaemonThreadPool | None = None
        self._loops: Counter[EventLoopToken] = Counter()
        self._portals = 0
        self._loop_thread: EventLoopThread | None = None

    def acquire(self, *, loop: bool, is_context: bool = False) -> Lease:
        """Lease the worker threads, and the private event loop if `loop`, for a blocking run or a `with` block."""
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
        """End a lease, and close what no other lease holds."""
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
    async def on_loop(self, *, is_context: bool = False) -> AsyncIterator[DaemonThreadPool]:
        """Lease the running event loop and the worker threads, for a run or an `async with` block."""
        threads = self._enter(is_context)
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
                finally:  # asyncio's native cancellation ignores the shield
                    last = self._leave(is_context)
                if last and any(hasattr(backend, "close") for backend in self._backends):
                    await to_thread.run_sync(self._close_backends)

    def _enter(self, is_context: bool) -> DaemonThreadPool:
        if _fork.count != self._forks:
            self._reset_after_fork()  # a forked child does not have its parent's threads
        with self._lock:
            if not self._count:
                self._gc_threshold.apply()
            self._count += 1
            self._context_count += is_context
            if self._threads is None:
                self._threads = DaemonThreadPool()
            return self._threads

    def _leave(self, is_context: bool) -> bool:
        """End a lease, and return whether it was that of the last `with` block."""
        threads = None
        with self._lock:
            self._count -= 1
            self._context_count -= is_context
            if not self._count:
                self._gc_threshold.restore()
                threads, self._threads = self._threads, None
            last_context = is_context and not self._context_count
        if threads is not None:
            threads.close()
        return last_context

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

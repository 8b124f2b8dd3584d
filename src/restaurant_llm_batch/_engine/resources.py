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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import anyio
from anyio import CancelScope, to_thread
from anyio.from_thread import BlockingPortal
from anyio.lowlevel import EventLoopToken, current_token

from .. import _fork
from .gc_threshold import GCThreshold
from .run import log
from .threads import DaemonThreadPool

START_SECONDS = 2.0
"""Seconds to wait for the loop of a thread whose start was interrupted, until it counts as not started."""
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
                self._thread.start()
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
        if self._thread.ident is not None:
            self._thread.join()

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


class Lease:
    """
    A blocking caller's share in a runner's resources, which `acquire` takes and `release` gives back.

    A plain object, not a generator-based context manager: the garbage collector closes a generator wherever it happens
    to run, where waiting for threads could deadlock. The object is there before anything is taken, and notes each share
    in the statement that takes it: so whatever an interrupt leaves, `release` gives back.

    Args:
        resources: The runner's resources.
        loop: Whether the lease includes the private event loop.
        is_context: Whether a `with` block holds the lease, rather than a run.

    Attributes:
        is_counted: Whether the lease is counted among those on the worker threads.
        loop_thread: The private event loop, while the lease is counted among those on it.
        to_stop: The event loop that ends with this lease, until it has ended.
        closes_backends: Whether the backends are to be closed: it was the last lease of a `with` block.
    """

    def __init__(self, resources: RunnerResources, *, loop: bool = False, is_context: bool = False) -> None:
        self.includes_loop = loop
        self.is_context = is_context
        self.is_counted = False
        self.loop_thread: EventLoopThread | None = None
        self.to_stop: EventLoopThread | None = None
        self.closes_backends = False
        self._threads: DaemonThreadPool | None = None
        self._resources = resources
        self._forks = _fork.count
        self._releasing = threading.RLock()

    def acquire(self) -> None:
        """Take the lease."""
        self._forks = _fork.count
        self._threads = self._resources.enter(self)

    @property
    def threads(self) -> DaemonThreadPool:
        """The worker threads, once the lease is taken."""
        if self._threads is None:
            raise RuntimeError("the lease is not taken; call acquire() first")
        return self._threads

    @property
    def is_of_parent(self) -> bool:
        """Whether this is a forked child's copy of a lease of its parent, whose resources it does not share."""
        return self._forks != _fork.count

    def release(self) -> None:
        """End the lease. Releasing it again does nothing."""
        # When the interpreter exits, daemon threads are frozen.
        if not self.is_of_parent and not sys.is_finalizing():
            with self._releasing:
                self._resources.leave(self)

    def release_in_background(self) -> None:
        """End the lease without blocking."""
        if self.includes_loop:
            threading.Thread(target=self.release, name="restaurant-llm-batch-close", daemon=True).start()
        else:
            self.release()  # does not block, and stage 1 promises not to start a thread


class LoopLease:
    """A share in a runner's resources for the running event loop, as `Lease` is one for a blocking caller."""

    def __init__(self, resources: RunnerResources, *, is_context: bool = False) -> None:
        self._resources = resources
        self._lease = Lease(resources, is_context=is_context)
        self._token: EventLoopToken | None = None  # while the lease is counted among those on the loop
        self._closes_loop = False  # whether it was the last one there

    def acquire(self) -> DaemonThreadPool:
        """Take the lease, and return the worker threads."""
        self._lease.acquire()
        token, loops = current_token(), self._resources.loops
        self._token, loops[token] = token, loops[token] + 1
        return self._lease.threads

    async def release(self) -> None:
        """End the lease. Releasing it again does what is left to do."""
        resources, lease, loops = self._resources, self._lease, self._resources.loops
        token = self._token
        if token is not None:
            self._closes_loop, self._token, loops[token] = loops[token] <= 1, None, loops[token] - 1
        with CancelScope(shield=True):
            try:
                if self._closes_loop:
                    for unused in [loop for loop, leases in loops.items() if leases < 1]:
                        del loops[unused]
                    await resources.close_on_loop()
                    self._closes_loop = False
            finally:  # asyncio's native cancellation ignores the shield
                if lease.is_counted:
                    resources.leave_threads(lease)
            if lease.closes_backends and resources.has_close:
                await to_thread.run_sync(resources.close_backends)
            lease.closes_backends = False


class RunnerResources:
    """
    The open resources of one runner in this process.

    Args:
        backends: Closed when the last lease on them ends.
        gc_threshold: The threshold of the garbage collector while there is a lease; None to leave it.

    Attributes:
        loops: Number of leases on each running event loop.
    """

    def __init__(self, backends: Sequence[object], gc_threshold: int | None = None) -> None:
        self._backends = backends
        self._gc_threshold = GCThreshold(gc_threshold)
        self._used = True  # since the backends were closed; a store is open from the start
        self._reset_after_fork()

    def _reset_after_fork(self) -> None:
        self._forks = _fork.count
        self._gc_threshold.restore()  # the parent's runs are not the child's
        # Reentrant: a stream that is garbage-collected while the lock is held releases its lease.
        self._lock = threading.RLock()
        self._count = 0
        self._context_count = 0
        self._threads: DaemonThreadPool | None = None
        self.loops: Counter[EventLoopToken] = Counter()
        self._portals = 0
        self._loop_thread: EventLoopThread | None = None

    def lease(self, *, loop: bool, is_context: bool = False) -> Lease:
        """Return a lease, not acquired yet, on the threads, and on the private event loop if `loop`."""
        return Lease(self, loop=loop, is_context=is_context)

    def loop_lease(self, *, is_context: bool = False) -> LoopLease:
        """Return a lease, not acquired yet, on the threads and the running event loop."""
        return LoopLease(self, is_context=is_context)

    def enter(self, lease: Lease) -> DaemonThreadPool:
        """Take a lease's shares, and note in it which it has; return the worker threads."""
        if _fork.count != self._forks:
            self._reset_after_fork()  # a forked child does not have its parent's threads
        with self._lock:
            self._used = True
            self._gc_threshold.apply()
            if self._threads is None:
                self._threads = DaemonThreadPool()
            threads, contexts = self._threads, self._context_count + lease.is_context
            # Each in one statement without a call, which no interrupt splits.
            lease.is_counted, self._count, self._context_count = True, self._count + 1, contexts
            if lease.includes_loop:
                loop_thread = self._loop_thread = self._loop_thread or EventLoopThread()
                lease.loop_thread, self._portals = loop_thread, self._portals + 1
                loop_thread.start()
            return threads

    def leave(self, lease: Lease) -> None:
        """Give back a lease's shares, and close what no other lease holds. Doing it again does what is left to do."""
        with self._lock:
            if lease.loop_thread is not None:
                if self._portals == 1 and self._loop_thread is lease.loop_thread:
                    lease.to_stop, self._loop_thread = self._loop_thread, None
                lease.loop_thread, self._portals = None, self._portals - 1
        stopping = lease.to_stop
        if stopping is not None:
            stopping.call(self.close_on_loop)
            stopping.stop()
            lease.to_stop = None
        if lease.is_counted:
            self.leave_threads(lease)
        if lease.closes_backends:
            self.close_backends()
            lease.closes_backends = False

    def leave_threads(self, lease: Lease) -> None:
        """Give back a lease's share in the threads, and note in it whether it was that of the last `with` block."""
        with self._lock:
            last = lease.is_context and self._context_count == 1
            threads = self._threads if self._count == 1 else None
            if threads is not None:
                self._gc_threshold.restore()
                threads.close()
                self._threads = None
            contexts = self._context_count - lease.is_context
            lease.is_counted, lease.closes_backends, self._count, self._context_count = (
                False,
                last,
                self._count - 1,
                contexts,
            )

    def close(self) -> None:
        """Close the backends as the last `with` block does, unless such a block is open or they are closed."""
        if _fork.count != self._forks:
            self._reset_after_fork()  # its parent's blocks are not open in a forked child
        if self._used and not self._context_count:
            self.close_backends()

    @property
    def has_close(self) -> bool:
        """Whether a backend has a `close` to call."""
        return any(hasattr(backend, "close") for backend in self._backends)

    def close_backends(self) -> None:
        """Close what the backends have opened outside of event loops."""
        self._used = False
        for backend in self._backends:
            close = getattr(backend, "close", None)
            if callable(close):
                try:
                    close()
                except Exception:
                    log.exception("%s.close() failed", type(backend).__name__)

    async def close_on_loop(self) -> None:
        """Close what the backends have opened on the running event loop."""
        for backend in self._backends:
            aclose = getattr(backend, "aclose", None)
            if callable(aclose):
                try:
                    await aclose()
                except Exception:
                    log.exception("%s.aclose() failed", type(backend).__name__)

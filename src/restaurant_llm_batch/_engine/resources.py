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
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import _fork
from .._threads import SignalSafeThread
from .gc_threshold import GCThreshold
from .run import log
from .threads import DaemonThreadPool

if TYPE_CHECKING:
    from anyio.lowlevel import EventLoopToken

    from .loop_thread import EventLoopThread


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
            SignalSafeThread(self.release, "restaurant-llm-batch-close").start()
        else:
            self.release()  # does not block, and stage 1 promises not to start a thread


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
        self._loop_count = 0
        self._loop_thread: EventLoopThread | None = None

    def lease(self, *, loop: bool, is_context: bool = False) -> Lease:
        """Return a lease, not acquired yet, on the threads, and on the private event loop if `loop`."""
        return Lease(self, loop=loop, is_context=is_context)

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
                from .loop_thread import EventLoopThread  # loads anyio, which stage 1 does not need

                loop_thread = self._loop_thread = self._loop_thread or EventLoopThread()
                lease.loop_thread, self._loop_count = loop_thread, self._loop_count + 1
                loop_thread.start()
            return threads

    def leave(self, lease: Lease) -> None:
        """Give back a lease's shares, and close what no other lease holds. Doing it again does what is left to do."""
        with self._lock:
            if lease.loop_thread is not None:
                if self._loop_count == 1 and self._loop_thread is lease.loop_thread:
                    lease.to_stop, self._loop_thread = self._loop_thread, None
                lease.loop_thread, self._loop_count = None, self._loop_count - 1
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

"""
Beginning: how a blocking caller's run begins, in this thread, in worker threads or on the private event loop.

The drivers are imported where a strategy is chosen: those that make threads and event loops take as long to import as
the rest of the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .items import ItemReader
from .resources import Lease
from .run import RunState
from .streams import BlockingRun

if TYPE_CHECKING:
    from .concurrent import ConcurrentDriver
    from .frames import ItemSource
    from .handover import Handover
    from .threaded import ThreadedDriver


class Begin(Protocol):
    """Makes the driver of a run, with the leased resources; it does nothing before its `take` is called."""

    def __call__(
        self, run: RunState, reader: ItemReader, window: int, lease: Lease, *, collect: bool
    ) -> BlockingRun: ...


def beginning(*, concurrent: bool, loop: bool) -> Begin:
    """
    Return how runs begin.

    Args:
        concurrent: Whether more than one call may be in flight.
        loop: Whether calls are made on an event loop, rather than in worker threads only.
    """
    if not concurrent:
        return _in_this_thread()
    return _on_loop() if loop else _in_threads()


def _in_this_thread() -> Begin:
    from .sequential import SequentialDriver

    def begin(
        run: RunState, reader: ItemReader, window: int, lease: Lease, *, collect: bool
    ) -> SequentialDriver:
        return SequentialDriver(run, reader, collect=collect)

    return begin


def _in_threads() -> Begin:
    from .bridge import RunBridge, in_thread
    from .threaded import ThreadedDriver

    def begin(run: RunState, reader: ItemReader, window: int, lease: Lease, *, collect: bool) -> RunBridge:
        threads = lease.threads

        def make_driver(handover: Handover, source: ItemSource) -> ThreadedDriver:
            delivered = None if collect else handover.wake
            return ThreadedDriver(
                run, source, reader, window, threads, handover.deliver, delivered, collect=collect
            )

        return RunBridge(run, reader, in_thread(make_driver, threads), collect=collect)

    return begin


def _on_loop() -> Begin:
    from .bridge import RunBridge, on_loop
    from .concurrent import ConcurrentDriver

    def begin(run: RunState, reader: ItemReader, window: int, lease: Lease, *, collect: bool) -> RunBridge:
        if lease.loop_thread is None:
            raise RuntimeError("the lease has no event loop")
        threads = lease.threads

        def make_driver(handover: Handover, source: ItemSource) -> ConcurrentDriver:
            delivered = None if collect else handover.wake
            return ConcurrentDriver(
                run, source, reader, window, threads, handover.deliver, delivered, collect=collect
            )

        return RunBridge(run, reader, on_loop(make_driver, lease.loop_thread), collect=collect)

    return begin

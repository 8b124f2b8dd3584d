"""
Run bridge: connects a blocking caller to a run in another thread or on an event loop.

Theory of operation. Two threads share a `RunBridge`, and no lock. The run's side puts messages into `_inbox`; the
caller's side posts actions to the run's mailbox. Outcomes go from the run to the caller, and items from the caller to
the run. A lazy iterable is the user's code, which may block or belong to its thread (a database cursor, for example),
so only the caller's thread advances it. Caller and run take turns with the items:

    caller's thread   `take`, `abort`, `check_stop`, `_feed`, `_acknowledge`
    where the run is  `attach`, `deliver`, `on_finished`, `RemoteSource.take` and `end_turn`
    any thread        `cancel`, and `abandon` from the garbage collector too

The turns:

    run     `RemoteSource.take` finds nothing, sends `_NeedItems(room)`, and does not touch the items again
    caller  `_feed` reads up to `room` items, then posts `RemoteSource.end_turn` and `admit_items`
    run     takes the items

The bridge may be abandoned at any moment, by the garbage collector as well. Then the run is cancelled, and
`on_finished` ends its records, which the caller does otherwise.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from anyio.from_thread import BlockingPortal

from ..errors import RunStopped
from ..outcomes import Failure, Outcome
from .concurrent import ConcurrentDriver
from .frames import NOT_READY, ItemSource, NotReady
from .items import InlineSource, ItemReader, RunItem
from .mailbox import POLL_INTERVAL
from .run import RunState
from .threaded import ThreadedDriver
from .threads import DaemonThreadPool

Launch: TypeAlias = "Callable[[RunBridge], object]"

ACKNOWLEDGE_EVERY = 16
"""Outcomes taken before they are acknowledged, if more are ready: every acknowledgement wakes a thread."""

MAX_FEED_SECONDS = 0.001
"""Seconds of reading items before they go to the run, which should not wait for a slow iterable."""


class _NeedItems:
    """Message: the run has room for `room` more items."""

    def __init__(self, room: int) -> None:
        self.room = room


class _Done:
    """Message: the run has delivered all outcomes."""


class RemoteSource:
    """
    Items that the caller's thread reads and the run takes, in turns.

    Args:
        request: Asks the caller to read at most that many items.

    Attributes:
        items: Items that were read and not taken yet.
        exhausted: Whether the caller has read the last item.
        failure: The exception that the items' iterable raised.
    """

    def __init__(self, request: Callable[[int], object]) -> None:
        self.items: deque[RunItem | Failure] = deque()
        self.exhausted = False
        self.failure: BaseException | None = None
        self._request = request
        self._callers_turn = False

    def take(self, room: int) -> RunItem | Failure | NotReady | None:
        """Return the next item that was read. If there is none, request some and return `NOT_READY`."""
        if self._callers_turn:
            return NOT_READY
        if self.items:
            return self.items.popleft()
        if self.failure is not None:
            raise self.failure
        if self.exhausted:
            return None
        self._callers_turn = True
        self._request(room)
        return NOT_READY

    def end_turn(self) -> None:
        """Let the run take items again. Called in the run's mailbox."""
        self._callers_turn = False


class RunBridge:
    """
    A run in another thread or on an event loop, as a blocking caller sees it.

    Args:
        run: The run.
        reader: The items.
        launch: Starts the run elsewhere. There it makes a driver, calls `attach` with it and, if that returns True,
            runs it; then it calls `on_finished` with the exception that the driver raised, or None.
        collect: Whether outcomes are kept until the end. If not, outcomes that the caller has not taken occupy the
            window.

    Attributes:
        source: Where the run takes its items from.
    """

    def __init__(self, run: RunState, reader: ItemReader, launch: Launch, *, collect: bool) -> None:
        self.source: ItemSource = InlineSource(reader)
        self._run = run
        self._reader = reader
        self._launch = launch
        self._launched = False
        self._collect = collect
        self._inbox: SimpleQueue[Outcome[Any] | _NeedItems | _Done] = SimpleQueue()
        self._outcomes: deque[Outcome[Any]] = deque()
        self._remote = RemoteSource(lambda room: self._inbox.put(_NeedItems(room)))
        if not reader.is_materialized:
            self.source = self._remote
        self._driver: ConcurrentDriver | ThreadedDriver | None = None
        self._failure: BaseException | None = None
        self._cancelled = self._abandoned = False
        self._finished = threading.Event()
        self._taken = 0

    def take(self) -> Outcome[Any] | None:
        """Return the next outcome, waiting for it; None after the last."""
        if not self._launched:
            self._launched = True
            self._launch(self)
        while True:
            if self._outcomes:
                return self._outcomes.popleft()
            if self._taken and (self._inbox.empty() or self._taken >= ACKNOWLEDGE_EVERY):
                self._acknowledge()
            try:
                message = self._inbox.get(timeout=POLL_INTERVAL)
            except Empty:
                continue
            if isinstance(message, _NeedItems):
                self._feed(message.room)
            elif not isinstance(message, _Done):
                self._taken += 1
                return message
            elif not self._finish():
                return None

    def check_stop(self) -> None:
        """Drain the run, which was stopped. Safe in a signal handler."""
        driver = self._driver
        if driver is not None:
            driver.mailbox.post(driver.scheduler.drain)

    def cancel(self) -> None:
        """Cancel the run without waiting for it."""
        self._cancelled = True  # before the driver is read: `attach` sets the driver, then reads this
        driver = self._driver
        if driver is not None:
            driver.mailbox.post_deferred(driver.scheduler.cancel)

    def abandon(self) -> None:
        """Cancel a run that has no caller any more. The garbage collector may call this anywhere."""
        self._abandoned = True
        self.cancel()

    def abort(self) -> Iterator[Outcome[Any]]:
        """Cancel the run; its calls in flight are cancelled or abandoned. Yields the outcomes not taken yet."""
        self.cancel()
        driver = self._driver
        # An observer, for example, runs where the run lives, and would wait for itself.
        if driver is not None and not driver.mailbox.is_here():
            while not self._finished.wait(POLL_INTERVAL):
                pass
        with suppress(Empty):
            while True:
                message = self._inbox.get_nowait()
                if not isinstance(message, (_NeedItems, _Done)):
                    self._outcomes.append(message)
        self._inbox.put(_Done())  # another thread may be waiting for the next outcome
        yield from self._outcomes
        yield from self._not_run()

    def attach(self, driver: ConcurrentDriver | ThreadedDriver) -> bool:
        """Set the driver, and return whether it should run. Called where the run lives."""
        self._driver = driver
        return not self._cancelled

    def on_finished(self, failure: BaseException | None) -> None:
        """Record that the run has ended, and the exception that ended it. Called where the run lives."""
        self._failure = failure
        if self._abandoned:
            self._run.recorder.finish()  # otherwise the caller does it
        self._inbox.put(_Done())
        self._finished.set()

    def deliver(self, outcome: Outcome[Any]) -> bool:
        """Hand an outcome to the caller. Called where the run lives; returns whether it leaves the window."""
        if self._collect:
            self._outcomes.append(outcome)
        else:
            self._inbox.put(outcome)
        return self._collect

    def _finish(self) -> bool:
        """Return whether outcomes are left after the run's end; if not, raise the exception that ended it."""
        self._inbox.put(_Done())  # for the next `take`
        self._outcomes.extend(self._not_run())
        if not self._outcomes and self._failure is not None:
            raise self._failure
        return bool(self._outcomes)

    def _acknowledge(self) -> None:
        taken, self._taken = self._taken, 0
        if self._driver is not None:
            self._driver.mailbox.post(partial(self._driver.scheduler.on_outcomes_consumed, taken))

    def _feed(self, room: int) -> None:
        """Read at most `room` items, for at most `MAX_FEED_SECONDS` and one item, and hand them to the run."""
        remote = self._remote
        deadline = self._run.now() + MAX_FEED_SECONDS
        try:
            for _ in range(room):
                item = next(self._reader, None)
                if item is None:
                    remote.exhausted = True
                    break
                remote.items.append(item)
                if self._run.now() > deadline:
                    break
        except Exception as raised:
            remote.failure = raised
        driver = self._driver
        if driver is not None:
            driver.mailbox.post(remote.end_turn)
            driver.mailbox.post(driver.scheduler.admit_items)

    def _not_run(self) -> Iterator[Outcome[Any]]:
        """Fail the items that were read but not started."""
        while self._remote.items:
            item = self._remote.items.popleft()
            if isinstance(item, Failure):
                self._run.recorder.record_outcome(item)
                yield item
            else:
                yield self._run.recorder.item_finished(item, None, self._run.stop_error())


def in_thread(make_driver: Callable[[RunBridge], ThreadedDriver], threads: DaemonThreadPool) -> Launch:
    """Return a function that launches a run in a thread of its own."""

    def launch(bridge: RunBridge) -> None:
        threads.start(partial(host, bridge))

    def host(bridge: RunBridge) -> None:
        failure: BaseException | None = None
        try:
            driver = make_driver(bridge)
            if bridge.attach(driver):
                driver.run()
        except BaseException as raised:
            failure = raised
        finally:
            bridge.on_finished(failure)

    return launch


def on_loop(make_driver: Callable[[RunBridge], ConcurrentDriver], portal: BlockingPortal) -> Launch:
    """Return a function that launches a run on the runner's private event loop."""

    def launch(bridge: RunBridge) -> None:
        portal.start_task_soon(host, bridge)

    async def host(bridge: RunBridge) -> None:
        failure: BaseException | None = RunStopped("the runner was closed while its outcomes were being read")
        try:
            driver = make_driver(bridge)
            if bridge.attach(driver):
                await driver.run()
            failure = None
        except (Exception, KeyboardInterrupt, SystemExit) as raised:
            failure = raised
        finally:
            bridge.on_finished(failure)

    return launch

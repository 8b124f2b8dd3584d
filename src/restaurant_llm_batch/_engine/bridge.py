"""
Between a blocking caller and a run that goes on elsewhere, on a loop or in a thread.

The caller reads outcomes from a queue, and meanwhile feeds the run: a lazy iterable is the user's code, which
may block or belong to its thread (a database cursor, say), so it is only ever advanced in the caller's.
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
"""Outcomes taken before the run is told, as long as there are more to take: each telling wakes a thread."""

MAX_FEED_SECONDS = 0.001
"""Seconds of reading before what was read goes to the run: a slow iterable should not keep it waiting."""


class _NeedItems:
    """The run has room for `entries` more."""

    def __init__(self, entries: int) -> None:
        self.entries = entries


class _Done:
    """The run has delivered everything."""


class RemoteSource:
    """Entries that the caller reads and the run takes, by turns."""

    def __init__(self, want: Callable[[int], object]) -> None:
        self.entries: deque[RunItem | Failure] = deque()
        self.exhausted = False
        self.failure: BaseException | None = None
        self._want = want
        self._callers_turn = False

    def take(self, room: int) -> RunItem | Failure | NotReady | None:
        """Return the next entry that was fed, asking for more when there is none."""
        if self._callers_turn:
            return NOT_READY
        if self.entries:
            return self.entries.popleft()
        if self.failure is not None:
            raise self.failure
        if self.exhausted:
            return None
        self._callers_turn = True
        self._want(room)
        return NOT_READY

    def fed(self) -> None:
        """Note, where the run is, that the caller has had its turn."""
        self._callers_turn = False


class RunBridge:
    """
    Reads and feeds a run.

    Args:
        run: The run.
        reader: The items.
        launch: Starts the run elsewhere: it makes a driver there, calls `attach` with it and, if that
            returns true, runs it; then calls `on_finished` with what it raised, or None.
        collect: Whether outcomes are kept until the end, rather than making the run wait to be read.
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
        self._fed = RemoteSource(lambda room: self._inbox.put(_NeedItems(room)))
        if not reader.is_materialized:
            self.source = self._fed
        self._driver: ConcurrentDriver | ThreadedDriver | None = None
        self._failure: BaseException | None = None
        self._aborted = self._dropped = False
        self._over = threading.Event()
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
                letter = self._inbox.get(timeout=POLL_INTERVAL)
            except Empty:
                continue
            if isinstance(letter, _NeedItems):
                self._feed(letter.entries)
            elif not isinstance(letter, _Done):
                self._taken += 1
                return letter
            elif not self._finish():
                return None

    def check_stop(self) -> None:
        """Have the run notice that it was stopped; safe in a signal handler."""
        driver = self._driver
        if driver is not None:
            driver.mailbox.post(driver.scheduler.drain)

    def give_up(self) -> None:
        """Cancel the run without waiting for it."""
        self._aborted = True  # before looking for the driver, as `attach` looks here after setting it
        driver = self._driver
        if driver is not None:
            driver.mailbox.post_deferred(driver.scheduler.cancel)

    def abandon(self) -> None:
        """Cancel the run, which nobody reads any more; the garbage collector may call this anywhere."""
        self._dropped = True
        self.give_up()

    def abort(self) -> Iterator[Outcome[Any]]:
        """Cancel the run: calls in flight are cancelled or let go. Yields the outcomes not taken yet."""
        self.give_up()
        driver = self._driver
        if driver is not None and not driver.mailbox.is_here():  # an observer, say, cannot wait for itself
            while not self._over.wait(POLL_INTERVAL):
                pass
        with suppress(Empty):
            while True:
                letter = self._inbox.get_nowait()
                if not isinstance(letter, (_NeedItems, _Done)):
                    self._outcomes.append(letter)
        self._inbox.put(_Done())  # another thread may be waiting for the next outcome
        yield from self._outcomes
        yield from self._not_run()

    def attach(self, driver: ConcurrentDriver | ThreadedDriver) -> bool:
        """Take the driver, where the run is; return whether it is still wanted."""
        self._driver = driver
        return not self._aborted

    def on_finished(self, failure: BaseException | None) -> None:
        """Note, where the run is, that it has ended."""
        self._failure = failure
        if self._dropped:
            self._run.recorder.finish()  # a reader would have done it
        self._inbox.put(_Done())
        self._over.set()

    def deliver(self, outcome: Outcome[Any]) -> bool:
        """Take an outcome, where the run is."""
        if self._collect:
            self._outcomes.append(outcome)
        else:
            self._inbox.put(outcome)
        return self._collect

    def _finish(self) -> bool:
        """Return whether there are outcomes left after the run's end, and raise what it raised if not."""
        self._inbox.put(_Done())  # whoever asks again is told again
        self._outcomes.extend(self._not_run())
        if not self._outcomes and self._failure is not None:
            raise self._failure
        return bool(self._outcomes)

    def _acknowledge(self) -> None:
        taken, self._taken = self._taken, 0
        if self._driver is not None:
            self._driver.mailbox.post(partial(self._driver.scheduler.on_outcomes_consumed, taken))

    def _feed(self, room: int) -> None:
        """Read at most `room` entries, and no longer than a moment, and hand them over."""
        fed = self._fed
        until = self._run.now() + MAX_FEED_SECONDS
        try:
            for _ in range(room):
                entry = next(self._reader, None)
                if entry is None:
                    fed.exhausted = True
                    break
                fed.entries.append(entry)
                if self._run.now() > until:
                    break
        except Exception as raised:
            fed.failure = raised
        driver = self._driver
        if driver is not None:
            driver.mailbox.post(fed.fed)
            driver.mailbox.post(driver.scheduler.admit_items)

    def _not_run(self) -> Iterator[Outcome[Any]]:
        """Fail the entries that were read but came too late to be run."""
        while self._fed.entries:
            entry = self._fed.entries.popleft()
            if isinstance(entry, Failure):
                self._run.recorder.record_outcome(entry)
                yield entry
            else:
                yield self._run.recorder.item_finished(entry, None, self._run.stop_error())


def in_thread(make_driver: Callable[[RunBridge], ThreadedDriver], threads: DaemonThreadPool) -> Launch:
    """Return what launches a run in a thread of its own."""

    def launch(reader: RunBridge) -> None:
        threads.submit(partial(host, reader))

    def host(reader: RunBridge) -> None:
        failure: BaseException | None = None
        try:
            driver = make_driver(reader)
            if reader.attach(driver):
                driver.run()
        except BaseException as raised:
            failure = raised
        finally:
            reader.on_finished(failure)

    return launch


def on_loop(make_driver: Callable[[RunBridge], ConcurrentDriver], portal: BlockingPortal) -> Launch:
    """Return what launches a run on a private loop."""

    def launch(reader: RunBridge) -> None:
        portal.start_task_soon(host, reader)

    async def host(reader: RunBridge) -> None:
        failure: BaseException | None = RunStopped("the runner was closed while its outcomes were being read")
        try:
            driver = make_driver(reader)
            if reader.attach(driver):
                await driver.run()
            failure = None
        except (Exception, KeyboardInterrupt, SystemExit) as raised:
            failure = raised
        finally:
            reader.on_finished(failure)

    return launch

"""
Handover: passes the outcomes of a run to its caller, and decides which of the two ends the run.

Theory of operation. A `Handover` stands between a run, which lives in another thread or on an event loop, and the
caller that reads its outcomes. Any thread may be the caller: one reads while another one closes, a signal handler
closes in the middle of a read, and the garbage collector abandons the run wherever it happens to run. So nothing here
waits for a lock. It rests on two things that CPython does in one step: a method of a deque or list, and an assignment
to an attribute.

*Outcomes.* Each is in exactly one place: in `_outcomes` until one of the callers moves it into a list of its own.

*The run's life*, by what has happened to it:

    not begun   `_claim` has not been taken: the run's side takes it to begin the run, and a caller that closes takes it
                so that the run never begins
    running     the run's side took it; `host_over` is not set
    ending      `host_over` is set, but a caller is in the middle of reading items (`feeding`), which need outcomes too
    over        all items that were read have outcomes, and the observers have seen the run's end (`_finish`)

The run's side ends the run unless a caller is reading items; then that caller does, as soon as it has read them. Each
first says that it has left, then looks at the other: so at least one of them sees that both have left. If several do,
all but one find `_ending` locked, or nothing left to do. Whatever an interrupt leaves undone, the next call does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, MutableSequence
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias

from .._claim import Claim
from .._threads import SignalSafeEvent
from ..outcomes import Outcome
from .items import ItemReader, RunItem
from .mailbox import POLL_INTERVAL
from .run import RunState

if TYPE_CHECKING:
    from .concurrent import ConcurrentDriver
    from .threaded import ThreadedDriver

Driver: TypeAlias = "ConcurrentDriver | ThreadedDriver"
Outcomes: TypeAlias = MutableSequence[Outcome[Any]]


def move_one(outcomes: deque[Outcome[Any]], into: Outcomes) -> bool:
    """Move the first outcome from one list to another; return False if there is none."""
    try:
        # One call, in which no signal handler and no other thread runs: the outcome is always in exactly one list.
        into.extend(map(deque.popleft, (outcomes,)))
    except IndexError:
        return False
    return True


def move_all(outcomes: deque[Outcome[Any]], into: Outcomes) -> None:
    """Move all outcomes from one list to another."""
    with suppress(IndexError):  # there are no more; those that came before it are in the other list
        into.extend(map(deque.popleft, repeat(outcomes)))


class Handover:
    """
    The outcomes of one run, between the run and its callers. The run refers to this, and to nothing of its callers.

    Args:
        run: The run.
        reader: The items.

    Attributes:
        deliver: Takes an outcome; `wake` is to be called after it.
        items: Items that a caller has read and the run has not taken.
        room: How many items the run asks a caller to read; 0 while it asks for none.
        driver: Runs the run; None before it has begun.
        cancelled: Whether the run is to begin no more.
        host_over: Set when the run's side has left.
        failure: The exception that ended the run, until it is raised.
    """

    def __init__(self, run: RunState, reader: ItemReader) -> None:
        self.items: deque[RunItem] = deque()
        self.room = 0
        self.driver: Driver | None = None
        self.cancelled = False
        self.feeding = False
        self.host_over = SignalSafeEvent()
        self.failure: BaseException | None = None
        self._run = run
        self._reader = reader
        self._outcomes: deque[Outcome[Any]] = deque()
        self.deliver: Callable[[Outcome[Any]], object] = self._outcomes.append
        self._on_left: list[Callable[[], object]] = []
        self._claim = Claim()
        self._unbegun = False
        self._over = SignalSafeEvent()
        self._ending = threading.RLock()  # reentrant: a signal handler may close the stream meanwhile
        self._wake = threading.Lock()  # as a binary semaphore: free while there is something to look at
        self._wake.acquire()

    # The run's side

    def claim(self) -> bool:
        """Take the right to begin the run, or to keep it from beginning; return False if it is taken."""
        return self._claim.take()

    def attach(self, driver: Driver) -> bool:
        """Set the driver, and return whether it should run."""
        self.driver = driver
        return not self.cancelled

    def request_items(self, room: int) -> None:
        """Ask a caller to read at most `room` items."""
        self.room = room
        self.wake()

    def leave_host(self, failure: BaseException | None) -> None:
        """Record that the run's side has left, and the exception that it left with."""
        self.failure = failure
        self._leave_host()

    def _leave_host(self) -> None:
        self.cancelled = True  # before `feeding` is read: `enter_feed` sets that, then reads this
        try:
            self._finish()
        finally:
            self.host_over.set()
            self._finish()  # the caller may have stopped feeding in between, and waited for this side
            self.wake()
            self._call_back()

    # The callers' side

    @property
    def is_here(self) -> bool:
        """Whether the run lives in this thread, so that waiting for it would be waiting for itself."""
        return self.driver is not None and self.driver.mailbox.is_here()

    def cancel(self) -> None:
        """Cancel the run without waiting for it. Safe in any thread, at any moment."""
        self.cancelled = True  # before the driver is read: `attach` sets the driver, then reads this
        driver = self.driver
        if driver is not None:
            driver.mailbox.post_deferred(driver.scheduler.cancel)
        self._unbegun = self.claim() or self._unbegun
        if self._unbegun and not self.host_over.is_set():  # it has not begun, and never will
            self._leave_host()

    def enter_feed(self) -> bool:
        """Record that the caller is going to read items; return whether the run still wants them."""
        self.feeding = True
        return not self.cancelled

    def leave_feed(self) -> None:
        """Record that the caller reads no items now."""
        self.feeding = False
        self.is_over()

    def when_left(self, callback: Callable[[], object]) -> None:
        """Call a function once when the run's side has left; at once if it has. It must not block."""
        self._on_left.append(callback)
        if self.host_over.is_set():
            self._call_back()

    def _call_back(self) -> None:
        with suppress(IndexError):
            while True:
                self._on_left.pop()()

    def is_over(self) -> bool:
        """Return whether the run is over, so that no further outcome comes."""
        if self.host_over.is_set() and not self._over.is_set():
            self._finish()
        return self._over.is_set()

    def join(self) -> None:
        """Wait until the run's side has left, and until the run is over unless a caller is reading items."""
        self.host_over.wait()
        while not self.is_over() and not self.feeding:
            self._over.wait(POLL_INTERVAL)

    def take_one(self, into: Outcomes) -> bool:
        """Move the next outcome into a list; return False if there is none."""
        return move_one(self._outcomes, into)

    def take_all(self, into: Outcomes) -> None:
        """Move all outcomes into a list."""
        move_all(self._outcomes, into)

    def wait(self) -> None:
        """Wait for something to look at, or for a while."""
        self._wake.acquire(timeout=POLL_INTERVAL)

    def wake(self) -> None:
        """Make `wait` return."""
        if self._wake.locked():
            with suppress(RuntimeError):  # another thread has done so since
                self._wake.release()

    def _finish(self) -> None:
        """End the run: fail the items that were read but not started, then record its end."""
        if self.feeding or not self._ending.acquire(blocking=False):
            return  # the other side does it
        try:
            while self.items or self._reader.unfinished() is not None:
                item = self.items[0] if self.items else self._reader.unfinished()
                if item is not None:
                    self._fail(item)
                with suppress(IndexError):
                    self.items.popleft()
            self._run.recorder.finish()
            self._over.set()
        finally:
            self._ending.release()
            self.wake()

    def _fail(self, item: RunItem) -> None:
        outcome = self._run.recorder.item_finished(item, None, self._run.stop_error())
        if not item.delivered:
            item.delivered = self.deliver(outcome) is None  # both or neither, also if an interrupt lands here

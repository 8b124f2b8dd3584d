"""
Run bridge: connects a blocking caller to a run in another thread or on an event loop.

The run's side puts outcomes into a `Handover`, which also decides who ends the run. The caller's side posts actions to
the run's mailbox. Outcomes go from the run to the caller, and items from the caller to the run. A lazy iterable is the
user's code, which may block or belong to its thread (a database cursor, for example), so only the caller's thread
advances it. Caller and run take turns with the items:

    run     `RemoteSource.take` finds nothing, asks for `room` items, and does not touch the items again
    caller  `_feed` reads up to `room` items, then posts `RemoteSource.end_turn` and `admit_items`
    run     takes the items

The run's side refers to the `Handover` alone, never to the bridge: a stream that its caller drops is collected, and
that cancels the run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from .._values import PACKAGE_FOLDER
from ..errors import RunStopped
from .frames import NOT_READY, ItemSource, NotReady
from .handover import Handover, Outcomes
from .items import ItemReader, RunItem
from .run import RunState
from .threads import DaemonThreadPool

if TYPE_CHECKING:
    from .concurrent import ConcurrentDriver
    from .loop_thread import EventLoopThread
    from .threaded import ThreadedDriver

Launch: TypeAlias = "Callable[[Handover, ItemSource], object]"

ACKNOWLEDGE_EVERY = 16
"""Outcomes taken before they are acknowledged, if more are ready: every acknowledgement wakes a thread."""

MAX_FEED_SECONDS = 0.001
"""Seconds of reading items before they go to the run, which should not wait for a slow iterable."""


class RemoteSource:
    """
    Items that the caller's thread reads and the run takes, in turns.

    Args:
        handover: Where the caller puts the items.

    Attributes:
        exhausted: Whether the caller has read the last item.
    """

    def __init__(self, handover: Handover) -> None:
        self.exhausted = False
        self._handover = handover
        self._callers_turn = False

    def take(self, room: int) -> RunItem | NotReady | None:
        """Return the next item that was read. If there is none, request some and return `NOT_READY`."""
        if self._callers_turn:
            return NOT_READY
        if self._handover.items:
            return self._handover.items.popleft()
        if self.exhausted:
            return None
        self._callers_turn = True
        self._handover.request_items(room)
        return NOT_READY

    def unfinished(self) -> RunItem | None:
        """Return None: the handover fails items that the caller has read."""
        return None

    def end_turn(self) -> None:
        """Let the run take items again. Called in the run's mailbox."""
        self._callers_turn = False


class RunBridge:
    """
    A run in another thread or on an event loop, as a blocking caller sees it.

    Args:
        run: The run.
        reader: The items.
        launch: Starts the run elsewhere, with a driver that takes items from the source and delivers outcomes to the
            handover.
        collect: Whether outcomes are kept until the end. If not, outcomes that the caller has not taken occupy the
            window.
    """

    def __init__(self, run: RunState, reader: ItemReader, launch: Launch, *, collect: bool) -> None:
        self._run = run
        self._reader = reader
        self._launch = launch
        self._launched = False
        self._collect = collect
        self._handover = Handover(run, reader)
        self._remote = RemoteSource(self._handover)
        self._input_failure: BaseException | None = None
        self._taken = 0

    def take(self, into: Outcomes) -> bool:
        """
        Put the next outcome into a list, waiting for it; if they are collected, all of them.

        Returns:
            Whether the run may go on.
        """
        handover = self._handover
        if not self._launched:
            self._launched = True
            source = self._reader if self._reader.is_materialized else self._remote
            try:
                self._launch(handover, source)
            except RuntimeError:
                if (
                    not handover.cancelled
                ):  # otherwise another thread has closed the stream, and what it would need
                    raise
        while True:
            over = handover.is_over()  # before the outcomes are looked at
            if not self._collect and handover.take_one(into):
                self._taken += 1
                if self._taken >= ACKNOWLEDGE_EVERY:
                    self._acknowledge()
                return True
            if over:
                break
            if handover.room:
                self._feed()
            elif self._taken:
                self._acknowledge()
            else:
                handover.wait()
        handover.take_all(into)
        self._raise_failure()
        return False

    def _raise_failure(self) -> None:
        """Raise the exception that ended the run, or that of the items' iterable."""
        handover = self._handover
        failure, handover.failure = handover.failure, None
        failure, self._input_failure = failure or self._input_failure, None
        if failure is not None:
            raise failure

    def check_stop(self) -> None:
        """Drain the run, which was stopped. Safe in a signal handler."""
        driver = self._handover.driver
        if driver is not None:
            driver.mailbox.post(driver.scheduler.drain)

    def abandon(self) -> None:
        """Cancel a run that has no caller any more. The garbage collector may call this anywhere."""
        self._handover.cancel()

    def when_left(self, callback: Callable[[], object]) -> None:
        """Call a function once when the run's side has left, there; it must not block."""
        self._handover.when_left(callback)

    def interrupted(self) -> None:
        """Record that the caller's thread was interrupted within `take`."""
        if self._handover.feeding:
            self._handover.leave_feed()

    def abort(self, into: Outcomes) -> bool:
        """
        Cancel the run; its calls in flight are cancelled or abandoned. Put the outcomes not taken yet into a list.

        Returns:
            Whether the run's side has left. If not, this is its own thread, and it leaves when that goes on.
        """
        handover = self._handover
        handover.cancel()
        # An observer, for example, runs where the run lives, and would wait for itself.
        here = handover.is_here and not handover.host_over.is_set()
        if not here:
            handover.join()
        handover.take_all(into)
        handover.wake()  # another thread may be waiting for the next outcome
        return not here

    def _acknowledge(self) -> None:
        taken, self._taken = self._taken, 0
        driver = self._handover.driver
        if driver is not None:
            driver.mailbox.post(partial(driver.scheduler.on_outcomes_consumed, taken))

    def _feed(self) -> None:
        """Read at most `room` items, for at most `MAX_FEED_SECONDS` and one item, and hand them to the run."""
        handover, remote = self._handover, self._remote
        deadline = self._run.now() + MAX_FEED_SECONDS
        if handover.enter_feed():
            try:
                for _ in range(handover.room):
                    item = self._reader.take()
                    if item is None:
                        remote.exhausted = True
                        break
                    handover.items.append(item)
                    if handover.cancelled or self._run.now() > deadline:
                        break
            except Exception as raised:
                self._input_failure = _without_our_frames(raised)
                remote.exhausted = True
        handover.room = 0
        handover.leave_feed()
        driver = handover.driver
        if driver is not None:
            driver.mailbox.post(remote.end_turn)
            driver.mailbox.post(driver.scheduler.admit_items)


def _without_our_frames(error: Exception) -> Exception:
    """Return the exception of the user's iterable without our frames, which would keep the stream alive."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(PACKAGE_FOLDER):
        traceback = traceback.tb_next
    return error.with_traceback(traceback)


def in_thread(
    make_driver: Callable[[Handover, ItemSource], ThreadedDriver], threads: DaemonThreadPool
) -> Launch:
    """Return a function that launches a run in a thread of its own."""

    def launch(handover: Handover, source: ItemSource) -> None:
        threads.start(partial(host, handover, source))

    def host(handover: Handover, source: ItemSource) -> None:
        if not handover.claim():
            return
        failure: BaseException | None = None
        try:
            driver = make_driver(handover, source)
            if handover.attach(driver):
                driver.run()
        except BaseException as raised:
            failure = raised
        finally:
            handover.leave_host(failure)

    return launch


def on_loop(
    make_driver: Callable[[Handover, ItemSource], ConcurrentDriver], loop_thread: EventLoopThread
) -> Launch:
    """Return a function that launches a run on the runner's private event loop."""

    def launch(handover: Handover, source: ItemSource) -> None:
        loop_thread.start_task(host, handover, source)

    async def host(handover: Handover, source: ItemSource) -> None:
        if not handover.claim():
            return
        failure: BaseException | None = RunStopped("the runner was closed while its outcomes were being read")
        try:
            driver = make_driver(handover, source)
            if handover.attach(driver):
                await driver.run()
            failure = None
        except (Exception, KeyboardInterrupt, SystemExit) as raised:
            failure = raised
        finally:
            handover.leave_host(failure)

    return launch

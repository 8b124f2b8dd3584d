"""
Sequential driver: one item, and one call, at a time in the calling thread; no event loop, no worker thread.

Any thread may end the run. While another one is within `take`, that one ends it: its item's outcome goes to it, and it
records the run's end. `_busy` and `_cancelled` decide that as the two flags of `BlockingSession` do.

A Ctrl-C may raise at any point of `take`. What the run holds is in `_call` and `_flow`, and in the item reader, before
it is acquired, so `_finish` can give it back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .._foreign import own_exception
from ..cancellation import run_with_token
from ..errors import ConfigurationError
from ..outcomes import Outcome
from ..steps import Sleep, drive
from .call import RETURNED, RUNNING, Call
from .frames import EngineFlow, EngineStep
from .handover import Outcomes
from .items import ItemReader, RunItem
from .mailbox import BlockingMailbox, ThreadMailbox
from .memo import LookUp, NotifyCell, WaitForCallback, WaitForCell
from .policy import run_item
from .run import RunState, log
from .server_reading import read_in_thread

if TYPE_CHECKING:
    from .server_watch import ServerWatch


class SequentialDriver:
    """
    Runs items one after the other, each when `take` is called.

    Args:
        run: The run.
        reader: The items.
        collect: Whether one call of `take` is to run all items.
        mailbox: Where the run lives; None for the calling thread.
        read_server: Reads the load of a server, and reports it in the mailbox.
    """

    def __init__(
        self,
        run: RunState,
        reader: ItemReader,
        *,
        collect: bool,
        mailbox: BlockingMailbox | None = None,
        read_server: Callable[..., object] = read_in_thread,
    ) -> None:
        self._collect = collect
        self._run = run
        self._recorder = run.recorder
        self._reader = reader
        self._mailbox: BlockingMailbox = mailbox or ThreadMailbox()
        run.calls.mailbox, run.calls.on_admitted = self._mailbox, self._on_admitted
        self._busy = False
        self._cancelled = False
        self._over = False
        self._finishing = threading.RLock()
        self._flow: EngineFlow[Any] | None = None
        self._call: Call | None = None
        self._started = False
        self._server_watch: ServerWatch | None = None
        if run.watch is not None:
            from .server_watch import ServerWatch

            self._server_watch = ServerWatch(run, partial(read_server, self._mailbox))
        self._limited = run.time_limits.run is not None or run.time_limits.item is not None

    def take(self, into: Outcomes) -> bool:
        """
        Run the next item and put its outcome into a list; if they are collected, run all of them.

        Returns:
            Whether the run may go on.
        """
        self._busy = True
        if not self._cancelled:
            self._mailbox.move_here()
            self._over = not run_with_token(self._run.cancel_token, partial(self._run_items, into))
        self._busy = False
        if self._over or self._cancelled:
            self._finish(into)
        return not self._over

    def _run_items(self, into: Outcomes) -> bool:
        """Run the next item, or all of them if they are collected; return False if there are no more."""
        run, recorder = self._run, self._recorder
        while True:
            run.check_run_timeout()
            if run.stopped is not None:
                return False
            item = self._reader.take()
            if item is None:
                return False
            if item.bad is None:
                run.enter_window(item)
                if recorder.is_observed:
                    recorder.item_started(item)
                flow = self._flow = run_item(item, run)
                try:
                    value = drive(flow, partial(self._perform, item))
                except Exception as error:
                    recorder.item_finished(item, None, error)
                except BaseException as fatal:
                    own = own_exception(fatal, "the task")
                    if own is None:
                        raise
                    recorder.item_finished(item, None, own)
                else:
                    recorder.item_finished(item, value, None)
                self._flow = None
            self._deliver(item, into)
            if not self._collect:
                return True

    def _deliver(self, item: RunItem, into: Outcomes) -> None:
        append: Callable[[Outcome[Any]], object] = into.append
        outcome = item.outcome
        if outcome is None:  # a bad item, or one that was interrupted
            error = None if item.bad else self._run.stop_error()
            outcome = self._recorder.item_finished(item, None, error)
        if not item.delivered:
            item.delivered = append(outcome) is None  # both or neither, also if an interrupt lands here
        if self._reader.tracks_ids:
            self._reader.item_finished(item)

    def check_stop(self) -> None:
        """Wake the run, which was stopped. Safe in a signal handler."""
        self._mailbox.wake()

    def interrupted(self) -> None:
        """Clean up after an exception that left `take`."""
        self._busy = False

    def when_left(self, callback: Callable[[], object]) -> None:
        """Call a function: the run has no thread of its own."""
        callback()

    def abandon(self) -> None:
        """Cancel the run, whose outcomes no caller consumes any more."""
        self.abort([])

    def abort(self, into: Outcomes) -> bool:
        """Cancel the run, and put the outcome of an item that was interrupted into a list; return True."""
        if not self._over:
            self._run.request_cancel()
        self._cancelled = True
        self._mailbox.wake()
        if not self._busy:
            self._finish(into)
        return True

    def _finish(self, into: Outcomes) -> None:
        """End the run: give back what it holds, and record its end. Can be done again after an interrupt."""
        if not self._finishing.acquire(blocking=False):
            return  # another thread does it
        try:
            self._give_back()
            if self._server_watch is not None:
                self._server_watch.end()
            if self._flow is not None:
                self._close_flow(self._flow)
            self._run.leave_all()
            if self._run.waves is not None:
                self._run.waves.close()
            item = self._reader.unfinished()
            if item is not None:
                self._deliver(item, into)
            self._recorder.finish()
            self._over = True
        finally:
            self._finishing.release()

    def _close_flow(self, flow: EngineFlow[Any]) -> None:
        try:
            flow.close()
        except Exception:
            log.exception("a flow raised while it was being closed")
        self._flow = None

    def _perform_other(self, item: RunItem, step: EngineStep) -> Any:
        """Perform another step than a call."""
        if isinstance(step, WaitForCallback):
            return self._subscribe(step, item)
        if isinstance(step, (LookUp, NotifyCell)):
            return None  # no other item is open that could start at the same time, or that could wait
        if isinstance(step, WaitForCell):
            raise ConfigurationError(
                "a flow passed to once() uses its own key, or one that waits for it, so it would wait for itself"
            )
        if isinstance(step, Sleep):
            return self._sleep(step)
        raise TypeError("a sequential plan does not run flows concurrently")

    def _perform(self, item: RunItem, call: EngineStep) -> Any:
        """Make a call, and return its answer or raise its error; or perform another step."""
        if type(call) is not Call:
            return self._perform_other(item, call)
        while self._server_watch is not None and self._mailbox.posted:
            self._mailbox.run_pending(0.0)  # take what was read of a server meanwhile
        self._call = call
        try:
            self._acquire(call, item)
            call.progress = RUNNING
            call.started_at = self._run.now()
            if self._run.time_limits.call is not None or item.deadline is not None:
                self._run.set_call_deadline(call, item)
            self._recorder.call_started(call, item)
            if self._server_watch is not None:
                self._server_watch.read_due()  # there is no timer here
            answer, error = call.run_blocking()
            call.record_outcome(answer, error)
            call.progress = RETURNED
            call.release()
            self._call = None
        except BaseException:
            self._give_back()
            raise
        self._recorder.call_finished(call, item, answer, error)
        if error is not None:
            try:
                raise error
            finally:
                del error  # a cycle with this frame, which is in its traceback
        if self._limited:
            self._check_time(item)  # nothing ended the call when its time was up, but it is late all the same
        return answer

    def _check_time(self, item: RunItem) -> None:
        """Raise if the time of the item, or of the run, is up."""
        run = self._run
        if run.stopped is None:
            run.check_run_timeout()
            if run.stopped is not None:
                raise run.stop_error()
        if run.is_overdue(item):
            raise run.item_timeout_error()

    def _give_back(self) -> None:
        """Free what the call in progress holds, if there is one. Doing it again does nothing."""
        call = self._call
        if call is not None:
            if call.progress >= RUNNING:
                call.release()
            else:
                call.cancel_acquire()
                item = self._reader.unfinished()
                if item is not None:
                    self._recorder.call_dropped(call, item)
            self._call = None

    def _sleep(self, step: Sleep) -> None:
        self._mailbox.wait(step.seconds, self._run.now, unless=lambda: self._run.stopped is not None)
        if self._run.stopped is not None:
            raise self._run.stop_error()

    def _subscribe(self, step: WaitForCallback, item: RunItem) -> Exception | None:
        answers: list[Exception | None] = []

        def on_done(answer: Exception | None) -> None:
            answers.append(answer)
            self._mailbox.wake()

        step.subscribe(on_done)
        while not answers:
            self._mailbox.run_pending(self._run.seconds_left(item) if step.interruptible else None)
            if step.interruptible and not answers:
                self._check_wait(item)
        return answers[0]

    def _check_wait(self, item: RunItem) -> None:
        """Raise if the run was stopped, or if the time of the item, or of the run, is up."""
        self._check_time(item)
        if self._run.stopped is not None:
            raise self._run.stop_error()

    def _acquire(self, call: Call, item: RunItem) -> None:
        """Pass the limiters; other threads may hold their slots."""
        self._started = False
        call.acquire()
        while not self._started:
            timed, now = self._run.limiters.timed, self._run.now()
            ready_in = [seconds for one in timed if (seconds := one.seconds_until_ready(now)) is not None]
            self._mailbox.run_pending(min([*ready_in, self._run.seconds_left(item)]))
            for limiter in timed:
                limiter.admit_ready(self._run.now())
            if not self._started:
                self._check_wait(item)

    def _on_admitted(self, call: Call) -> None:
        call.use_endpoint()
        self._started = True

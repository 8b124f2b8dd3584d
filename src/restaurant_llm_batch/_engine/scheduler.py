"""
The conductor: advances many flows at once and never waits.

It is told what happened (a call came back, a pause is over, an outcome was taken) and says what is to be done
next through the callables it was given. The threaded and the concurrent driver share it; they differ only in
how a call is started and how a pause is timed. All of it runs at the run's home, one thing at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any

from ..errors import ConfigurationError
from ..events import PendingWait
from ..outcomes import Failure, Outcome
from ..steps import Flow, Gather
from .call import Call
from .frames import Frame, ItemSource, MemoWaiters, NotReady, SchedulerCallbacks
from .items import ItemReader, RunItem
from .mailbox import Mailbox
from .memo import MemoCell, NotifyCell, WaitForCallback, WaitForCell
from .policy import run_item
from .run import Run, log
from .timers import DeadlineQueue, RateLimitTimer
from .watchdog import StallDetector, describe_waits

_WAITS = object()
"""What a step is answered with that takes time."""


class Scheduler:
    """
    Runs the flows of one run side by side, within a sliding window.

    Args:
        run: The run.
        source: The entries.
        reader: Told when an entry has ended.
        window: Most items open at once, outcomes that nobody has taken yet included.
        mailbox: Where all of this happens.
        callbacks: What does the work.
    """

    def __init__(
        self,
        run: Run,
        source: ItemSource,
        reader: ItemReader,
        window: int,
        mailbox: Mailbox,
        callbacks: SchedulerCallbacks,
    ) -> None:
        self.run = run
        self.finished = False
        self.failure: BaseException | None = None
        self._source = source
        self._reader = reader
        self._window = window
        self._mailbox = mailbox
        self._callbacks = callbacks
        self._frames: dict[int, Frame] = {}
        self._queued: set[Call] = set()
        self._running: set[Call] = set()
        self._suspended: dict[Frame, tuple[Any, float]] = {}  # by which step, since when
        self._memo_waiters = MemoWaiters()
        self._deadlines = DeadlineQueue(callbacks.call_later, self._expire_overdue)
        self._rate_limit_timer = RateLimitTimer(run.limiters.rate, mailbox, callbacks.call_later)
        self._stall_detector = StallDetector(run, callbacks.call_later, self._waits)
        self._undelivered = 0
        self._exhausted = False
        self._draining = False
        self._filling = False

    def start(self) -> None:
        """Let in the first entries."""
        if self.run.time_limits.run is not None:
            self._callbacks.call_later(self.run.time_limits.run, self._on_run_timeout)
        self._rate_limit_timer.start()
        self._stall_detector.start()
        self.admit_items()

    def admit_items(self) -> None:
        """Let in as many entries as the window allows."""
        if self._filling:
            return
        self._filling = True
        try:
            while not self._exhausted and (room := self._capacity()) > 0:
                if self.run.stopped is not None:
                    break
                entry = self._next_item(room)
                if isinstance(entry, NotReady):
                    return
                if entry is None:
                    self._exhausted = True
                elif isinstance(entry, Failure):
                    self.run.record_outcome(entry)
                    self._deliver(entry)
                else:
                    self._start_item(entry)
        finally:
            self._filling = False
            self.run.input_exhausted = self._exhausted
        if self.run.stopped is not None:
            self.drain()
        self._finish_if_done()

    def on_outcomes_consumed(self, outcomes: int = 1) -> None:
        """Note that outcomes were taken, which makes room for more entries."""
        self._undelivered -= outcomes
        self.admit_items()

    def on_call_started(self, call: Call) -> None:
        """Note that a call is being started."""
        self._queued.discard(call)
        self._running.add(call)
        try:
            self.run.call_started(call, call.frame.item)
        except BaseException:  # a Ctrl-C in an observer, say
            self._running.discard(call)
            call.release()
            raise
        if call.deadline is not None and not call.method.is_async:
            self._deadlines.add(call.deadline, call)

    def on_call_finished(self, call: Call, answer: Any, error: BaseException | None) -> None:
        """Note that a call is over; its flow goes on before its slot is given away."""
        if call.method.is_async:
            call.record_outcome(error)
            call.mark_returned(answer)
        self._running.discard(call)
        if self.finished:
            if call.method.is_async:
                call.release()
            return
        if call.done:
            # A blocking call that was given up comes back; its thread has freed its slot.
            self.run.record_late_reply(answer)
            self._after_event()
            return
        call.done = True
        frame: Frame = call.frame
        self.run.call_finished(call, frame.item, answer, error)
        try:
            if error is not None and not isinstance(error, Exception):
                self.cancel(error)
            else:
                self._resume_flow(frame, answer, error)
                if self.run.stopped is not None:
                    self.drain()  # before the slot is free
        finally:
            if call.method.is_async:
                call.release()  # a blocking call leaves by itself, in its thread
        self._after_event()

    def _expire_overdue(self) -> None:
        """End the calls whose time is up: those that wait, and blocking ones, whose threads are let go."""
        for call in self._deadlines.pop_expired():
            if self.finished:
                return
            if isinstance(call, WaitForCallback):
                if not call.done:
                    self._resume(call.frame, call, error=self.run.item_timeout_error())
            elif call in self._queued:
                self._expire_queued(call)
            elif call.deadline is not None and not call.done and not call.method.is_async:
                error = call.timeout_error or self.run.item_timeout_error()
                call.done = True
                call.cancel_if_unshared()
                self.run.call_finished(call, call.frame.item, None, error)
                self._resume_flow(call.frame, None, error)
        self._after_event()

    def _waits(self, now: float) -> Iterable[PendingWait]:
        if self.finished:
            return ()
        return describe_waits(self._running, self._queued, self._suspended, self._memo_waiters.since, now)

    def _on_run_timeout(self) -> None:
        """End the run: its time is up."""
        self.run.check_run_timeout()
        if self.run.stopped is not None:
            self.cancel()

    def drain(self) -> None:
        """Carry out a stop: begin nothing more, wherever it waits; calls in flight are left to end."""
        if self._draining or self.finished:
            return
        self._draining = True
        self._exhausted = True
        for call in self._cancel_queued():
            self._resume_flow(call.frame, None, self.run.stop_error())
        for frame, (step, _) in list(self._suspended.items()):
            # What is being written to the disk was answered, and a moment later its item may be done.
            if not isinstance(step, WaitForCallback) or step.interruptible:
                self._resume(frame, step, error=self.run.stop_error())
        self._finish_if_done()

    def cancel(self, failure: BaseException | None = None) -> None:
        """End everything now: what is open fails as stopped, and answers still to come are not heard."""
        if self.finished:
            return
        self.finished = self._exhausted = True
        self._rate_limit_timer.stop()
        self.failure = self.failure or failure
        self.run.request_cancel()
        self._cancel_queued()
        self._suspended.clear()
        for frame in list(self._frames.values()):
            self._close_flow(frame)
            self._callbacks.deliver(self.run.item_finished(frame.item, None, self.run.stop_error()))
        self._frames.clear()
        self._callbacks.on_finished()

    def _close_flow(self, frame: Frame) -> None:
        try:
            frame.flow.close()
        except Exception:
            log.exception("%r raised while it was being closed", frame.item.item_id)

    def _cancel_queued(self) -> list[Call]:
        calls = list(self._queued)
        self._queued.clear()
        for call in calls:
            call.withdrawn = True  # all of them first: one's slot must not be given to the next
        for call in calls:
            call.cancel_acquire()
        return calls

    def _capacity(self) -> int:
        return self._window - len(self._frames) - self._undelivered

    def _next_item(self, room: int) -> RunItem | Failure | NotReady | None:
        try:
            return self._source.take(room)
        except BaseException as failure:
            # The user's iterable raised: what is open may still end, then its error goes to the caller.
            self.failure = failure
            if not isinstance(failure, Exception):
                raise
            return None

    def _start_item(self, entry: RunItem) -> None:
        self.run.item_started(entry)
        frame = Frame(run_item(entry, self.run), entry)
        self._frames[entry.index] = frame
        self._resume_flow(frame, None, None)

    def _resume_flow(self, frame: Frame, answer: Any, error: BaseException | None) -> None:
        """Advance a flow until it needs something that takes time, and its parents when it ends."""
        while True:
            self.run.current_frame = frame
            try:
                step = frame.flow.send(answer) if error is None else frame.flow.throw(error)
            except StopIteration as stop:
                answer, error = stop.value, None
            except Exception as raised:
                answer, error = None, raised
            except BaseException as fatal:
                self.cancel(fatal)
                return
            else:
                answer = self._perform(frame, step)
                if answer is _WAITS:
                    return
                continue  # here, not by calling itself: thousands of steps may need no waiting
            parent = frame.parent
            if parent is None:
                self._close(frame, answer, error)
                return
            parent.answers[frame.index] = answer if error is None else error
            parent.pending_children -= 1
            if parent.pending_children or parent.starting_children:
                return
            frame, answer, error = parent, parent.answers, None

    def _perform(self, frame: Frame, step: Any) -> Any:
        """Begin a step and return `_WAITS`, or its answer where it is there at once."""
        if type(step) is Call:
            step.frame = frame
            self._queued.add(step)
            if frame.item.deadline is not None:
                self._deadlines.add(frame.item.deadline, step)
            step.acquire(self._mailbox, self._admitted)
        elif type(step) is Gather:
            return self._start_children(frame, step.flows)
        elif type(step) is WaitForCell:
            self._wait_on_cell(frame, step.cell)
        elif type(step) is WaitForCallback:
            self._subscribe(frame, step)
        elif type(step) is NotifyCell:
            self._notify_cell(step.cell)
            return _WAITS if self.finished else None
        elif self._draining:
            self._resume_flow(frame, None, self.run.stop_error())
        else:
            self._suspended[frame] = step, monotonic()
            self._callbacks.call_later(step.seconds, lambda: self._resume(frame, step))
        return _WAITS

    def _subscribe(self, frame: Frame, step: WaitForCallback) -> None:
        step.frame = frame
        self._suspended[frame] = step, monotonic()
        if step.interruptible and frame.item.deadline is not None:
            self._deadlines.add(frame.item.deadline, step)
        # Later, also when it calls back at home: another flow may be in the middle of a step.
        step.subscribe(lambda answer: self._mailbox.post_deferred(lambda: self._resume(frame, step, answer)))

    def _start_children(self, frame: Frame, flows: tuple[Flow[Any], ...]) -> Any:
        frame.answers = [None] * len(flows)
        frame.pending_children = len(flows)
        frame.starting_children = True
        for place, flow in enumerate(flows):
            self._resume_flow(Frame(flow, frame.item, frame, place), None, None)
        frame.starting_children = False
        return _WAITS if frame.pending_children or self.finished else frame.answers

    def _wait_on_cell(self, frame: Frame, cell: MemoCell) -> None:
        try:
            self._memo_waiters.add(frame, cell)
        except ConfigurationError as error:
            self._resume_flow(frame, None, error)

    def _notify_cell(self, cell: MemoCell) -> None:
        for follower in self._memo_waiters.release(cell):
            if not self.finished:
                self._resume_flow(follower, None, None)

    def _admitted(self, call: Call) -> None:
        if self.run.stopped is not None:
            self.drain()  # which takes this call back with all the others
        elif self.run.is_overdue(call.frame.item):
            self._expire_queued(call)
        else:
            self._callbacks.start(call)

    def _expire_queued(self, call: Call) -> None:
        """Take back a call that has not begun: its item's time is up."""
        self._queued.discard(call)
        call.cancel_acquire()
        self._resume_flow(call.frame, None, self.run.item_timeout_error())

    def _resume(self, frame: Frame, step: Any, answer: Any = None, error: Exception | None = None) -> None:
        paused = self._suspended.get(frame)
        if paused is not None and paused[0] is step:
            del self._suspended[frame]
            if isinstance(step, WaitForCallback):
                step.done = True
            self._resume_flow(frame, answer, error)
            self._after_event()

    def _close(self, frame: Frame, value: Any, error: Exception | None) -> None:
        entry = frame.item
        del self._frames[entry.index]
        self._reader.item_finished(entry)
        self._deliver(self.run.item_finished(entry, value, error))

    def _deliver(self, outcome: Outcome[Any]) -> None:
        if not self._callbacks.deliver(outcome):
            self._undelivered += 1

    def _after_event(self) -> None:
        if self.run.stopped is not None:
            self.drain()
        if not self._exhausted:
            if self._capacity() > 0:
                self.admit_items()
        elif not self._frames:
            self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._exhausted and not self._frames and not self.finished:
            self.finished = True
            self._rate_limit_timer.stop()
            self._callbacks.on_finished()

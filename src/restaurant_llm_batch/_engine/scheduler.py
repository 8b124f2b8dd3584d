"""
Scheduler: advances many flows concurrently within a sliding window of items, and never waits.

Theory of operation. The threaded and the concurrent driver (and any other) share one scheduler. They report events to
it (`on_call_started`, `on_call_finished`, `on_outcomes_consumed`, timers) and it answers through `SchedulerCallbacks`:
start this call, call me later, deliver this outcome. All of it runs where the run lives, one event at a time, so
nothing here is locked. An item is a tree of frames, and each frame is in exactly one place:

    in `_frames`         every open item's root frame, by index
    its call in          `_queued` (limiters have not admitted it) or `_running` (the backend works on it)
    in `_suspended`      it sleeps, backs off, or waits for a callback
    in `_memo_waiters`   another frame runs a memoized flow for it
    in `_lookups`        it starts a call, whose reply is looked up with those of others in a moment
    a parent             it waits for `pending_children`

If a provider's batches carry the calls, `WaveFrames` has frames that work for no item, and sends a wave when no other
frame can go on.

Events nest: resuming a flow may admit a call at once, whose start may end the run. Four rules keep that safe.

1. `_resume_flow` is a loop, not a recursion: thousands of steps may need no waiting.
2. A finished call's flow goes on before its slot is released, so that a retry or the item's next call competes for the
   slot from its own, better place in the queue, and a stop that the reply causes takes effect before the next call.
3. `admit_items` does not nest (`_filling`): an item that ends while it is started must not start the next from inside.
4. After anything that ran flows, check `finished`: an observer, a backend or a Ctrl-C may have ended the run.

A run ends in one of two ways: `drain` starts nothing more and lets calls in flight finish, `cancel` ends all at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from .._foreign import own_exception
from ..errors import ConfigurationError, RunStopped
from ..events import PendingWait
from ..steps import Gather, Sleep
from .call import ABANDONED, RETURNED, RUNNING, Call
from .frames import NOT_READY, EngineFlow, Frame, ItemSource, MemoWaiters, SchedulerCallbacks
from .items import ItemReader, RunItem
from .lookups import Answers, Lookups
from .mailbox import Mailbox
from .memo import LookUp, MemoCell, NotifyCell, WaitForCallback, WaitForCell
from .policy import run_item
from .run import RunState, log
from .timers import DeadlineQueue, LimiterTimer
from .watchdog import StallDetector, describe_waits

if TYPE_CHECKING:
    from .server_watch import ServerWatch
    from .wave_frames import WaveFrames

_WAITS = object()
"""Returned for a step that takes time, in place of its result."""


class Scheduler:
    """
    Runs the flows of one run.

    Args:
        run: The run.
        source: The items.
        reader: Notified when an item has ended.
        window: Most items open at once, outcomes that the caller has not consumed included.
        mailbox: Where the run lives.
        callbacks: Start calls, set timers and deliver outcomes.
        collect: Whether outcomes leave the window as soon as they are delivered.

    Attributes:
        finished: Whether the run is over.
        cancelled: Whether it was cancelled.
        failure: The exception of the items' iterable, or the one that ended the run; None otherwise.
    """

    # CPython 3.11 finds the methods of an object with more than 30 attributes, and no slots, without its caches.
    __slots__ = (
        "_callbacks",
        "_collect",
        "_deadlines",
        "_deliver",
        "_delivered",
        "_draining",
        "_entering",
        "_exhausted",
        "_filling",
        "_frames",
        "_limiter_timers",
        "_lookups",
        "_mailbox",
        "_memo_waiters",
        "_queued",
        "_reader",
        "_recorder",
        "_running",
        "_server_watch",
        "_source",
        "_stall_detector",
        "_start_call",
        "_suspended",
        "_undelivered",
        "_waves",
        "_window",
        "cancelled",
        "failure",
        "finished",
        "run",
    )

    def __init__(
        self,
        run: RunState,
        source: ItemSource,
        reader: ItemReader,
        window: int,
        mailbox: Mailbox,
        callbacks: SchedulerCallbacks,
        *,
        collect: bool,
    ) -> None:
        self.run = run
        self.finished = False
        self.cancelled = False
        self.failure: BaseException | None = None
        self._recorder = run.recorder
        self._source = source
        self._reader = reader
        self._window = int(window)  # not a subclass of int, which takes longer to subtract from
        self._mailbox = mailbox
        run.calls.mailbox, run.calls.on_admitted = mailbox, self._on_admitted
        self._callbacks = callbacks
        self._start_call = callbacks.start
        self._deliver = callbacks.deliver
        self._delivered = callbacks.delivered
        self._collect = collect
        self._entering: RunItem | None = None  # taken from the source; in `_frames` or delivered in a moment
        self._frames: dict[int, Frame] = {}
        self._queued: dict[Call, None] = {}  # in order, so that equal runs on virtual time have equal events
        self._running: dict[Call, None] = {}
        self._suspended: dict[Frame, tuple[Any, float]] = {}  # by which step, since when
        self._memo_waiters = MemoWaiters(run.now)
        self._lookups: Lookups | None = None
        if run.store is not None and run.waves is None:  # a wave is sent when no frame is where it looks
            self._lookups = Lookups(run.store, mailbox, self._on_looked_up)
        self._deadlines = DeadlineQueue(run.now, callbacks.call_later, self._expire_overdue)
        self._limiter_timers = [
            LimiterTimer(limiter, run.now, mailbox, callbacks.call_later) for limiter in run.limiters.timed
        ]
        self._stall_detector = StallDetector(run, callbacks.call_later, self._waits)
        self._server_watch: ServerWatch | None = None
        if run.watch is not None:
            from .server_watch import ServerWatch

            self._server_watch = ServerWatch(run, callbacks.read_server)
        self._undelivered = 0
        self._exhausted = False
        self._draining = False
        self._filling = False
        self._waves: WaveFrames | None = None
        if run.waves is not None:
            from .wave_frames import WaveFrames

            others = (self._queued, self._running, self._suspended)
            self._waves = WaveFrames(
                run.waves, others, mailbox, callbacks, self._resume_flow, self.admit_items
            )

    def start(self) -> None:
        """Start the timers, and admit the first items."""
        if self.run.time_limits.run is not None:
            self._callbacks.call_later(self.run.time_limits.run, self._on_run_timeout)
        self._recorder.post_to(self._mailbox.post_deferred)
        for timer in self._limiter_timers:
            timer.start()
        self._stall_detector.start()
        if self._server_watch is not None:
            self._server_watch.start(self._callbacks.call_later)
        self.admit_items()

    def admit_items(self) -> None:
        """Admit as many items as the window has room for."""
        if self._filling:
            return
        self._filling = True
        waves = self._waves
        if waves is not None:
            waves.begin_admission()
        try:
            while not self._exhausted and (room := self._window - len(self._frames) - self._undelivered) > 0:
                if self.run.stopped is not None:
                    break
                try:
                    item = self._source.take(room)
                except BaseException as failure:
                    # The user's iterable raised: open items may still end, then its error goes to the caller.
                    self.failure, item = failure, None
                    if not isinstance(failure, Exception):
                        raise
                if item is NOT_READY:
                    if waves is not None:
                        waves.awaits_input = True
                    break
                self._entering = item
                if item is None:
                    self._exhausted = True
                elif item.bad is not None:
                    self._finish_item(item, None, None)
                else:
                    self._start_item(item)
                    if self._mailbox.posted:
                        # Calls have ended in their threads meanwhile: one may stop the run.
                        self._mailbox.post_deferred(self.admit_items)
                        break
                    if waves is not None and waves.is_slice_full():
                        break
        finally:
            self._filling = False
        if self.run.stopped is not None:
            self.drain()
        if self._exhausted:
            self.run.input_exhausted = True
            self._finish_if_done()
        if waves is not None and not self.finished:
            waves.send_if_idle()

    def on_outcomes_consumed(self, outcomes: int = 1) -> None:
        """Make room in the window for outcomes that the caller has consumed."""
        self._undelivered -= outcomes
        self.admit_items()

    def on_call_started(self, call: Call) -> None:
        """Record that the driver starts an admitted call. To be called before the backend is called."""
        run, item = self.run, call.frame.item
        self._running[call] = None
        self._queued.pop(call, None)
        call.progress = RUNNING
        clock = run.now
        call.started_at = clock()
        try:
            if run.time_limits.call is not None or item.deadline is not None:
                run.set_call_deadline(call, item)
            self._recorder.call_started(call, item)
        except BaseException:  # a Ctrl-C in an observer, for example
            call.release()
            self._running.pop(call, None)
            raise
        if call.deadline is not None and not call.is_async:
            self._deadlines.add(call.deadline, call)

    def on_call_finished(self, call: Call, answer: Any, error: BaseException | None) -> None:
        """Resume the flow of a call whose backend has returned, then release the call's slots."""
        if call.is_async:
            call.record_outcome(answer, error)
            if call.in_flight is not None:
                call.mark_returned(answer)
        # `_running` holds a call until its slots are free, for `end` to free them after an interrupt.
        try:
            if self.finished:
                return
            if call.progress is ABANDONED:
                # An abandoned blocking call returns late.
                self._recorder.record_late_reply(call, call.frame.item, answer)
            else:
                call.progress = RETURNED
                frame: Frame = call.frame
                self._recorder.call_finished(call, frame.item, answer, error)
                if error is not None and not isinstance(error, Exception):
                    self.cancel(error)
                else:
                    self._resume_flow(frame, answer, error)
                    if self.run.stopped is not None:
                        self.drain()  # before the slot is free
        finally:
            if call.outlives_run:  # if an interrupt comes now, its thread releases it
                self._running.pop(call, None)
            call.release()
            self._running.pop(call, None)
        self._after_event()

    def _expire_overdue(self) -> None:
        """Fail overdue waits and queued calls, and abandon overdue blocking calls, whose threads go on."""
        for call in self._deadlines.pop_expired():
            if self.finished:
                return
            if isinstance(call, WaitForCell):
                if not call.done:
                    self._memo_waiters.remove(call)
                    self._resume_flow(call.frame, None, self.run.item_timeout_error())
            elif isinstance(call, WaitForCallback):
                if not call.done:
                    self._resume(call.frame, call, error=self.run.item_timeout_error())
            elif call in self._queued:
                self._expire_queued(call)
            elif call.deadline is not None and not call.done and not call.is_async:
                error = call.timeout_error or self.run.item_timeout_error()
                call.progress = ABANDONED
                call.cancel_if_unshared()
                self._recorder.call_finished(call, call.frame.item, None, error)
                self._resume_flow(call.frame, None, error)
        self._after_event()

    def _waits(self, now: float) -> Iterable[PendingWait]:
        if self.finished:
            return ()
        return describe_waits(self._running, self._queued, self._suspended, self._memo_waiters.since, now)

    def _on_run_timeout(self) -> None:
        self.run.check_run_timeout()
        if self.run.stopped is not None:
            self.cancel()

    def drain(self) -> None:
        """Start nothing more: queued calls and interruptible waits fail, and calls in flight finish."""
        if self._draining or self.finished:
            return
        self._draining = True
        self._exhausted = True
        for call in self._cancel_queued():
            self._resume_flow(call.frame, None, self.run.stop_error())
        for frame, (step, _) in list(self._suspended.items()):
            # A reply that is being written to the store has arrived, and its item may be done in a moment.
            if not isinstance(step, WaitForCallback) or step.interruptible:
                self._resume(frame, step, error=self.run.stop_error())
        self._finish_if_done()

    def cancel(self, failure: BaseException | None = None) -> None:
        """End everything now: open items fail as stopped, and replies that arrive later are ignored."""
        self.failure = self.failure or failure
        if not self.finished:
            self.finished = self.cancelled = self._exhausted = True
            self.end()

    def end(self) -> None:
        """Give every item its outcome: open ones, and one read last. After an interrupt, do what is left to do."""
        if self.cancelled:
            self._end_open_items()
        for item in (self._entering, self._source.unfinished()):
            if item is not None and not item.delivered:
                self._finish_item(item, None, None if item.bad else self.run.stop_error())
        self._callbacks.on_finished()

    def _end_open_items(self) -> None:
        self._stop_timers()
        self.run.request_cancel()
        self._cancel_queued()
        self._suspended.clear()
        while self._frames:
            frame = next(iter(self._frames.values()))
            self._close_flow(frame)
            self._finish_item(frame.item, None, self.run.stop_error())
            self._frames.pop(frame.item.index, None)

    def _stop_timers(self) -> None:
        if self._server_watch is not None:
            self._server_watch.end()
        for timer in self._limiter_timers:
            timer.stop()
        if self._waves is not None:
            self._waves.close(self._close_flow)

    def free_slots(self) -> None:
        """After an interrupt, free the slots of calls that nothing makes any more, and leave shared calls."""
        for call in [call for call in self._running if not call.outlives_run]:
            call.release()
            self._running.pop(call, None)
        self.run.leave_all()

    def _close_flow(self, frame: Frame) -> None:
        try:
            frame.flow.close()
        except Exception:
            log.exception("%r raised while it was being closed", frame.item.item_id)

    def _cancel_queued(self) -> list[Call]:
        calls = list(self._queued)
        for call in calls:
            call.withdraw()  # all of them first: the slot of one must not go to the next
        for call in calls:
            call.cancel_acquire()
            self._recorder.call_dropped(call, call.frame.item)
        self._queued.clear()
        return calls

    def _start_item(self, item: RunItem) -> None:
        self.run.enter_window(item)
        if self._recorder.is_observed:
            self._recorder.item_started(item)
        frame = Frame(run_item(item, self.run), item)
        self._frames[item.index] = frame
        self._resume_flow(frame, None, None)

    def _resume_flow(self, frame: Frame, answer: Any, error: BaseException | None) -> None:
        """Advance a flow until a step takes time, and its parents when it ends."""
        while True:
            self.run.current_frame = frame
            try:
                step = frame.flow.send(answer) if error is None else frame.flow.throw(error)
            except StopIteration as stop:
                answer, error = stop.value, None
            except Exception as raised:
                answer, error = None, raised
            except BaseException as fatal:
                own = own_exception(fatal, "the task")
                if own is None:
                    self.cancel(fatal)
                    return
                answer, error = None, own
            else:
                if type(step) is Call:
                    self._queue(frame, step)
                    return
                answer, error = self._perform(frame, step), None
                if answer is _WAITS:
                    return
                continue
            parent = frame.parent
            if parent is None:
                if self._waves is None or not self._waves.ends(frame):
                    self._finish_item(frame.item, answer, error)
                    self._frames.pop(frame.item.index, None)  # last: `end` would find it after an interrupt
                elif error is not None and not isinstance(error, RunStopped):
                    self.cancel(error)
                return
            parent.answers[frame.index] = answer if error is None else error
            parent.pending_children -= 1
            if parent.pending_children or parent.starting_children:
                return
            frame, answer, error = parent, parent.answers, None

    def _queue(self, frame: Frame, call: Call) -> None:
        """Queue a call at its limiters."""
        call.frame = frame
        self._queued[call] = None
        if frame.item.deadline is not None:
            self._deadlines.add(frame.item.deadline, call)
        call.acquire()

    def _perform(self, frame: Frame, step: Any) -> Any:
        """Start another step than a call; return its result if it is available at once, otherwise `_WAITS`."""
        if type(step) is LookUp:
            return self._look_up(frame, step.key)
        if type(step) is Gather:
            return self._start_children(frame, step.flows)
        if type(step) is WaitForCell:
            self._wait_on_cell(frame, step)
        elif isinstance(step, WaitForCallback):
            self._subscribe(frame, step)
        elif type(step) is NotifyCell:
            self._notify_cell(step.cell)
            return _WAITS if self.finished else None
        elif not isinstance(step, Sleep):
            self._resume_flow(frame, None, TypeError(f"{step!r} is not an engine step"))
        elif self._draining:
            self._resume_flow(frame, None, self.run.stop_error())
        else:
            self._suspended[frame] = step, self.run.now()
            self._callbacks.call_later(step.seconds, lambda: self._resume(frame, step))
        return _WAITS

    def _look_up(self, frame: Frame, key: bytes) -> Any:
        """Look a reply up with those of other frames, if others start now."""
        alone = self._window == 1 or not (self._filling or self._mailbox.posted)
        if alone or self._lookups is None:
            return None
        self._lookups.add(frame, key)
        return _WAITS

    def _on_looked_up(self, answers: Answers) -> None:
        for frame, answer in answers:
            if self.finished:
                return
            self._resume_flow(frame, answer, None)
        self._after_event()

    def _subscribe(self, frame: Frame, step: WaitForCallback) -> None:
        step.frame = frame
        self._suspended[frame] = step, self.run.now()
        if step.interruptible and frame.item.deadline is not None:
            self._deadlines.add(frame.item.deadline, step)
        # Deferred even if it calls back right here: another flow may be in the middle of a step.
        step.subscribe(partial(self._resume_later, frame, step))

    def _resume_later(self, frame: Frame, step: WaitForCallback, answer: Any) -> None:
        self._mailbox.post_deferred(partial(self._resume, frame, step, answer))

    def _start_children(self, frame: Frame, flows: tuple[EngineFlow[Any], ...]) -> Any:
        frame.answers = [None] * len(flows)
        frame.pending_children = len(flows)
        frame.starting_children = True
        for index, flow in enumerate(flows):
            self._resume_flow(Frame(flow, frame.item, frame, index), None, None)
        frame.starting_children = False
        return _WAITS if frame.pending_children or self.finished else frame.answers

    def _wait_on_cell(self, frame: Frame, step: WaitForCell) -> None:
        try:
            self._memo_waiters.add(frame, step)
        except ConfigurationError as error:
            self._resume_flow(frame, None, error)
        else:
            if frame.item.deadline is not None:
                self._deadlines.add(frame.item.deadline, step)

    def _notify_cell(self, cell: MemoCell) -> None:
        for follower in self._memo_waiters.release(cell):
            if not self.finished:
                self._resume_flow(follower, None, None)

    def _on_admitted(self, call: Call) -> None:
        if self.run.stopped is not None:
            self.drain()  # which takes this call back with all the others
        elif call.frame.item.deadline is not None and self.run.is_overdue(call.frame.item):
            self._expire_queued(call)
            if self.run.stopped is not None:  # its flow may have found the run's time up
                self.drain()
        else:
            if call.spec.endpoints:
                call.use_endpoint()
            start = self._start_call
            start(call)

    def _expire_queued(self, call: Call) -> None:
        """Fail a call that has not started: its item's time is up."""
        call.cancel_acquire()
        self._recorder.call_dropped(call, call.frame.item)
        self._queued.pop(call, None)
        self._resume_flow(call.frame, None, self.run.item_timeout_error())

    def _resume(self, frame: Frame, step: Any, answer: Any = None, error: Exception | None = None) -> None:
        suspended = self._suspended.get(frame)
        if suspended is not None and suspended[0] is step:
            del self._suspended[frame]
            if isinstance(step, WaitForCallback):
                step.done = True
            self._resume_flow(frame, answer, error)
            self._after_event()

    def _finish_item(self, item: RunItem, value: Any, error: Exception | None) -> None:
        """Record an item's outcome and deliver it. After an interrupt, do what is left to do."""
        outcome = self._recorder.item_finished(item, value, error)
        if self._reader.tracks_ids:
            self._reader.item_finished(item)
        if not item.delivered:
            deliver = self._deliver
            item.delivered = deliver(outcome) is None  # both or neither
            if not self._collect:
                self._undelivered += 1
            if self._delivered is not None:
                self._delivered()

    def _after_event(self) -> None:
        if self.run.stopped is not None:
            self.drain()
        if not self._exhausted:
            if self._window > len(self._frames) + self._undelivered:
                self.admit_items()
        elif not self._frames:
            self._finish_if_done()
        if self._waves is not None and not (self._filling or self.finished):
            self._waves.send_if_idle()

    def _finish_if_done(self) -> None:
        if self._exhausted and not self._frames and not self.finished:
            if self._waves is not None and self._waves.is_collecting:
                return
            self.finished = True
            self._stop_timers()
            self._callbacks.on_finished()

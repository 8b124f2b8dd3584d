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
from ..events import Wait
from ..outcomes import Failure, Outcome
from ..steps import Flow, Together
from .call import Call
from .frames import Frame, Hands, Joined, Pending, Source
from .items import Entry, Intake
from .mailbox import Home
from .memo import Await, Cell, Join, Release
from .policy import govern_item
from .run import Run, log
from .timers import Due, Pacing
from .watchdog import StallWatch, waits_of

_WAITS = object()
"""What a step is answered with that takes time."""


class Conductor:
    """
    Runs the flows of one run side by side, within a sliding window.

    Args:
        run: The run.
        source: The entries.
        intake: Told when an entry has ended.
        window: Most items open at once, outcomes that nobody has taken yet included.
        home: Where all of this happens.
        hands: What does the work.
    """

    def __init__(
        self, run: Run, source: Source, intake: Intake, window: int, home: Home, hands: Hands
    ) -> None:
        self.run = run
        self.finished = False
        self.failure: BaseException | None = None
        self._source = source
        self._intake = intake
        self._window = window
        self._home = home
        self._hands = hands
        self._open: dict[int, Frame] = {}
        self._waiting: set[Call] = set()
        self._out: set[Call] = set()
        self._paused: dict[Frame, tuple[Any, float]] = {}  # by which step, since when
        self._joined = Joined()
        self._due = Due(hands.after, self._look)
        self._pacing = Pacing(run.gates.rate, home, hands.after)
        self._stall = StallWatch(run, hands.after, self._waits)
        self._untaken = 0
        self._exhausted = False
        self._halted = False
        self._filling = False

    def begin(self) -> None:
        """Let in the first entries."""
        if self.run.deadlines.run is not None:
            self._hands.after(self.run.deadlines.run, self._run_out)
        self._pacing.begin()
        self._stall.begin()
        self.refill()

    def refill(self) -> None:
        """Let in as many entries as the window allows."""
        if self._filling:
            return
        self._filling = True
        try:
            while not self._exhausted and (room := self._room()) > 0:
                if self.run.stopped is not None:
                    break
                entry = self._take(room)
                if isinstance(entry, Pending):
                    return
                if entry is None:
                    self._exhausted = True
                elif isinstance(entry, Failure):
                    self.run.closed(entry)
                    self._deliver(entry)
                else:
                    self._open_entry(entry)
        finally:
            self._filling = False
            self.run.exhausted = self._exhausted
        if self.run.stopped is not None:
            self.halt()
        self._settle()

    def taken(self, outcomes: int = 1) -> None:
        """Note that outcomes were taken, which makes room for more entries."""
        self._untaken -= outcomes
        self.refill()

    def started(self, call: Call) -> None:
        """Note that a call is being started."""
        self._waiting.discard(call)
        self._out.add(call)
        try:
            self.run.began(call, call.owner.entry)
        except BaseException:  # a Ctrl-C in an observer, say
            self._out.discard(call)
            call.leave()
            raise
        if call.until is not None and not call.line.native:
            self._due.watch(call.until, call)

    def ended(self, call: Call, answer: Any, error: BaseException | None) -> None:
        """Note that a call is over; its flow goes on before its slot is given away."""
        if call.line.native:
            call.came_back(error)
            call.land(answer)
        self._out.discard(call)
        if self.finished:
            if call.line.native:
                call.leave()
            return
        if call.over:
            # A blocking call that was given up comes back; its thread has freed its slot.
            self.run.ended_late(answer)
            self._after_step()
            return
        call.over = True
        frame: Frame = call.owner
        self.run.ended(call, frame.entry, answer, error)
        try:
            if error is not None and not isinstance(error, Exception):
                self.abort(error)
            else:
                self._advance(frame, answer, error)
                if self.run.stopped is not None:
                    self.halt()  # before the slot is free
        finally:
            if call.line.native:
                call.leave()  # a blocking call leaves by itself, in its thread
        self._after_step()

    def _look(self) -> None:
        """End the calls whose time is up: those that wait, and blocking ones, whose threads are let go."""
        for call in self._due.take():
            if self.finished:
                return
            if isinstance(call, Await):
                if not call.over:
                    self._resume(call.owner, call, error=self.run.item_late())
            elif call in self._waiting:
                self._too_late(call)
            elif call.until is not None and not call.over and not call.line.native:
                error = call.late or self.run.item_late()
                call.over = True
                call.give_up_unless_wanted()
                self.run.ended(call, call.owner.entry, None, error)
                self._advance(call.owner, None, error)
        self._after_step()

    def _waits(self, now: float) -> Iterable[Wait]:
        if self.finished:
            return ()
        return waits_of(self._out, self._waiting, self._paused, self._joined.since, now)

    def _run_out(self) -> None:
        """End the run: its time is up."""
        self.run.look_at_time()
        if self.run.stopped is not None:
            self.abort()

    def halt(self) -> None:
        """Carry out a stop: begin nothing more, wherever it waits; calls in flight are left to end."""
        if self._halted or self.finished:
            return
        self._halted = True
        self._exhausted = True
        for call in self._withdraw_waiting():
            self._advance(call.owner, None, self.run.stop_error())
        for frame, (step, _) in list(self._paused.items()):
            # What is being written to the disk was answered, and a moment later its item may be done.
            if not isinstance(step, Await) or step.leavable:
                self._resume(frame, step, error=self.run.stop_error())
        self._settle()

    def abort(self, failure: BaseException | None = None) -> None:
        """End everything now: what is open fails as stopped, and answers still to come are not heard."""
        if self.finished:
            return
        self.finished = self._exhausted = True
        self._pacing.end()
        self.failure = self.failure or failure
        self.run.give_up()
        self._withdraw_waiting()
        self._paused.clear()
        for frame in list(self._open.values()):
            self._close_flow(frame)
            self._hands.deliver(self.run.close(frame.entry, None, self.run.stop_error()))
        self._open.clear()
        self._hands.finished()

    def _close_flow(self, frame: Frame) -> None:
        try:
            frame.flow.close()
        except Exception:
            log.exception("%r raised while it was being closed", frame.entry.item_id)

    def _withdraw_waiting(self) -> list[Call]:
        calls = list(self._waiting)
        self._waiting.clear()
        for call in calls:
            call.withdrawn = True  # all of them first: one's slot must not be given to the next
        for call in calls:
            call.withdraw()
        return calls

    def _room(self) -> int:
        return self._window - len(self._open) - self._untaken

    def _take(self, room: int) -> Entry | Failure | Pending | None:
        try:
            return self._source.take(room)
        except BaseException as failure:
            # The user's iterable raised: what is open may still end, then its error goes to the caller.
            self.failure = failure
            if not isinstance(failure, Exception):
                raise
            return None

    def _open_entry(self, entry: Entry) -> None:
        self.run.open(entry)
        frame = Frame(govern_item(entry, self.run), entry)
        self._open[entry.index] = frame
        self._advance(frame, None, None)

    def _advance(self, frame: Frame, answer: Any, error: BaseException | None) -> None:
        """Advance a flow until it needs something that takes time, and its parents when it ends."""
        while True:
            self.run.advancing = frame
            try:
                step = frame.flow.send(answer) if error is None else frame.flow.throw(error)
            except StopIteration as stop:
                answer, error = stop.value, None
            except Exception as raised:
                answer, error = None, raised
            except BaseException as fatal:
                self.abort(fatal)
                return
            else:
                answer = self._begin(frame, step)
                if answer is _WAITS:
                    return
                continue  # here, not by calling itself: thousands of steps may need no waiting
            parent = frame.parent
            if parent is None:
                self._close(frame, answer, error)
                return
            parent.answers[frame.place] = answer if error is None else error
            parent.missing -= 1
            if parent.missing or parent.beginning:
                return
            frame, answer, error = parent, parent.answers, None

    def _begin(self, frame: Frame, step: Any) -> Any:
        """Begin a step and return `_WAITS`, or its answer where it is there at once."""
        if type(step) is Call:
            step.owner = frame
            self._waiting.add(step)
            if frame.entry.deadline is not None:
                self._due.watch(frame.entry.deadline, step)
            step.seek(self._home, self._admitted)
        elif type(step) is Together:
            return self._begin_together(frame, step.flows)
        elif type(step) is Join:
            self._join(frame, step.cell)
        elif type(step) is Await:
            self._await(frame, step)
        elif type(step) is Release:
            self._release(step.cell)
            return _WAITS if self.finished else None
        elif self._halted:
            self._advance(frame, None, self.run.stop_error())
        else:
            self._paused[frame] = step, monotonic()
            self._hands.after(step.seconds, lambda: self._resume(frame, step))
        return _WAITS

    def _await(self, frame: Frame, step: Await) -> None:
        step.owner = frame
        self._paused[frame] = step, monotonic()
        if step.leavable and frame.entry.deadline is not None:
            self._due.watch(frame.entry.deadline, step)
        # Later, also when it calls back at home: another flow may be in the middle of a step.
        step.begin(lambda answer: self._home.post_later(lambda: self._resume(frame, step, answer)))

    def _begin_together(self, frame: Frame, flows: tuple[Flow[Any], ...]) -> Any:
        frame.answers = [None] * len(flows)
        frame.missing = len(flows)
        frame.beginning = True
        for place, flow in enumerate(flows):
            self._advance(Frame(flow, frame.entry, frame, place), None, None)
        frame.beginning = False
        return _WAITS if frame.missing or self.finished else frame.answers

    def _join(self, frame: Frame, cell: Cell) -> None:
        try:
            self._joined.add(frame, cell)
        except ConfigurationError as error:
            self._advance(frame, None, error)

    def _release(self, cell: Cell) -> None:
        for follower in self._joined.release(cell):
            if not self.finished:
                self._advance(follower, None, None)

    def _admitted(self, call: Call) -> None:
        if self.run.stopped is not None:
            self.halt()  # which takes this call back with all the others
        elif self.run.is_late(call.owner.entry):
            self._too_late(call)
        else:
            self._hands.start(call)

    def _too_late(self, call: Call) -> None:
        """Take back a call that has not begun: its item's time is up."""
        self._waiting.discard(call)
        call.withdraw()
        self._advance(call.owner, None, self.run.item_late())

    def _resume(self, frame: Frame, step: Any, answer: Any = None, error: Exception | None = None) -> None:
        paused = self._paused.get(frame)
        if paused is not None and paused[0] is step:
            del self._paused[frame]
            if isinstance(step, Await):
                step.over = True
            self._advance(frame, answer, error)
            self._after_step()

    def _close(self, frame: Frame, value: Any, error: Exception | None) -> None:
        entry = frame.entry
        del self._open[entry.index]
        self._intake.ended(entry)
        self._deliver(self.run.close(entry, value, error))

    def _deliver(self, outcome: Outcome[Any]) -> None:
        if not self._hands.deliver(outcome):
            self._untaken += 1

    def _after_step(self) -> None:
        if self.run.stopped is not None:
            self.halt()
        if not self._exhausted:
            if self._room() > 0:
                self.refill()
        elif not self._open:
            self._settle()

    def _settle(self) -> None:
        if self._exhausted and not self._open and not self.finished:
            self.finished = True
            self._pacing.end()
            self._hands.finished()

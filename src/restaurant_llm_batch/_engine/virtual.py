"""
Virtual driver: runs items on virtual time, in one thread that never waits (discrete-event simulation).

Theory of operation. `VirtualTime` is a queue of actions, each with the moment at which it is due. Nothing takes time
but the way from one moment to the next: `step` runs the first action, and the clock shows its moment. Everything that
a run does happens in such an action, so the scheduler, the limiters, the retries and the deadlines of a real run need
no change; only calls are made by a `VirtualBackend`, which plans the action that ends them.

Several runs may live in one `VirtualTime`, and share limiters. Actions of the same moment run in the order in which
they were planned, so equal inputs give equal runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Any, Protocol, TypeAlias

from ..outcomes import Outcome, Stage
from .call import Call
from .frames import ItemSource, SchedulerCallbacks
from .items import ItemReader
from .mailbox import Action, Clock
from .run import RunState
from .scheduler import Scheduler
from .server_reading import read_at_once

Done: TypeAlias = Callable[[Any, BaseException | None], object]
"""Takes the answer to a call, or its error."""


class VirtualBackend(Protocol):
    """Answers calls on virtual time."""

    def begin(self, stage: Stage, argument: Any, done: Done, endpoint: str | None, /) -> Callable[[], object]:
        """
        Begin a call, at an endpoint if it goes to a pool; return what cancels it.

        Its end is passed to `done` in a later action.
        """
        ...


class Timer:
    """An action that is due at a moment; None after it was cancelled, or has run."""

    __slots__ = ("_time", "action")

    def __init__(self, time: VirtualTime, action: Action | None) -> None:
        self._time = time
        self.action = action

    def cancel(self) -> None:
        """Do not run the action. Cancelling again does nothing."""
        if self.action is not None:
            self.action = None
            self._time.forget_one()


class VirtualTime:
    """The actions that are planned, and the moment of the latest that has run: a clock, in seconds from 0."""

    def __init__(self) -> None:
        self._now = 0.0
        self._due: list[tuple[float, int, Timer]] = []
        self._soon: deque[Action] = deque()
        self._numbers = count()
        self._cancelled = 0

    def now(self) -> float:
        """Return the time in seconds."""
        return self._now

    def call_later(self, seconds: float, action: Action) -> Timer:
        """Plan an action for `seconds` from now."""
        timer = Timer(self, action)
        heappush(self._due, (self._now + max(0.0, seconds), next(self._numbers), timer))
        return timer

    def call_soon(self, action: Action) -> None:
        """Plan an action for this moment, before all that was planned with `call_later`."""
        self._soon.append(action)

    def forget_one(self) -> None:
        """Count an action that was cancelled; drop all of these when they are the most."""
        self._cancelled += 1
        if self._cancelled > 1000 and 2 * self._cancelled > len(self._due):
            self._due = [planned for planned in self._due if planned[2].action is not None]
            heapify(self._due)
            self._cancelled = 0

    @property
    def next_moment(self) -> float:
        """When the next action is due; infinity if none is planned."""
        if self._soon:
            return self._now
        while self._due and self._due[0][2].action is None:
            heappop(self._due)
            self._cancelled -= 1
        return self._due[0][0] if self._due else inf

    def step(self, until: float = inf) -> bool:
        """Run the next action that is due by `until`; without one, go on to that moment and return False."""
        if self._soon:
            self._soon.popleft()()
            return True
        due = self._due
        while due and due[0][0] <= until:
            moment, _, timer = heappop(due)
            action, timer.action = timer.action, None
            if action is not None:
                self._now = moment
                action()
                return True
            self._cancelled -= 1
        if until < inf:
            self._now = max(self._now, until)
        return False


class VirtualMailbox:
    """The mailbox of a run on virtual time: there is only one thread, so what is posted runs at once, or soon."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self.posted = 0
        self._closed = False

    def post(self, action: Action) -> bool:
        """Run `action` at once. Return False if the mailbox is closed, so that a slot goes to another run."""
        if self._closed:
            return False
        action()
        return True

    def post_deferred(self, action: Action) -> bool:
        """Run `action` after the current one. Return False if the mailbox is closed."""
        if self._closed:
            return False
        self.posted += 1
        self._time.call_soon(partial(self._run, action))
        return True

    def _run(self, action: Action) -> None:
        self.posted -= 1
        action()

    def post_unattended(self, action: Action) -> bool:
        """Run `action` at once, even if the run is over."""
        action()
        return True

    def close(self) -> None:
        """Accept no more actions; those already posted still run."""
        self._closed = True

    # For the sequential driver, which waits.

    def move_here(self) -> None:
        """Do nothing: there is only one thread."""

    def wake(self) -> None:
        """Do nothing: whoever waits looks again after each action."""

    def run_pending(self, timeout: float | None = None) -> None:
        """Run one action; or let `timeout` seconds pass, if none is due before."""
        until = inf if timeout is None else self._time.now() + timeout
        if not self._time.step(until) and until == inf:
            raise RuntimeError("the run waits, but nothing is left to happen")

    def wait(self, seconds: float, now: Clock, unless: Callable[[], bool]) -> None:
        """Run actions for `seconds`, or until `unless` returns True."""
        deadline = now() + seconds
        while not unless() and self._time.step(deadline):
            pass


class VirtualDriver:
    """
    Runs items on virtual time, as the concurrent and the threaded driver run them.

    Args:
        run: The run; its clock is that of `time`.
        source: The items.
        reader: Notified when an item has ended.
        window: Most items open at once.
        time: Where the run lives.
        backend: Answers the calls.
        deliver: Takes outcomes; returns None.
    """

    def __init__(
        self,
        run: RunState,
        source: ItemSource,
        reader: ItemReader,
        window: int,
        time: VirtualTime,
        backend: VirtualBackend,
        deliver: Callable[[Outcome[Any]], object],
    ) -> None:
        self._time = time
        self._backend = backend
        self._in_flight: dict[Call, Callable[[], object]] = {}  # calls and what cancels them
        self.mailbox = VirtualMailbox(time)
        callbacks = SchedulerCallbacks(
            self._start,
            time.call_later,
            deliver,
            None,
            self._on_finished,
            partial(read_at_once, self.mailbox),
            _run_now,
        )
        self.scheduler = Scheduler(run, source, reader, window, self.mailbox, callbacks, collect=True)

    def start(self) -> None:
        """Admit the first items; `VirtualTime.step` does all the rest."""
        self.scheduler.start()

    def end(self) -> None:
        """Give back what the run holds, whether or not it has finished. Ending again does nothing."""
        self.scheduler.cancel()
        self.scheduler.end()
        self.scheduler.free_slots()

    def _start(self, call: Call) -> None:
        self.scheduler.on_call_started(call)
        if call.spec.stage == "tokens":  # counted here and now, which takes no time there either
            answer, error = call.run_blocking()
            self._time.call_soon(partial(self._finish, call, answer, error))
            self._in_flight[call] = _nothing
            return
        done = partial(self._finish, call)
        self._in_flight[call] = self._backend.begin(call.spec.stage, call.argument, done, call.endpoint)
        if not call.is_async:
            call.outlives_run = True  # it ends when its backend returns, whatever becomes of the run
        elif call.deadline is not None:
            self._time.call_later(call.deadline - self._time.now(), partial(self._expire, call))

    def _expire(self, call: Call) -> None:
        """Cancel an awaited call whose time is up; a blocking one goes on, and the scheduler abandons it."""
        cancel = self._in_flight.get(call)
        if cancel is not None:
            cancel()
            self._finish(call, None, call.timeout_error or TimeoutError())

    def _finish(self, call: Call, answer: Any, error: BaseException | None) -> None:
        if self._in_flight.pop(call, None) is None:
            return
        if not call.is_async:
            call.record_outcome(answer, error)
            call.mark_returned(answer)
        try:
            self.scheduler.on_call_finished(call, answer, error)
        finally:
            if not call.is_async:
                call.release()

    def _on_finished(self) -> None:
        """
        Cancel the awaited calls that are left at the end, unless another run waits for them.

        Blocking ones end when their backend returns.
        """
        self.mailbox.close()
        for call in [call for call in self._in_flight if call.is_async]:
            call.outlives_run = call.in_flight is not None and call.in_flight.has_other_waiters
            if not call.outlives_run:
                self._in_flight.pop(call)()
                call.release()


def _run_now(work: Callable[[], object]) -> None:
    """Run a function that blocks, which takes no virtual time."""
    work()


def _nothing() -> None:
    """Cancel a call that has ended already."""

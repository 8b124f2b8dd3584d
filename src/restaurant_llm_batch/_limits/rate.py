"""
The gate for what a service counts by the minute: calls, and their tokens.

Slots become free when a call ends; here it is the time that lets calls in, so somebody has to look when it has
come. Whoever drives a run *watches* the gate: it is told that calls begin to wait, asks when the first is due, and
looks then. What a call takes is never given back by its end; what the service says of it is heard.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from .._llm_response import RateLimitInfo
from .aimd import CallResult
from .concurrency import LockedState, PriorityWaitQueue, Ticket
from .pacing import RatePacer


class RateQueue(PriorityWaitQueue):
    """
    The state machine: tickets wait for their time, and weigh their tokens.

    Args:
        pacer: Says when it has come.
        now: The time.

    Attributes:
        now: The time, to be set before anything else is done.
        watchers: Whoever is to be told that calls begin to wait.
        baseline_call: Number of the last call that began before there was anything to hold; 0 for none.
    """

    __slots__ = ("baseline_call", "now", "pacer", "watchers")

    def __init__(self, pacer: RatePacer, now: float) -> None:
        super().__init__()
        self.pacer = pacer
        self.now = now
        self.baseline_call = 0
        self.watchers: list[Callable[[], object]] = []

    def enqueue(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; those who wait are left to `look`."""
        if not self.waiting and self._fits(ticket):
            self._enter(ticket)
            return True
        self._wait(ticket)
        return False

    def ready_at(self) -> float | None:
        """Return when the first who waits may be let in; None when nobody waits."""
        first = self.peek()
        return None if first is None else self.pacer.ready_at(first.weight, self.now)

    def admit_ready(self) -> list[Ticket]:
        """Let in those whose time has come."""
        return self._admit()

    def _left(self, ticket: Ticket, outcome: CallResult, now: float) -> None:
        """Take back nothing: that is for the pace to do."""

    def _fits(self, ticket: Ticket) -> bool:
        return self.pacer.ready_at(ticket.weight, self.now) <= self.now

    def _enter(self, ticket: Ticket) -> None:
        super()._enter(ticket)
        ticket.epoch = self.pacer.reserve(ticket.weight, self.now)


class RateLimiter(LockedState[RateQueue]):
    """
    Limits per minute, given or learned from what the service says.

    Args:
        requests: Calls per minute; None for what the service says.
        tokens: Their tokens per minute; likewise.

    Attributes:
        active: Whether there is anything to hold: numbers were given, or a service said some.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._configured = requests, tokens
        self.active = (requests, tokens) != (None, None)
        super().__init__()

    def _initial_state(self, parents: RateQueue | None) -> RateQueue:
        now = monotonic()
        return RateQueue(RatePacer(*self._configured, now), now)

    @property
    def counts_tokens(self) -> bool:
        """Whether tickets have to weigh their tokens."""
        return self._state_for_process()[1].pacer.counts_tokens

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Have something called, from any thread, when the first call begins to wait; return what ends that."""
        watchers = self._state_for_process()[1].watchers
        watchers.append(watcher)
        return lambda: watchers.remove(watcher)

    def enqueue(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; if not, it is woken later."""
        lock, state = self._state_for_process()
        with lock:
            state.now = monotonic()
            alone = not state.waiting
            admitted = state.enqueue(ticket)
        if alone and not admitted:
            self._notify_watchers()
        return admitted

    def release(self, ticket: Ticket, outcome: object = "other") -> None:
        """Forget a ticket."""
        self._update(lambda state: state.release(ticket))

    def cancel(self, ticket: Ticket) -> None:
        """Give up a ticket, whether it waits or was just admitted."""
        self._update(lambda state: state.cancel(ticket))

    def reprioritise(self, ticket: Ticket, priority: int, arrival: float) -> None:
        """Move a waiting ticket forward, to where one of this priority and arrival would be."""
        self._update(lambda state: state.reprioritise(ticket, priority, arrival))

    def seconds_until_ready(self) -> float | None:
        """Return in how many seconds the first who waits may be let in; None when nobody waits."""
        lock, state = self._state_for_process()
        with lock:
            now = state.now = monotonic()
            at = state.ready_at()
        return None if at is None else max(0.0, at - now)

    def admit_ready(self) -> None:
        """Let in those whose time has come."""
        self._update(RateQueue.admit_ready)

    def _update(self, change: Callable[[RateQueue], list[Ticket]]) -> None:
        """Make a change, wake those who are let in by it, and tell of another who may be the first now."""
        lock, state = self._state_for_process()
        with lock:
            state.now = monotonic()
            admitted = change(state)
            waiting = state.waiting
        self._notify_admitted(admitted)
        if waiting:
            self._notify_watchers()

    def _notify_admitted(self, admitted: list[Ticket]) -> None:
        for ticket in admitted:
            if ticket.on_admitted() is False:
                self.release(ticket)

    def record_usage(
        self, ticket: Ticket | None, used: int | None, report: RateLimitInfo | None, out: int
    ) -> None:
        """
        Learn what became of a call, from the first report on.

        Args:
            ticket: Its ticket; None when it began before there was anything to hold.
            used: The tokens it took; None when that is not known.
            report: What the service said is left, or None.
            out: Calls that are out at the service.
        """
        lock, state = self._state_for_process()
        with lock:
            now = state.now = monotonic()
            number = 0
            if ticket is not None:
                number = ticket.epoch
                state.pacer.settle_usage(ticket.weight, used, now)
            elif not self.active:
                # The first report. What began before it is taken to begin now, this call first.
                number = state.pacer.reserve(0, now)
                state.baseline_call = number
                for _ in range(out):
                    state.baseline_call = state.pacer.reserve(0, now)
            else:
                number = state.baseline_call
            if report is not None and number:
                state.pacer.update_from_report(number, report, now)
            admitted = state.admit_ready()
            self.active = self.active or report is not None
        self._notify_admitted(admitted)
        self._notify_watchers()

    def _notify_watchers(self) -> None:
        for watcher in tuple(self._state_for_process()[1].watchers):
            watcher()

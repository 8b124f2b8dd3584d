"""
The gate for what a service counts by the minute: calls, and their tokens.

Slots become free when a call ends; here it is the time that lets calls in, so somebody has to look when it has
come. Whoever drives a run *watches* the gate: it is told that calls begin to wait, asks when the first is due, and
looks then. What a call takes is never given back by its end; what the service says of it is heard.
"""

from __future__ import annotations

from collections.abc import Callable

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
        return RateQueue(RatePacer(*self._configured, 0.0), 0.0)

    @property
    def counts_tokens(self) -> bool:
        """Whether tickets have to weigh their tokens."""
        return self._state_for_process()[1].pacer.counts_tokens

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Have something called, from any thread, when the first call begins to wait; return what ends that."""
        watchers = self._state_for_process()[1].watchers
        watchers.append(watcher)
        return lambda: watchers.remove(watcher)

    def enqueue(self, ticket: Ticket, now: float) -> bool:
        """Queue a new ticket and return whether it is admitted at once; if not, `on_admitted` is called later."""
        lock, state = self._state_for_process()
        with lock:
            state.now = now
            alone = not state.waiting
            admitted = state.enqueue(ticket)
        if alone and not admitted:
            self._notify_watchers()
        return admitted

    def cancel(self, ticket: Ticket, now: float) -> None:
        """Give up a ticket, whether it waits or was just admitted."""
        self._update(lambda state: state.cancel(ticket), now)

    def reprioritise(self, ticket: Ticket, priority: int, sequence: float, now: float) -> None:
        """Move a waiting ticket forward, to where one of this priority and sequence would be."""
        self._update(lambda state: state.reprioritise(ticket, priority, sequence), now)

    def seconds_until_ready(self, now: float) -> float | None:
        """Return the seconds until the first ticket may be admitted; None if none waits."""
        lock, state = self._state_for_process()
        with lock:
            state.now = now
            at = state.ready_at()
        return None if at is None else max(0.0, at - now)

    def admit_ready(self, now: float) -> None:
        """Admit the tickets whose time has come."""
        self._update(RateQueue.admit_ready, now)

    def _update(self, change: Callable[[RateQueue], list[Ticket]], now: float) -> None:
        """Change the queue, notify the tickets admitted by that, and have watchers look at the next one."""
        lock, state = self._state_for_process()
        with lock:
            state.now = now
            admitted = change(state)
            waiting = state.waiting
        self._notify_admitted(admitted, now)
        if waiting:
            self._notify_watchers()

    def _notify_admitted(self, admitted: list[Ticket], now: float) -> None:
        for ticket in admitted:
            if ticket.on_admitted() is False:
                self.cancel(ticket, now)

    def record_usage(
        self,
        ticket: Ticket | None,
        used: int | None,
        report: RateLimitInfo | None,
        in_flight: int,
        now: float,
    ) -> None:
        """
        Learn what became of a call, from the first report on.

        Args:
            ticket: Its ticket; None when it began before there was anything to hold.
            used: The tokens it took; None when that is not known.
            report: What the service said is left, or None.
            in_flight: Calls at the service.
            now: The time, on the clock of the runs that share the limiter.
        """
        lock, state = self._state_for_process()
        with lock:
            state.now = now
            number = 0
            if ticket is not None:
                number = ticket.epoch
                state.pacer.settle_usage(ticket.weight, used, now)
            elif not self.active:
                # The first report. What began before it is taken to begin now, this call first.
                number = state.pacer.reserve(0, now)
                state.baseline_call = number
                for _ in range(in_flight):
                    state.baseline_call = state.pacer.reserve(0, now)
            else:
                number = state.baseline_call
            if report is not None and number:
                state.pacer.update_from_report(number, report, now)
            admitted = state.admit_ready()
            self.active = self.active or report is not None
        self._notify_admitted(admitted, now)
        self._notify_watchers()

    def _notify_watchers(self) -> None:
        for watcher in tuple(self._state_for_process()[1].watchers):
            watcher()

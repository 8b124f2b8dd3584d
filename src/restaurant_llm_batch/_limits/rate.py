"""
Rate limiter: queues calls until a service's limits per minute, on calls and tokens, let them start.

A concurrency limiter admits when a call ends. A rate limiter admits when time has passed, so each run keeps a timer for
the next admission: its driver *watches* the limiter, is called when the first call is queued, asks how long the first
one has to wait (`seconds_until_ready`), and calls `admit_ready` then. The end of a call does not free a slot here; it
refunds unused tokens and reports the service's rate-limit headers (`record_usage`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .._llm_response import RateLimitInfo
from .aimd import HISTORY_LIMIT, CallResult, LimitHistoryEntry
from .clients import Client
from .concurrency import LockedState, record_set
from .pacing import RateName, RatePacer
from .wait_queue import PriorityWaitQueue, Ticket


class RateQueue(PriorityWaitQueue):
    """
    The state machine of a rate limiter; a ticket's weight is its number of tokens.

    Args:
        pacer: Computes when the next ticket may be admitted.
        now: The time, in seconds.

    Attributes:
        now: The time; set it before each use.
        watchers: Called when the first ticket waits, or another one becomes the first.
        baseline_call: Number of the last call that started before a limit was known; 0 for none.
        histories: How a user has changed the configured limits.
    """

    __slots__ = ("baseline_call", "histories", "now", "pacer", "watchers")

    def __init__(self, pacer: RatePacer, now: float) -> None:
        super().__init__()
        self.pacer = pacer
        self.histories: dict[RateName, deque[LimitHistoryEntry]] = {
            name: deque(maxlen=HISTORY_LIMIT) for name in pacer.configured
        }
        self.now = now
        self.baseline_call = 0
        self.watchers: list[Callable[[], object]] = []

    def enqueue(self, ticket: Ticket) -> bool:
        """Queue a new ticket and return whether it is admitted at once; `admit_ready` admits it later."""
        if ticket.client is not None:
            self._join(ticket, ticket.client)
        if not self.waiting and self._fits(ticket):
            self._enter(ticket)
            return True
        self._wait(ticket)
        return False

    def ready_at(self) -> float | None:
        """Return when the first waiting ticket may be admitted; None if none waits."""
        first = self.peek()
        return None if first is None else self.pacer.ready_at(first.weight, self.now)

    def set_limit(self, name: RateName, limit: int) -> list[Ticket]:
        """Change a configured limit, and admit the tickets that may start under it."""
        before = self.pacer.configured[name]
        if limit != before:
            record_set(self.histories[name], before, limit, self.now)
            self.pacer.configure(name, limit, self.now)
        return self._admit()

    def admit_ready(self) -> list[Ticket]:
        """Admit the tickets whose time has come."""
        return self._admit()

    def _left(self, ticket: Ticket, outcome: CallResult, now: float) -> None:
        """Free nothing: `record_usage` settles the tokens with the pacer."""
        super()._left(ticket, outcome, now)

    def _fits(self, ticket: Ticket) -> bool:
        return self.pacer.ready_at(ticket.weight, self.now) <= self.now

    def _enter(self, ticket: Ticket) -> None:
        super()._enter(ticket)
        ticket.epoch = self.pacer.reserve(ticket.weight, self.now)


class RateLimiter(LockedState[RateQueue]):
    """
    Limits per minute, configured or reported by the service.

    Args:
        requests: Calls per minute; None for what the service reports.
        tokens: Tokens per minute; None for what the service reports.

    Attributes:
        active: Whether a limit is configured or was reported.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._configured = requests, tokens
        self.active: bool = (requests, tokens) != (None, None)
        super().__init__()

    def _initial_state(self, parents: RateQueue | None) -> RateQueue:
        return RateQueue(RatePacer(*self._configured, 0.0), 0.0)

    def unused(self) -> RateLimiter:
        """Return a limiter of its own with the configured limits, through which no call has passed."""
        return RateLimiter(*self._configured)

    @property
    def requests(self) -> ConfiguredRate:
        """The limit on calls."""
        return ConfiguredRate(self, "requests_per_minute")

    @property
    def tokens(self) -> ConfiguredRate:
        """The limit on tokens."""
        return ConfiguredRate(self, "tokens_per_minute")

    def configured(self, name: RateName) -> int | None:
        """Return a configured limit; None for what the service reports."""
        return self._state_for_process()[1].pacer.configured[name]

    def set_limit(self, name: RateName, limit: int) -> None:
        """Configure a limit, from now on; calls that have started do not count anew."""
        state = self._state_for_process()[1]
        now = state.now if self.clock is None else self.clock()
        self.active = True  # calls that wait for a slot pass the queue from now on
        self._update(lambda queue: queue.set_limit(name, limit), now)
        self._notify_set()

    def latest_change(self, name: RateName) -> LimitHistoryEntry | None:
        """Return how a user has last changed a limit, or None."""
        history = self._state_for_process()[1].histories[name]
        return history[-1] if history else None

    def history(self, name: RateName) -> tuple[LimitHistoryEntry, ...]:
        """Return how a user has changed a limit, oldest first."""
        lock, state = self._state_for_process()
        with lock:
            return tuple(state.histories[name])

    @property
    def counts_tokens(self) -> bool:
        """Whether tickets need their number of tokens as weight."""
        return self._state_for_process()[1].pacer.counts_tokens

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call `watcher`, in any thread, when the first call begins to wait; return a function that ends this."""
        watchers = self._state_for_process()[1].watchers
        watchers.append(watcher)
        return lambda: watchers.remove(watcher)

    def enqueue(self, ticket: Ticket, now: float) -> bool:
        """Queue a new ticket and return whether it is admitted at once; if not, `on_admitted` is called later."""
        lock, state = self._state_for_process()
        with lock:
            state.now = now
            admitted = state.enqueue(ticket)
            is_first = not admitted and state.peek() is ticket
        if is_first:
            self._notify_watchers()  # it may be ready before the ticket that was the first
        return admitted

    def cancel(self, ticket: Ticket, now: float) -> None:
        """Remove a ticket that waits, or release one that was just admitted."""
        self._update(lambda state: state.cancel(ticket), now)

    def reprioritise(
        self, ticket: Ticket, priority: int, sequence: float, now: float, client: Client | None = None
    ) -> None:
        """Move a waiting ticket forward; see `PriorityWaitQueue.reprioritise`."""
        self._update(lambda state: state.reprioritise(ticket, priority, sequence, client), now)

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
        """Change the queue, notify the tickets admitted by that, and have watchers set their timers for the next."""
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
        Settle a finished call's tokens and apply its rate-limit headers.

        Args:
            ticket: Its ticket; None if it started before a limit was known.
            used: The tokens that it used; None if unknown.
            report: The service's rate-limit headers, or None.
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
                # The first report. Calls that started before it count as started now, this call first.
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


class ConfiguredRate:
    """
    One of the limits of a rate limiter.

    Args:
        limiter: The rate limiter.
        name: Which one.
    """

    __slots__ = ("_limiter", "_name")

    def __init__(self, limiter: RateLimiter, name: RateName) -> None:
        self._limiter = limiter
        self._name: RateName = name

    @property
    def limit(self) -> int | None:
        """The limit per minute, which may be set at any time, in any thread; None for what the service reports."""
        return self._limiter.configured(self._name)

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limiter.set_limit(self._name, limit)

    @property
    def latest_change(self) -> LimitHistoryEntry | None:
        """How a user has last changed it, or None."""
        return self._limiter.latest_change(self._name)

    @property
    def limit_history(self) -> tuple[LimitHistoryEntry, ...]:
        """How a user has changed it, oldest first."""
        return self._limiter.history(self._name)

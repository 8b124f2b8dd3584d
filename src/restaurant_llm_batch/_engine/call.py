"""
The call path's body: one attempt at one backend call, the same for every driver.

A `Call` passes its gates one after the other, is begun when the last one lets it in, and frees its slots when
the backend has really returned: for a blocking call whose run was given up, that is when its thread does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from .._limits.aimd import CallResult
from .._limits.concurrency import ConcurrencyLimiter, Ticket
from .._limits.rate import RateLimiter
from ..cancellation import CancelToken
from ..errors import RateLimited, TransientBackendError
from ..outcomes import Stage
from .mailbox import Mailbox
from .plan import BackendMethod
from .stats import RunCounters

if TYPE_CHECKING:
    from .._store.inflight import InFlightCall


class Call:
    """
    One attempt at one backend call; also the step by which a policy flow asks a driver for it.

    Attributes:
        method: The backend's method, and whether it is awaited.
        argument: What it is called with.
        stage: "search" or "llm".
        label: The aspect, or the request's task name.
        permits: Slots it needs.
        token_limiter: That one of its gates that counts tokens instead of calls, or None.
        tokens: Tokens it needs of the gates that count them; 0 while none does.
        count_tokens: Counts them, from its argument.
        rate_limiter: The gate for limits per minute, after all the others; None for a call that is not counted there.
        rate_ticket: Its ticket there; None while there is nothing to hold.
        attempt: 1 for the first try.
        queued_at: When it began to wait for its gates; 0.0 before.
        started_at: When the backend was called; 0.0 before.
        outcome: What became of it, as its gates are told.
        deadline: When its time is up; None for never.
        timeout_error: What is raised then.
        done: Whether its flow has gone on, or is about to; a late blocking call comes back afterwards.
        landed: Whether the backend has returned.
        mailbox: Where its run lives, once it seeks admission.
        in_flight: The question in flight that it asks, or None.
        cancel_token: What tells a blocking backend that nobody waits any more; None before it is called.
        cancel_scope: What the cancellation of an awaited call comes through; None while it is not being made.
        frame: Whatever the driver needs to find its way back.
    """

    __slots__ = (
        "_start",
        "_tickets",
        "argument",
        "attempt",
        "cancel_scope",
        "cancel_token",
        "count_tokens",
        "counters",
        "deadline",
        "done",
        "frame",
        "in_flight",
        "label",
        "landed",
        "limiters",
        "mailbox",
        "method",
        "outcome",
        "permits",
        "priority",
        "queued_at",
        "rate_limiter",
        "rate_ticket",
        "sequence",
        "stage",
        "started_at",
        "timeout_error",
        "token_limiter",
        "tokens",
        "withdrawn",
    )

    def __init__(
        self,
        method: BackendMethod,
        argument: Any,
        stage: Stage,
        label: str,
        attempt: int,
        limiters: tuple[ConcurrencyLimiter, ...],
        priority: int,
        sequence: float,
        counters: RunCounters,
        permits: int = 1,
    ) -> None:
        self.method = method
        self.argument = argument
        self.stage = stage
        self.label = label
        self.attempt = attempt
        self.limiters = limiters
        self.priority = priority
        self.sequence = sequence
        self.counters = counters
        self.permits = permits
        self.queued_at = 0.0
        self.started_at = 0.0
        self.outcome: CallResult = "other"
        self.deadline: float | None = None
        self.timeout_error: Exception | None = None
        self.done = False
        self.landed = False
        self.mailbox: Mailbox | None = None
        self.in_flight: InFlightCall | None = None
        self.cancel_token: CancelToken | None = None
        self.cancel_scope: Any = None
        self.tokens = 0
        self.count_tokens: Callable[[Any], int] | None = None
        self.token_limiter: ConcurrencyLimiter | None = None
        self.rate_limiter: RateLimiter | None = None
        self.rate_ticket: Ticket | None = None
        self.frame: Any = None
        self.withdrawn = False
        self._tickets: list[Ticket] = []

    def acquire(self, home: Mailbox, start: Callable[[Call], object]) -> None:
        """Pass the gates; `start` is then called with this call, at home, perhaps before this returns."""
        self.mailbox = home
        self._start = start
        self.queued_at = monotonic()
        self._acquire_next()

    def _acquire_next(self) -> None:
        if self.withdrawn:
            return
        tickets = self._tickets
        for gate in self.limiters[len(tickets) :]:
            weight = self.tokens if gate is self.token_limiter else self.permits
            ticket = Ticket(self._admitted, self.priority, self.sequence, weight)
            tickets.append(ticket)
            if not gate.enqueue(ticket):
                return
        if self.rate_limiter is not None and self.rate_limiter.active and self.rate_ticket is None:
            if self.rate_limiter.counts_tokens and not self.tokens:
                self._count_tokens()  # that was learned while it waited for a slot
            self.rate_ticket = Ticket(self._admitted, self.priority, self.sequence, self.tokens)
            if not self.rate_limiter.enqueue(self.rate_ticket):
                return
        self._start(self)

    def _count_tokens(self) -> None:
        if self.count_tokens is not None:
            with suppress(
                Exception
            ):  # a user's counter; where its failure belongs to an item, it is asked again
                self.tokens = self.count_tokens(self.argument)

    def _admitted(self) -> bool:
        return self.mailbox is not None and self.mailbox.post(self._acquire_next)

    @property
    def is_out(self) -> bool:
        """Whether it is at the backend."""
        return self.started_at > 0.0 and not self.landed

    def raise_priority(self, priority: int, arrival: float) -> None:
        """Have it admitted no later than one of this priority and arrival; from any thread."""
        if self.started_at or (priority, arrival) >= (self.priority, self.sequence):
            return
        if self.mailbox is None:
            self._raise_priority(priority, arrival)  # it has not asked any gate yet
        else:
            self.mailbox.post(lambda: self._raise_priority(priority, arrival))

    def _raise_priority(self, priority: int, arrival: float) -> None:
        if (priority, arrival) < (self.priority, self.sequence):
            self.priority, self.sequence = priority, arrival  # at the gates that it has yet to come to
            for gate, ticket in zip(self.limiters, self._tickets, strict=False):
                gate.reprioritise(ticket, priority, arrival)
            if self.rate_limiter is not None and self.rate_ticket is not None:
                self.rate_limiter.reprioritise(self.rate_ticket, priority, arrival)

    def mark_returned(self, answer: Any) -> None:
        """Note that the backend has returned, before the call's flow hears of it; in whichever thread it did."""
        if self.in_flight is None:
            self.landed = True
        else:
            self.in_flight.on_call_returned(self, answer)

    def request_cancel(self) -> None:
        """Tell a blocking backend that nobody waits any more; from any thread."""
        if self.cancel_token is not None:
            self.cancel_token.set()

    def cancel_if_unshared(self) -> None:
        """Give up, unless another run waits for the answer."""
        if self.in_flight is None or not self.in_flight.has_other_waiters:
            self.request_cancel()

    def update_shield(self) -> bool:
        """
        Have a cancellation of its run pass an awaited call by while another run waits; from any thread.

        Returns:
            False when its loop is gone, and it with it.
        """
        return (
            not self.method.is_async
            or self.mailbox is None
            or self.mailbox.post_unattended(self._update_shield)
        )

    def _update_shield(self) -> None:
        if self.cancel_scope is not None and self.in_flight is not None:
            self.cancel_scope.shield = self.in_flight.has_other_waiters

    def cancel_acquire(self) -> None:
        """Give up before the call has begun."""
        self.withdrawn = self.done = True
        for gate, ticket in zip(self.limiters, self._tickets, strict=False):
            gate.cancel(ticket)
        self._tickets.clear()
        if self.rate_limiter is not None and self.rate_ticket is not None:
            self.rate_limiter.cancel(self.rate_ticket)

    def record_outcome(self, error: BaseException | None) -> None:
        """Note what the backend did, for the gates to learn from."""
        if error is None:
            self.outcome = "success"
        elif isinstance(error, RateLimited):
            # Refused because its minute is used up, it says nothing about how many may be in flight.
            spent = error.rate_limit is not None and error.rate_limit.is_insufficient_for(self.tokens)
            self.outcome = "other" if spent else "rate_limited"
        elif isinstance(error, TransientBackendError):
            self.outcome = "transient_error"

    def release(self) -> None:
        """Free the slots: the backend has returned, or was never called. For whoever began the call, once."""
        if not self.landed:
            self.mark_returned(None)
        self.counters.call_finished(self.stage, self.permits)
        for gate, ticket in zip(self.limiters, self._tickets, strict=False):
            gate.release(ticket, self.outcome)
        self._tickets.clear()  # they know their call: without this, only the garbage collector could free it

    def run_blocking(self) -> tuple[Any, BaseException | None]:
        """Call a blocking backend in this thread and return its answer, or what it raised."""
        answer: Any = None
        error: BaseException | None = None
        try:
            answer = self.method.method(self.argument)
        except BaseException as raised:
            error = throwable(raised)
        self.mark_returned(answer)
        return answer, error


def throwable(error: BaseException) -> BaseException:
    """Return what stands for `error` in a flow."""
    # Thrown into a generator, a StopIteration would read as the flow's end.
    if isinstance(error, StopIteration):
        replacement = RuntimeError("the backend raised StopIteration")
        replacement.__cause__ = error
        return replacement
    return error

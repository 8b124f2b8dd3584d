"""
Call: one attempt at one backend call, the same for every driver.

Theory of operation. A policy flow yields a `Call`; a driver performs it and resumes the flow. `CallSpec` is what is
called, `Admission` the part that passes limiters, and `progress` is how far it has come. All transitions happen where
the run lives (see `mailbox`), never in a worker thread:

    progress   meaning                             next, and by what
    NEW        made by the policy                  QUEUED: its flow yields it (`acquire`)
    QUEUED     waits for its limiters              RUNNING: admitted and started (`Scheduler.on_call_started`)
                                                   ABANDONED: the run stops, or its item's time is up
                                                   (`cancel_acquire`)
    RUNNING    the backend works on it             RETURNED: returned in time (`Scheduler.on_call_finished`)
                                                   ABANDONED: a blocking call whose time is up
                                                   (`Scheduler._expire_overdue`)
    ABANDONED  its flow has gone on without it
    RETURNED   its flow has the reply, or the error

The sequential driver makes the same transitions itself. When a run is cancelled, its flows are closed and the calls
that are running stay RUNNING: no one reads their progress any more.

A blocking call can be asked to stop (`CancelToken`), but not made to. When it is abandoned while it runs, its thread
goes on; the thread frees the slots when the backend really returns, and the reply is recorded as a late one. An
awaited call is cancelled and frees its slots at once. A blocking call that returns in time is released by its thread
and by the scheduler, whichever comes first: the thread because a run that was cancelled does not look any more, the
scheduler because a run that has ended must hold no slot. When a store shares the call with other runs, `in_flight`
connects it to them: then it is cancelled only when no other run waits.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, Any

from .._foreign import own_exception
from .._limits.aimd import CallResult, Timing, call_result
from .._limits.clients import Client, Lane
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.wait_queue import _NEW, CallbackTicket
from .._llm_response import LLMResponse
from .._store.inflight import NOT_STARTED, InFlightCall
from ..cancellation import CancelToken
from .admission import Admission, CallContext
from .plan import Around, CallSpec

if TYPE_CHECKING:
    from .._limits.endpoints import EndpointTicket, Route


class Progress(IntEnum):
    """How far a call has come; see the table above."""

    NEW = 0
    QUEUED = 1
    RUNNING = 2
    ABANDONED = 3
    RETURNED = 4


# Local names: looking up a member of an Enum costs several times as much, and this is done for every call.
NEW, QUEUED, RUNNING, ABANDONED, RETURNED = Progress


class Call(Admission):
    """
    One attempt at one backend call; also the step by which a policy flow requests it from a driver.

    Args:
        spec: What is called.
        argument: The argument.
        label: The aspect searched for, or the request's task name.
        number: Number of the call in its run, the same for all of its attempts.
        context: What it has in common with the other calls of its run.
        attempt: 1 for the first attempt.
        limiters: The limiters to pass, in order; then come those of the context, if it calls the model.
        priority: Lower goes first.
        sequence: Among equal priorities, lower goes first: when the item that calls entered the window.
        route: Where a call to a pool should go; None without a pool.

    Attributes:
        method: The method to call; of a call to a pool, known when it is admitted.
        is_async: Whether it is awaited.
        progress: How far it has come.
        started_at: When the backend was called, on the run's clock; `NOT_STARTED` before.
        deadline: When its time is up, on the run's clock; None for never.
        timeout_error: The error raised when the deadline passes.
        reply: The model's reply, with whole numbers of tokens, once it was recorded; None before, and if it has none.
        endpoint: Name of the endpoint of a pool that it goes to; None without a pool, and before it is admitted.
        in_flight: Its entry among the calls in flight that runs share; None without a store.
        cancel_token: Set when no caller waits for a blocking backend any more; None until it starts in a thread.
        cancel_scope: The scope of an awaited call that runs share, while it is made.
        outlives_run: Whether it ends when its backend returns, and is released then, whatever becomes of its run.
        frame: The frame to resume.
    """

    __slots__ = (
        "_around",
        "attempt",
        "cancel_scope",
        "cancel_token",
        "deadline",
        "endpoint",
        "frame",
        "in_flight",
        "is_async",
        "label",
        "method",
        "number",
        "outlives_run",
        "progress",
        "reply",
        "started_at",
        "timeout_error",
    )

    def __init__(
        self,
        spec: CallSpec,
        argument: Any,
        label: str,
        number: int,
        context: CallContext,
        attempt: int = 1,
        limiters: tuple[ConcurrencyLimiter, ...] = (),
        priority: int = 0,
        sequence: float = 0.0,
        route: Route | None = None,
    ) -> None:
        method = spec.method
        self.method: Callable[[Any], Any] = method.method
        self.is_async: bool = method.is_async
        self.label: str = label
        self.attempt: int = attempt
        self.number: int = number
        self.progress: Progress = NEW
        self.started_at: float = NOT_STARTED
        self.deadline: float | None = None
        self.timeout_error: Exception | None = None
        self.reply: LLMResponse | None = None
        self.endpoint: str | None = None
        self.in_flight: InFlightCall | None = None
        self.cancel_token: CancelToken | None = None
        self.cancel_scope: Any = None
        self.outlives_run: bool = False
        self.frame: Any = None
        self._around: Around | None = None
        # What `Ticket` has; a limiter sets the rest before it admits the call.
        self.client: Client | None = context.client
        self.priority = priority
        self.sequence = sequence
        self.state = _NEW
        self.timing: Timing | None = None
        self.lane: Lane | None = None
        self.is_counted = False
        self.weight: int = spec.permits
        # What `Admission` has.
        self.spec: CallSpec = spec
        self.argument: Any = argument
        self.outcome: CallResult = "other"
        self.queued_at: float = inf
        self.rate_queued_at: float | None = None
        self.rate_ticket: CallbackTicket | None = None
        self.endpoint_ticket: EndpointTicket | None = None
        self.route: Route | None = route
        self.tokens: int = 0
        self._context = context
        self._limiters = limiters
        self._later_tickets = ()
        self._others = ()
        self._pending = False
        pool = self._pool = context.pool if spec.stage == "llm" else None
        if pool is not None and (pool.tokens is not None or pool.rate.active):
            self._count_own_tokens(pool)

    def wrap(self, around: Around) -> None:
        """Call what `around` returns in place of the method, at whichever endpoint of a pool."""
        self._around = around
        if not self.spec.endpoints:
            wrapped = around(self.spec.method)
            self.method, self.is_async = wrapped.method, wrapped.is_async

    def use_endpoint(self) -> None:
        """Call the endpoint that has admitted the call, if it goes to a pool; to be called before it starts."""
        ticket = self.endpoint_ticket
        if ticket is not None and ticket.endpoint is not None:
            self.endpoint = ticket.endpoint.name
            method = self.spec.endpoints[ticket.endpoint.index]
            wrapped = method if self._around is None else self._around(method)
            self.method, self.is_async = wrapped.method, wrapped.is_async

    @property
    def done(self) -> bool:
        """Whether its flow has gone on, or is about to."""
        return self.progress >= ABANDONED

    def acquire(self) -> None:
        """Pass the limiters; the context's `on_admitted` is then called in its mailbox, perhaps before this returns."""
        self.progress = QUEUED
        self._pending = True
        now = self._context.now
        self.queued_at = now()
        self._acquire_next()

    def cancel_acquire(self) -> None:
        """Cancel a call that has not started."""
        self.progress = ABANDONED
        self._cancel_tickets()

    def raise_priority(self, priority: int, sequence: float, client: Client | None) -> None:
        """Start it no later than a call of this priority and sequence, of this client. Thread-safe."""
        if self.started_at == NOT_STARTED:
            self._raise_queued(priority, sequence, client)

    def request_cancel(self) -> None:
        """Notify a blocking backend that no caller waits any more. Thread-safe."""
        if self.cancel_token is not None:
            self.cancel_token.set()

    def cancel_if_unshared(self) -> None:
        """Request cancellation, unless another run waits for the reply."""
        if self.in_flight is None or not self.in_flight.has_other_waiters:
            self.request_cancel()

    def update_shield(self) -> bool:
        """
        Shield an awaited call from its run's cancellation while another run waits for it. Thread-safe.

        Returns:
            False if the event loop is closed: the call is gone with it.
        """
        mailbox = self._context.mailbox
        return not self.is_async or mailbox is None or mailbox.post_unattended(self._update_shield)

    def _update_shield(self) -> None:
        if self.cancel_scope is not None and self.in_flight is not None:
            self.cancel_scope.shield = self.in_flight.has_other_waiters

    def mark_returned(self, reply: Any) -> None:
        """Notify the runs that share the call that the backend has returned; in the thread or task that made it."""
        if self.in_flight is not None:
            self.in_flight.on_call_returned(self, reply)
            self.in_flight = None  # last: after an interrupt, `release` notifies them again

    def record_outcome(self, answer: Any, error: BaseException | None) -> None:
        """Set the result that is reported to the limiters on release, and report an error to the endpoint's breaker."""
        if error is None:
            self.outcome = "success"
            if self._context.is_timed:
                self.timing = self.label, answer, self.started_at
            return
        self.outcome = call_result(error, self.tokens)
        if self.endpoint_ticket is not None:
            self._record_error(error)

    def release(self) -> None:
        """
        Free the slots: the backend has returned, or was never called. Thread-safe.

        Releasing it again frees nothing more, but returns only when all slots are free.
        """
        if self.in_flight is not None:
            self.mark_returned(None)
        self._context.counters.call_finished(self, self.spec.stage, self.endpoint)
        self._release_tickets()

    def run_blocking(self) -> tuple[Any, BaseException | None]:
        """Call a blocking backend in this thread and return its reply, or the exception that it raised."""
        try:
            reply = self.method(self.argument)
        except BaseException as raised:
            self.mark_returned(None)
            return None, throwable(raised)  # not a local variable: a cycle with the frame of its traceback
        self.mark_returned(reply)
        return reply, None


def throwable(error: BaseException) -> BaseException:
    """Return an exception that may be thrown into a flow in place of `error`."""
    # Thrown into a generator, a StopIteration would read as the flow's end.
    if isinstance(error, StopIteration):
        replacement = RuntimeError("the backend raised StopIteration")
        replacement.__cause__ = error
        return replacement
    return own_exception(error, "the backend") or error

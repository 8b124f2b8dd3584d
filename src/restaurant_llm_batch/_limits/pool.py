"""
Endpoint limiter: admits the calls of a pool to its endpoints, and leaves out those that fail. Thread-safe.

`pool_state` has the theory of operation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

from .. import _fork
from .._llm_response import RateLimitInfo
from .._text import error_text
from .aimd import CallResult
from .batch_budget import BatchBudget
from .breaker import CLOSED, OPEN, BreakerPolicy
from .clients import Client
from .concurrency import ConcurrencyLimiter, LockedState
from .endpoints import (
    Endpoint,
    EndpointSpec,
    EndpointStatistics,
    EndpointTicket,
    ErrorKind,
    Route,
    Slot,
    error_kind,
)
from .pool_state import Admitted, PoolState
from .wait_queue import _ADMITTED, _WAITING

log = logging.getLogger("restaurant_llm_batch")

L = TypeVar("L", ConcurrencyLimiter, BatchBudget, "EndpointLimiter")


class Twin(Protocol):
    """Returns the unused twin of a limiter, the same one each time."""

    def __call__(self, limiter: L, /) -> L: ...


class EndpointLimiter(LockedState[PoolState]):
    """
    The limits of several endpoints, and which of them are in service.

    Runs, runners, threads and event loops share one; a forked child begins anew.

    Args:
        specs: The endpoints.
        policy: When an endpoint is left out.
    """

    new_route: ClassVar[type[Route]] = Route
    """Makes the route of a call."""
    new_ticket: ClassVar[type[EndpointTicket]] = EndpointTicket
    """Makes the ticket of a call, for `enqueue`."""

    def __init__(self, specs: Sequence[EndpointSpec], policy: BreakerPolicy = BreakerPolicy()) -> None:
        self._specs = tuple(specs)
        self._policy = policy
        super().__init__()

    def _initial_state(self, parents: PoolState | None) -> PoolState:
        return PoolState(self._specs, self._policy, self._on_slot)

    def unused(self, twin: Twin) -> EndpointLimiter:
        """Return a limiter with the same limits, through which no call has passed; see `LimiterSet.unused`."""
        specs = [replace(spec, limiter=twin(spec.limiter)) for spec in self._specs]
        return EndpointLimiter(specs, self._policy)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the endpoints."""
        return tuple(spec.name for spec in self._specs)

    @property
    def limiters(self) -> Mapping[str, ConcurrencyLimiter]:
        """The limiters of calls in flight, by endpoint."""
        return {spec.name: spec.limiter for spec in self._specs}

    @property
    def waiting(self) -> int:
        """Number of calls that wait."""
        state = self._state_for_process()[1]
        alone = state.alone
        return (
            state.waiting
            if alone is None
            else state.waiting + max(0, alone.limiter.waiting - len(alone.claims))
        )

    @property
    def limit(self) -> int:
        """Most calls in flight at the endpoints that are in service."""
        return self._state_for_process()[1].limit

    def statistics(self) -> dict[str, EndpointStatistics]:
        """Return the state of each endpoint, and its calls so far in this process."""
        lock, state = self._state_for_process()
        with lock:
            return {
                endpoint.name: endpoint.statistics(state.now, is_alone=endpoint is state.alone)
                for endpoint in state.endpoints
            }

    # Admission

    def enqueue(self, ticket: EndpointTicket, now: Callable[[], float]) -> bool:
        """Queue a new ticket and return whether it is admitted at once; if not, `on_admitted` is called later."""
        lock, state = self._states.get(_fork.count) or self._state_for_process()
        alone = state.alone
        if alone is not None and alone.breaker.state == CLOSED and not state.waiting and not state.may_rest:
            slot = ticket.slot = Slot(alone, ticket.priority, ticket.sequence, ticket.client)
            slot.ticket = ticket
            ticket.endpoint, ticket.epoch = alone, alone.breaker.epoch
            return alone.limiter.enqueue(slot)
        with lock:
            state.now = now()
            if state.enqueue(ticket):
                return True
            admitted: Admitted = []
            state.fill(admitted)
            surplus, state.surplus = state.surplus, []
            behind = state.claims_behind(ticket)
            watchers = state.watchers if state.waiting == 1 and state.has_timers else ()
        _move_forward(behind, ticket)
        if admitted or surplus:
            at_once = ticket in admitted
            if at_once:
                admitted.remove(ticket)
            self._notify(state, admitted, surplus)
            return at_once
        for watcher in tuple(watchers):
            watcher()
        return False

    def cancel(self, ticket: EndpointTicket, now: float) -> None:
        """Remove a ticket that waits, or release one that was just admitted."""
        lock, state = self._state_for_process()
        with lock:
            state.now = now
            slot = ticket.slot
            is_own = slot is not None and slot.ticket is not None
            is_waiting = ticket.state == _WAITING
            if slot is not None and is_own:
                slot.ticket = None
            elif is_waiting:
                state.cancel(ticket)
        if slot is not None and is_own:
            slot.endpoint.limiter.cancel(slot)
        elif not is_waiting:
            self.release(ticket, "other", lambda: now)

    def reprioritise(
        self, ticket: EndpointTicket, priority: int, sequence: float, client: Client | None = None
    ) -> None:
        """Move a waiting ticket forward; see `PriorityWaitQueue.reprioritise`."""
        lock, state = self._state_for_process()
        with lock:
            slot = ticket.slot
            if ticket.queue is not None:
                ticket.queue.reprioritise(ticket, priority, sequence, client)
            behind = state.claims_behind(ticket)
        _move_forward(behind, ticket)
        if slot is not None and slot.ticket is not None:
            slot.endpoint.limiter.reprioritise(slot, priority, sequence, client)

    def release(self, ticket: EndpointTicket, outcome: CallResult, now: Callable[[], float]) -> None:
        """
        Free the slot of an admitted ticket. Releasing a ticket again does nothing.

        Args:
            ticket: The ticket.
            outcome: The result of its call.
            now: The clock of the runs that share the limiter.
        """
        lock, state = self._states.get(_fork.count) or self._state_for_process()
        slot, endpoint = ticket.slot, ticket.endpoint
        is_back = False
        if slot is not None and (slot.ticket is not None or ticket.state is _ADMITTED):
            with lock:
                if slot.ticket is not None or ticket.state is _ADMITTED:
                    slot.ticket = None
                    is_back = state.record_end(ticket, answered=outcome == "success")
        if slot is not None:
            if endpoint is not None and slot.state is not _WAITING:
                endpoint.limiter.release(slot, outcome, now)
            else:  # an interrupt came before the ticket was admitted with it
                slot.endpoint.limiter.cancel(slot)
        if is_back and endpoint is not None:
            log.info("endpoint %r of the pool is back in service", endpoint.name)
        if state.is_changed:
            state.now = now()
            self._change(state, PoolState.fill)
            if state.waiting and state.has_timers:
                self._notify_watchers(state)  # while all were left out, calls waited for no endpoint's time

    def _on_slot(self, slot: Slot) -> bool:
        """Use a claim that its limiter has admitted; return False if no call wants it."""
        lock, state = self._state_for_process()
        admitted: Admitted = []
        with lock:
            if slot.ticket is None and slot not in slot.endpoint.claims:
                return False  # its call was cancelled meanwhile
            is_first = not state.waiting
            used = state.use(slot, admitted)
            surplus, state.surplus = state.surplus, []
            watchers = state.watchers if is_first and state.waiting and state.has_timers else ()
        if admitted or surplus:
            self._notify(state, admitted, surplus)
        for watcher in tuple(watchers):
            watcher()
        return used

    def _change(self, state: PoolState, change: Callable[[PoolState, Admitted], None]) -> None:
        """Change the state, and notify those that are admitted by that."""
        lock, _ = self._state_for_process()
        admitted: Admitted = []
        with lock:
            change(state, admitted)
            surplus, state.surplus = state.surplus, []
        self._notify(state, admitted, surplus)

    def _notify(self, state: PoolState, admitted: Admitted, surplus: Sequence[Slot]) -> None:
        for slot in surplus:
            slot.endpoint.limiter.cancel(slot)
        for ticket in admitted:
            if ticket.callback() is False:
                self.release(ticket, "other", lambda: state.now)

    # What the endpoints tell

    def record_error(self, ticket: EndpointTicket, error: BaseException, now: float) -> None:
        """Record that a call has failed, before its flow goes on."""
        kind = error_kind(error)
        lock, state = self._state_for_process()
        endpoint = ticket.endpoint
        with lock:
            state.now = now
            opened = state.record_error(ticket, kind, error)
            is_left_out = endpoint is not None and endpoint.breaker.state == OPEN
        if opened and endpoint is not None:
            _log_opened(endpoint, kind, error, now)
        if is_left_out:
            self._notify_watchers(state)  # a probe that fails sets another moment too

    def record_report(self, ticket: EndpointTicket, report: RateLimitInfo, now: float) -> None:
        """Let an endpoint rest whose service reports that nothing is left of a limit per minute."""
        spent = [
            status.reset
            for status in (report.requests, report.tokens)
            if status is not None and status.remaining < 1
        ]
        endpoint = ticket.endpoint
        if endpoint is not None and spent:
            lock, state = self._state_for_process()
            with lock:
                state.now = now
                state.rest(endpoint, min(max(spent), 60.0))
            self._notify_watchers(state)

    def moves(self, ticket: EndpointTicket, error: BaseException) -> bool:
        """Return whether a call that failed goes to another endpoint at once; see `PoolState.moves`."""
        lock, state = self._state_for_process()
        with lock:
            return state.moves(ticket, error_kind(error), error)

    # Time, as for a `RateLimiter`

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call `watcher`, in any thread, when time alone may admit a call; return a function that ends this."""
        watchers = self._state_for_process()[1].watchers
        watchers.append(watcher)
        return lambda: watchers.remove(watcher)

    def seconds_until_ready(self, now: float) -> float | None:
        """Return the seconds until a waiting call may be admitted though none ends; None if there is no such moment."""
        lock, state = self._state_for_process()
        if not state.has_timers:
            return None
        with lock:
            state.now = now
            moment = state.next_moment()
        return None if moment is None else max(0.0, moment - now)

    def admit_ready(self, now: float) -> None:
        """Admit the calls whose time has come."""
        _, state = self._state_for_process()
        if state.has_timers:
            state.now = now
            self._change(state, PoolState.fill)

    @staticmethod
    def _notify_watchers(state: PoolState) -> None:
        for watcher in tuple(state.watchers):
            watcher()


def _move_forward(claims: Sequence[Slot], ticket: EndpointTicket) -> None:
    for claim in claims:
        claim.endpoint.limiter.reprioritise(claim, ticket.priority, ticket.sequence)


class Pool(Protocol):
    """An LLM backend with several endpoints, to which the engine admits its calls one by one."""

    @property
    def endpoint_limiter(self) -> EndpointLimiter:
        """The limiter of the endpoints."""
        ...

    @property
    def endpoint_backends(self) -> Sequence[Any]:
        """The backends of the endpoints, in the limiter's order."""
        ...


def _log_opened(endpoint: Endpoint, kind: ErrorKind, error: BaseException, now: float) -> None:
    seconds = max(0.0, endpoint.breaker.probe_at - now)
    why = "rejects every call" if kind == "fatal" else "refuses every call" if kind == "refused" else "fails"
    log.warning(
        "endpoint %r of the pool %s, and is left out for %g s; then one call tries it again: %s",
        endpoint.name,
        why,
        round(seconds, 1),
        error_text(error),
    )

"""Calls to a pool without a runner: wait for an endpoint, call it, and go to another one if it is at fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anyio import move_on_after, to_thread

from ..._engine.loop_mailbox import EventLoopMailbox, event_loop_clock
from ..._engine.mailbox import ThreadMailbox, thread_clock
from ..._limits.aimd import call_result
from ..._limits.endpoints import EndpointTicket, Route
from ..._limits.pool import EndpointLimiter
from ..._llm_response import LLMResponse
from ...cancellation import cancel_requested, cancelled_error, on_cancel
from ...errors import ConfigurationError
from ...models import LLMRequest


class _Call:
    """A call, which belongs to no item."""

    home = -1


class DirectCalls:
    """
    Calls endpoints within their limits.

    A runner does not need this: it admits its calls to the endpoints by itself, in the order of its items.

    Args:
        limiter: The limits of the endpoints.
        backends: The endpoints, by name.
    """

    def __init__(self, limiter: EndpointLimiter, backends: Mapping[str, Any]) -> None:
        self._limiter = limiter
        self._backends = backends
        self._calls = 0

    def complete(self, request: LLMRequest) -> LLMResponse:
        """Call an endpoint, blocking the thread."""
        route = Route(_Call())
        while True:
            ticket = self._acquire(route, request.priority)
            try:
                method = self._method(ticket, "complete")
                reply: LLMResponse = method(request)
            except BaseException as error:
                if not self._goes_on(ticket, error, thread_clock):
                    raise
            else:
                self._limiter.release(ticket, "success", thread_clock)
                return reply

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Call an endpoint on the running event loop."""
        route, clock = Route(_Call()), event_loop_clock()
        while True:
            ticket = await self._acquire_on_loop(route, request.priority, clock)
            try:
                if hasattr(self._backend(ticket), "acomplete"):
                    reply: LLMResponse = await self._method(ticket, "acomplete")(request)
                else:
                    reply = await to_thread.run_sync(self._method(ticket, "complete"), request)
            except BaseException as error:
                if not self._goes_on(ticket, error, clock):
                    raise
            else:
                self._limiter.release(ticket, "success", clock)
                return reply

    def _backend(self, ticket: EndpointTicket) -> Any:
        return None if ticket.endpoint is None else self._backends[ticket.endpoint.name]

    def _method(self, ticket: EndpointTicket, name: str) -> Callable[[LLMRequest], Any]:
        method: Callable[[LLMRequest], Any] | None = getattr(self._backend(ticket), name, None)
        if method is None:
            at = "" if ticket.endpoint is None else ticket.endpoint.name
            raise ConfigurationError(
                f"endpoint {at!r} of the pool has no {name}(); use acomplete() of the pool"
            )
        return method

    def _goes_on(self, ticket: EndpointTicket, error: BaseException, clock: Callable[[], float]) -> bool:
        """Free the slot of a call that failed; return whether it goes to another endpoint."""
        goes_on = False
        if isinstance(error, Exception):
            self._limiter.record_error(ticket, error, clock())
            goes_on = self._limiter.moves(ticket, error)
        self._limiter.release(ticket, call_result(error), clock)
        return goes_on

    def _acquire(self, route: Route, priority: int) -> EndpointTicket:
        mailbox, admitted = ThreadMailbox(), []
        ticket = self._ticket(lambda: mailbox.post_deferred(lambda: admitted.append(True)), route, priority)
        try:
            if self._limiter.enqueue(ticket, thread_clock):
                return ticket
            with on_cancel(mailbox.wake):
                while not admitted:
                    if cancel_requested():
                        raise cancelled_error()
                    mailbox.run_pending(self._limiter.seconds_until_ready(thread_clock()))
                    self._limiter.admit_ready(thread_clock())
        except BaseException:
            self._limiter.cancel(ticket, thread_clock())
            raise
        return ticket

    async def _acquire_on_loop(
        self, route: Route, priority: int, clock: Callable[[], float]
    ) -> EndpointTicket:
        mailbox, admitted = EventLoopMailbox(), []
        ticket = self._ticket(lambda: mailbox.post_deferred(lambda: admitted.append(True)), route, priority)
        try:
            if self._limiter.enqueue(ticket, clock):
                return ticket
            while not admitted:
                with move_on_after(self._limiter.seconds_until_ready(clock())):
                    await mailbox.run_pending()
                self._limiter.admit_ready(clock())
        except BaseException:
            self._limiter.cancel(ticket, clock())
            raise
        return ticket

    def _ticket(self, on_admitted: Callable[[], object], route: Route, priority: int) -> EndpointTicket:
        self._calls += 1
        return EndpointTicket(on_admitted, priority, self._calls, route)

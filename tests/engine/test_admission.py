"""One call's way through its limiters: interrupted at any line of it, and moved forward by another thread meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from time import monotonic

import pytest
from tests.support.raiser import Raiser

from restaurant_llm_batch import AdaptiveLimit, Client, ConcurrencyLimiter
from restaurant_llm_batch._engine.admission import CallContext
from restaurant_llm_batch._engine.call import Call
from restaurant_llm_batch._engine.mailbox import ThreadMailbox
from restaurant_llm_batch._engine.plan import BackendMethod, CallSpec
from restaurant_llm_batch._engine.stats import RunCounters
from restaurant_llm_batch._limits.wait_queue import Ticket

SPEC = CallSpec(BackendMethod(lambda argument: argument, is_async=False), "llm")
SHOP, KIOSK = Client("shop", 3), Client("kiosk")
LIMITS: dict[str, Callable[[], int | AdaptiveLimit]] = {
    "a number": lambda: 1,
    "learned": lambda: AdaptiveLimit(start=1, min=1, latency_factor=2.0),
}


def call_of(
    client: Client | None, limiters: tuple[ConcurrencyLimiter, ...], priority: int = 0, sequence: float = 0.0
) -> Call:
    """Return a call that a run in this thread is about to queue."""
    context = CallContext(monotonic, RunCounters(), client, is_timed=True, mailbox=ThreadMailbox())
    return Call(SPEC, None, "ask", 1, context, 1, limiters, priority, sequence)


def pass_through(calls: list[Call]) -> None:
    """Queue calls of which one holds the slots while the others wait, and let them end in turn."""
    first, second, third = calls
    first.acquire()
    second.acquire()
    third.acquire()
    third.raise_priority(-1, 0.0, third.client)
    second.raise_priority(-2, 0.0, KIOSK)
    first.record_outcome(None, None)
    first.release()


@pytest.mark.parametrize("clients", [(None, None, None), (SHOP, KIOSK, None)], ids=["no client", "clients"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_call_that_is_interrupted_at_any_line_frees_its_slots(
    limit: str, clients: tuple[Client | None, ...]
) -> None:
    for at in count(1):
        limiters = ConcurrencyLimiter(LIMITS[limit]()), ConcurrencyLimiter(LIMITS[limit]())
        calls = [call_of(client, limiters) for client in clients]
        raiser = Raiser(at, KeyboardInterrupt)
        with suppress(KeyboardInterrupt), raiser.armed():
            pass_through(calls)
        for call in calls:
            call.cancel_acquire()
        left = [(limiter.statistics().in_flight, limiter.statistics().waiting) for limiter in limiters]
        assert left == [(0, 0), (0, 0)], raiser.place
        if not raiser.place:
            assert at > 100
            return


class Meanwhile(ConcurrencyLimiter):
    """A limiter that does something as soon as a ticket that is not queued yet was moved forward."""

    action: Callable[[], object] | None = None

    def reprioritise(
        self, ticket: Ticket, priority: int, sequence: float, client: Client | None = None
    ) -> None:
        super().reprioritise(ticket, priority, sequence, client)
        action, self.action = self.action, None
        if action is not None:
            action()


@pytest.mark.parametrize("client", [None, SHOP], ids=["no client", "a client"])
def test_a_call_moved_forward_by_another_thread_while_it_is_queued_waits_where_it_is_found(
    client: Client | None,
) -> None:
    limiter = Meanwhile(1)
    busy = call_of(None, (limiter,))
    busy.acquire()
    call = call_of(client, (limiter,), 5, 7.0)
    limiter.action = call.acquire  # what the run's own thread does by then
    other = threading.Thread(target=call.raise_priority, args=(0, 1.0, client))
    other.start()
    other.join()
    if call.queued_at > monotonic():
        call.acquire()
    mailbox = call._context.mailbox
    assert isinstance(mailbox, ThreadMailbox)
    mailbox.run_pending(0.0)

    _, state = limiter._state_for_process()
    assert state.in_order(9) == [call]
    assert state.waiting_weight == 1  # by which a shared limiter asks for slots
    assert (call.priority, call.sequence) == (0, 1.0)

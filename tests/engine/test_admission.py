"""One call's way through its limiters, interrupted at any line of it."""

from __future__ import annotations

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

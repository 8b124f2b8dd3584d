"""
The cost of sharing a limit: CPU microseconds per call, through a limiter of this process and through a shared one.

    python benchmarks/sharing.py [--calls 20000] [--rounds 7]

A call is made by the whole engine in stage 4, with a backend that does nothing, over 8 slots: once with
`Limits(llm=8)`, once with a `SharedLimiter` of a `FileBroker`, in turn. The limiters are measured alone too: `enqueue`
and `release` while other tickets wait. CPU time of the whole process counts, that of the renewal thread included. The
least of all rounds is compared. Last, it says how many messages a second the broker got, from the first round to the
last: a member may send three at once, and one each 0.27 seconds on average.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from restaurant_llm_batch import (
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    LLMRequest,
    LLMResponse,
    SharedLimiter,
    Strategy,
)
from restaurant_llm_batch._limits.wait_queue import CallbackTicket, Ticket
from restaurant_llm_batch.sharing import FileBroker
from restaurant_llm_batch.steps import Flow, complete

REPLY = LLMResponse("text")
REQUEST = LLMRequest("nothing", ())


class Nothing:
    """Answers at once, after one turn of the loop as any real call would take."""

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Answer."""
        await anyio.lowlevel.checkpoint()
        return REPLY


class Counted(FileBroker):
    """A file broker that counts messages."""

    messages = 0

    def perform(self, name: str, command: Any) -> Any:
        """Count a message."""
        self.messages += 1
        return super().perform(name, command)


def ask(item: int) -> Flow[str]:
    """Make one call."""
    reply = yield from complete(REQUEST)
    return reply.text


def whole(limiter: ConcurrencyLimiter, calls: int) -> None:
    """Make calls through the whole engine."""
    runner = BatchRunner(
        llm=Nothing(), strategy=Strategy.stage(4), limits=Limits(llm=limiter, open_items=1000)
    )
    anyio.run(runner.arun, ask, range(calls))


def alone(limiter: ConcurrencyLimiter, calls: int) -> None:
    """Pass tickets through a limiter alone, a hundred of which always wait."""
    admitted: list[Ticket] = []
    tickets: list[Ticket] = []

    def enter() -> None:
        ticket = CallbackTicket(lambda: admitted.append(ticket))
        tickets.append(ticket)
        if limiter.enqueue(ticket):
            admitted.append(ticket)

    for _ in range(100):
        enter()
    while len(admitted) < 8:
        time.sleep(0.001)
    for _ in range(calls):
        limiter.release(admitted.pop(0), "success")
        enter()
    for ticket in tickets:
        limiter.cancel(ticket)


def least(work: Callable[[ConcurrencyLimiter, int], None], folder: Path, calls: int, rounds: int) -> None:
    """Measure one kind of work, both ways in turn."""
    seconds = {"own": float("inf"), "shared": float("inf")}
    broker = Counted(folder / "limits.db")
    shared = SharedLimiter("gpu", 8, broker=broker)
    started_at = time.monotonic()
    for _ in range(rounds):
        for name, limiter in (("own", ConcurrencyLimiter(8)), ("shared", shared)):
            gc.collect()
            began = time.process_time()
            work(limiter, calls)
            seconds[name] = min(seconds[name], time.process_time() - began)
    passed = time.monotonic() - started_at
    own, other = (1e6 * seconds[name] / calls for name in ("own", "shared"))
    print(
        f"{work.__name__}: {own:.2f} us a call, shared {other:.2f} us: {other - own:+.2f} us; "
        f"{broker.messages / passed:.1f} messages a second"
    )
    shared.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for work in (alone, whole):
        with tempfile.TemporaryDirectory() as folder:
            least(work, Path(folder), options.calls, options.rounds)


if __name__ == "__main__":
    main()

"""
Three servers of 8, 16 and 24 slots as one pool that knows none of these numbers, and one of them dies and comes back.

    python benchmarks/pool.py [--items 2000] [--seconds 0.5]

The time is compared with the bound: that of one server with 48 slots, known to the runner, and what it would lose if so
many of its slots were gone for as long. Then the CPU time of a call through a pool of one, and without one: the least
of many rounds, taken in turn.
"""

from __future__ import annotations

import argparse
import gc
import threading
import time
from collections.abc import Generator
from typing import Any

import anyio.lowlevel

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.backends import LLMPool, VLLMServerLLM
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing.server import Faults, FaultServer

SLOTS = (8, 16, 24)
REPLY = LLMResponse("text")


def ask(item: int) -> Generator[Any, Any, str]:
    """One call."""
    reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": f"맛은? {item}"},)))
    return str(reply.text)


def seconds(llm: Any, items: int, **options: Any) -> float:
    """Return the seconds of a run, in which no item may fail."""
    began = time.monotonic()
    with BatchRunner(llm=llm, strategy=Strategy.stage(4), **options) as runner:
        runner.run(ask, range(items)).raise_for_failures()
    return time.monotonic() - began


def served(items: int, latency: float) -> None:
    """Measure over sockets, with each of the servers dying in turn."""
    outage = items * latency / sum(SLOTS) / 4
    with FaultServer(Faults(latency=latency, limit=sum(SLOTS))) as one:
        alone = seconds(VLLMServerLLM(one.url, "tiny"), items, limits=Limits(llm=sum(SLOTS)))
    print(f"one server of {sum(SLOTS)} slots: {alone:.2f} s")
    for place, slots in enumerate(SLOTS):
        servers = [FaultServer(Faults(latency=latency, limit=number)).start() for number in SLOTS]

        def die_and_come_back(dying: FaultServer = servers[place]) -> None:
            time.sleep(outage)
            dying.stop()
            time.sleep(outage)
            dying.start()

        killer = threading.Thread(target=die_and_come_back)
        killer.start()
        pool = LLMPool([VLLMServerLLM(server.url, "tiny") for server in servers], limits=AdaptiveLimit())
        together = seconds(pool, items)
        killer.join()
        for server in servers:
            server.stop()
        bound = alone + outage * slots / sum(SLOTS)
        share = together / bound
        print(f"{SLOTS}, {slots} of them gone for {outage:.1f} s: {together:.2f} s, {share:.0%} of the bound")


class Model:
    """Says the same at once, after one turn of the loop."""

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Answer."""
        await anyio.lowlevel.checkpoint()
        return REPLY


def cost(rounds: int, calls: int) -> None:
    """Measure the CPU time of a call."""
    kinds: dict[str, Any] = {
        "no pool": lambda: (Model(), Limits(llm=8)),
        "a pool of one": lambda: (LLMPool([Model()], limits=8), Limits()),
        "a pool of three": lambda: (LLMPool([Model(), Model(), Model()], limits=[3, 3, 2]), Limits()),
    }
    least = dict.fromkeys(kinds, float("inf"))
    for _ in range(rounds):
        for name, make in kinds.items():
            llm, limits = make()
            runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=limits)
            gc.collect()
            began = time.process_time()
            runner.run(ask, range(calls))
            least[name] = min(least[name], (time.process_time() - began) / calls * 1e6)
    for name, microseconds in least.items():
        print(f"{name}: {microseconds:.1f} microseconds a call")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=2000)
    given = parser.parse_args()
    served(given.items, given.seconds)
    cost(given.rounds, given.calls)

"""
What the store costs: CPU microseconds per call, its key, its lookup and its write, with 100,000 answers in it.

    python benchmarks/store.py [--entries 100000] [--calls 4000] [--rounds 5]

So many callers at a time ask for a key on an event loop, do not find it, wait for their model, and wait until
the answer is durable. The same callers without a store are measured in turn, and subtracted; the CPU time is that
of the process, the writing thread's included. Models answer at once (the loop is busy, and groups form), or after
20 ms (it is idle: then everything costs a multiple, also without a store, since caches are cold and the processor
sleeps). "Bare" is the same once more with a thread that writes nothing and only calls back: keys, and the way to
a thread and back. What a call may cost is held to where the loop is busy with several callers.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

import anyio

from restaurant_llm_batch import LLMRequest, LLMResponse
from restaurant_llm_batch._engine.loop_mailbox import EventLoopMailbox
from restaurant_llm_batch._store.keys import request_key
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch._store.writer import CommitFuture, OnCommit

IDENTITY = "vllm http://127.0.0.1:8000 qwen"
TEXT = "이 집은 국물이 진하고 면이 쫄깃하며 직원이 친절하다. "
REPLY = LLMResponse(TEXT * 12, "stop", 1200, 150, "qwen")
PROMPT = TEXT * 56
PART = {
    "type": "object",
    "properties": {
        "summary": {"type": "string"},
        "bullets": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "evidence": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["summary", "bullets", "evidence"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {"food": PART, "service": PART, "price": PART},
    "required": ["food", "service", "price"],
}


class Keeper(Protocol):
    """What callers need of a store."""

    def get(self, key: bytes) -> LLMResponse | None:
        """Look up."""
        ...

    def put(self, key: bytes, reply: LLMResponse, on_durable: OnCommit) -> None:
        """Keep."""
        ...


class Bare:
    """Keeps nothing, in a thread of its own."""

    def __init__(self) -> None:
        self._told: SimpleQueue[OnCommit] = SimpleQueue()
        threading.Thread(target=self._tell, daemon=True).start()

    def _tell(self) -> None:
        while True:
            self._told.get()(None)

    def get(self, key: bytes) -> LLMResponse | None:
        """Find nothing."""
        return None

    def put(self, key: bytes, reply: LLMResponse, on_durable: OnCommit) -> None:
        """Have it said to be durable."""
        self._told.put(on_durable)


class Callers:
    """So many callers at a time, on one loop; with or without a store."""

    def __init__(self, store: Keeper | None, in_flight: int, pause: float) -> None:
        self.store = store
        self.in_flight = in_flight
        self.pause = pause
        self.waits: list[float] = []
        self._numbers = iter(range(0))

    def run(self, numbers: range) -> float:
        """Return CPU microseconds per call."""
        self._numbers = iter(numbers)
        began = time.process_time()
        anyio.run(self._run)
        return (time.process_time() - began) / len(numbers) * 1e6

    async def _run(self) -> None:
        home = EventLoopMailbox()

        async def attend() -> None:
            while True:
                await home.run_pending()

        async with anyio.create_task_group() as outer:
            outer.start_soon(attend)
            async with anyio.create_task_group() as callers:
                for _ in range(self.in_flight):
                    callers.start_soon(self._call_on_and_on, home)
            outer.cancel_scope.cancel()

    async def _call_on_and_on(self, home: EventLoopMailbox) -> None:
        for number in self._numbers:
            messages = [{"role": "system", "content": TEXT}, {"role": "user", "content": f"{PROMPT}{number}"}]
            request = LLMRequest("aspect_summaries", messages, SCHEMA)
            if self.store is None:
                await anyio.sleep(self.pause)
                continue
            key = request_key(IDENTITY, request)
            if self.store.get(key) is not None:
                raise AssertionError("this question was never asked")
            await anyio.sleep(self.pause)
            durable = anyio.Event()
            began = time.perf_counter()
            self.store.put(key, REPLY, partial(_post, home, durable))
            await durable.wait()
            self.waits.append(time.perf_counter() - began)


def _post(home: EventLoopMailbox, durable: anyio.Event, error: Exception | None) -> None:
    if error is not None:
        raise error
    home.post(durable.set)


def alone(what: Callable[[int], object], numbers: range) -> float:
    """Return CPU microseconds of doing something, one after the other."""
    began = time.process_time()
    for number in numbers:
        what(number)
    return (time.process_time() - began) / len(numbers) * 1e6


def key_of(number: int) -> bytes:
    """Return some key."""
    return request_key(IDENTITY, LLMRequest("old", [{"role": "user", "content": str(number)}]))


def fill(store: Store, entries: int) -> None:
    """Put so many answers in."""
    last = CommitFuture()
    for number in range(entries):
        store.put(key_of(number), REPLY, last if number == entries - 1 else bool)
        if number % 5000 == 0:
            store.stats()  # a breath for the writer: what waits is in memory
    last.result()


def main() -> int:
    """Measure, and return 1 when the store costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=float, default=90.0, help="microseconds that a call may cost more")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "run.db") as store:
        fill(store, options.entries)
        _print_alone(store, options.entries)
        worst = _print_calls(store, options.calls, options.rounds)
    print(f"dearest: {worst:.0f} us of CPU per call, {options.most:.0f} allowed")
    return int(worst > options.most)


def _print_alone(store: Store, entries: int) -> None:
    request = LLMRequest("t", [{"role": "user", "content": PROMPT}], SCHEMA)
    size = len(PROMPT.encode())
    hits = [key_of(number * 7919 % entries) for number in range(5000)]
    misses = [key_of(-number - 1) for number in range(5000)]
    numbers = range(5000)
    print(f"{entries} answers, {store.stats().bytes / 1e6:.0f} MB")
    key = alone(lambda _: request_key(IDENTITY, request), numbers)
    print(f"key of a prompt of {size} bytes, with schema: {key:.1f} us")
    print(f"lookup, found: {alone(lambda number: store.get(hits[number]), numbers):.1f} us")
    print(f"lookup, not found: {alone(lambda number: store.get(misses[number]), numbers):.1f} us")
    for name, what in (("stats", store.stats), ("close", store.close), ("open", store.open)):
        began = time.perf_counter()
        what()
        print(f"{name}: {(time.perf_counter() - began) * 1e3:.1f} ms")


def _print_calls(store: Store, calls: int, rounds: int) -> float:
    print("in flight  model  CPU us/call    bare   group  wait p50  p99 (ms)")
    worst, asked, bare = 0.0, 0, Bare()
    for pause in (0.0, 0.02):
        for in_flight in (1, 8, 64):
            count = calls if not pause else min(calls, 40 * in_flight)
            callers, before = Callers(store, in_flight, pause), store.commits
            costs, floors = [], []
            for _ in range(rounds):
                numbers = range(asked, asked + count)
                asked += count
                without = Callers(None, in_flight, pause).run(numbers)
                costs.append(callers.run(numbers) - without)
                floors.append(Callers(bare, in_flight, pause).run(numbers) - without)
            waits = statistics.quantiles(callers.waits, n=100)
            group = count * rounds / (store.commits - before)
            cost = statistics.median(costs)
            if in_flight > 1 and not pause:
                worst = max(worst, cost)
            print(
                f"{in_flight:>9} {pause * 1e3:>3.0f} ms {cost:>12.1f} {statistics.median(floors):>7.1f} "
                f"{group:>7.1f} {waits[49] * 1e3:>9.2f} {waits[98] * 1e3:>5.2f}"
            )
    return worst


if __name__ == "__main__":
    sys.exit(main())

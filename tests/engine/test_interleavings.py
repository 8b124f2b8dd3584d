"""
A stream is safe from any thread: `next`, `close`, `stop` and collection, stepped line by line in any order.

Whatever the order, each outcome is in exactly one place, each item that was taken from the input has one, `RunEnded`
comes once and last, and no thread, lease or slot is left.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.support.interleaving import Interleaver

from restaurant_llm_batch import (
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    LLMRequest,
    LLMResponse,
    Store,
    Strategy,
)
from restaurant_llm_batch.events import Event, ItemEnded, RunEnded, RunStarted
from restaurant_llm_batch.outcomes import Outcome
from restaurant_llm_batch.steps import Flow, complete

STRATEGIES = {
    "stage 1": Strategy.stage(1),
    "stage 2": Strategy.stage(2),
    "stage 4": Strategy.stage(4),
    "threaded": Strategy.threaded(),
}
STORE_FILES = ("/bridge.py", "/handover.py", "/cached_calls.py", "/inflight.py", "/store.py")
FILES = ("/bridge.py", "/handover.py", "/streams.py", "/sequential.py", "/resources.py", "/recorder.py")


class Model:
    """Answers at once."""

    def complete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse("답")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse("답")


def ask(item: int) -> Flow[str]:
    return (yield from complete(LLMRequest("ask", ()))).text


class Trial:
    """One stream, the threads that use it as a seed says, and what they see."""

    def __init__(self, strategy: Strategy, seed: int, store: Store | None = None) -> None:
        self.interleaver = Interleaver(seed, FILES if store is None else STORE_FILES)
        self.store = store
        self.random = Random(seed)
        self.others = set(threading.enumerate())  # of other tests
        self.events: list[Event] = []
        self.outcomes: list[Outcome[Any]] = []
        self.taken = 0
        self.limiter = ConcurrencyLimiter(2)
        limits = Limits(llm=self.limiter, open_items=self.random.choice((2, 4)))
        self.runner = BatchRunner(
            llm=Model(), strategy=strategy, limits=limits, observers=[self.events.append], store=store
        )
        self.lazy = self.random.random() < 0.6
        self.breaks = self.random.random() < 0.25  # the reader leaves, and the stream is collected
        self.raises = self.lazy and self.random.random() < 0.3
        items = self.rows(self.random.randrange(7)) if self.lazy else range(self.random.randrange(7))
        self.stream = self.runner.stream(ask, items)

    def rows(self, number: int) -> Iterator[int]:
        for item in range(number):
            self.taken += 1
            yield item
        if self.raises:
            raise OSError("the database went away")

    def read(self, at_most: int) -> Callable[[], None]:
        stream = self.stream

        def work() -> None:
            try:
                for _, outcome in zip(range(at_most), stream, strict=False):
                    self.outcomes.append(outcome)
            except OSError as error:
                self.outcomes += error.report.outcomes  # type: ignore[attr-defined]

        return work

    def close(self) -> Callable[[], None]:
        stream, steps = self.stream, self.random.randrange(40)

        def work() -> None:
            for _ in range(steps):
                self.interleaver.step()
            self.outcomes += stream.close()

        return work

    def stop(self) -> Callable[[], None]:
        stream, steps = self.stream, self.random.randrange(40)

        def work() -> None:
            for _ in range(steps):
                self.interleaver.step()
            stream.stop("enough")

        return work

    def run(self) -> None:
        works = [self.read(2 if self.breaks else 99) for _ in range(self.random.choice((1, 1, 2)))]
        if not self.breaks:
            works += [self.close() for _ in range(self.random.choice((0, 1, 1, 2)))]
        works += [self.stop() for _ in range(self.random.choice((0, 0, 1)))]
        with self.interleaver.threads(*works):
            pass
        stats = self.stream.stats
        if self.breaks:
            works.clear()
            del self.stream
            gc.collect()
        self.check_end()
        indexes = [outcome.index for outcome in self.outcomes]
        assert len(indexes) == len(set(indexes)), "an outcome twice"
        if not self.breaks:
            assert sorted(indexes) == list(range(len(indexes))), "a gap"
            assert stats.succeeded + stats.failed == len(indexes)
            assert not self.lazy or len(indexes) == self.taken, "an item without outcome"

    def check_end(self) -> None:
        if self.store is not None:
            self.runner.close()  # which waits for what is being written
            assert not self.store.in_flight.open, "a call is left in flight"
        while ours := [
            one
            for one in threading.enumerate()
            if one.name.startswith("restaurant-llm-batch") and one not in self.others
        ]:
            ours[0].join(60)
            assert not ours[0].is_alive(), f"{ours[0].name} is left"
        assert self.runner._resources._count == 0, "a lease is left"
        assert self.limiter.statistics().in_flight == 0, "a slot is left"
        kinds = [type(event) for event in self.events]
        if RunStarted in kinds:
            assert kinds.count(RunEnded) == 1
            assert kinds[-1] is RunEnded
        if not self.breaks:
            assert kinds.count(ItemEnded) == len(self.outcomes)


@pytest.mark.hardening(small=6, full=25_000)
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.sample(1)
def test_each_outcome_is_in_one_place_whatever_the_order_of_the_threads(name: str, trials: int) -> None:
    for seed in range(trials):
        trial = Trial(STRATEGIES[name], seed)
        try:
            trial.run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.hardening(small=2, full=5_000)
@pytest.mark.parametrize("name", STRATEGIES)
def test_streams_over_a_store_leave_no_call_in_flight_there(name: str, trials: int, tmp_path: Path) -> None:
    """All items ask the same, so one leads and the others follow."""
    for seed in range(trials):
        file = tmp_path / f"{seed}.db"
        try:
            Trial(STRATEGIES[name], seed, Store(file)).run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        file.unlink(missing_ok=True)

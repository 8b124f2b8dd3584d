"""
An unknown limit: 2,000 calls of about 100 ms against a service that refuses what is too much.

    python benchmarks/unknown_limit.py --seeds 5 --only ours
    python benchmarks/unknown_limit.py --seeds 3 --only semaphore --only langchain --only async-batch-llm

Services: a cap of 24 in flight, and a bucket of 200 calls a second with a burst of 40, each with and without
Retry-After; a cap that halves or doubles after a third of the calls. Ways: `AdaptiveLimit()`; a semaphore of 100 with
back-off; LangChain's `abatch` and async-batch-llm, where they are installed. The best fixed limit, known beforehand, is
always measured: the times of all others are told beside it.

The service is a function in this process, so what is measured is who asks how often, not HTTP. Runs wait nearly all of
the time, so several go on at once, each in a process of its own (--jobs).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from statistics import median
from typing import Any, NamedTuple

import anyio

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    errors,
)
from restaurant_llm_batch.steps import complete

PATIENCE = 60
"""Seconds after which a way is given up."""


class Refused(Exception):
    """The service refuses a call for now."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__("429")
        self.retry_after = retry_after


@dataclass
class Service:
    """Answers after about 100 ms, and refuses above a cap on calls in flight or a rate."""

    random: random.Random
    calls: int
    cap: float = float("inf")
    later: float | None = None
    rate: float | None = None
    burst: float = 40
    retry_after: float | None = None
    answered: int = 0
    refused: int = 0
    in_flight: int = 0
    tokens: float = field(init=False)
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tokens = self.burst

    async def call(self) -> str:
        """Answer, or raise `APIError`."""
        if self.later is not None and self.answered >= self.calls // 3:
            self.cap, self.later = self.later, None
        if self.in_flight >= self.cap or not self._token():
            self.refused += 1
            await asyncio.sleep(0.002)
            raise Refused(self.retry_after)
        self.in_flight += 1
        try:
            await asyncio.sleep(0.1 * self.random.lognormvariate(0, 0.2))
        finally:
            self.in_flight -= 1
        self.answered += 1
        return "yes"

    def _token(self) -> bool:
        if self.rate is None:
            return True
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Model:
    """The service, as a backend."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Answer, or raise `RateLimited`."""
        try:
            return LLMResponse(await self._service.call())
        except Refused as error:
            raise errors.RateLimited("429", retry_after=error.retry_after) from None


def ask(item: int) -> Any:
    """Ask once."""
    return (yield from complete(LLMRequest("t", ()))).text


def ours(limit: int | AdaptiveLimit) -> Callable[[Service], Awaitable[int]]:
    """Return a way to make all calls with a runner."""

    async def make(service: Service) -> int:
        retry = RetryPolicy(max_rate_limit_attempts=1000)
        runner = BatchRunner(
            llm=Model(service),
            strategy=Strategy.stage(4),
            limits=Limits(llm=limit, open_items=1000),
            llm_retry=retry,
        )
        return len((await runner.arun(ask, range(service.calls))).results)

    return make


async def semaphore(service: Service) -> int:
    """Make all calls with a semaphore of 100 and a back-off that doubles."""
    slots = asyncio.Semaphore(100)

    async def one() -> str:
        wait = 0.5
        while True:
            try:
                async with slots:
                    return await service.call()
            except Refused as error:
                await asyncio.sleep(max(wait * random.uniform(0.5, 1), error.retry_after or 0))
                wait = min(30.0, 2 * wait)

    return len(await asyncio.gather(*(one() for _ in range(service.calls))))


async def langchain(service: Service) -> int:
    """Make all calls with LangChain's `abatch`, 100 at a time, and its own retries."""
    from langchain_core.runnables import RunnableLambda

    async def one(_: int) -> str:
        return await service.call()

    chain = RunnableLambda(one).with_retry(retry_if_exception_type=(Refused,), stop_after_attempt=20)
    answers = await chain.abatch(
        list(range(service.calls)), config={"max_concurrency": 100}, return_exceptions=True
    )
    return sum(answer == "yes" for answer in answers)


async def async_batch_llm(service: Service) -> int:
    """Make all calls with async-batch-llm: 100 at a time, told of refusals, its cooldown shortened to a second."""
    import async_batch_llm as abl

    class Classifier(abl.ErrorClassifier):  # type: ignore[misc]
        def classify(self, exception: Exception) -> Any:
            refused = isinstance(exception, Refused)
            return abl.ErrorInfo(refused, refused, False, "rate_limit" if refused else "unknown")

    async def invoke(prompt: str, *, attempt: int, timeout: float, state: Any) -> Any:
        return abl.CallOutcome(await service.call())

    config = abl.ProcessorConfig(
        concurrency=100,
        rate_limit=abl.RateLimitConfig(
            cooldown_seconds=1.0, slow_start_items=20, slow_start_initial_delay=0.1
        ),
        retry=abl.RetryConfig(max_rate_limit_retries=1000),
    )
    strategy = abl.CallableStrategy(invoke, error_classifier=Classifier())
    result = await abl.process_prompts(strategy, [str(n) for n in range(service.calls)], config=config)
    return int(result.succeeded)


CASES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "24 in flight": ({"cap": 24}, [24]),
    "24 in flight, Retry-After 1 s": ({"cap": 24, "retry_after": 1.0}, [24]),
    "200/s, burst 40": ({"rate": 200.0}, [20, 22]),
    "200/s, burst 40, Retry-After 1 s": ({"rate": 200.0, "retry_after": 1.0}, [20, 22]),
    "24 in flight, later 12": ({"cap": 24, "later": 12}, [12, 24]),
    "24 in flight, later 48": ({"cap": 24, "later": 48}, [24, 48]),
}
"""Services by name, each with the fixed limits that may be its best."""

WAYS: dict[str, Callable[[Service], Awaitable[int]]] = {
    "ours": ours(AdaptiveLimit()),
    "semaphore": semaphore,
    "langchain": langchain,
    "async-batch-llm": async_batch_llm,
}
NEEDS = {"langchain": "langchain_core.runnables", "async-batch-llm": "async_batch_llm"}


class Run(NamedTuple):
    """What is measured: a way, or a fixed limit, with a service."""

    way: str | int
    case: str
    seed: int
    calls: int


class Figures(NamedTuple):
    """What one run, or the median of several, came to; `lost` is the calls without an answer at its end."""

    seconds: float
    refused: float
    lost: float


def measure(run: Run) -> Figures:
    """Make all calls once."""
    way = WAYS[run.way] if isinstance(run.way, str) else ours(run.way)
    if isinstance(run.way, str) and run.way in NEEDS:
        import_module(NEEDS[run.way])  # which takes a second, and is not to be measured

    async def main() -> Figures:
        service = Service(random.Random(run.seed), run.calls, **CASES[run.case][0])
        began = time.perf_counter()
        done: int | None = None
        with anyio.move_on_after(PATIENCE):
            done = await way(service)
        seconds = time.perf_counter() - began
        refused = service.refused / (service.refused + service.answered)
        return Figures(seconds, refused, run.calls - (service.answered if done is None else done))

    return anyio.run(main)


def median_of(figures: Sequence[Figures]) -> Figures:
    """Return the median of each column."""
    return Figures(*(median(column) for column in zip(*figures, strict=True)))


def line(case: str, way: str, figures: Figures, best: float) -> str:
    """Return a row of the table."""
    given_up = figures.seconds >= PATIENCE
    seconds = f"> {PATIENCE} s" if given_up else f"{figures.seconds:.2f} s"
    ratio = f"> {PATIENCE / best:.1f}x" if given_up else f"{figures.seconds / best:.2f}x"
    return f"{case:33} {way:18} {seconds:>9} {ratio:>12} {figures.refused:>8.1%} {figures.lost:>6.0f}"


def chosen(only: Sequence[str] | None) -> list[str]:
    """Return the ways that are wanted and can be had."""
    missing = [way for way, module in NEEDS.items() if find_spec(module.partition(".")[0]) is None]
    for way in missing:
        if only is None or way in only:
            print(f"{way} is left out: it is not installed")
    return [way for way in WAYS if (only is None or way in only) and way not in missing]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=WAYS, action="append", help="a way; may be given several times")
    parser.add_argument("--case", choices=CASES, action="append", help="a service, likewise")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=4, help="runs at once")
    asked = parser.parse_args()
    cases, ways = asked.case or list(CASES), chosen(asked.only)
    contestants: dict[str, list[str | int]] = {case: [*CASES[case][1], *ways] for case in cases}
    runs = [
        Run(way, case, seed, asked.calls)
        for case in cases
        for way in contestants[case]
        for seed in range(asked.seeds)
    ]
    print(f"{'service':33} {'way':18} {'time':>9} {'of best':>12} {'refused':>8} {'lost':>6}", flush=True)
    with ProcessPoolExecutor(asked.jobs, get_context("spawn")) as pool:
        measured = dict(zip(runs, map(pool.submit, [measure] * len(runs), runs), strict=True))

        def of(way: str | int, case: str) -> Figures:
            return median_of(
                [measured[Run(way, case, seed, asked.calls)].result() for seed in range(asked.seeds)]
            )

        for case in cases:
            best, limit = min((of(limit, case), limit) for limit in CASES[case][1])
            print(line(case, f"fixed, {limit}", best, best.seconds), flush=True)
            for way in ways:
                print(line("", way, of(way, case), best.seconds), flush=True)


if __name__ == "__main__":
    main()

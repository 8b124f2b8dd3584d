"""
An unknown limit: 2,000 calls of about 100 ms against a service that refuses what is too much.

    python benchmarks/unknown_limit.py [--seeds 3] [--peers]

Services: a cap of 24 in flight, with and without Retry-After; a bucket of 200 calls a second with a burst of 40; a cap
that halves or doubles after a third of the calls. Beside `AdaptiveLimit`: the best fixed limit, known beforehand; a
semaphore of 100 with back-off; with --peers also async-batch-llm and LangChain's `abatch`, where they are installed.
The service is a function in this process, so what is measured is who asks how often, not HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import anyio

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Limits,
    LLMReply,
    LLMRequest,
    RetryPolicy,
    Strategy,
    errors,
)
from restaurant_llm_batch.steps import complete

CALLS = 2000
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
        """Answer, or raise `Refused`."""
        if self.later is not None and self.answered >= CALLS // 3:
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

    async def acomplete(self, request: LLMRequest) -> LLMReply:
        """Answer, or raise `RateLimited`."""
        try:
            return LLMReply(await self._service.call())
        except Refused as error:
            raise errors.RateLimited("429", retry_after=error.retry_after) from None


def ask(item: int) -> Any:
    """Ask once."""
    return (yield from complete(LLMRequest("t", ()))).text


def ours(limit: int | AdaptiveLimit) -> Callable[[Service], Awaitable[int]]:
    """Return a way to make all calls with a runner."""

    async def make(service: Service) -> int:
        retry = RetryPolicy(rate_limit_attempts=1000)
        runner = BatchRunner(
            llm=Model(service),
            strategy=Strategy.stage(4),
            limits=Limits(llm=limit, restaurants=1000),
            llm_retry=retry,
        )
        return len((await runner.arun(ask, range(CALLS))).results)

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

    return len(await asyncio.gather(*(one() for _ in range(CALLS))))


async def langchain(service: Service) -> int:
    """Make all calls with LangChain's `abatch`, 100 at a time, and its own retries."""
    from langchain_core.runnables import RunnableLambda

    async def one(_: int) -> str:
        return await service.call()

    chain = RunnableLambda(one).with_retry(retry_if_exception_type=(Refused,), stop_after_attempt=20)
    answers = await chain.abatch(list(range(CALLS)), config={"max_concurrency": 100}, return_exceptions=True)
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
    result = await abl.process_prompts(strategy, [str(n) for n in range(CALLS)], config=config)
    return int(result.succeeded)


CASES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "cap 24": ({"cap": 24}, [24]),
    "cap 24, Retry-After 1 s": ({"cap": 24, "retry_after": 1.0}, [24]),
    "bucket 200/s, burst 40": ({"rate": 200.0}, [18, 20, 22]),
    "cap 24, later 12": ({"cap": 24, "later": 12}, [12, 24]),
    "cap 24, later 48": ({"cap": 24, "later": 48}, [24, 48]),
}


def measure(
    way: Callable[[Service], Awaitable[int]], case: dict[str, Any], seed: int
) -> tuple[float, float, int]:
    """Return seconds, the share of refused calls, and how many were answered."""

    async def main() -> tuple[float, float, int]:
        service = Service(random.Random(seed), **case)
        began = time.perf_counter()
        done = 0
        with anyio.move_on_after(PATIENCE):
            done = await way(service)
        seconds = time.perf_counter() - began
        return seconds, service.refused / (service.refused + service.answered), done or service.answered

    return anyio.run(main)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    ways: dict[str, Callable[[Service], Awaitable[int]]] = {"AdaptiveLimit()": ours(AdaptiveLimit())}
    ways["semaphore of 100, back-off"] = semaphore
    if arguments.peers:
        ways["LangChain abatch, 100"] = langchain
        ways["async-batch-llm, 100"] = async_batch_llm

    for name, (case, fixed) in CASES.items():
        best = min(
            median(measure(ours(limit), case, seed)[0] for seed in range(arguments.seeds)) for limit in fixed
        )
        print(f"{name}: best fixed limit {best:.2f} s", flush=True)
        for way, make in ways.items():
            rows = [measure(make, case, seed) for seed in range(arguments.seeds)]
            seconds, refused, done = (median(column) for column in zip(*rows, strict=True))
            lost = f", {CALLS - done:.0f} not done" if done < CALLS else ""
            print(
                f"  {way:28} {seconds:6.2f} s {seconds / best:5.2f}x  {refused:5.1%} refused{lost}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Limits per minute, in runs: given by the user, or said by the service."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from functools import partial
from typing import Any

import anyio
import pytest
from tests.support.patience import PATIENCE
from tests.support.run_methods import RunMethod, each_run_method, strategy_name

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._limits.rate import RateLimiter
from restaurant_llm_batch._limits.wait_queue import CallbackTicket
from restaurant_llm_batch._llm_response import RateLimitInfo, RateLimitStatus
from restaurant_llm_batch.steps import complete

DRIVERS = [Strategy.stage(1), Strategy.stage(2), Strategy.stage(4), Strategy.threaded()]
PER_MINUTE = 1200
PER_SECOND = PER_MINUTE / 60


class Model:
    """Notes when each call began."""

    def __init__(self, seconds: float = 0.005, used: tuple[int, int] = (40, 10)) -> None:
        self.created = time.monotonic()
        self.began: list[float] = []
        self.seconds = seconds
        self.reply = LLMResponse("done", prompt_tokens=used[0], completion_tokens=used[1])

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.began.append(time.monotonic())
        time.sleep(self.seconds)
        return self.reply

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        self.began.append(time.monotonic())
        await anyio.sleep(self.seconds)
        return self.reply

    def took(self) -> float:
        """Return the seconds until the last call began."""
        return max(self.began) - self.created


def ask(item: int) -> Any:
    return (yield from complete(LLMRequest("t", ({"role": "user", "content": "x"},), max_tokens=500))).text


def most_within(began: list[float], seconds: float) -> int:
    """Return the most calls that began within any span of so many seconds."""
    return max(sum(start <= one < start + seconds for one in began) for start in began)


@pytest.mark.parametrize("strategy", DRIVERS, ids=strategy_name)
@pytest.mark.sample(1)
def test_calls_begin_at_the_configured_rate(strategy: Strategy) -> None:
    model = Model()
    limits = Limits(llm=30, requests_per_minute=PER_MINUTE)
    report = BatchRunner(llm=model, strategy=strategy, limits=limits).run(ask, range(40))

    assert len(report.results) == 40
    ideal = (40 - PER_SECOND) / PER_SECOND  # a second's worth begins at once
    assert model.took() >= ideal * 0.9
    for number, began in enumerate(sorted(model.began), start=1):
        assert number <= PER_SECOND * (1 + began - model.created) + 1


@each_run_method
@pytest.mark.sample(2)
def test_every_run_method_keeps_the_rate(way: RunMethod) -> None:
    model = Model()
    limits = Limits(llm=30, requests_per_minute=PER_MINUTE)
    outcomes = way(BatchRunner(llm=model, strategy=Strategy.stage(4), limits=limits), ask, range(30))

    assert [outcome.ok for outcome in outcomes] == [True] * 30
    assert model.took() >= 0.9 * (30 - PER_SECOND) / PER_SECOND


def test_tokens_are_reserved_and_what_was_not_used_is_given_back() -> None:
    model = Model(0.0)
    limits = Limits(llm=1, tokens_per_minute=60_000)  # 1,000 a second; a call reserves over 500 and takes 50
    report = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=limits).run(ask, range(40))

    assert len(report.results) == 40
    assert model.took() > 0.9  # 2,000 tokens, of which the first 1,000 are there


def test_tokens_that_were_not_used_are_there_for_the_next_call() -> None:
    model = Model(0.0, used=(1, 0))
    limits = Limits(llm=1, tokens_per_minute=60_000)
    report = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=limits).run(ask, range(200))

    assert len(report.results) == 200  # 100 s if nothing were given back: more than a test may take


def test_calls_that_take_more_tokens_go_slower() -> None:
    model = Model(0.0)
    limits = Limits(llm=50, tokens_per_minute=60_000)
    BatchRunner(llm=model, strategy=Strategy.stage(4), limits=limits).run(ask, range(40))

    assert most_within(model.began[:2], 0.2) <= 2  # not all at once, though there are slots


def test_runs_of_one_runner_share_the_rate() -> None:
    model = Model()
    runner = BatchRunner(
        llm=model, strategy=Strategy.stage(4), limits=Limits(llm=30, requests_per_minute=PER_MINUTE)
    )
    threads = [threading.Thread(target=runner.run, args=(ask, range(12))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert len(model.began) == 36
    assert model.took() >= 0.9 * (36 - PER_SECOND) / PER_SECOND


@pytest.mark.anyio
async def test_a_run_that_is_cancelled_while_it_waits_holds_nobody_up() -> None:
    model = Model()
    limits = Limits(llm=100, requests_per_minute=PER_MINUTE)
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=limits)
    results: list[str] = []

    async def other() -> None:
        results.extend((await runner.arun(ask, range(5))).results)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(0.1):
                await runner.arun(ask, range(500))
            tasks.start_soon(other)

    assert results == ["done"] * 5
    assert len(model.began) <= PER_SECOND * (2 + model.took())
    rate = runner._config.limiters.rate
    assert (rate.waiting, rate._state_for_process()[1].watchers) == (0, [])


class Service:
    """Lets 600 calls begin in a minute, of which some are left, and says so or not."""

    def __init__(self, *, says: bool, left: float = 20.0) -> None:
        self.says = says
        self.answered: list[float] = []
        self.refused: list[int] = []
        self._left = left
        self._at = time.monotonic()

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        now = time.monotonic()
        self._left, self._at = min(600.0, self._left + (now - self._at) * 10), now
        fine = self._left >= 1
        self._left -= fine
        budget = RateLimitStatus(600, int(self._left), (600 - self._left) / 10)
        report = RateLimitInfo(budget) if self.says else None
        if not fine:
            self.refused.append(len(self.answered) + len(self.refused) + 1)
            raise errors.RateLimited("slow down", rate_limit=report)
        self.answered.append(now)
        await anyio.sleep(0.02)
        return LLMResponse("done", rate_limit=report)


def test_reported_limits_set_the_rate() -> None:
    service = Service(says=True)
    report = BatchRunner(llm=service, strategy=Strategy.stage(4), limits=Limits(llm=10)).run(ask, range(50))

    assert len(report.results) == 50
    assert len(service.refused) <= 12  # those that were out before anything was said
    assert all(number <= 32 for number in service.refused)


def test_a_limit_that_finds_itself_is_not_cut_by_a_minute_that_is_used_up() -> None:
    service = Service(says=True, left=3.0)
    limits = Limits(llm=AdaptiveLimit(start=8))
    report = BatchRunner(llm=service, strategy=Strategy.stage(4), limits=limits).run(ask, range(20))

    assert len(report.results) == 20

    assert service.refused
    assert {step.reason for step in report.stats.limit_history} <= {"start", "slow_start"}


def test_what_is_not_said_is_not_held_to() -> None:
    service = Service(says=False)
    runner = BatchRunner(
        llm=service,
        strategy=Strategy.stage(4),
        limits=Limits(llm=10),
        llm_retry=RetryPolicy(wait_initial=0.05, wait_max=0.1, max_rate_limit_attempts=200),
    )
    assert len(runner.run(ask, range(30)).results) == 30
    assert len(service.refused) > 12
    assert not runner._config.limiters.rate.active


@pytest.mark.timeout(40)  # less than the wait
def test_a_long_wait_that_was_learned_ends_when_the_service_says_more() -> None:
    """The first answer says that nothing is left for 50 seconds, the second that there is plenty."""

    class Service:
        calls = 0

        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            self.calls += 1
            number = self.calls
            await anyio.sleep(0.05 * number)
            budget = RateLimitStatus(60, 0, 50.0) if number == 1 else RateLimitStatus(60, 60, 0.0)
            return LLMResponse("done", rate_limit=RateLimitInfo(budget))

    service = Service()
    report = BatchRunner(llm=service, strategy=Strategy.stage(4), limits=Limits(llm=2)).run(ask, range(6))

    assert len(report.results) == 6


def test_a_lifted_ticket_goes_first_at_the_rate_too() -> None:
    gate = RateLimiter(600, None)
    admitted: list[str] = []
    for _ in range(10):
        gate.enqueue(CallbackTicket(bool), now=100.0)
    first = CallbackTicket(partial(admitted.append, "a"), 0, 0)
    second = CallbackTicket(partial(admitted.append, "b"), 0, 1)
    assert not gate.enqueue(first, now=100.0)
    assert not gate.enqueue(second, now=100.0)
    gate.reprioritise(second, -1, 0, now=100.0)
    due = gate.seconds_until_ready(now=100.0)
    assert due is not None
    assert 0 < due <= 0.11
    gate.admit_ready(now=100.0 + due)

    assert admitted == ["b"]


@pytest.mark.parametrize("field", ["requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True])
def test_a_limit_out_of_bounds_is_named(field: str, value: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"Limits.{field} must be"):
        Limits(**{field: value})


def test_the_next_in_line_is_notified_when_the_first_is_cancelled() -> None:
    gate = RateLimiter(None, 60_000)  # a thousand a second
    told: list[str] = []
    gate.watch(partial(told.append, "look"))
    assert gate.enqueue(CallbackTicket(bool, weight=1000), now=100.0)
    heavy, light = CallbackTicket(bool, weight=50_000), CallbackTicket(bool, weight=100)
    assert not gate.enqueue(heavy, now=100.0)
    assert not gate.enqueue(light, now=100.0)
    due = gate.seconds_until_ready(now=100.0)
    assert due is not None
    assert due > 0.9
    told.clear()
    gate.cancel(heavy, now=100.0)

    assert told == ["look"]
    due = gate.seconds_until_ready(now=100.0)
    assert due is not None
    assert due < 0.2


def test_tokens_that_were_learned_of_count_for_those_who_wait_for_a_slot() -> None:
    class Service:
        calls = 0

        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            self.calls += 1
            await anyio.sleep(0.01)
            return LLMResponse("done", rate_limit=RateLimitInfo(tokens=RateLimitStatus(6000, 0, 60.0)))

    service = Service()
    limits, deadlines = Limits(llm=2), TimeLimits(run=0.7)
    runner = BatchRunner(llm=service, strategy=Strategy.stage(4), limits=limits, time_limits=deadlines)
    runner.run(ask, range(50))

    assert service.calls <= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=strategy_name)
@pytest.mark.slow
def test_a_forked_child_keeps_the_rate_by_itself(strategy: Strategy) -> None:
    program = f"""
import os, signal
from restaurant_llm_batch import BatchRunner, Limits, Strategy
from restaurant_llm_batch.testing import FakeLLM
from tests.promises.test_rate_limits import ask
runner = BatchRunner(llm=FakeLLM(), strategy={strategy!r}, limits=Limits(llm=5, requests_per_minute=600))
assert len(runner.run(ask, range(12)).results) == 12
child = os.fork()
if not child:
    signal.alarm(20)
    done = len(runner.run(ask, range(14)).results) == 14
    os._exit(0 if done else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=PATIENCE)
    assert ended.returncode == 0

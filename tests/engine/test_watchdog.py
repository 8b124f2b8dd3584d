"""What is said when nothing happens."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.run_methods import STRATEGIES, strategies

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch.events import Event, PendingWait, Stalled
from restaurant_llm_batch.steps import Flow, complete, once, sleep

CONCURRENT = [strategy for strategy in STRATEGIES if strategy.is_concurrent]


class Model:
    """Answers when it is let, except what is refused for good while."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def complete(self, request: LLMRequest) -> LLMResponse:
        while not self.open.wait(0.01):
            pass
        return LLMResponse("done")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        while not self.open.is_set():
            if request.messages[0]["content"] == "refused":
                raise errors.RateLimited("not now", retry_after=0.7)
            await anyio.sleep(0.01)
        return LLMResponse("done")


class Watcher:
    """Keeps what it sees, and opens the model when something was said."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.seen: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.seen.append(event)
        if isinstance(event, Stalled):
            self.model.open.set()

    @property
    def stalls(self) -> list[Stalled]:
        return [event for event in self.seen if isinstance(event, Stalled)]


def ask(item: str) -> Flow[str]:
    return (yield from complete(LLMRequest("taste", ({"role": "user", "content": item},)))).text


def watched(model: Model, strategy: Strategy, **more: Any) -> tuple[BatchRunner, Watcher]:
    watcher = Watcher(model)
    more = {"limits": Limits(llm=1), "time_limits": TimeLimits(stall_warning_after=0.2), **more}
    return BatchRunner(llm=model, strategy=strategy, observers=[watcher], **more), watcher


@pytest.mark.parametrize("strategy", strategies(CONCURRENT))
def test_running_calls_and_queued_calls_are_reported(
    strategy: Strategy, caplog: pytest.LogCaptureFixture
) -> None:
    runner, watcher = watched(Model(), strategy)
    with caplog.at_level(logging.WARNING, "restaurant_llm_batch"):
        report = runner.run(ask, ["a", "b", "c"])

    assert len(report.results) == 3
    stall = watcher.stalls[0]
    assert stall.seconds >= 0.2
    waits = {(wait.item_id, wait.label, wait.reason, wait.attempt) for wait in stall.waits}
    assert ("a", "taste", "response", 1) in waits
    open_at_once = 3 if strategy.restaurant_async else 1
    assert len(waits) == open_at_once
    assert all(wait.reason == "concurrency" for wait in stall.waits if wait.item_id != "a")
    assert all(wait.seconds >= 0.2 for wait in stall.waits)
    assert "no call has started or ended for" in caplog.text
    assert "waiting for response: taste/'a' (" in caplog.text


def test_every_other_wait_reason_is_reported_too(tmp_path: Path) -> None:
    def flow(item: str) -> Flow[Any]:
        if item == "pause":
            yield from sleep(1.5)
        elif item.startswith("once"):
            yield from once("key", lambda: ask("led"))
        else:
            yield from ask(item.split(":")[0])
        return item

    model = Model()
    runner, watcher = watched(
        model,
        Strategy.stage(4),
        limits=Limits(llm=10),
        store=tmp_path / "run.db",
        llm_retry=RetryPolicy(wait_initial=0.7, wait_max=0.7),
    )
    items = ["pause", "once:1", "once:2", "refused", "same:1", "same:2"]
    assert runner.run(flow, items).results == items

    told = {wait.item_id: wait.reason for wait in watcher.stalls[0].waits}
    assert told == {
        "pause": "sleep",
        "once:1": "response",
        "once:2": "duplicate",
        "refused": "retry",
        "same:1": "response",
        "same:2": "duplicate",
    }
    seconds = [wait.seconds for wait in watcher.stalls[0].waits]
    assert seconds == sorted(seconds, reverse=True)


def test_a_limit_per_minute_is_named() -> None:
    model = Model()
    model.open.set()
    runner, watcher = watched(model, Strategy.stage(4), limits=Limits(llm=10, requests_per_minute=60))
    assert len(runner.run(ask, ["a", "b"]).results) == 2

    assert {wait.reason for wait in watcher.stalls[0].waits} == {"rate_limit"}


@pytest.mark.anyio
@pytest.mark.sample(1)
async def test_a_reader_that_takes_its_time_is_no_stall() -> None:
    model = Model()
    model.open.set()
    runner, watcher = watched(model, Strategy.stage(4), limits=Limits(llm=1, open_items=1))
    async with runner:
        async for _ in runner.astream(ask, ["a", "b"]):
            await anyio.sleep(0.6)

    assert watcher.stalls == []


def test_a_run_that_goes_on_is_no_stall() -> None:
    class Steady:
        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            await anyio.sleep(0.05)
            return LLMResponse("done")

    seen: list[Event] = []
    runner = BatchRunner(
        llm=Steady(),
        strategy=Strategy.stage(4),
        limits=Limits(llm=1),
        time_limits=TimeLimits(stall_warning_after=1.0),
        observers=[seen.append],
    )
    began = time.monotonic()
    assert len(runner.run(ask, [str(one) for one in range(30)]).results) == 30

    assert time.monotonic() - began > 1.0
    assert not [event for event in seen if isinstance(event, Stalled)]


def test_nothing_is_said_where_nothing_is_to_be() -> None:
    model = Model()
    runner, watcher = watched(model, Strategy.stage(4), time_limits=TimeLimits(stall_warning_after=None))
    timer = threading.Timer(0.5, model.open.set)
    timer.start()
    assert len(runner.run(ask, ["a"]).results) == 1

    assert watcher.stalls == []


def test_it_reads_well() -> None:
    waits = (
        PendingWait(17, "aspect_summary", "response", 61.2, 2),
        PendingWait(18, "aspect_summary", "response", 60.1, 1),
        PendingWait("x", "", "store", 12.0),
    )
    assert str(Stalled(3, 100.0, 60.4, waits)) == (
        "run 3: no call has started or ended for 60 s, waiting for response: aspect_summary/17 (61 s, attempt 2) "
        "and 1 other; store write: 'x' (12 s)"
    )

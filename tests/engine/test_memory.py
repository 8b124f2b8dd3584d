"""The peak memory of a run: its own, not that of the process's life; and calls for which the server had none left."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, RetryPolicy, Strategy, errors
from restaurant_llm_batch._engine import memory
from restaurant_llm_batch._engine.memory import MemoryWatch
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM


class System:
    """What the system says, in MiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, life: float | None, now: float | None) -> None:
        self.life, self.now = life, now
        monkeypatch.setattr(memory, "life_peak_mib", lambda: self.life)
        monkeypatch.setattr(memory, "resident_mib", lambda: self.now)


def test_a_peak_before_the_run_is_not_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, life=900.0, now=100.0)
    watch = MemoryWatch()
    system.now = 180.0
    watch.look()
    system.now = 120.0

    assert watch.peak() == 180.0


def test_a_higher_peak_than_ever_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, life=900.0, now=850.0)
    watch = MemoryWatch()
    system.life = 950.0

    assert watch.peak() == 950.0


@pytest.mark.parametrize(
    ("life", "now", "peak"), [(None, None, None), (900.0, None, 900.0), (None, 100.0, None)]
)
def test_a_system_that_says_less(
    monkeypatch: pytest.MonkeyPatch, life: float | None, now: float | None, peak: float | None
) -> None:
    System(monkeypatch, life, now)

    assert MemoryWatch().peak() == peak


def ask(item: int) -> Any:
    """Ask once."""
    return (yield from complete(LLMRequest("t", ({"role": "user", "content": str(item)},)))).text


def test_a_run_tells_its_peak() -> None:
    report = BatchRunner(llm=FakeLLM()).run(ask, range(3))

    assert report.stats.peak_memory_mib is None or 10 < report.stats.peak_memory_mib < 10_000


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (errors.TransientBackendError("CUDA out of memory. Tried to allocate 2.00 GiB"), 1),
        (errors.PermanentBackendError("torch.OutOfMemoryError: no room"), 1),
        (errors.TransientBackendError("worker killed: OOM"), 1),
        (errors.TransientBackendError("no room for the boom"), 0),
        (ValueError("out of memory"), 0),
    ],
)
def test_answers_that_say_out_of_memory_are_counted(error: Exception, counted: int) -> None:
    model = FakeLLM(fault=lambda request, attempt: error)
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), llm_retry=RetryPolicy(attempts=1))

    assert runner.run(ask, [1]).stats.out_of_memory == counted


class Value:
    """A result that can be counted."""


@pytest.fixture
def _uncollected() -> Iterator[None]:
    """Have no garbage collector, which would be left what refers to itself."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("stage", [1, 4])
def test_an_item_that_has_ended_is_not_kept_until_the_others_have(
    stage: int, is_stored: bool, tmp_path: Path
) -> None:
    """Not even one of a list, all of which is read before the run: it holds its result, and its replies."""
    alive: weakref.WeakSet[Value] = weakref.WeakSet()
    most = 0

    def work(item: int) -> Any:
        yield from ask(item)
        value = Value()
        alive.add(value)
        return value

    store = tmp_path / "store.db" if is_stored else None
    strategy, limits = Strategy.stage(stage), Limits(open_items=5)
    runner = BatchRunner(llm=FakeLLM(), strategy=strategy, limits=limits, store=store)
    for outcome in runner.stream(work, list(range(100))):
        assert outcome.ok
        del outcome
        most = max(most, len(alive))

    assert most <= 10

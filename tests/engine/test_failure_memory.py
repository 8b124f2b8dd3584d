"""A failure keeps its error and where that was raised, but nothing that its item had in hand."""

from __future__ import annotations

import gc
import threading
import traceback
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    BatchReport,
    BatchRunner,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    StopConditions,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch.steps import Flow, complete, gather, once, sleep

Fault = Callable[[LLMRequest], None]


class Item:
    """An item as large as one likes, of which the test knows whether it is still there."""

    def __init__(self, number: int) -> None:
        self.restaurant_id = number
        self.reviews = "맛있어요 " * 100


def refuse(request: LLMRequest) -> None:
    raise errors.PermanentBackendError("down", backend="model", status=403)


def refuse_with_cause(request: LLMRequest) -> None:
    held = request
    try:
        raise OSError(f"no route to {len(held.messages)}")
    except OSError as error:
        raise errors.PermanentBackendError("down") from error


def refuse_in_context(request: LLMRequest) -> None:
    try:
        refuse_with_cause(request)
    finally:
        raise errors.BackendError("and closing failed")


def refuse_in_group(request: LLMRequest) -> None:
    try:
        refuse_with_cause(request)
    except Exception as error:
        raise ExceptionGroup("two things", [error, ValueError("x")]) from None


def refuse_for_now(request: LLMRequest) -> None:
    raise errors.TransientBackendError("busy")


FAULTS = [refuse, refuse_with_cause, refuse_in_context, refuse_in_group, refuse_for_now]


class Down:
    """A model whose calls fail."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.fault(request)
        return LLMResponse("답")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return self.complete(request)


def ask(item: Item) -> Flow[str]:
    return (yield from complete(LLMRequest("ask", ({"role": "user", "content": item.reviews},)))).text


def ask_in_gather(item: Item) -> Flow[str]:
    first, _ = yield from gather(ask(item), ask(item))
    if isinstance(first, Exception):
        raise first
    return first


def ask_once(item: Item) -> Flow[str]:
    return (yield from once("key", lambda: ask(item)))


def stumble(item: Item) -> Flow[str]:
    yield from sleep(0)
    return {"reviews": item.reviews}["review"]


def sleep_too_long(item: Item) -> Flow[str]:
    yield from sleep(60)
    return item.reviews


def run(strategy: Strategy, task: Any, fault: Fault, items: int = 4) -> tuple[BatchReport[Any], list[Any]]:
    """Run the task for some items; return the report, and weak references to the items."""
    known: list[Any] = []
    others = set(threading.enumerate())  # of other tests

    def made() -> Iterator[Item]:
        for number in range(items):
            item = Item(number)
            known.append(weakref.ref(item))
            yield item
            del item

    runner = BatchRunner(
        llm=Down(fault),
        strategy=strategy,
        llm_retry=RetryPolicy(attempts=2, wait_initial=0.001, wait_max=0.001),
        time_limits=TimeLimits(item=0.02 if task is sleep_too_long else 600),
        stop=StopConditions(same_error_in_a_row=None),
    )
    report = runner.run(task, made())
    for thread in threading.enumerate():
        if thread.name.startswith("restaurant-llm-batch") and thread not in others:
            thread.join()  # it ends by itself, a moment after the run
    return report, known


@each_strategy
@pytest.mark.parametrize("task", [ask, ask_in_gather, ask_once, stumble, sleep_too_long])
@pytest.mark.sample(1)
def test_nothing_of_an_item_is_left_when_it_has_failed(strategy: Strategy, task: Any) -> None:
    for fault in FAULTS if task is ask else FAULTS[:2]:
        report, known = run(strategy, task, fault)
        gc.collect()

        assert len(report.failures) == 4
        assert [item() for item in known if item() is not None] == []


@each_strategy
def test_a_failure_still_says_where_it_was_raised(strategy: Strategy) -> None:
    report, _ = run(strategy, ask, refuse_with_cause)

    for failure in report.failures:
        text = "".join(traceback.format_exception(failure.error))
        assert 'raise OSError(f"no route to {len(held.messages)}")' in text
        assert "in refuse_with_cause" in text
        assert "in ask\n" in text
        assert isinstance(failure.error.__cause__, OSError)
        for frame, _ in traceback.walk_tb(failure.error.__traceback__):
            assert frame.f_locals == {}
            assert frame.f_back is None


def test_failures_at_the_same_place_share_their_traceback() -> None:
    report, _ = run(Strategy.stage(1), ask, refuse)

    assert len({id(failure.error.__traceback__) for failure in report.failures}) == 1


def test_one_error_that_a_backend_raises_for_every_item_does_not_grow() -> None:
    error = errors.PermanentBackendError("down")

    def refuse_alike(request: LLMRequest) -> None:
        raise error

    run(Strategy.stage(1), ask, refuse_alike)
    length = len(list(traceback.walk_tb(error.__traceback__)))
    run(Strategy.stage(1), ask, refuse_alike, items=50)

    assert len(list(traceback.walk_tb(error.__traceback__))) == length


def test_an_item_that_cannot_be_read_is_not_kept_either() -> None:
    class Row:
        """Has no id."""

    rows = [Row() for _ in range(3)]
    known = [weakref.ref(row) for row in rows]
    report = BatchRunner(llm=Down(refuse), strategy=Strategy.threaded()).run(ask, iter(rows))
    rows.clear()
    gc.collect()

    assert [failure.stage for failure in report.failures] == ["input"] * 3
    assert [row() for row in known] == [None] * 3


@each_strategy
@pytest.mark.sample(1)
def test_a_failure_takes_less_than_a_kilobyte(strategy: Strategy) -> None:
    run(strategy, ask, refuse_with_cause)
    tracemalloc.start()
    try:
        report, _ = run(strategy, ask, refuse_with_cause, items=300)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert len(report.failures) == 300
    assert taken / 300 < 1000

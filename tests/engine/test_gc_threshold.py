"""The garbage collector's threshold is raised while a runner is in use, and put back afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, Strategy, errors
from restaurant_llm_batch.steps import complete


@pytest.fixture(autouse=True)
def threshold() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield (700, 10, 10)
    gc.set_threshold(*before)


class Looks:
    """A model that notes the threshold when it is asked."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.seen.add(gc.get_threshold()[0])
        return LLMResponse("yes")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return self.complete(request)


def ask(item: int) -> Any:
    return (yield from complete(LLMRequest("t", ()))).text


@each_strategy
def test_it_is_raised_for_a_run_and_put_back(strategy: Strategy, threshold: tuple[int, int, int]) -> None:
    model = Looks()
    BatchRunner(llm=model, strategy=strategy, gc_threshold=50_000).run(ask, range(3))

    assert model.seen == {50_000}
    assert gc.get_threshold() == threshold


def test_it_is_left_alone_unless_it_is_asked_for(threshold: tuple[int, int, int]) -> None:
    model = Looks()
    BatchRunner(llm=model).run(ask, range(3))
    assert model.seen == {threshold[0]}


def test_a_higher_one_and_a_collector_that_is_off_are_left_alone() -> None:
    model = Looks()
    runner = BatchRunner(llm=model, gc_threshold=50_000)
    for found in (100_000, 0):
        gc.set_threshold(found, 10, 10)
        runner.run(ask, range(3))
        assert gc.get_threshold() == (found, 10, 10)
    assert model.seen == {100_000, 0}


def test_what_the_caller_sets_meanwhile_stays() -> None:
    with BatchRunner(llm=Looks(), gc_threshold=50_000):
        gc.set_threshold(1234, 5, 5)
    assert gc.get_threshold() == (1234, 5, 5)


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_of_two_runners_the_last_puts_it_back(
    first_ends_first: bool, threshold: tuple[int, int, int]
) -> None:
    first, second = (BatchRunner(llm=Looks(), gc_threshold=50_000) for _ in range(2))
    first.__enter__()
    second.__enter__()
    for runner in (first, second) if first_ends_first else (second, first):
        runner.__exit__(None, None, None)
    assert gc.get_threshold() == threshold


def test_it_is_put_back_after_a_failure(threshold: tuple[int, int, int]) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        BatchRunner(llm=Looks(), gc_threshold=50_000).run(ask, items())
    assert gc.get_threshold() == threshold


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "50000", 2**31])
def test_a_threshold_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="gc_threshold must be a whole number"):
        BatchRunner(llm=Looks(), gc_threshold=wrong)

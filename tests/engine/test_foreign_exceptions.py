"""What a library or an extension module raises ends its item, in every stage alike, and never the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, SearchQuery, Strategy, errors
from restaurant_llm_batch._foreign import own_exception
from restaurant_llm_batch.models import Hit
from restaurant_llm_batch.steps import Flow, complete, gather, once, search

PanicException = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})


class Signal(BaseException):
    """Like those that C extensions define."""


PANICS: dict[str, Callable[[], BaseException]] = {
    "a panic": lambda: PanicException("index out of bounds: the len is 3"),
    "another one": lambda: Signal("native code"),
    "a group": lambda: BaseExceptionGroup(
        "tasks", [PanicException("a"), BaseExceptionGroup("b", [Signal()])]
    ),
    "a panic without words": lambda: PanicException(),
}
STRATEGIES = [*(Strategy.stage(n) for n in (1, 2, 3, 4)), Strategy.threaded()]


class Backend:
    fingerprint = "x"

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self.make = make
        self.calls = 0

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.calls += 1
        if request.messages[0]["content"] == "3":
            raise self.make()
        return LLMResponse("ok")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return self.complete(request)

    def search(self, query: SearchQuery) -> Sequence[Hit]:
        if query.restaurant_id == 3:
            raise self.make()
        return []

    async def asearch(self, query: SearchQuery) -> Sequence[Hit]:
        return self.search(query)


def ask(item: int) -> Flow[Any]:
    return complete(LLMRequest("t", ({"role": "user", "content": str(item)},), max_tokens=5))


def asking(item: int) -> Flow[Any]:
    return (yield from ask(item)).text


def searching(item: int) -> Flow[str]:
    yield from search(SearchQuery(item, "맛"))
    return "ok"


def sharing(item: int) -> Flow[Any]:
    return (yield from once(item, lambda: ask(item))).text


def run(strategy: Strategy, task: Any, backend: Backend) -> Any:
    with BatchRunner(llm=backend, search=backend, strategy=strategy) as runner:
        return runner.run(task, range(6))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("make", PANICS.values(), ids=PANICS)
@pytest.mark.parametrize("task", [asking, searching, sharing])
@pytest.mark.sample(6)
def test_a_panic_of_a_backend_fails_its_item_only(
    task: Any, make: Callable[[], BaseException], strategy: Strategy
) -> None:
    backend = Backend(make)
    report = run(strategy, task, backend)
    (failure,) = report.failures
    assert failure.index == 3
    assert isinstance(failure.error, errors.PermanentBackendError)
    assert "extension module" in str(failure.error)
    assert len(report.results) == 5
    assert backend.calls <= 6  # not made again


@pytest.mark.sample(6)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("make", PANICS.values(), ids=PANICS)
def test_a_panic_in_a_task_fails_its_item_only(make: Callable[[], BaseException], strategy: Strategy) -> None:
    def task(item: int) -> Flow[Any]:
        reply = yield from ask(item + 10)
        if item == 3:
            raise make()
        return reply.text

    report = run(strategy, task, Backend(make))
    assert [failure.index for failure in report.failures] == [3]
    assert isinstance(report.failures[0].error, errors.BatchError)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_panic_in_one_of_several_flows_is_that_flows_result(strategy: Strategy) -> None:
    def task(item: int) -> Flow[list[bool]]:
        found = yield from gather(ask(item), ask(item + 10))
        return [isinstance(one, errors.PermanentBackendError) for one in found]

    report = run(strategy, task, Backend(PANICS["a panic"]))
    assert report.results == [[item == 3, False] for item in range(6)]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_means_to_end_the_process_ends_the_run(end: type[BaseException], strategy: Strategy) -> None:
    with pytest.raises(end):
        run(strategy, asking, Backend(end))


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        KeyboardInterrupt(),
        SystemExit(1),
        GeneratorExit(),
        type("CancelledError", (BaseException,), {})(),
        type("Cancelled", (BaseException,), {"__module__": "trio"})(),
        BaseExceptionGroup("tasks", [Signal(), KeyboardInterrupt()]),
        BaseExceptionGroup("tasks", [BaseExceptionGroup("b", [type("Cancelled", (BaseException,), {})()])]),
    ],
    ids=repr,
)
def test_what_has_to_pass_is_no_panic(error: BaseException) -> None:
    assert own_exception(error, "the backend") is None


def test_a_panic_that_cannot_be_shown_is_named_by_its_type() -> None:
    class Deep(BaseException):
        def __str__(self) -> str:
            raise RecursionError

    own = own_exception(Deep(), "the backend")
    assert str(own) == "the backend failed inside an extension module: Deep"
    assert len(str(own_exception(Signal("x" * 10**6), "the backend"))) < 500

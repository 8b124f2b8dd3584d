"""Equal errors of failures are kept once, and no failure shows anything of another one's item."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    BatchReport,
    BatchRunner,
    Failure,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    StopConditions,
    Strategy,
    errors,
)
from restaurant_llm_batch._engine.kept_errors import MAX_KEPT, KeptErrors
from restaurant_llm_batch.events import ItemEnded
from restaurant_llm_batch.steps import Flow, complete

Make = Callable[[int], Exception]


class Down:
    """A model whose calls fail with an error made for the item."""

    def __init__(self, make: Make) -> None:
        self.make = make

    def complete(self, request: LLMRequest) -> LLMResponse:
        raise self.make(request.inputs["item"])

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return self.complete(request)


def ask(item: int) -> Flow[str]:
    return (yield from complete(LLMRequest("t", (), inputs={"item": item}))).text


def run(make: Make, items: int, strategy: Strategy = Strategy.stage(1), **more: Any) -> BatchReport[str]:
    runner = BatchRunner(
        llm=Down(make),
        strategy=strategy,
        limits=Limits(open_items=20),
        llm_retry=RetryPolicy(attempts=1),
        stop=StopConditions(same_error_in_a_row=None),
        **more,
    )
    return runner.run(ask, iter(range(1000, 1000 + items)))


def noted(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


def caused(error: Exception, cause: BaseException, *, context: bool = False) -> Exception:
    if context:
        error.__context__ = cause
    else:
        error.__cause__ = cause
    return error


def down(item: int = 0, **more: Any) -> Exception:
    return errors.PermanentBackendError("down", backend="vllm", status=403, **more)


def attributed(error: Exception, **attributes: Any) -> Exception:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


ALIKE: dict[str, Make] = {
    "ours": down,
    "one that may pass": lambda item: errors.TransientBackendError("no response", retry_after=1.5),
    "builtin": lambda item: ValueError("x", 7, (1, "y")),
    "of the system": lambda item: ConnectionRefusedError(111, "refused", "host"),
    "caused": lambda item: caused(down(), OSError(2, "no such file")),
    "in a context": lambda item: caused(KeyError("x"), ValueError("y"), context=True),
    "noted": lambda item: noted(ValueError("x"), "seen in the test"),
    "attributes": lambda item: attributed(ValueError("x"), code=3, tags=["a", None], extra={"b": 1.5}),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_equal_errors_are_one(kind: str) -> None:
    report = run(ALIKE[kind], 40)
    assert len(report.failures) == 40
    assert len({id(failure.error) for failure in report.failures}) == 1
    assert [failure.item_id for failure in report.failures] == list(range(1000, 1040))


DIFFERENT: dict[str, Make] = {
    "arguments": lambda item: ValueError(f"item {item}"),
    "types of arguments": lambda item: ValueError((1, 1.0, True)[item % 3]),
    "attributes": lambda item: down(code=str(item)),
    "notes": lambda item: noted(ValueError("x"), f"restaurant {item}"),
    "causes": lambda item: caused(down(), OSError(2, f"no file {item}")),
    "contexts": lambda item: caused(down(), OSError(2, f"no file {item}"), context=True),
    "what the type keeps elsewhere": lambda item: OSError(2, "no such file", f"{item}.txt"),
    "an import's name": lambda item: ImportError("no module", name=f"m{item}"),
    "identities": lambda item: attributed(ValueError("x"), owner=object()),
    "what may change": lambda item: attributed(ValueError("x"), seen={item}),
    "groups": lambda item: ExceptionGroup("two", [ValueError(item)]),
    "slots": lambda item: Slotted(item),
}


class Slotted(Exception):
    """Keeps the item in a slot."""

    __slots__ = ("item",)

    def __init__(self, item: int) -> None:
        super().__init__("refused")
        self.item = item


@pytest.mark.parametrize("kind", DIFFERENT)
def test_errors_that_differ_in_anything_that_shows_are_kept_apart(kind: str) -> None:
    made: list[Exception] = []

    def make(item: int) -> Exception:
        made.append(DIFFERENT[kind](item))
        return made[-1]

    report = run(make, 6)
    kept = [failure.error for failure in report.failures]
    if kind == "types of arguments":
        assert [type(error.args[0]) for error in kept] == [float, bool, int] * 2
        return
    assert kept == made  # the very errors, each with its own item


def test_errors_of_two_places_have_their_own_tracebacks() -> None:
    def here() -> None:
        raise ValueError("x")

    def there() -> None:
        raise ValueError("x")

    def flow(item: int) -> Flow[None]:
        yield from ()
        (here, there)[item % 2]()

    report = BatchRunner(llm=Down(down)).run(flow, range(6))
    by_place = {id(failure.error): failure for failure in report.failures}
    assert len(by_place) == 2
    assert [str(failure).count(" in here") for failure in report.failures] == [1, 0] * 3
    assert [str(failure).count(" in there") for failure in report.failures] == [0, 1] * 3


def test_an_error_that_an_observer_has_changed_is_shared_no_more() -> None:
    def note_first(event: Any) -> None:
        if isinstance(event, ItemEnded) and event.outcome.item_id in (1000, 1003):
            event.outcome.error.add_note(f"restaurant {event.outcome.item_id}")

    report = run(lambda item: ValueError("x"), 6, observers=[note_first])
    notes = [getattr(failure.error, "__notes__", []) for failure in report.failures]
    assert notes[0] == ["restaurant 1000"]
    assert notes[4] == notes[5] == []
    assert all("restaurant 1000" not in found for found in notes[1:])


def test_raise_for_failures_names_each_item_on_an_error_of_its_own() -> None:
    report = run(lambda item: noted(caused(down(), OSError("x")), "seen"), 4)
    for _ in range(2):
        with pytest.raises(ExceptionGroup, match="4 of 4 items failed") as caught:
            report.raise_for_failures()
        for item, error in zip(range(1000, 1004), caught.value.exceptions, strict=True):
            assert [note for note in error.__notes__ if note != "seen"] == [
                f"{item} failed at llm: PermanentBackendError: down"
            ]
            assert isinstance(error.__cause__, OSError)
            assert error.__traceback__ is not None
            assert vars(error)["status"] == 403
    assert report.failures[0].error.__notes__ == ["seen"]


def test_an_error_that_cannot_be_copied_is_named_all_the_same() -> None:
    class Odd(Exception):
        def __init__(self, *, why: str) -> None:
            super().__init__(why)

    report = run(lambda item: Odd(why="odd"), 2)
    with pytest.raises(ExceptionGroup) as caught:
        report.raise_for_failures()
    assert [type(error) for error in caught.value.exceptions] == [Odd, Odd]
    assert len(caught.value.exceptions[0].__notes__) == 2


def test_suppression_of_a_context_survives() -> None:
    def make(item: int) -> Exception:
        error = caused(ValueError("x"), OSError("y"))
        error.__suppress_context__ = bool(item % 2)
        return error

    kept = KeptErrors()
    found = [kept.keep(make(item)) for item in range(4)]
    assert [error.__suppress_context__ for error in found] == [False, True] * 2
    assert found[0] is found[2]
    assert found[1] is found[3]


def test_what_is_remembered_is_bounded_and_a_circle_of_causes_ends() -> None:
    kept = KeptErrors()
    for number in range(3 * MAX_KEPT):
        kept.keep(ValueError(number))
    assert len(kept._kept) <= MAX_KEPT
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert kept.keep(first) is first


@each_strategy
@pytest.mark.sample(1)
def test_a_million_equal_failures_take_less_than_200_megabytes(strategy: Strategy) -> None:
    def taken(items: int) -> int:
        before = tracemalloc.get_traced_memory()[0]
        report = run(down, items, strategy)
        gc.collect()
        found = tracemalloc.get_traced_memory()[0] - before
        assert all(isinstance(outcome, Failure) for outcome in report)
        return found

    run(down, 50, strategy)
    tracemalloc.start()
    try:
        small, large = taken(1_000), taken(5_000)  # of hundreds, what lists allot ahead would count
    finally:
        tracemalloc.stop()
    assert (large - small) / 4_000 * 1_000_000 < 200e6

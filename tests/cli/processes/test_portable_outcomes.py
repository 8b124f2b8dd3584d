"""What goes from one process to another: results and errors of any class arrive, as they are or as they look."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from restaurant_llm_batch import Failure, Success
from restaurant_llm_batch.cli._processes.portable import (
    pack_outcome,
    portable_error,
    stand_in,
    unpack_outcome,
)
from restaurant_llm_batch.errors import BatchError, OutputInvalid, RateLimited
from restaurant_llm_batch.outcomes import Outcome


def sent(outcome: Outcome[Any], index: int = 5) -> Any:
    return unpack_outcome(pack_outcome(outcome, index), outcome.item_id, index)


class NeedsTwo(Exception):
    """An exception that cannot be made again from what it keeps."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} {number}")


class Refuses(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("no")


class CannotBeRead:
    """A value that is pickled, and breaks what reads it."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.mark.parametrize("value", [{"a": 1}, "한국어", None, [1.5], (1, "x")])
def test_a_result_arrives_as_it_is_at_its_place_in_the_whole_input(value: Any) -> None:
    assert sent(Success("x", value, 0)) == Success("x", value, 5)


def test_a_result_of_a_class_within_a_function_arrives_as_json() -> None:
    @dataclass
    class Local:
        name: str

    assert sent(Success(1, Local("a"))).value == {"name": "a"}
    assert sent(Success(1, {"f": Local("b"), "n": 2})).value == {"f": {"name": "b"}, "n": 2}


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("slow", retry_after=2.0, status=429),
        OutputInvalid("no JSON"),
        ValueError("x", 3),
        OSError(2, "gone"),
    ],
)
def test_an_error_arrives_with_its_attributes(error: Exception) -> None:
    arrived = sent(Failure("x", error, "llm", 3, 0))
    assert (type(arrived.error), str(arrived.error)) == (type(error), str(error))
    assert vars(arrived.error) == vars(error)
    assert (arrived.stage, arrived.attempts, arrived.index) == ("llm", 3, 5)


@pytest.mark.parametrize("error", [NeedsTwo("x", 1), Refuses("x 1")])
def test_an_error_that_cannot_be_sent_arrives_with_its_name_and_message(error: Exception) -> None:
    arrived = sent(Failure("x", error, "task")).error
    assert (type(arrived).__name__, str(arrived)) == (type(error).__name__, "x 1")
    again = pickle.loads(pickle.dumps(portable_error(arrived)))
    assert (type(again).__name__, str(again)) == (type(error).__name__, "x 1")


def test_a_message_that_cannot_be_shown_harms_nothing() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    arrived = portable_error(Mute())
    assert type(arrived).__name__ == "Mute"
    assert "cannot be shown" in str(arrived)


def test_a_result_that_cannot_be_read_here_is_a_failure_of_its_item() -> None:
    failure = sent(Success("x", CannotBeRead()))
    assert (failure.ok, failure.item_id, failure.index, failure.stage) == (False, "x", 5, "task")
    assert isinstance(failure.error, BatchError)
    assert "no number" in str(failure.error)


def test_what_an_item_took_arrives_with_it() -> None:
    from restaurant_llm_batch._spent import Spent

    spent = Spent(seconds=1.5, calls=2, cost=0.25)
    assert sent(Success("x", 1, 0, spent)).spent == spent


def test_stand_ins_of_one_name_are_alike_in_a_table() -> None:
    from restaurant_llm_batch._text import error_text

    assert error_text(stand_in("Odd", "it broke")) == "Odd: it broke"

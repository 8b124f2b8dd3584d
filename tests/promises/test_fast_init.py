"""Frozen dataclasses with a fast `__init__`: they differ in nothing else."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any, get_type_hints

import pytest

from restaurant_llm_batch import Hit, LLMRequest, LLMResponse, Review, SearchQuery
from restaurant_llm_batch._fast_init import fast_init
from restaurant_llm_batch.steps import Complete


@dataclass(frozen=True, slots=True)
class Plain:
    """What `Fast` is to be like."""

    first: int
    second: dict[str, int] = field(default_factory=dict)
    third: str = "three"
    unseen: int = field(default=4, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError(self.third)


@fast_init
@dataclass(frozen=True, slots=True)
class Fast:
    """What `Plain` is."""

    first: int
    second: dict[str, int] = field(default_factory=dict)
    third: str = "three"
    unseen: int = field(default=4, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError(self.third)


class Sub(Fast):
    """A user's own, with a dict."""


@dataclass(frozen=True, slots=True)
class Longer(Fast):
    """A dataclass with a field more."""

    fifth: int = 5


ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, {"a": 2}), {}),
    ((), {"first": 1, "third": "x"}),
    ((1, {}, "y", 7), {}),
    ((), {}),
    ((1, 2, 3, 4, 5), {}),
    ((1,), {"other": 1}),
    ((-1,), {"third": "wrong"}),
]


def values(of: Any) -> list[object]:
    return [getattr(of, each.name) for each in fields(of)]


def made(kind: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> object:
    """Return the fields of what is made, or what is raised."""
    try:
        return values(kind(*arguments, **named))
    except Exception as error:
        return type(error), str(error).replace("Plain", "Fast")


@pytest.mark.parametrize(("arguments", "named"), ARGUMENTS)
def test_the_same_arguments_make_the_same_object_or_raise_the_same(
    arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    assert made(Fast, arguments, named) == made(Plain, arguments, named)
    assert made(Sub, arguments, named) == made(Plain, arguments, named)


def test_the_object_is_frozen_and_of_the_class() -> None:
    one = Fast(1)
    assert type(one) is Fast
    with pytest.raises(FrozenInstanceError):
        one.first = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del one.first
    assert Fast(1).second is not one.second


def test_subclasses_keep_their_own_ways() -> None:
    sub, longer = Sub(1, third="x"), Longer(1, fifth=6)
    assert (type(sub), sub.third) == (Sub, "x")
    assert (type(longer), longer.fifth, longer.third) == (Longer, 6, "three")
    with pytest.raises(FrozenInstanceError):
        longer.first = 2  # type: ignore[misc]


def test_what_reads_a_class_sees_no_difference() -> None:
    assert inspect.signature(Fast) == inspect.signature(Plain)
    assert Fast.__init__.__qualname__ == "Fast.__init__"
    assert Fast.__match_args__ == Plain.__match_args__
    assert get_type_hints(Fast.__init__) == get_type_hints(Plain.__init__)
    assert inspect.signature(Fast, eval_str=True) == inspect.signature(Plain, eval_str=True)
    assert get_type_hints(Hit.__init__)["content"] is str


ONES = [
    Fast(1, {"a": 1}, "z", 9),
    LLMRequest("t", ({"role": "user", "content": "x"},)),
    LLMResponse("x", prompt_tokens=1),
    Complete(LLMRequest("t", ())),
    Hit(1, "x", 0.5, 2),
    SearchQuery(1, "x"),
    Review("x", id=1),
]


@pytest.mark.parametrize("one", ONES, ids=lambda one: type(one).__name__)
def test_copies_are_equal(one: Any) -> None:
    for same in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), replace(one)):
        assert (type(same), same, repr(same)) == (type(one), one, repr(one))
        assert values(same) == values(one)


def test_a_class_for_which_it_is_wrong_is_refused() -> None:
    @dataclass(frozen=True)
    class Slotless:
        first: int

    @dataclass(frozen=True, slots=True)
    class Computed:
        first: int = field(init=False, default=1)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Named:
        first: int

    for wrong in (Slotless, Computed, Named):
        with pytest.raises(TypeError, match="must have slots"):
            fast_init(wrong)

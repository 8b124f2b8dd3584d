"""Handing out items to processes: every item ends once, whoever dies, and no process hoards them."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch.cli._processes.handout import HandOut


def all_of(hand_out: HandOut, process: int) -> list[int]:
    """Take and end items until there are no more; return them."""
    ended: list[int] = []
    while taken := hand_out.take(process):
        for item in taken:
            assert hand_out.ended(process, item)
        ended += taken
    return ended


def test_one_process_gets_all_items_in_order() -> None:
    hand_out = HandOut([3, 1, 2], 1, most=2, least=1)
    assert all_of(hand_out, 1) == [3, 1, 2]
    assert hand_out.done


def test_a_process_holds_no_more_than_its_share_and_gets_more_as_items_end() -> None:
    hand_out = HandOut(range(100), 2, most=8, least=2)
    first = hand_out.take(1)
    assert first == [*range(8)]
    assert hand_out.take(1) == []
    hand_out.ended(1, 0)
    assert hand_out.take(1) == []  # not a message for each item
    hand_out.ended(1, 1)
    assert hand_out.take(1) == [8, 9]


def test_shares_shrink_towards_the_end_so_that_no_process_ends_alone() -> None:
    hand_out = HandOut(range(24), 3, most=8, least=1)
    assert [len(hand_out.take(process)) for process in (1, 2, 3)] == [4, 4, 3]
    for item in hand_out.held(2):
        hand_out.ended(2, item)
    assert len(hand_out.take(2)) == 3
    hand_out = HandOut(range(4), 3, most=8, least=1)
    assert [hand_out.take(process) for process in (1, 2, 3)] == [[0], [1], [2]]


def test_what_keeps_a_process_busy_is_handed_out_to_the_end() -> None:
    hand_out = HandOut(range(9), 2, most=20, least=4)
    assert len(hand_out.take(1)) == 4
    assert len(hand_out.take(2)) == 4
    hand_out.ended(1, 0)
    assert hand_out.take(1) == [8]


def test_items_of_a_process_that_dies_are_run_again_one_by_one() -> None:
    hand_out = HandOut(range(6), 1, most=3, least=3)
    assert hand_out.take(1) == [0, 1, 2]
    hand_out.ended(1, 1)
    assert hand_out.lost(1) == []
    assert hand_out.left == 5
    assert hand_out.take(2) == [0]
    assert hand_out.take(2) == []
    hand_out.ended(2, 0)
    assert hand_out.take(2) == [2]
    hand_out.ended(2, 2)
    assert hand_out.take(2) == [3, 4, 5]


def test_the_item_that_its_process_dies_with_twice_is_given_up_and_no_other() -> None:
    hand_out = HandOut(range(4), 1, most=4, least=4)
    hand_out.take(1)
    hand_out.lost(1)
    assert hand_out.take(2) == [0]
    hand_out.ended(2, 0)
    assert hand_out.take(2) == [1]
    assert hand_out.lost(2) == [1]
    assert all_of(hand_out, 3) == [2, 3]
    assert hand_out.done


def test_others_help_with_suspects_when_nothing_else_is_left() -> None:
    hand_out = HandOut(range(5), 2, most=2, least=2)
    assert (hand_out.take(1), hand_out.take(2)) == ([0, 1], [2, 3])
    hand_out.lost(1)
    hand_out.ended(2, 2)
    assert hand_out.take(2) == [4]  # it holds something, so no suspect
    assert hand_out.take(3) == [0]
    hand_out.ended(2, 3)
    hand_out.ended(2, 4)
    assert hand_out.take(2) == [1]


def test_a_process_that_dies_between_two_items_is_no_reason_to_suspect_any() -> None:
    hand_out = HandOut(range(2), 1, most=1, least=1)
    hand_out.take(1)
    hand_out.ended(1, 0)
    assert hand_out.lost(1) == []
    assert hand_out.take(2) == [1]
    assert hand_out.lost(2) == []  # the first time
    assert hand_out.take(3) == [1]
    assert hand_out.lost(3) == [1]


def test_an_outcome_that_comes_twice_counts_once() -> None:
    hand_out = HandOut([7], 1, most=1, least=1)
    hand_out.take(1)
    assert not hand_out.ended(2, 7)
    assert hand_out.ended(1, 7)
    assert not hand_out.ended(1, 7)
    assert not hand_out.ended(1, 8)


@given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 20), st.integers(1, 8), st.integers(0, 10_000))
def test_every_item_ends_once_or_is_given_up_after_two_deaths(
    total: int, processes: int, most: int, least: int, seed: int
) -> None:
    random = Random(seed)
    deadly = {item for item in range(total) if random.random() < 0.1}
    hand_out = HandOut(range(total), processes, most, least)
    alive, born = [*range(1, processes + 1)], processes
    ended: list[int] = []
    given_up: list[int] = []
    deaths: dict[int, int] = {}
    for _ in range(10_000):
        if hand_out.done:
            break
        process = random.choice(alive)
        hand_out.take(process)
        held = hand_out.held(process)
        assert len(held) <= max(most, 1)
        if not held:
            continue
        item = random.choice(held)
        if item in deadly:
            deaths[item] = deaths.get(item, 0) + 1
            given_up += hand_out.lost(process)
            born += 1
            alive[alive.index(process)] = born
        else:
            assert hand_out.ended(process, item)
            ended.append(item)
    assert hand_out.done
    assert sorted(ended + given_up) == [*range(total)]
    assert set(given_up) == deadly
    assert all(1 <= number <= 2 for number in deaths.values())


@pytest.mark.parametrize(("most", "least"), [(0, 0), (1, 9), (-3, 2)])
def test_shares_that_make_no_sense_still_hand_out_everything(most: int, least: int) -> None:
    assert all_of(HandOut(range(5), 3, most, least), 1) == [*range(5)]

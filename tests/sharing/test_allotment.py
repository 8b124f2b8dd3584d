"""How slots are divided: in proportion, within the limit, and nobody is left without for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch.sharing._allotment import TURN_SECONDS, Claim, allot, in_proportion

claims = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=2),
    st.builds(
        Claim,
        lent=st.integers(0, 12),
        demand=st.integers(0, 300),
        need=st.integers(1, 10),
        fed_at=st.floats(0, 100),
        began_at=st.floats(0, 100),
    ),
    max_size=12,
)


@given(limit=st.integers(1, 64), claims=claims)
def test_shares_never_exceed_the_limit_and_only_go_where_calls_are(
    limit: int, claims: dict[str, Claim]
) -> None:
    shares = allot(limit, claims, 100.0)

    assert sum(shares.values()) <= limit
    assert set(shares) == {name for name, claim in claims.items() if claim.demand}
    assert all(share >= 0 for share in shares.values())


@given(limit=st.integers(1, 64), claims=claims)
def test_what_is_wanted_is_given_if_there_is_enough(limit: int, claims: dict[str, Claim]) -> None:
    shares = allot(limit, claims, 100.0)
    if sum(claim.demand for claim in claims.values()) <= limit:
        assert all(shares[name] >= claims[name].demand for name in shares)


@given(limit=st.integers(1, 64), demands=st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_each_gets_one_if_there_are_as_many_slots_and_none_is_left_over(
    limit: int, demands: list[int]
) -> None:
    shares = allot(limit, {str(number): Claim(demand=demand) for number, demand in enumerate(demands)}, 0.0)

    if len(demands) <= limit:
        assert min(shares.values()) >= 1
    if sum(demands) >= limit:
        assert sum(shares.values()) == limit


@pytest.mark.parametrize(
    ("limit", "demands", "shares"),
    [
        (8, [100, 100], [4, 4]),
        (8, [300, 100], [6, 2]),
        (8, [100, 1], [7, 1]),
        (8, [2, 1], [3, 2]),  # two of the five spare slots are lent ahead
        (1, [5], [1]),
        (30, [10, 20, 30], [5, 10, 15]),
        (8, [0, 9], [8]),
    ],
)
def test_shares_are_in_proportion_to_what_waits(limit: int, demands: list[int], shares: list[int]) -> None:
    found = allot(limit, {str(number): Claim(demand=demand) for number, demand in enumerate(demands)}, 0.0)

    assert list(found.values()) == shares


def test_a_call_that_needs_many_slots_gets_them_in_its_turn() -> None:
    small = {name: Claim(lent=2, demand=50, fed_at=10.0, began_at=0.0) for name in "abcd"}
    heavy = Claim(demand=6, need=6, fed_at=3.0)

    shares = allot(8, {**small, "heavy": heavy}, 10.0)

    assert shares["heavy"] == 6
    assert sum(shares.values()) == 8


def test_who_has_just_got_a_slot_keeps_it_for_its_turn_and_then_goes_behind() -> None:
    has = Claim(lent=1, demand=5, fed_at=10.0, began_at=10.0)
    waits = Claim(demand=5, fed_at=0.0)

    assert allot(1, {"has": has, "waits": waits}, 10.0 + TURN_SECONDS / 2) == {"has": 1, "waits": 0}
    assert allot(1, {"has": has, "waits": waits}, 10.0 + TURN_SECONDS) == {"has": 0, "waits": 1}


@given(slots=st.integers(0, 100), weights=st.dictionaries(st.text(max_size=2), st.integers(0, 50)))
def test_a_division_is_whole_and_fair_to_one_slot(slots: int, weights: dict[str, int]) -> None:
    shares = in_proportion(slots, weights)
    total = sum(weights.values())

    assert sum(shares.values()) == (slots if total else 0)
    for name, share in shares.items():
        exact = slots * weights[name] / total if total else 0
        assert abs(share - exact) < 1 + 1e-9


def test_equal_demands_leave_slots_where_they_are() -> None:
    claims = {"a": Claim(2, 10), "b": Claim(3, 10), "c": Claim(3, 10)}

    assert allot(8, claims, 100.0) == {"a": 2, "b": 3, "c": 3}

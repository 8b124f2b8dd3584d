"""How slots are divided: in proportion, within the limit, and nobody is left without for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch.sharing._allotment import (
    TURN_SECONDS,
    Claim,
    allot,
    divided,
    in_proportion,
    weights_of,
)

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


crowds = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.floats(0.001, 1000), st.integers(0, 200)), min_size=1
)


@given(limit=st.integers(1, 64), clients=crowds)
def test_each_client_gets_its_part_or_all_that_it_wants_and_nothing_is_left_over(
    limit: int, clients: dict[str, tuple[float, int]]
) -> None:
    slots = divided(limit, clients)
    total = sum(share for share, _ in clients.values())

    assert sum(slots.values()) == pytest.approx(min(limit, sum(demand for _, demand in clients.values())))
    for name, (share, demand) in clients.items():
        assert slots[name] <= demand + 1e-9
        assert slots[name] >= min(demand, limit * share / total) * (1 - 1e-9)


@given(
    limit=st.integers(1, 32),
    claims=st.dictionaries(
        st.sampled_from("pqrst"),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 60), min_size=1),
        min_size=1,
    ),
)
def test_members_get_what_their_clients_are_due_within_the_limit(
    limit: int, claims: dict[str, dict[str, int]]
) -> None:
    shares = {"a": 3.0, "b": 1.0, "c": 0.5}
    members = {
        name: Claim(demand=sum(wanted.values()), clients={one: (shares[one], wanted[one]) for one in wanted})
        for name, wanted in claims.items()
    }
    found = allot(limit, members, 0.0)

    assert sum(found.values()) <= limit
    if sum(claim.demand for claim in members.values()) >= limit:
        assert sum(found.values()) == limit
    for name, share in found.items():
        assert share <= max(members[name].demand, limit)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        # One client floods four processes, the other one has calls in one of them: 6 slots and 2.
        ([{"a": 250, "b": 10}, {"a": 250}, {"a": 250}, {"a": 250}], [4, 2, 1, 1]),
        ([{"a": 250}, {"b": 250}], [6, 2]),
        ([{"a": 1}, {"b": 250}], [1, 7]),
        ([{"a": 100, "b": 100}, {"a": 100, "b": 100}], [4, 4]),
    ],
)
def test_slots_follow_the_clients_shares_and_not_the_number_of_their_calls(
    wanted: list[dict[str, int]], found: list[int]
) -> None:
    shares = {"a": 3.0, "b": 1.0}
    members = {
        f"p{number}": Claim(
            demand=sum(one.values()), clients={name: (shares[name], demand) for name, demand in one.items()}
        )
        for number, one in enumerate(wanted)
    }

    assert sorted(allot(8, members, 0.0).values(), reverse=True) == sorted(found, reverse=True)
    assert allot(8, members, 0.0)["p0"] == found[0]


def test_clients_divide_the_slots_of_their_members_so_that_their_shares_hold_over_all() -> None:
    members = {name: Claim(lent=2, demand=250, clients={"a": (3.0, 250)}) for name in "pqr"}
    members["s"] = Claim(lent=2, demand=260, clients={"a": (3.0, 250), "b": (1.0, 10)})
    weights = weights_of("s", members)

    assert weights["b"] > 8 * weights["a"] > 0  # both slots of this one, since the others have six
    assert weights_of("p", members) == {}  # there is nothing to divide


@given(
    claims=st.dictionaries(
        st.sampled_from("pqrst"),
        st.tuples(
            st.integers(0, 9),
            st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 60), min_size=1),
        ),
        min_size=1,
    ),
)
def test_weights_are_numbers_above_0_for_each_client_that_has_calls(
    claims: dict[str, tuple[int, dict[str, int]]],
) -> None:
    shares = {"a": 1000.0, "b": 1.0, "c": 0.001}
    members = {
        name: Claim(
            lent=lent,
            demand=sum(wanted.values()),
            clients={one: (shares[one], number) for one, number in wanted.items()},
        )
        for name, (lent, wanted) in claims.items()
    }
    for name, member in members.items():
        found = weights_of(name, members)
        assert all(0 < weight < 100 for weight in found.values())
        assert not found or set(found) == {one for one, _, number in member.demands() if number}

"""Hybrid ranking: the same answer whatever order an engine gives equals in."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch.models import ItemId
from restaurant_llm_batch.search._hybrid import (
    Candidate,
    Fused,
    fuse,
    missing_similarities,
    select_top,
    stable_top_k,
)
from restaurant_llm_batch.search._indexing import id_order

IDS = st.one_of(st.integers(0, 50), st.text("ab", min_size=1, max_size=3))
# Few distinct scores, so that ties abound.
POOLS = st.dictionaries(IDS, st.sampled_from([0.9, 0.5, 0.5, 0.1]), max_size=30)


def candidate(review_id: ItemId, score: float) -> Candidate:
    """Return a candidate whose key tells integers from strings."""
    return Candidate(repr(review_id), review_id, f"text {review_id}", score)


def engine(pool: dict[ItemId, float], asked: int, seed: int) -> list[Candidate]:
    """Answer like an engine that orders equals as it pleases and cuts right through them."""
    found = [candidate(review_id, score) for review_id, score in pool.items()]
    random.Random(seed).shuffle(found)
    found.sort(key=lambda one: -one.score)
    return found[:asked]


def settled(pool: dict[ItemId, float], wanted: int, seed: int) -> list[Candidate]:
    """Ask the engine for more until the list is settled."""
    asked = wanted + 1
    while (found := stable_top_k(engine(pool, asked, seed), wanted=wanted, asked=asked)) is None:
        asked *= 2
    return found


def ids(found: Sequence[Fused]) -> list[ItemId]:
    """Return the review ids of a fused list."""
    return [one.candidate.review_id for one in found]


@given(POOLS, st.integers(1, 12), st.integers(0, 9), st.integers(0, 9))
def test_a_settled_list_does_not_depend_on_the_order_of_equals(
    pool: dict[ItemId, float], wanted: int, seed: int, other: int
) -> None:
    expected = sorted(pool, key=lambda review_id: (-pool[review_id], id_order(review_id)))[:wanted]

    assert [one.review_id for one in settled(pool, wanted, seed)] == expected
    assert settled(pool, wanted, seed) == settled(pool, wanted, other)


def test_a_cut_among_equals_asks_for_more() -> None:
    equals = [candidate(number, 0.5) for number in range(3)]

    assert stable_top_k(equals, wanted=2, asked=3) is None


def test_whole_groups_before_the_cut_are_enough() -> None:
    found = [candidate(7, 0.9), candidate(3, 0.9), candidate(1, 0.1)]

    settled_ = stable_top_k(found, wanted=2, asked=3)

    assert settled_ is not None
    assert [one.review_id for one in settled_] == [3, 7]


def test_when_no_more_is_asked_for_equals_at_the_end_count() -> None:
    equals = [candidate(number, 0.5) for number in (3, 1, 2)]

    settled_ = stable_top_k(equals, wanted=2, asked=math.inf)

    assert settled_ is not None
    assert [one.review_id for one in settled_] == [1, 2]


def test_equal_reviews_of_several_restaurants_are_ordered_by_restaurant() -> None:
    houses: list[ItemId] = ["b", "10", 9, "09"]
    found = [Candidate(repr(house), 1, "text", 0.5, house) for house in houses]

    settled_ = stable_top_k(found, wanted=4, asked=5)

    assert settled_ is not None
    assert [one.restaurant_id for one in settled_] == [9, "10", "09", "b"]


def test_integers_come_before_strings_and_by_value() -> None:
    mixed: list[ItemId] = ["b", 10, "a", 9, "10"]

    assert sorted(mixed, key=id_order) == [9, 10, "10", "a", "b"]


def test_places_count_as_in_qdrant() -> None:
    dense = [candidate(1, 0.9), candidate(2, 0.8)]
    sparse = [candidate(2, 7.0), candidate(3, 5.0)]

    fused = fuse(dense, sparse)

    assert ids(fused) == [2, 1, 3]
    assert [one.score for one in fused] == pytest.approx([1 / 3 + 1 / 2, 1 / 2, 1 / 3])


def test_equal_places_are_ordered_by_id_whichever_list_they_come_from() -> None:
    a, b = candidate("a", 0.9), candidate("b", 0.9)

    assert ids(fuse([b], [a])) == ids(fuse([a], [b])) == ["a", "b"]


def test_the_similarity_is_the_dense_score_and_unknown_for_the_others() -> None:
    fused = fuse([candidate(1, 0.4)], [candidate(1, 9.0), candidate(2, 8.0)])

    assert {one.candidate.review_id: one.similarity for one in fused} == {1: 0.4, 2: None}
    assert missing_similarities(fused) == ["2"]


@given(POOLS, POOLS, st.integers(1, 10), st.sampled_from([0.0, -0.5, 0.3, 0.5, 0.95]))
def test_a_cut_list_keeps_limit_bound_and_order(
    dense: dict[ItemId, float], sparse: dict[ItemId, float], limit: int, bound: float
) -> None:
    fused = fuse(settled(dense, 10, 1), settled(sparse, 10, 1))
    known = dict.fromkeys(missing_similarities(fused), 0.4)

    kept = select_top(fused, limit=limit, min_score=bound, similarities=known)

    assert len(kept) <= limit
    assert kept == [one for one in fused if one in kept]
    for one in kept if bound else []:
        similarity = known.get(one.candidate.point) if one.similarity is None else one.similarity
        assert similarity is not None
        assert similarity >= bound


def test_zero_means_no_bound_even_for_opposite_vectors() -> None:
    fused = fuse([candidate(1, -0.9)], [])

    assert ids(select_top(fused, limit=5)) == [1]
    assert ids(select_top(fused, limit=5, min_score=-0.5)) == []


def test_a_sparse_hit_is_judged_by_its_dense_similarity() -> None:
    fused = fuse([], [candidate(1, 99.0), candidate(2, 98.0)])

    assert ids(select_top(fused, limit=5, min_score=0.2, similarities={"1": 0.1, "2": 0.3})) == [2]


def test_a_sparse_hit_of_unknown_similarity_passes_no_bound() -> None:
    fused = fuse([], [candidate(1, 99.0)])

    assert ids(select_top(fused, limit=5, min_score=-1.0)) == []

"""Hybrid ranking: the same answer whatever order an engine gives equals in."""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Hashable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch.models import ItemId
from restaurant_llm_batch.search._hybrid import (
    FoundReview,
    RankedPoint,
    by_score,
    fuse,
    missing_similarities,
    order_ties,
    select_similar,
    stable_top_k,
)
from restaurant_llm_batch.search._indexing import id_order

IDS = st.one_of(st.integers(0, 50), st.text("ab", min_size=1, max_size=3))
# Few distinct scores, so that ties abound.
POOLS = st.dictionaries(IDS, st.sampled_from([0.9, 0.5, 0.5, 0.1]), max_size=30)


class Reviews(dict[Hashable, FoundReview | None]):
    """The reviews of points, whose keys are those of their ids that tell integers from strings."""

    def __missing__(self, point: Hashable) -> FoundReview:
        review_id: ItemId = ast.literal_eval(str(point))
        return FoundReview(review_id, f"text {review_id}")

    def get(self, point: Hashable, default: Any = None) -> Any:
        """Return the review of any point."""
        return self[point]


LOADED = Reviews()


def ranked(review_id: ItemId, score: float) -> RankedPoint:
    """Return a point whose key tells integers from strings."""
    return repr(review_id), score


def engine(pool: dict[ItemId, float], asked: int, seed: int) -> list[RankedPoint]:
    """Answer like an engine that orders equals as it pleases and cuts right through them."""
    found = [ranked(review_id, score) for review_id, score in pool.items()]
    random.Random(seed).shuffle(found)
    return by_score(found)[:asked]


def settled(pool: dict[ItemId, float], wanted: int, seed: int) -> list[RankedPoint]:
    """Ask the engine for more until the list is settled."""
    asked = wanted + 1
    while (found := stable_top_k(engine(pool, asked, seed), LOADED, wanted=wanted, asked=asked)) is None:
        asked *= 2
    return found


def fused_in_order(dense: Sequence[RankedPoint], sparse: Sequence[RankedPoint]) -> list[RankedPoint]:
    """Fuse two lists, and order equal scores."""
    fused = fuse(dense, sparse)
    order_ties(fused, LOADED)
    return fused


def ids(found: Sequence[RankedPoint]) -> list[ItemId]:
    """Return the review ids of points."""
    return [review.review_id for point, _ in found if (review := LOADED[point]) is not None]


@given(POOLS, st.integers(1, 12), st.integers(0, 9), st.integers(0, 9))
def test_a_settled_list_does_not_depend_on_the_order_of_equals(
    pool: dict[ItemId, float], wanted: int, seed: int, other: int
) -> None:
    expected = sorted(pool, key=lambda review_id: (-pool[review_id], id_order(review_id)))[:wanted]

    assert ids(settled(pool, wanted, seed)) == expected
    assert settled(pool, wanted, seed) == settled(pool, wanted, other)


def test_a_cut_among_equals_asks_for_more() -> None:
    equals = [ranked(number, 0.5) for number in range(3)]

    assert stable_top_k(equals, LOADED, wanted=2, asked=3) is None


def test_whole_groups_before_the_cut_are_enough() -> None:
    found = [ranked(7, 0.9), ranked(3, 0.9), ranked(1, 0.1)]

    settled_ = stable_top_k(found, LOADED, wanted=2, asked=3)

    assert settled_ is not None
    assert ids(settled_) == [3, 7]


def test_when_no_more_is_asked_for_equals_at_the_end_count() -> None:
    equals = [ranked(number, 0.5) for number in (3, 1, 2)]

    settled_ = stable_top_k(equals, LOADED, wanted=2, asked=math.inf)

    assert settled_ is not None
    assert ids(settled_) == [1, 2]


def test_equal_reviews_of_several_restaurants_are_ordered_by_restaurant() -> None:
    houses: list[ItemId] = ["b", "10", 9, "09"]
    reviews: dict[Hashable, FoundReview | None] = {repr(house): FoundReview(1, "", house) for house in houses}

    settled_ = stable_top_k([(point, 0.5) for point in reviews], reviews, wanted=4, asked=5)

    assert settled_ is not None
    assert [point for point, _ in settled_] == ["9", "'10'", "'09'", "'b'"]


def test_equal_scores_are_left_as_they_are_if_an_id_is_not_loaded() -> None:
    found = [ranked(1, 0.9), ranked(7, 0.5), ranked(3, 0.5), ranked(6, 0.1), ranked(5, 0.1)]

    order_ties(found, {repr(number): FoundReview(number, "text") for number in (3, 5, 6)})

    assert ids(found) == [1, 7, 3, 5, 6]


def test_integers_come_before_strings_and_by_value() -> None:
    mixed: list[ItemId] = ["b", 10, "a", 9, "10"]

    assert sorted(mixed, key=id_order) == [9, 10, "10", "a", "b"]


def test_places_count_as_in_qdrant() -> None:
    dense = [ranked(1, 0.9), ranked(2, 0.8)]
    sparse = [ranked(2, 7.0), ranked(3, 5.0)]

    fused = fuse(dense, sparse)

    assert ids(fused) == [2, 1, 3]
    assert [score for _, score in fused] == pytest.approx([1 / 3 + 1 / 2, 1 / 2, 1 / 3])


def test_equal_places_are_ordered_by_id_whichever_list_they_come_from() -> None:
    a, b = ranked("a", 0.9), ranked("b", 0.9)

    assert ids(fused_in_order([b], [a])) == ids(fused_in_order([a], [b])) == ["a", "b"]


def test_the_similarity_is_unknown_of_those_that_the_dense_ranking_has_not_found() -> None:
    dense = [ranked(1, 0.4)]

    assert missing_similarities(fuse(dense, [ranked(1, 9.0), ranked(2, 8.0)]), dense) == ["2"]


@given(POOLS, POOLS, st.sampled_from([0.0, -0.5, 0.3, 0.5, 0.95]))
def test_a_bounded_list_keeps_bound_and_order(
    dense: dict[ItemId, float], sparse: dict[ItemId, float], bound: float
) -> None:
    similar = settled(dense, 10, 1)
    fused = fused_in_order(similar, settled(sparse, 10, 1))
    known = {**dict.fromkeys(missing_similarities(fused, similar), 0.4), **dict(similar)}

    kept = select_similar(fused, bound, known)

    assert kept == [one for one in fused if not bound or known[one[0]] >= bound]


def test_zero_means_no_bound_even_for_opposite_vectors() -> None:
    dense = [ranked(1, -0.9)]

    assert ids(select_similar(fuse(dense, []), 0.0, dict(dense))) == [1]
    assert ids(select_similar(fuse(dense, []), -0.5, dict(dense))) == []


def test_a_sparse_hit_is_judged_by_its_dense_similarity() -> None:
    fused = fuse([], [ranked(1, 99.0), ranked(2, 98.0)])

    assert ids(select_similar(fused, 0.2, {"1": 0.1, "2": 0.3})) == [2]


def test_a_sparse_hit_of_unknown_similarity_passes_no_bound() -> None:
    fused = fuse([], [ranked(1, 99.0)])

    assert ids(select_similar(fused, -1.0, {})) == []

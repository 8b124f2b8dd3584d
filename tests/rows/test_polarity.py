"""Ratings on any scale, labels and flags: whether a review is positive."""

from __future__ import annotations

from typing import Any

import pytest

from restaurant_llm_batch._rows.polarity import Polarity, as_scale
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.records import read_reviews


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("1-10", (1, 10)),
        ("0-100", (0, 100)),
        ("-1-1", (-1, 1)),
        (" 0.5 to 5 ", (0.5, 5)),
        ((1, 10), (1, 10)),
        ("1:7", (1, 7)),
    ],
)
def test_a_scale_is_two_numbers(text: Any, scale: tuple[float, float]) -> None:
    assert as_scale(text) == scale


@pytest.mark.parametrize(
    "wrong", ["10", "10-1", "a-b", "", None, (1, 2, 3), (1, float("inf")), 5, ("a", "b"), "1-1"]
)
def test_anything_else_is_no_scale(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="rating_scale must be the lowest and the highest rating"):
        as_scale(wrong)


@pytest.mark.parametrize(
    ("scale", "positive", "neutral", "negative"),
    [
        ((1, 5), [4, 4.5, 5], [2.5, 3, 3.9], [1, 2]),
        ((1, 10), [8, 10], [4, 7], [1, 3]),
        ((0, 100), [75, 100], [26, 74], [0, 25]),
        ((0, 1), [1], [0.5], [0]),
        ((-1, 1), [1, 0.5], [0], [-0.5, -1]),
    ],
)
def test_the_upper_quarter_of_a_scale_is_positive_and_the_lower_one_negative(
    scale: tuple[float, float], positive: list[float], neutral: list[float], negative: list[float]
) -> None:
    polarity = Polarity(scale)
    for ratings, expected in ((positive, True), (neutral, None), (negative, False)):
        for rating in ratings:
            assert polarity.read({"rating": rating}, "") == (True, expected)


@pytest.mark.parametrize("rating", [8, 10, 0, 99])
def test_a_rating_beyond_the_scale_names_the_option(rating: int) -> None:
    with pytest.raises(
        ConfigurationError, match=r"rating must be a number from 1 to 5, got \d+ \(for another scale: "
    ):
        Polarity().read({"rating": rating}, "")


def test_a_table_of_texts_has_numbers_and_flags_in_words() -> None:
    polarity = Polarity(of_texts=True)
    for record, expected in (
        ({"rating": "4.0"}, True),
        ({"rating": " 1 "}, False),
        ({"is_recommended": "True"}, True),
        ({"is_recommended": "0"}, False),
        ({"is_recommended": "", "label": "부정"}, False),
        ({"is_recommended": "nan", "label": "", "rating": "3"}, None),
    ):
        assert polarity.read(record, "") == (True, expected)
    assert polarity.read({"rating": ""}, "") == (False, None)


def test_without_a_scale_ratings_are_not_read_and_flags_are() -> None:
    rows = [
        {"restaurant_id": 1, "content": "a", "rating": 9, "is_recommended": True},
        {"restaurant_id": 1, "content": "b", "rating": 9, "label": "negative"},
        {"restaurant_id": 1, "content": "c", "rating": 9, "label": "what"},
        {"restaurant_id": 1, "content": "d", "is_recommended": float("nan")},
    ]
    assert [review.is_recommended for review in read_reviews(rows)] == [True, False, None, None]
    with pytest.raises(ConfigurationError, match="row 2: label must be"):
        list(read_reviews(rows, rating_scale=(1, 10)))

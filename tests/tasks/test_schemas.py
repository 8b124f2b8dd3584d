"""Items as users write them: what is read must be right, and what is not read is left alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import Review
from restaurant_llm_batch.tasks._schemas import (
    ComparisonSchema,
    RestaurantReviewsSchema,
    RestaurantSchema,
    ReviewsByPolaritySchema,
    read_item,
    read_restaurant,
)

NAN = float("nan")


@dataclass
class Written:
    """A review, in a class of the user's."""

    content: str


def review(**fields: Any) -> Review:
    given = {"restaurant_id": 1, "reviews": [{"content": "맛있어요", **fields}]}
    reviews = read_item(RestaurantReviewsSchema, given).reviews
    assert reviews is not None
    return reviews[0].review()


@pytest.mark.parametrize("field", ["restaurant_id", "category"])
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (7, 7),
        (0, 0),
        ("한식", "한식"),
        (None, None),
        ("", None),
        (NAN, None),
        (["a"], None),
        (True, None),
        (np.array([1, 2]), None),
    ],
    ids=str,
)
def test_an_id_that_no_task_reads_is_kept_where_it_is_one(field: str, given: Any, kept: Any) -> None:
    assert getattr(review(**{field: given}), field) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (None, None),
        ("true", True),
        (np.True_, True),
        (np.int64(0), False),
        (np.float64(NAN), None),
        (NAN, None),
        (2, None),
        ("", None),
        ("maybe", None),
        ([], None),
        (np.array([1, 0]), None),
    ],
    ids=str,
)
def test_a_recommendation_is_kept_where_it_is_one(given: Any, kept: bool | None) -> None:
    assert review(is_recommended=given).is_recommended is kept


def test_a_review_object_is_read_as_leniently() -> None:
    given: Any = Review("맛있어요", id=3, restaurant_id="", category=NAN)  # type: ignore[arg-type]
    reviews = read_item(RestaurantReviewsSchema, {"restaurant_id": 1, "reviews": [given]}).reviews

    assert reviews is not None
    assert reviews[0].review() == Review("맛있어요", id=3)


@pytest.mark.parametrize("given", ["", NAN, True, np.True_, [], np.array([1, 2])], ids=repr)
def test_the_id_of_a_review_is_read_and_must_be_right(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"field 'reviews\[0\].id': must be an integer or a string"):
        review(id=given)


@pytest.mark.parametrize("given", [Written("맛있어요"), None, 3, ["맛있어요"], b"a"], ids=str)
@pytest.mark.parametrize(
    ("form", "field"),
    [
        (RestaurantReviewsSchema, "reviews"),
        (ReviewsByPolaritySchema, "negative_reviews"),
        (ComparisonSchema, "target_reviews"),
    ],
)
def test_what_is_no_review_is_reported_what_to_be(form: Any, field: str, given: Any) -> None:
    name = "target_restaurant_id" if form is ComparisonSchema else "restaurant_id"
    with pytest.raises(ConfigurationError) as caught:
        read_item(form, {name: 1, field: ["좋아요", given]})

    assert str(caught.value).startswith(
        f"field '{field}[1]': must be a text, a mapping with \"content\", or a Review, got {given!r} (fields:"
    )
    assert "Form" not in str(caught.value)


def test_whole_numbers_may_be_those_of_numpy() -> None:
    read = read_restaurant({"restaurant_id": np.int64(0), "limit": np.int32(5), "priority": np.int64(-2)})

    assert (read.restaurant_id, read.limit, read.priority) == (0, 5, -2)
    assert {type(one) for one in (read.restaurant_id, read.limit, read.priority)} == {int}


@pytest.mark.parametrize("form", [RestaurantReviewsSchema, ReviewsByPolaritySchema, ComparisonSchema])
def test_the_priority_of_every_item_may_be_a_number_of_numpys(form: Any) -> None:
    given: dict[str, Any] = {"priority": np.int64(3)}
    given |= {"target_restaurant_id": 1} if form is ComparisonSchema else {"restaurant_id": 1}
    given |= {"reviews": []} if form is RestaurantReviewsSchema else {}

    assert read_item(form, given).priority == 3


@pytest.mark.parametrize("given", [True, np.True_, "1", 1.0, np.float64(1), None, np.array([1, 2])], ids=str)
def test_what_is_no_whole_number_is_named(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="field 'priority': input should be a valid integer"):
        read_item(RestaurantSchema, {"restaurant_id": 1, "priority": given})


@pytest.mark.parametrize("given", [0, 1001, np.int64(0)], ids=str)
def test_a_limit_out_of_its_bounds_is_named(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"field 'limit': input should be .* than or equal to"):
        read_item(RestaurantSchema, {"restaurant_id": 1, "limit": given})

"""Categories of the reviews in a table."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import ItemId
from restaurant_llm_batch.records import read_reviews


def categories(path: Path, *lines: dict[str, Any]) -> list[ItemId | None]:
    """Write lines and return the categories of the reviews in them."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [review.category for review in read_reviews(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file."""
    return tmp_path / "reviews.jsonl"


@pytest.mark.parametrize("name", ["category", "food_category_id", "cuisine"])
@pytest.mark.parametrize("value", ["국밥", 0, "0"])
def test_a_category_is_read_under_each_of_its_names(path: Path, name: str, value: ItemId) -> None:
    reviews = [{"content": "a"}, {"content": "b", name: "mine"}, {"content": "c", name: ""}]

    assert categories(path, {"restaurant_id": 1, "content": "x", name: value}) == [value]
    assert categories(path, {"restaurant_id": 1, name: value, "reviews": reviews}) == [value, "mine", value]


def test_a_category_may_be_missing_and_our_own_word_for_it_comes_first(path: Path) -> None:
    several = {"restaurant_id": 2, "content": "x", "cuisine": "c", "food_category_id": 3, "category": "a"}
    blank = {"restaurant_id": 2, "content": "x", "cuisine": "c", "food_category_id": None, "category": " "}

    assert categories(path, {"restaurant_id": 1, "content": "x"}, several, blank) == [None, "a", "c"]


def test_a_cuisine_of_another_kind_is_left_alone(path: Path) -> None:
    lists = {"restaurant_id": 1, "content": "x", "cuisine": ["korean", "bbq"]}

    assert categories(path, lists) == [None]


@pytest.mark.parametrize("value", [1.5, True, ["a"], 2**64])
def test_a_category_that_is_no_id_is_a_complaint_about_its_line(path: Path, value: Any) -> None:
    good = {"restaurant_id": 1, "content": "x"}
    bad = {"restaurant_id": 1, "reviews": [{"content": "x", "category": value}]}

    with pytest.raises(ConfigurationError, match=r"line 2: reviews\[0\]\.category "):
        categories(path, good, bad)


def test_the_shipped_sample_has_a_category_for_every_review() -> None:
    with as_file(files("restaurant_llm_batch") / "data" / "sample_reviews.jsonl") as sample:
        found = {review.category for review in read_reviews(sample)}

    assert {"국밥", "italian"} < found
    assert None not in found

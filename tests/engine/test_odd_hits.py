"""Hits of a search backend of the user's own that break the contract: named, and no other aspect is lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, Hit, SearchQuery, Strategy, SummarizeAspects
from restaurant_llm_batch.testing import FakeLLM

ODD: dict[str, tuple[Any, str]] = {
    "None": (None, r"\[2\] is no Hit"),
    "a mapping": ({"review_id": 1, "content": "a"}, r"\[2\] is no Hit"),
    "no text": (Hit(3, None, 1.0, 1), r"\[2\]\.content is no text"),  # type: ignore[arg-type]
    "bytes": (Hit(3, b"a", 1.0, 1), r"\[2\]\.content is no text"),  # type: ignore[arg-type]
    "no id": (Hit(None, "a", 1.0, 1), r"\[2\]\.review_id is neither"),  # type: ignore[arg-type]
    "an id that is a list": (Hit([3], "a", 1.0, 1), r"\[2\]\.review_id is neither"),  # type: ignore[arg-type]
    "a score that is no number": (Hit(3, "a", math.nan, 1), r"\[2\]\.score is not a number"),
}


class Search:
    """Finds three reviews, one of them odd for the aspect "price"."""

    def __init__(self, odd: Any) -> None:
        self.odd = odd

    def search(self, query: SearchQuery, /) -> Sequence[Hit]:
        """Search."""
        good = [Hit(i, f"맛있어요 {i}", 1.0, 1) for i in range(2)]
        return [*good, self.odd] if query.aspect == "price" else good


class SearchMany(Search):
    """The same in one round trip."""

    def search_many(self, queries: Sequence[SearchQuery], /) -> list[Sequence[Hit]]:
        """Search."""
        return [self.search(query) for query in queries]


@pytest.mark.sample(9)
@pytest.mark.parametrize("backend", [Search, SearchMany])
@pytest.mark.parametrize("stage", [1, 4])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_hit_is_named_and_fails_its_aspect_only(kind: str, stage: int, backend: type[Search]) -> None:
    odd, message = ODD[kind]
    runner = BatchRunner(llm=FakeLLM(), search=backend(odd), strategy=Strategy.stage(stage))

    [outcome] = runner.run(SummarizeAspects(), [1]).outcomes

    categories = outcome.value.categories
    assert {name: one.status for name, one in categories.items()} == {
        "service": "ok",
        "price": "failed",
        "food": "ok",
    }
    with pytest.raises(TypeError, match=message):
        raise TypeError(str(categories["price"].error))

"""Fixtures of the tests of searches."""

from __future__ import annotations

import pytest
from tests.support.reviews import review

from restaurant_llm_batch.search.embedded.search import EmbeddedSearch


@pytest.fixture
def search() -> EmbeddedSearch:
    """Return a search over two restaurants, one of them named 0."""
    search = EmbeddedSearch()
    search.index_reviews(
        [
            review(0, 0, "직원이 친절해요"),
            review(0, 1, "음식이 맛있어요"),
            review(0, "1b", "가격이 비싸요"),
            review("other", 1, "직원이 아주 친절합니다"),
        ]
    )
    return search

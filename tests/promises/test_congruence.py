"""The same items, meeting the same faults, have the same outcomes in every mode and sync and async."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from tests.support.run_methods import (
    REPRESENTATIVE,
    STRATEGIES,
    RunMethod,
    by_run,
    comparable,
    each_run_method,
    strategy_name,
)

from restaurant_llm_batch import (
    BatchRunner,
    Hit,
    Limits,
    RetryPolicy,
    SearchQuery,
    Strategy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

RESTAURANTS = [*range(24), "스물넷", {"restaurant_id": "25", "limit": 1, "query": "냉면", "priority": -1}]
PATIENT = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)


def reviews_of(restaurant_id: object) -> Sequence[str]:
    """Restaurants have 0 to 3 reviews; every fourth has none."""
    return (
        ["맛있어요", "The soup was <cold>.", "가격이 비싸요"][: ord(str(restaurant_id)[-1]) % 3 + 1]
        if str(restaurant_id)[-1] not in "48"
        else []
    )


def search_fault(query: SearchQuery, attempt: int) -> Exception | None:
    """Fail by what is searched and how often it was tried."""
    match query.restaurant_id:
        case 1 if attempt == 1:
            return errors.TransientBackendError("lost", retry_after=0.001)
        case 2 if query.aspect == "price":
            return errors.PermanentBackendError("no such index")
        case 3:
            return errors.TransientBackendError("down")
        case 5 if attempt < 5:
            return errors.RateLimited("slow down")
        case 6:
            return ZeroDivisionError("a bug in the backend")
    return None


def llm_fault(request: Any, attempt: int) -> Exception | None:
    """Fail by what is asked and how often it was tried."""
    match request.inputs["restaurant_id"]:
        case 7 if attempt < 3:
            return errors.TransientBackendError("500")
        case 9:
            return errors.PermanentBackendError("400")
        case 10 if attempt < 4:
            return errors.RateLimited("429", retry_after=0.001)
        case 11 if request.inputs.get("aspect") == "food":
            return errors.PermanentBackendError("food refused")
        case 12:
            return StopIteration("a backend should not, but may")
        case 13:
            return errors.TransientBackendError("always down")
    return None


def answer(request: Any) -> str:
    """Answer some restaurants unusably, and cite reviews that do not exist."""
    match request.inputs["restaurant_id"]:
        case 15:
            return "I would rather not."
        case 16:
            return '{"categories": {"service": {"summary": "친절"}}, "overall_summary": "좋아요"}'
    part = '{"summary": "좋아요", "bullets": ["a", " "], "evidence": [1, 1, 99, -1, "x"]}'
    if request.task == "aspect_summary":
        return part
    if request.task == "overall_summary":
        return '{"overall_summary": "전체"}'
    parts = ", ".join(f'"{aspect}": {part}' for aspect in request.inputs["reviews"])
    return f'Sure! ```json\n{{"categories": {{{parts}}}, "overall_summary": "전체"}}\n```'


class SearchMany(FakeSearch):
    """A search that answers several queries in one round trip, unless one of them fails."""

    def search_many(self, queries: Sequence[SearchQuery]) -> list[list[Hit]]:
        with self.call(len(queries)):
            return [self._answer(query) for query in queries]

    async def asearch_many(self, queries: Sequence[SearchQuery]) -> list[list[Hit]]:
        return self.search_many(queries)


def outcomes(strategy: Strategy, way: RunMethod, mode: Any, search_kind: type[FakeSearch]) -> list[object]:
    """Run all restaurants once, on fresh doubles."""
    search = search_kind(reviews_of, fault=None if search_kind is SearchMany else search_fault)
    llm = FakeLLM(fault=llm_fault, answer=answer)
    limits = Limits(search=5, llm=3, llm_total=2, open_items=7)
    runner = BatchRunner(
        llm=llm, search=search, strategy=strategy, limits=limits, search_retry=PATIENT, llm_retry=PATIENT
    )
    told_outcomes = comparable(way(runner, SummarizeAspects(mode=mode), RESTAURANTS))
    assert search.peak <= 5
    assert llm.peak <= 2
    assert search.in_flight == llm.in_flight == 0
    return told_outcomes


@cache
def expected(mode: str, many: bool) -> list[object]:
    """Return the outcomes of stage 1, over a search with or without round trips for several queries."""
    return outcomes(Strategy.stage(1), by_run, mode, SearchMany if many else FakeSearch)


MODES = [("single", FakeSearch), ("single", SearchMany), ("split", FakeSearch), ("split", SearchMany)]
CASES = [
    pytest.param(
        strategy,
        mode,
        search_kind,
        id=f"{strategy_name(strategy)}-{mode}-{search_kind.__name__}",
        marks=() if (mode, search_kind) == MODES[0] or strategy in REPRESENTATIVE else pytest.mark.slow,
    )
    for strategy in STRATEGIES
    for mode, search_kind in MODES
]
"""Every strategy in the first mode; the representative ones in the others too."""


@each_run_method
@pytest.mark.parametrize(("strategy", "mode", "search_kind"), CASES)
@pytest.mark.sample(2)
def test_outcomes_are_equal_in_every_mode(
    strategy: Strategy, way: RunMethod, mode: str, search_kind: type[FakeSearch]
) -> None:
    assert outcomes(strategy, way, mode, search_kind) == expected(mode, search_kind is SearchMany)


def test_the_faults_of_this_file_do_happen() -> None:
    single = expected("single", many=False)
    failed = {row[1]: row[2:] for row in single if isinstance(row, tuple) and len(row) == 5}

    assert failed == {
        3: (errors.TransientBackendError, "search", 3),
        6: (ZeroDivisionError, "search", 1),
        9: (errors.PermanentBackendError, "llm", 1),
        12: (RuntimeError, "llm", 1),
        13: (errors.TransientBackendError, "llm", 3),
        15: (errors.OutputInvalid, "llm", 1),
    }

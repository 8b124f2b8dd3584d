"""Priorities: a list is worked on in the order of its priorities, however long it is, in every stage."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.support.run_methods import RunMethod, each_run_method, each_strategy

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.tasks.sentiment import AnalyzeSentiment


class InOrder:
    """Notes what it is asked, in order."""

    fingerprint = "in order"

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._lock = threading.Lock()

    def complete(self, request: LLMRequest) -> LLMResponse:
        with self._lock:
            self.asked.append(int(request.messages[0]["content"]))
        return LLMResponse("x")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return self.complete(request)


class Prioritised:
    """A task of a number and a priority."""

    name = "prioritised"
    requires_search = False

    def parse_item(self, raw: Any, /) -> Any:
        return raw

    def item_key(self, item: Any, /) -> tuple[int, int]:
        return item["id"], item["priority"]

    def flow(self, item: Any, /) -> Flow[int]:
        yield from complete(LLMRequest("q", ({"role": "user", "content": str(item["id"])},)))
        return int(item["id"])


@pytest.mark.sample(5)
@each_run_method
@each_strategy
def test_the_most_urgent_of_a_list_are_first_however_late_they_stand(
    strategy: Strategy, way: RunMethod
) -> None:
    llm = InOrder()
    items = [{"id": number, "priority": 3 - number // 30} for number in range(120)]
    runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=1, open_items=4))
    outcomes = way(runner, Prioritised(), items)
    assert llm.asked == [*range(90, 120), *range(60, 90), *range(30, 60), *range(30)]
    assert sorted(outcome.index for outcome in outcomes) == list(range(120))
    assert all(outcome.item_id == outcome.index for outcome in outcomes)


def test_equal_priorities_keep_the_order_of_the_list_and_reports_that_of_the_input() -> None:
    llm = InOrder()
    report = BatchRunner(llm=llm).run(Prioritised(), [{"id": n, "priority": n % 2} for n in range(6)])
    assert llm.asked == [0, 2, 4, 1, 3, 5]
    assert [outcome.item_id for outcome in report.outcomes] == list(range(6))


def test_a_lazy_input_is_read_in_its_own_order() -> None:
    llm = InOrder()
    items = ({"id": n, "priority": -n} for n in range(6))
    BatchRunner(llm=llm).run(Prioritised(), items)
    assert llm.asked == list(range(6))


def test_items_of_the_librarys_tasks_have_priorities_too() -> None:
    assert [
        AnalyzeSentiment().item_key(AnalyzeSentiment().parse_item(item))[1]
        for item in (
            {"restaurant_id": 1, "reviews": ["a"], "priority": -5},
            {"restaurant_id": 2, "reviews": ["b"]},
        )
    ] == [-5, 0]

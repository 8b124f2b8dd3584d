"""Tests of plans that learn from a record: their figures are those of earlier nights, and nothing is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.seen_nights import NeverCalled, Varying, course, dish, record_night, runner, say

from restaurant_llm_batch import (
    BatchRunner,
    LLMRequest,
    LLMResponse,
    Price,
    Store,
    Strategy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeSearch

PRICES = {"varying": Price(0.5, 2.0, cached=0.1), "night-model": Price(0.5, 2.0)}


def picky(item: int) -> Flow[None]:
    """A call, and for some items another one, as the answer to the first decides."""
    reply = yield from say("rating", 50, item)
    if len(reply.text) % 3 == 1:
        yield from say("why", 100, reply.text)


def recorded(path: Path | None, seeds: Sequence[int], task: Any, items: Any, **arguments: Any) -> list[float]:
    """Run nights for real, and return what each cost."""
    costs = []
    for seed in seeds:
        by = BatchRunner(
            llm=Varying(seed), strategy=Strategy.stage(4), prices=PRICES, record=path, **arguments
        )
        with by:
            cost = by.run(task, items).stats.cost
        assert cost is not None
        costs.append(cost)
    return costs


def planner(**arguments: Any) -> BatchRunner:
    never = NeverCalled()
    never.model = "varying"
    return BatchRunner(llm=never, strategy=Strategy.stage(4), prices=PRICES, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "number", "seeds"),
    [(course, 30, 2), (course, 40, 10), (course, 150, 10), (picky, 200, 10), (dish, 250, 10)],
)
def test_the_price_of_a_third_night_lies_in_a_narrow_range(
    task: Any, number: int, seeds: int, tmp_path: Path
) -> None:
    within, items = 0, range(number)
    for seed in range(seeds):
        path = tmp_path / f"night-{seed}.db"
        recorded(path, [10 * seed, 10 * seed + 1], task, items)
        plan = planner().plan(task, items, record=path)
        true = recorded(None, [10 * seed + 2], task, items)[0]
        assert plan.cost is not None
        assert plan.cost.high < 1.3 * plan.cost.low
        within += plan.cost.low <= true <= plan.cost.high

    assert within >= 0.9 * seeds


@pytest.mark.slow
def test_the_price_of_other_and_more_items_is_foretold_too(tmp_path: Path) -> None:
    recorded(tmp_path / "night.db", [1, 2], course, range(60))
    true = recorded(None, [3], course, range(1000, 1100))[0]
    plan = planner(count_tokens=lambda text: len(text) // 3).plan(
        course, range(1000, 1100), record=tmp_path / "night.db"
    )

    assert plan.cost is not None
    assert plan.cost.low <= true <= plan.cost.high < 1.3 * plan.cost.low


@pytest.mark.slow
def test_if_it_is_not_known_whether_items_or_tokens_differ_the_range_has_both(tmp_path: Path) -> None:
    recorded(tmp_path / "night.db", [1, 2], course, range(60))
    true = recorded(None, [3], course, range(1000, 1100))[0]
    plan = planner().plan(course, range(1000, 1100), record=tmp_path / "night.db")

    assert plan.cost is not None
    assert plan.cost.low <= true <= plan.cost.high
    assert any("if the task has changed since" in warning for warning in plan.warnings)


@pytest.mark.slow
def test_it_says_what_it_learned_from(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    recorded(path, [1], course, range(20))
    assert "run 1 of night.db, of 20" in planner().plan(course, range(20), record=path).learned_from
    recorded(path, [2], course, range(20))
    plan = planner().plan(course, range(20), record=path)

    assert plan.learned_from.startswith("2 runs of night.db, the latest of 20")
    assert plan.learned_from.endswith("UTC: 40 items, 160 calls")
    assert "learned from      2 runs of night.db" in str(plan)
    assert "as calls took in run 2 of night.db; more than" in plan.assumed
    assert json.loads(json.dumps(plan.to_dict()))["learned_from"] == plan.learned_from
    assert planner().plan(course, range(20)).learned_from == ""


def test_the_runners_own_record_is_learned_from_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    with BatchRunner(llm=Varying(1), strategy=Strategy.stage(4), prices=PRICES, record=path) as by:
        assert by.plan(course, range(20)).learned_from == ""
        by.run(course, range(20))
        assert by.plan(course, range(20)).learned_from.startswith("run 1 of night.db")


@pytest.mark.slow
def test_a_plan_writes_nothing_to_the_record(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    recorded(path, [1, 2], course, range(20))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    planner().plan(course, range(20), record=path)

    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert [one.name for one in tmp_path.iterdir()] == ["night.db"]
    with planner(record=path) as by:
        by.plan(course, range(20))
    assert len(open_record(path).runs()) == 2


def test_calls_that_answers_decide_are_as_many_as_they_were(tmp_path: Path) -> None:
    recorded(tmp_path / "night.db", [1, 2], picky, range(120))
    made = sum(
        call.label == "why" for run in (1, 2) for call in open_record(tmp_path / "night.db").calls(run)
    )
    plan = planner().plan(picky, range(60), record=tmp_path / "night.db")
    why = next(one for one in plan.kinds if one.kind == "why")

    assert why.calls == pytest.approx(made / 4, abs=1)
    assert why.calls_range.low < why.calls < why.calls_range.high
    assert "items made one in earlier runs" in why.reason
    assert plan.calls["rating"] == 60


@pytest.mark.slow
def test_repairs_and_calls_made_again_are_in_the_price(tmp_path: Path) -> None:
    class Sloppy(Varying):
        def complete(self, request: LLMRequest) -> LLMResponse:
            reply = super().complete(request)
            text = (
                "nonsense"
                if request.task != "repair" and self._random.random() < 0.4
                else '{"summary": "good"}'
            )
            return LLMResponse(text, "stop", reply.prompt_tokens, reply.completion_tokens, "varying")

    task = SummarizeAspects(mode="split", language="en")
    search = FakeSearch({number: ["The soup was good.", "Friendly.", "Fair prices."] for number in range(80)})
    costs = []
    for seed in range(3):
        with BatchRunner(
            llm=Sloppy(seed),
            search=search,
            strategy=Strategy.stage(4),
            prices=PRICES,
            record=tmp_path / "night.db",
        ) as by:
            costs.append(by.run(task, range(80)).stats.cost)
    plan = planner(search=search).plan(task, range(80), record=tmp_path / "night.db")

    assert plan.calls["repair"] > 20
    assert plan.cost is not None
    assert costs[-1] is not None
    assert plan.cost.low <= costs[-1] <= plan.cost.high < 1.3 * plan.cost.low


@pytest.mark.slow
def test_prompts_are_counted_in_the_tokens_of_the_service(tmp_path: Path) -> None:
    recorded(tmp_path / "night.db", [1, 2], dish, range(60))
    true = sum(call.prompt_tokens or 0 for call in open_record(tmp_path / "night.db").calls())
    plan = planner(count_tokens=lambda text: len(text) // 5).plan(
        dish, range(60), record=tmp_path / "night.db"
    )

    assert plan.prompt_tokens == pytest.approx(true, rel=0.01)


def test_a_task_that_has_changed_is_said_and_keeps_its_own_prompts(tmp_path: Path) -> None:
    recorded(tmp_path / "night.db", [1, 2], dish, range(60))

    def longer(item: int) -> Flow[None]:
        yield from say("dish", 400, item)

    longer.__name__ = "dish"
    plan = planner().plan(longer, range(60), record=tmp_path / "night.db")
    plain = planner().plan(longer, range(60))

    assert plan.prompt_tokens == plain.prompt_tokens
    assert any("if the task has changed since" in warning for warning in plan.warnings)


def test_other_tasks_other_models_and_simulations_teach_nothing(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    planner().simulate(dish, range(20), record=path)
    recorded(path, [1], course, range(20))
    plan = planner().plan(dish, range(20), record=path)

    assert plan.learned_from == ""
    assert any("night.db has no run of dish with varying that says enough" in one for one in plan.warnings)
    never = NeverCalled()
    other = BatchRunner(llm=never, strategy=Strategy.stage(4)).plan(course, range(20), record=path)
    assert other.learned_from == ""
    with pytest.raises(errors.ConfigurationError, match="no such file"):
        planner().plan(dish, range(20), record=tmp_path / "missing.db")


@pytest.mark.slow
def test_items_with_replies_in_the_store_teach_nothing_of_their_price(tmp_path: Path) -> None:
    path, store = tmp_path / "night.db", tmp_path / "store.db"
    first, second = recorded(path, [1, 2], course, range(20), store=Store(store))
    assert second == 0
    plan = planner().plan(course, range(20), record=path)

    assert plan.cost is not None
    assert plan.cost.low < first < plan.cost.high


@pytest.mark.slow
def test_the_share_from_the_cache_is_that_of_earlier_runs(tmp_path: Path) -> None:
    class Caching(Varying):
        def complete(self, request: LLMRequest) -> LLMResponse:
            reply = super().complete(request)
            cached = reply.prompt_tokens // 2
            return LLMResponse(
                reply.text, "stop", reply.prompt_tokens, reply.completion_tokens, "varying", cached
            )

    with BatchRunner(
        llm=Caching(1), strategy=Strategy.stage(4), prices=PRICES, record=tmp_path / "night.db"
    ) as by:
        true = by.run(course, range(80)).stats.cost
        plan = by.plan(course, range(80))

    assert plan.cached_share == pytest.approx(0.5, abs=0.02)
    assert plan.cost is not None
    assert true is not None
    assert plan.cost.low < true < plan.cost.high


@pytest.mark.slow
def test_the_time_is_that_of_the_server_that_was_seen(tmp_path: Path) -> None:
    server = SimulatedServer(latency=LogNormal(2.0, 0.4), slots=6)
    night = record_night(tmp_path / "night.db", runner(10), course, range(80), server)
    plan = runner(10).plan(course, range(80), record=tmp_path / "night.db")

    assert plan.seconds == pytest.approx(night.seconds, rel=0.12)
    assert any("the server works on" in warning for warning in plan.warnings)
    given = runner(10).plan(
        course, range(80), server=SimulatedServer(latency=9.0), record=tmp_path / "night.db"
    )
    assert given.seconds > 2 * night.seconds
    assert given.assumed == "at the given server"


@pytest.mark.slow
def test_a_sample_is_scaled_by_the_record_too(tmp_path: Path) -> None:
    recorded(tmp_path / "night.db", [1, 2], course, range(60))
    true = recorded(None, [3], course, range(150))[0]
    plan = planner().plan(course, range(150), sample=30, record=tmp_path / "night.db")

    assert plan.sampled == 30
    assert plan.cost is not None
    assert plan.cost.low <= true <= plan.cost.high < 1.3 * plan.cost.low


def test_a_record_of_few_items_or_an_empty_input_gives_a_plan(tmp_path: Path) -> None:
    recorded(tmp_path / "night.db", [1], course, range(3))
    assert planner().plan(course, range(3), record=tmp_path / "night.db").learned_from == ""
    recorded(tmp_path / "night.db", [1], course, range(30))
    empty = planner().plan(course, [], record=tmp_path / "night.db")
    assert (empty.items, sum(empty.calls.values())) == (0, 0)
    one = planner().plan(course, [1], record=tmp_path / "night.db")
    assert one.calls == {"part": 3, "whole": 1}


@pytest.mark.slow
def test_a_kind_that_no_run_knows_is_planned_by_its_form(tmp_path: Path) -> None:
    recorded(tmp_path / "night.db", [1, 2], dish, range(60))

    def both(item: int) -> Flow[None]:
        yield from dish(item)
        yield from complete(LLMRequest("new", ({"role": "user", "content": f"New {item}"},), max_tokens=100))

    both.__name__ = "dish"
    plan = planner().plan(both, range(60), record=tmp_path / "night.db")
    new = next(one for one in plan.kinds if one.kind == "new")

    assert new.calls == 60
    assert new.completion_tokens.high > 1.5 * new.completion_tokens.low
    assert plan.cost is not None
    assert plan.cost_at_most is not None
    assert plan.cost.low < plan.cost.high <= plan.cost_at_most

"""Tests of `BatchRunner.plan`: what a run comes to, before its first paid call."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    ExtractStrengths,
    ExtractVocabulary,
    Limits,
    LLMResponse,
    Price,
    StopConditions,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
    TimeLimits,
    split_text,
)
from restaurant_llm_batch.backends import OfflineLLM, OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import Hit, LLMRequest, SearchQuery
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.simulation import Plan
from restaurant_llm_batch.steps import ask, complete, gather, once, sleep
from restaurant_llm_batch.testing.server import FaultServer
from restaurant_llm_batch.tokens import CalibratedCounter

STAGES = [Strategy.stage(1), Strategy.stage(2), Strategy.stage(3), Strategy.stage(4), Strategy.threaded()]
PRICES = [Price(0.25, 2.0), Price(1, 4), Price(3, 15)]
Ordered = Callable[[list[dict[str, Any]]], tuple[Any, list[Any]]]


class NeverCalled:
    """A model that must not be called."""

    model = "gpt-5-mini"
    fingerprint = "never"

    def complete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")

    async def acomplete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")


class CountedOffline:
    """The offline model, with the usage of a service that has the tokenizer `bytes_of_3`, and ChatML."""

    model = "gpt-5-mini"

    def complete(self, request: LLMRequest) -> LLMResponse:
        reply = OfflineLLM().complete(request)
        prompt = sum(bytes_of_3(message["content"]) + 5 for message in request.messages) + 3
        return LLMResponse(
            reply.text, prompt_tokens=prompt, completion_tokens=bytes_of_3(reply.text), model=self.model
        )


def bytes_of_3(text: str) -> int:
    """Count tokens as the fault server does."""
    return -(-len(text.encode()) // 3)


def sample_rows() -> list[dict[str, Any]]:
    text = (files("restaurant_llm_batch") / "data" / "sample_reviews.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return sample_rows()


@pytest.fixture(scope="module")
def search(rows: list[dict[str, Any]]) -> EmbeddedSearch:
    search = EmbeddedSearch()
    search.index_reviews(
        {**review, "restaurant_id": row["restaurant_id"]} for row in rows for review in row["reviews"]
    )
    return search


def runner(llm: Any = None, **arguments: Any) -> BatchRunner:
    return BatchRunner(llm=NeverCalled() if llm is None else llm, **arguments)


def request(text: str, task: str = "dish", tokens: int = 50, schema: Any = None) -> LLMRequest:
    return LLMRequest(task, ({"role": "user", "content": text},), schema, max_tokens=tokens)


def dish(item: Any) -> Generator[Any, Any, str]:
    reply = yield from complete(request(f"Name dish {item}."))
    return str(reply.text)


def ids(rows: list[dict[str, Any]]) -> list[Any]:
    return [row["restaurant_id"] for row in rows]


def texts(row: dict[str, Any]) -> list[str]:
    return [review["content"] for review in row["reviews"]]


def aspects(rows: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
    return SummarizeAspects(), ids(rows)


def split_aspects(rows: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
    return SummarizeAspects(mode="split"), ids(rows)


def sentiment(rows: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
    return AnalyzeSentiment(), [
        {"restaurant_id": row["restaurant_id"], "reviews": texts(row)} for row in rows
    ]


def summaries(rows: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
    items = [
        {"restaurant_id": row["restaurant_id"], "positive_reviews": texts(row), "negative_reviews": []}
        for row in rows
    ]
    return SummarizeReviews(max_tokens_per_batch=1500), items


def strengths(rows: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
    return ExtractStrengths(), [{"target_restaurant_id": row["restaurant_id"]} for row in rows]


def vocabulary(rows: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
    return ExtractVocabulary(), [
        {"document_id": row["restaurant_id"], "chunks": split_text("\n".join(texts(row)))} for row in rows
    ]


def check_against(plan: Plan, stats: Any, *, prompts_within: float = 0.01) -> None:
    """Check a plan against what the run then was."""
    assert sum(plan.calls.values()) == stats.calls["llm"]
    assert plan.prompt_tokens == pytest.approx(stats.prompt_tokens, rel=prompts_within)
    low, high = plan.completion_tokens
    assert low <= stats.completion_tokens <= high <= plan.completion_tokens_at_most
    assert plan.cost is not None
    assert plan.cost_at_most is not None
    assert plan.cost.low <= stats.cost <= plan.cost.high <= plan.cost_at_most
    assert plan.cost.high <= 3 * plan.cost.low


def test_it_says_what_a_server_then_reports(rows: list[dict[str, Any]], search: EmbeddedSearch) -> None:
    with FaultServer() as server, closing(VLLMServerLLM(server.url, model="tiny")) as llm:
        asking = runner(llm, search=search, count_tokens=bytes_of_3, prices={"tiny": PRICES[0]})
        plan = asking.plan(*aspects(rows))
        assert server.counts.requests == 0
        stats = asking.run(*aspects(rows)).stats

    check_against(plan, stats)
    assert plan.calls == {"aspect_summaries": 50}
    assert plan.searches == stats.calls["search"]
    assert plan.kinds[0].calls_range == (50, 50)
    assert plan.kinds[0].reason == ""
    assert plan.model == "tiny"


@pytest.mark.slow
@pytest.mark.parametrize("price", PRICES)
@pytest.mark.parametrize("make", [aspects, split_aspects, sentiment, summaries, strengths])
def test_each_task_costs_what_was_planned_at_a_server(
    make: Ordered, price: Price, rows: list[dict[str, Any]], search: EmbeddedSearch
) -> None:
    with FaultServer() as server, closing(VLLMServerLLM(server.url)) as llm:
        asking = runner(llm, search=search, count_tokens=bytes_of_3, prices={"tiny": price})
        plan = asking.plan(*make(rows))
        stats = asking.run(*make(rows)).stats

    # Where an answer stands in a later prompt, this server's are shorter than those of any model.
    check_against(plan, stats, prompts_within=0.01 if make in (aspects, sentiment) else 0.06)


@pytest.mark.sample(1)
@pytest.mark.parametrize("make", [aspects, split_aspects, sentiment, summaries, strengths, vocabulary])
def test_each_task_costs_what_was_planned(
    make: Ordered, rows: list[dict[str, Any]], search: EmbeddedSearch
) -> None:
    some = rows[3:9]  # Korean and English ones
    arguments: dict[str, Any] = {"search": search, "count_tokens": bytes_of_3}
    plan = runner(prices={"gpt-5-mini": PRICES[0]}, **arguments).plan(*make(some))
    stats = runner(CountedOffline(), prices={"gpt-5-mini": PRICES[0]}, **arguments).run(*make(some)).stats

    check_against(plan, stats, prompts_within=0.01 if make in (aspects, sentiment, vocabulary) else 0.04)
    assert plan.prompt_tokens_range.low <= stats.prompt_tokens * 1.01
    assert stats.prompt_tokens <= plan.prompt_tokens_range.high * 1.01


@pytest.mark.sample(1)
@pytest.mark.parametrize("strategy", STAGES)
def test_every_stage_has_the_same_calls_and_tokens(
    strategy: Strategy, rows: list[dict[str, Any]], search: EmbeddedSearch
) -> None:
    plan = runner(search=search, strategy=strategy).plan(*split_aspects(rows[:4]))

    assert plan.calls == {"aspect_summary": 12, "overall_summary": 4}
    assert plan.prompt_tokens == runner(search=search).plan(*split_aspects(rows[:4])).prompt_tokens


class Verdict(BaseModel):
    good: bool
    dishes: list[str]


def branching(item: int) -> Generator[Any, Any, None]:
    verdict = yield from ask(Verdict, "Is it good?", reviews=["The soup was cold."])
    if not verdict.good:
        yield from complete(request("Why not?", "reasons"))
    for name in verdict.dishes:
        yield from complete(request(f"How is {name}?", "dishes"))


def test_calls_that_answers_decide_are_a_range_with_its_reason() -> None:
    plan = runner().plan(branching, range(10))
    kinds = {one.kind: one for one in plan.kinds}

    assert kinds["Verdict"].calls_range == (10, 10)
    assert kinds["reasons"].calls_range == (0, 10)
    assert kinds["dishes"].calls_range.low < kinds["dishes"].calls < kinds["dishes"].calls_range.high
    assert "depends on earlier answers" in kinds["reasons"].reason
    assert plan.calls == {"Verdict": 10, "dishes": 20, "reasons": 0}


def test_prompts_that_answers_stand_in_are_a_range(
    rows: list[dict[str, Any]], search: EmbeddedSearch
) -> None:
    first, overall = runner(search=search).plan(*split_aspects(rows[:3])).kinds

    assert first.prompt_tokens_range.low == first.prompt_tokens == first.prompt_tokens_range.high
    assert overall.prompt_tokens_range.low < overall.prompt_tokens < overall.prompt_tokens_range.high
    assert overall.reason == "earlier answers stand in the prompts"


def test_answers_that_cannot_be_read_are_asked_for_again_at_most_so_often(
    rows: list[dict[str, Any]], search: EmbeddedSearch
) -> None:
    assert runner(search=search).plan(*aspects(rows[:5])).repairs_at_most == 5
    assert runner().plan(dish, range(5)).repairs_at_most == 0


class Known(CountedOffline):
    """A model that answers, and that a store knows."""

    fingerprint = "known"

    def complete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse("soup", prompt_tokens=1, completion_tokens=1)


def test_replies_in_the_store_are_not_paid_for_and_nothing_gets_into_it(tmp_path: Path) -> None:
    storing = runner(Known(), store=tmp_path / "run.db")
    storing.run(dish, [1, 2, 3])
    planned = storing.plan(dish, range(10))
    after = storing.plan(dish, range(10))
    all_done = storing.plan(dish, [1, 2, 3])

    assert planned.calls == after.calls == {"dish": 7}
    assert planned.stored == {"dish": 3}
    assert "3 replies, which are not paid for" in str(planned)
    assert (all_done.calls, all_done.seconds) == ({}, 0)
    assert all_done.stop_conditions().max_tokens is None


def test_equal_requests_are_paid_for_once_with_a_store(tmp_path: Path) -> None:
    def constant(item: int) -> Any:
        return (yield from complete(request("Name a dish.")))

    def order(plan: Plan) -> dict[str, int]:
        return plan.calls

    assert order(runner().plan(constant, range(6))) == {"dish": 6}
    storing = runner(Known(), store=tmp_path / "run.db")
    planned = storing.plan(constant, range(6))
    assert order(planned) == {"dish": 1}
    assert (planned.stored, planned.repeated) == ({}, {"dish": 5})
    assert "5 equal to another of this run, which is made once" in str(planned)
    assert "in the store" not in str(planned)

    storing.run(constant, [1])
    planned = storing.plan(constant, range(6))
    assert order(planned) == {}
    assert (planned.stored, planned.repeated) == ({"dish": 6}, {})


ROWS = [{"id": 1}, {"name": "without an id"}, {"id": 2}, {"id": 1}, {"id": []}]


def test_rows_that_cannot_be_read_are_named() -> None:
    plan = runner().plan(dish, ROWS)

    assert [(row.index, row.item_id) for row in plan.bad_rows] == [(1, None), (3, 1), (4, None)]
    assert "duplicate id 1" in plan.bad_rows[1].problem
    assert plan.items == 2
    assert any("3 items cannot be read, so run() refuses them all: item 1:" in one for one in plan.warnings)


def test_a_field_that_is_wrong_is_named(search: EmbeddedSearch) -> None:
    plan = runner(search=search).plan(SummarizeAspects(), [{"restaurant_id": 1, "limit": -3}])

    assert plan.bad_rows[0].problem.startswith("field 'limit': ")
    assert plan.calls == {}


def test_rows_of_an_iterator_fail_one_by_one() -> None:
    plan = runner().plan(dish, iter(ROWS))

    assert [row.index for row in plan.bad_rows] == [1, 4]
    assert any("2 items cannot be read, which fail: item 1:" in one for one in plan.warnings)


@pytest.mark.parametrize("unknown", [["nowhere"], [99, "ko-77", "x"], ["ko-1 "]])
def test_restaurants_without_reviews_are_named(unknown: list[Any], search: EmbeddedSearch) -> None:
    plan = runner(search=search).plan(SummarizeAspects(), ["ko-1", *unknown])

    assert list(plan.unknown) == unknown
    assert plan.calls == {"aspect_summaries": 1}
    assert any("finds no review" in one and repr(unknown[0]) in one for one in plan.warnings)


@pytest.mark.slow
def test_a_sample_is_scaled_and_its_ranges_hold(rows: list[dict[str, Any]], search: EmbeddedSearch) -> None:
    planner = runner(search=search, prices={"": PRICES[1]})
    whole, sampled = (
        planner.plan(*split_aspects(rows[:24])),
        planner.plan(*split_aspects(rows[:24]), sample=8),
    )

    assert (sampled.items, sampled.sampled) == (24, 8)
    assert sampled.calls == whole.calls
    assert sampled.searches == whole.searches
    for one, other in zip(sampled.kinds, whole.kinds, strict=True):
        assert one.prompt_tokens_range.low <= other.prompt_tokens <= one.prompt_tokens_range.high
        assert "scaled from 8 of 24 items" in one.reason
    assert sampled.seconds == pytest.approx(whole.seconds, rel=0.05)


@pytest.mark.parametrize("count", [1, 9, 10, 79, 81, 1000])
def test_a_sample_is_spread_over_the_whole_input(count: int) -> None:
    seen: set[int] = set()

    def looking(item: int) -> Any:
        seen.add(item)
        yield from sleep(1)

    plan = runner().plan(looking, iter(range(count)), sample=10)
    order = sorted(seen)

    assert (plan.items, plan.sampled) == (count, min(10, count))
    assert order[0] == 0
    assert max(b - a for a, b in zip(order, [*order[1:], count], strict=True)) <= 1 + count / 10 * 1.6


def test_a_sample_larger_than_the_input_is_the_input() -> None:
    assert runner().plan(dish, range(5), sample=200).sampled == 5


def shared_first(item: int) -> Generator[Any, Any, None]:
    yield from once("menu", lambda: complete(request("The menu?", "menu")))
    yield from once(("own", item), lambda: complete(request(f"Only {item}", "own")))
    yield from gather(*(complete(request(f"{item} {part}", "part")) for part in range(3)))


def test_what_is_made_once_for_all_items_is_not_scaled() -> None:
    whole, sampled = runner().plan(shared_first, range(60)), runner().plan(shared_first, range(60), sample=6)

    assert whole.calls == sampled.calls == {"menu": 1, "own": 60, "part": 180}
    assert sampled.kinds[0].calls_range == (1, 10)
    assert sampled.seconds == pytest.approx(whole.seconds, rel=0.05)


@pytest.mark.sample(1)
@pytest.mark.parametrize("strategy", [STAGES[0], STAGES[3], STAGES[4]])
def test_the_time_is_that_of_the_simulation(strategy: Strategy) -> None:
    planner = runner(strategy=strategy, limits=Limits(llm=8))
    plan = planner.plan(dish, range(80))
    times = plan.seconds_by_limits

    assert plan.seconds == times["given"] == pytest.approx(planner.simulate(dish, range(80)).seconds)
    if strategy.restaurant_async:
        assert (times["half"], times["double"]) == pytest.approx((16, 4))


def test_the_time_of_very_many_items_goes_on_at_their_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restaurant_llm_batch.simulation._replay.PLAYED_CALLS", 400)
    plan = runner(strategy=STAGES[3], limits=Limits(llm=50)).plan(dish, range(9_000), sample=20)

    assert plan.seconds == pytest.approx(0.8 * 9_000 / 50, rel=0.01)


def test_sleeps_and_limits_per_minute_take_their_time() -> None:
    def tired(item: int) -> Any:
        yield from sleep(600)
        return (yield from dish(item))

    assert runner(strategy=STAGES[3]).plan(tired, range(3)).seconds == pytest.approx(600.8)
    paced = runner(strategy=STAGES[3], limits=Limits(requests_per_minute=600)).plan(dish, range(100))
    assert paced.seconds == pytest.approx(10, rel=0.1)


def test_unknown_prices_are_unknown_and_not_0() -> None:
    unknown = runner().plan(dish, range(3))
    other = runner(prices={"gpt-5": PRICES[0]}).plan(dish, range(3))
    free = runner(prices={"": Price(0, 0)}).plan(dish, range(3))

    for plan in (unknown, other):
        assert (plan.cost, plan.cost_at_most, plan.price) == (None, None, None)
        assert plan.stop_conditions().max_cost is None
        assert any("the cost is unknown" in one and "'gpt-5-mini'" in one for one in plan.warnings)
    assert (free.cost, free.cost_at_most) == ((0, 0), 0)
    assert free.warnings == runner(prices={"": PRICES[0]}).plan(dish, range(3)).warnings


def test_the_only_price_is_that_of_a_model_without_a_name() -> None:
    class Nameless:
        def complete(self, request: LLMRequest) -> Any:
            raise AssertionError

    plan = runner(Nameless(), prices={"mine": PRICES[0]}).plan(dish, range(3))

    assert plan.price == PRICES[0]
    assert any("taken to be 'mine'" in one for one in plan.warnings)
    assert runner(Nameless(), prices={"a": PRICES[0], "b": PRICES[1]}).plan(dish, [1]).price is None


def test_the_budget_is_the_upper_end_with_a_margin() -> None:
    stop = StopConditions(error_rate=0.5, same_error_in_a_row=None)
    plan = runner(prices={"": PRICES[0]}, stop=stop).plan(dish, range(100))
    made = plan.stop_conditions(margin=1.5)

    assert plan.cost is not None
    assert made.max_cost == pytest.approx(1.5 * plan.cost.high)
    assert made.max_tokens == pytest.approx(1.5 * (plan.prompt_tokens + plan.completion_tokens.high), abs=1)
    assert (made.error_rate, made.same_error_in_a_row) == (0.5, None)
    with pytest.raises(ConfigurationError, match="margin must be a number above 0"):
        plan.stop_conditions(margin=0)


def test_stops_of_the_runner_end_no_plan() -> None:
    stop, times = StopConditions(max_tokens=10, max_cost=0.000001), TimeLimits(run=0.1, item=0.1)
    plan = runner(prices={"": PRICES[0]}, stop=stop, time_limits=times).plan(dish, range(100))

    assert plan.calls == {"dish": 100}
    assert any("stops at max_cost=1e-06" in one for one in plan.warnings)
    assert any("stops at max_tokens=10" in one for one in plan.warnings)


@pytest.mark.parametrize(
    ("instructions", "hosted", "share"),
    [(16, False, 0.0), (4_000, False, 0.9), (400, True, 0.0), (4_000, True, 0.9)],
)
def test_equal_beginnings_of_prompts_are_cached_in_whole_blocks(
    instructions: int, hosted: bool, share: float
) -> None:
    def asking(item: int) -> Any:
        messages = (
            {"role": "system", "content": "a" * instructions},
            {"role": "user", "content": f"{item}" * 40},
        )
        return (yield from complete(LLMRequest("long", messages)))

    url = "https://api.openai.com/v1" if hosted else "http://127.0.0.1:1/v1"
    llm = OpenAILLM("tiny", base_url=url, api_key="none")
    plan = runner(llm, count_tokens=bytes_of_3).plan(asking, range(10, 60))

    assert plan.cached_share == pytest.approx(share, abs=0.12)
    assert plan.kinds[0].cached_tokens % (128 if hosted else 16) == 0


def test_a_counter_learns_nothing_from_a_plan_and_no_service_counts() -> None:
    class Service:
        blocking = True

        def __call__(self, text: str) -> int:
            raise AssertionError("a service was asked")

    counter = CalibratedCounter()
    runner(count_tokens=counter).plan(dish, range(5))
    runner(count_tokens=counter).simulate(dish, range(5))
    reviews = [{"restaurant_id": 1, "reviews": ["맛있어요"] * 30}]
    plan = runner(count_tokens=Service()).plan(AnalyzeSentiment(), reviews)

    assert counter.observations == 0
    assert plan.calls == {"sentiment": 1}
    assert any("the token counter asks a service" in one for one in plan.warnings)


class AsyncSearch:
    async def asearch(self, query: SearchQuery) -> Sequence[Hit]:
        raise AssertionError("the search was made")


class FailingSearch:
    def search(self, query: SearchQuery) -> Sequence[Hit]:
        raise ConnectionError("the index is gone")


def test_a_search_that_cannot_be_made_is_said() -> None:
    without = runner().plan(SummarizeAspects(), [1, 2])
    awaited = runner(search=AsyncSearch(), strategy=STAGES[3]).plan(SummarizeAspects(), [1, 2])
    failing = runner(search=FailingSearch()).plan(SummarizeAspects(), [1, 2])

    assert without.calls == awaited.calls == {"aspect_summaries": 2}
    assert any("has no search, so run() refuses it" in one for one in without.warnings)
    assert any("no blocking search()" in one for one in awaited.warnings)
    assert failing.calls == {}
    assert any("fail at stage search" in one and "the index is gone" in one for one in failing.warnings)


def test_a_task_that_fails_is_said_and_answers_of_its_own_help() -> None:
    def reading(item: int) -> Any:
        reply = yield from complete(request("JSON, please."))
        yield from complete(request(json.loads(reply.text)["next"], "next"))

    class Answers:
        def complete(self, request: LLMRequest) -> LLMResponse:
            return LLMResponse('{"next": "What else?"}')

    alone, helped = runner().plan(reading, range(4)), runner().plan(reading, range(4), answers=Answers())

    assert alone.calls == {"dish": 4}
    assert any("4 items fail at stage task: JSONDecodeError" in one for one in alone.warnings)
    assert any("give answers=" in one for one in alone.warnings)
    assert helped.calls == {"dish": 4, "next": 4}


def until_done(item: int) -> Generator[Any, Any, None]:
    while "done" not in (yield from complete(request("Are you done?"))).text:
        pass


def polling(item: int) -> Generator[Any, Any, None]:
    while True:
        yield from sleep(5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("endless", [until_done, polling])
def test_a_task_that_waits_for_an_answer_ends_in_a_plan(
    endless: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restaurant_llm_batch.simulation._recording.MAX_STEPS", 200)
    monkeypatch.setattr("restaurant_llm_batch.simulation._recording.MAX_MANY_STEPS", 300)
    plan = runner(strategy=STAGES[3]).plan(endless, range(5))

    assert sum(plan.calls.values()) <= 5 * 100 + 300
    assert any(
        "items fail at stage task: ConfigurationError: a flow of the task has" in one for one in plan.warnings
    )


@pytest.mark.parametrize("count", [lambda text: len(text) / 3, lambda text: 0])
def test_counters_of_any_kind_do(count: Any) -> None:
    plan = runner(strategy=STAGES[3], count_tokens=count).plan(dish, range(20))

    assert isinstance(plan.prompt_tokens, int)
    assert plan.completion_tokens.low >= 20


@pytest.mark.parametrize(
    ("messages", "calls"),
    [
        ((), 3),
        (({"role": "user", "content": [{"type": "text", "text": "hello"}]},), 3),
        (({"role": "user", "content": ""},), 3),
        (({"role": "user", "content": "한국어로"}, {"role": "assistant", "content": "네"}), 3),
    ],
)
def test_requests_of_any_form_are_planned(messages: Any, calls: int) -> None:
    def odd(item: int) -> Any:
        return (yield from complete(LLMRequest("odd", messages)))

    assert runner(strategy=STAGES[3]).plan(odd, range(3)).calls == {"odd": calls}


def test_nothing_is_planned_for_nothing() -> None:
    plan = runner(prices={"": PRICES[0]}).plan(dish, [])

    assert (plan.items, plan.calls, plan.cost, plan.seconds) == (0, {}, (0, 0), 0)
    assert "Plan of dish: 0 items" in str(plan)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"sample": 0}, "sample must be a whole number"),
        ({"sample": 2.5}, "sample must be a whole number"),
        ({"context": -1}, "context must be a whole number"),
        ({"server": 0.8}, "server must be a SimulatedServer"),
        ({"answers": "text"}, "answers must be a backend"),
    ],
)
def test_wrong_arguments_say_what_to_write(arguments: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        runner().plan(dish, [1], **arguments)


def test_items_that_are_no_list_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"for example \[item\]"):
        runner().plan(dish, "abc")
    with pytest.raises(ConfigurationError, match="task must be a task"):
        runner().plan(3, [1])  # type: ignore[arg-type]

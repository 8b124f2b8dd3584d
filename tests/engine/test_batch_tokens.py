"""`Limits(max_tokens_per_batch="auto")`: batches that grow and shrink by what the server bears, in every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.patience import PATIENCE
from tests.support.run_methods import REPRESENTATIVE, strategy_name

from restaurant_llm_batch import (
    AdaptiveBatch,
    AnalyzeSentiment,
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    LLMRequest,
    LLMResponse,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch.backends import OfflineLLM, OpenAIBatchLLM
from restaurant_llm_batch.events import LimitChanged
from restaurant_llm_batch.integrations._tally import ProgressState
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.simulation import SimulatedServer, TokenSpeed
from restaurant_llm_batch.testing import FakeLLM

each_driver = pytest.mark.parametrize("strategy", REPRESENTATIVE, ids=strategy_name)
TASK = AnalyzeSentiment()
BOUNDS = AdaptiveBatch(min=600, start=1200, max=6000)
NAME = "max_tokens_per_batch"


def items(number: int, reviews: int = 60) -> list[Any]:
    """Return restaurants with reviews of some thirty tokens each."""
    text = "The soup was hot, the waiter was friendly, and the table by the window was ours all evening."
    return [
        {
            "restaurant_id": one,
            "reviews": [{"id": place, "content": f"{text} {one}-{place}"} for place in range(reviews)],
        }
        for one in range(number)
    ]


def simulated(limits: Limits, server: SimulatedServer, number: int = 24, **options: Any) -> Any:
    strategy = options.pop("strategy", Strategy.stage(4))
    observers = options.pop("observers", ())
    record, reviews = options.pop("record", None), options.pop("reviews", 60)
    runner = BatchRunner(llm=FakeLLM(), strategy=strategy, limits=limits, **options)
    return runner.simulate(TASK, items(number, reviews), server, observers=observers, record=record)


def changes(played: Any) -> list[Any]:
    return [change for change in played.report.stats.limit_history if change.limiter == NAME]


BATCHING = TokenSpeed(prefill=4000, decode=40, batch_slowdown=0.02, overhead=0.5)


@pytest.mark.sample(1)
@each_driver
def test_batches_grow_while_the_server_bears_it_in_every_stage(strategy: Strategy) -> None:
    limits = Limits(batches=4, max_tokens_per_batch=BOUNDS)
    played = simulated(limits, SimulatedServer(latency=BATCHING), strategy=strategy)
    fixed = simulated(
        Limits(batches=4, max_tokens_per_batch=1200), SimulatedServer(latency=BATCHING), strategy=strategy
    )

    assert len(played.report.results) == 24
    assert played.server.calls < fixed.server.calls
    assert played.seconds < 1.02 * fixed.seconds
    assert [changes(played)[0].limit, changes(played)[0].reason] == [1200, "start"]
    assert changes(played)[-1].limit > 1200
    assert {change.reason for change in changes(played)} <= {"start", "probe", "latency"}


@pytest.mark.slow
def test_every_change_is_told_to_observers_and_the_record(tmp_path: Path) -> None:
    events: list[Any] = []
    played = simulated(
        Limits(batches=4, max_tokens_per_batch=BOUNDS),
        SimulatedServer(latency=BATCHING),
        observers=[events.append],
        record=tmp_path / "night.db",
    )
    told = [
        (event.limit, event.reason)
        for event in events
        if isinstance(event, LimitChanged) and event.limiter == NAME
    ]
    recorded = [
        (limit.calls_in_flight, limit.reason)
        for limit in open_record(tmp_path / "night.db").limits()
        if limit.limiter == NAME
    ]

    assert told == [(change.limit, change.reason) for change in changes(played)]
    assert recorded == told
    assert len(told) > 2


def test_prompts_that_are_too_long_make_batches_smaller_and_fail_no_restaurant() -> None:
    server = SimulatedServer(latency=BATCHING, kv_tokens=2000)
    limits = Limits(batches=2, max_tokens_per_batch=AdaptiveBatch(600, 6000, 6000), max_batch_size=1000)
    played = simulated(limits, server, reviews=100)

    assert len(played.report.results) == 24
    assert all(not result.failed_count for result in played.report.results)
    assert changes(played)[-1].limit < 6000
    assert "prompt_too_long" in {change.reason for change in changes(played)}
    fixed = simulated(Limits(batches=2, max_tokens_per_batch=6000, max_batch_size=1000), server, reviews=100)
    assert played.server.calls < fixed.server.calls  # which sends every batch in vain first


def test_progress_says_why_batches_became_smaller() -> None:
    progress = ProgressState()
    progress.handle(LimitChanged(1, 1.0, NAME, 3200, "prompt_too_long"), 1.0)

    assert progress.waiting_for(2.0) == "limit max_tokens_per_batch at 3,200: a prompt was too long"


@pytest.mark.slow
def test_preemptions_make_batches_smaller() -> None:
    server = SimulatedServer(latency=TokenSpeed(prefill=4000, decode=40), kv_tokens=9000)
    limits = Limits(batches=12, max_tokens_per_batch=AdaptiveBatch(600, 1600, 1600), tokens_in_flight=10**6)
    played = simulated(limits, server, watch_server=2.0)

    assert played.report.stats.servers["llm"].preemptions > 0
    assert "server" in {change.reason for change in changes(played)}
    assert changes(played)[-1].limit < 1600


def test_a_budget_below_the_instructions_leaves_room_for_reviews() -> None:
    limits = Limits(max_tokens_per_batch=AdaptiveBatch(min=1, start=1, max=6000))
    played = simulated(limits, SimulatedServer(), 3)

    assert len(played.report.results) == 3


@pytest.mark.slow
def test_a_task_with_a_number_of_its_own_keeps_to_it() -> None:
    runner = BatchRunner(
        llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(batches=4, max_tokens_per_batch=BOUNDS)
    )
    own = AnalyzeSentiment(max_tokens_per_batch=1200)
    played = runner.simulate(own, items(10), SimulatedServer(latency=BATCHING))
    fixed = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(batches=4))

    assert (
        played.server.calls == fixed.simulate(own, items(10), SimulatedServer(latency=BATCHING)).server.calls
    )


class Labelling:
    """The offline model with the manners of a server: it counts its calls, and refuses long prompts if asked to."""

    calls_model = True

    def __init__(self, most: int | None = None) -> None:
        self._model, self._most = OfflineLLM(), most
        self.prompts: list[str] = []

    @property
    def fingerprint(self) -> str:
        return "labelling"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        prompt = request.messages[-1]["content"]
        if self._most is not None and len(prompt) > self._most:
            raise errors.PromptTooLong("the prompt is too long", status=400)
        self.prompts.append(prompt)
        return self._model.complete(request)


def test_with_a_store_texts_are_packed_as_they_were_the_first_time(tmp_path: Path) -> None:
    def run(model: Labelling, start: int) -> Any:
        limits = Limits(max_tokens_per_batch=AdaptiveBatch(600, start, 6000))
        with BatchRunner(llm=model, limits=limits, store=tmp_path / "run.db") as runner:
            return runner.run(TASK, items(6))

    first, second = Labelling(), Labelling()
    before, after = run(first, 1200), run(second, 5000)

    assert len(first.prompts) > 6
    assert second.prompts == []  # the night of before is found again, whatever the budget is now
    assert before.results == after.results
    assert after.stats.cache_hits == len(first.prompts)


@pytest.mark.slow
def test_a_run_that_was_killed_pays_only_for_what_was_not_finished(tmp_path: Path) -> None:
    limits = Limits(max_tokens_per_batch=AdaptiveBatch(600, 1200, 6000))
    broken = Labelling()
    complete = broken.complete

    def fail_later(request: LLMRequest, /) -> LLMResponse:
        if len(broken.prompts) >= 7:
            raise KeyboardInterrupt
        return complete(request)

    broken.complete = fail_later  # type: ignore[method-assign]
    with (
        pytest.raises(KeyboardInterrupt),
        BatchRunner(llm=broken, limits=limits, store=tmp_path / "run.db") as runner,
    ):
        runner.run(TASK, items(6))
    rest = Labelling()
    other = Limits(max_tokens_per_batch=AdaptiveBatch(600, 3000, 6000))
    with BatchRunner(llm=rest, limits=other, store=tmp_path / "run.db") as runner:
        report = runner.run(TASK, items(6))

    assert len(report.results) == 6
    assert not set(broken.prompts) & set(rest.prompts)


@pytest.mark.slow
@each_driver
def test_a_model_that_refuses_long_prompts_is_found_out_in_every_stage(strategy: Strategy) -> None:
    model = Labelling(most=6000)
    limits = Limits(max_tokens_per_batch=AdaptiveBatch(600, 5000, 5000))
    report = BatchRunner(llm=model, strategy=strategy, limits=limits).run(TASK, items(6))

    assert len(report.results) == 6
    assert "prompt_too_long" in {one.reason for one in report.stats.limit_history if one.limiter == NAME}


@pytest.mark.parametrize("stage", [1, 4])
def test_a_user_may_set_it_while_runs_go_on(stage: int) -> None:
    runner = BatchRunner(
        llm=OfflineLLM(), strategy=Strategy.stage(stage), limits=Limits(max_tokens_per_batch="auto")
    )
    runner.set_limit(NAME, 2500)
    (before,) = [one for one in runner.run(TASK, items(1)).stats.limit_history if one.limiter == NAME]

    assert (before.limit, before.reason) == (2500, "start")
    with pytest.raises(errors.ConfigurationError, match="cannot be changed while a runner is in use"):
        BatchRunner(llm=OfflineLLM()).set_limit(NAME, 2500)


def test_a_providers_batches_take_a_number() -> None:
    with pytest.raises(errors.ConfigurationError, match="give a number"):
        BatchRunner(llm=OpenAIBatchLLM("gpt-5-mini", api_key="x"), limits=Limits(max_tokens_per_batch="auto"))


class CountingService:
    """A token counter that calls the model's server."""

    blocking = True

    def __call__(self, text: str) -> int:
        return len(text) // 4


GPU = ConcurrencyLimiter(1)


@each_driver
@pytest.mark.parametrize(
    "limits",
    [
        Limits(llm=GPU, batches=GPU, max_tokens_per_batch=BOUNDS),
        Limits(llm_total=2, max_tokens_per_batch=BOUNDS),
    ],
    ids=["one limiter", "a total"],
)
def test_an_item_at_its_turn_does_not_wait_for_its_own_slot_while_a_service_counts(
    strategy: Strategy, limits: Limits
) -> None:
    runner = BatchRunner(
        llm=FakeLLM(),
        strategy=strategy,
        limits=limits,
        count_tokens=CountingService(),
        time_limits=TimeLimits(run=PATIENCE),
    )

    assert len(runner.run(TASK, items(8)).results) == 8
    assert not any(
        standing.in_use or standing.waiting for standing in runner.parts.config.limiters.standings()
    )

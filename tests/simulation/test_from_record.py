"""Tests of `SimulatedServer.from_record`: what a night was like is what a simulation then foretells."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest
from tests.support.seen_nights import course, dish, record_night, runner

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, RetryPolicy, Store, Strategy, errors
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.records import Recording, open_record
from restaurant_llm_batch.records._observed import ObservedCall
from restaurant_llm_batch.simulation import (
    LogNormal,
    SampledLatency,
    SampledNumbers,
    SimulatedServer,
    TokenSpeed,
)
from restaurant_llm_batch.simulation._refusals import find_refusals
from restaurant_llm_batch.simulation._service import Served, fit_numbers, fit_service
from restaurant_llm_batch.testing import FakeLLM, FakeSearch
from restaurant_llm_batch.testing.server import Faults, FaultServer

STRAGGLERS = SampledNumbers(0.4, factors=(0.8,) * 60 + (1.0,) * 36 + (4.0, 5.0, 6.0, 8.0))
BY_TOKENS = SampledLatency(
    {"part": SampledNumbers(0.1, 0.0, 0.01, (0.8, 1.0, 1.2)), "whole": SampledNumbers(0.3, 0.002, 0.02)},
    SampledNumbers(1.0),
)
SERVERS = {
    "constant": SimulatedServer(latency=0.5, answer_tokens=30),
    "lognormal": SimulatedServer(latency=LogNormal(0.8, 0.6)),
    "stragglers": SimulatedServer(latency=SampledLatency({}, STRAGGLERS)),
    "by tokens": SimulatedServer(latency=BY_TOKENS),
    "slowed down": SimulatedServer(latency=SampledLatency({}, STRAGGLERS, slowdown=0.3)),
    "queueing": SimulatedServer(latency=LogNormal(0.5, 0.3), slots=6),
    "refusing": SimulatedServer(
        latency=LogNormal(0.5, 0.3), slots=6, overload="refuse", refusal_seconds=0.01
    ),
    "batching": SimulatedServer(latency=TokenSpeed(2000, 60, 0.1, 0.05)),
    "one core": SimulatedServer(latency=TokenSpeed(400, 80, 0.6, 0.02)),
    "a minute": SimulatedServer(latency=LogNormal(0.3, 0.3), requests_per_minute=300, retry_after=2.0),
    "failing": SimulatedServer(
        latency=0.4, faults={"server_error": 0.05, "rate_limited": 0.04, "reset": 0.03}
    ),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", [dish, course])
@pytest.mark.parametrize("name", SERVERS)
def test_a_night_that_was_learned_takes_as_long_again(name: str, task: Any, tmp_path: Path) -> None:
    by = runner(10)
    items = range(400 if task is dish else 100)
    night = record_night(tmp_path / "night.db", by, task, items, SERVERS[name])
    learned = SimulatedServer.from_record(tmp_path / "night.db")
    again = [by.simulate(task, items, learned, seed=seed).seconds for seed in range(3)]

    assert sorted(again)[1] == pytest.approx(night.seconds, rel=0.1), learned


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit"), [("slowed down", 16), ("batching", 20), ("by tokens", 20), ("queueing", 20)]
)
def test_other_limits_are_foretold_if_the_night_had_some_variety(
    name: str, limit: int, tmp_path: Path
) -> None:
    record_night(tmp_path / "night.db", runner(AdaptiveLimit(1, 2, 10)), course, range(120), SERVERS[name])
    learned = SimulatedServer.from_record(tmp_path / "night.db")
    foretold, told = (
        runner(limit).simulate(course, range(120), server) for server in (learned, SERVERS[name])
    )

    assert foretold.seconds == pytest.approx(told.seconds, rel=0.15), learned


@pytest.mark.sample(1)
@pytest.mark.parametrize("overload", ["queue", "refuse"])
@pytest.mark.parametrize("slots", [3, 7, 12])
def test_slots_are_found(overload: Any, slots: int, tmp_path: Path) -> None:
    server = SimulatedServer(latency=LogNormal(0.5, 0.3), slots=slots, overload=overload)
    record_night(tmp_path / "night.db", runner(2 * slots), dish, range(300), server)
    learned = SimulatedServer.from_record(tmp_path / "night.db")

    assert learned.slots == pytest.approx(slots, abs=0 if overload == "refuse" else 1)
    assert learned.overload == overload


def test_a_server_that_was_never_full_has_no_slots(tmp_path: Path) -> None:
    record_night(
        tmp_path / "night.db", runner(6), dish, range(200), SimulatedServer(latency=LogNormal(0.5, 0.5))
    )
    learned = SimulatedServer.from_record(tmp_path / "night.db")

    assert learned.slots is None
    assert isinstance(learned.latency, SampledLatency)
    assert learned.latency.slowdown == 0.0


@pytest.mark.slow
def test_a_limit_per_minute_and_its_retry_after_are_found(tmp_path: Path) -> None:
    record_night(tmp_path / "night.db", runner(10), dish, range(500), SERVERS["a minute"])
    learned = SimulatedServer.from_record(tmp_path / "night.db")

    assert learned.requests_per_minute == pytest.approx(300, rel=0.05)
    assert learned.retry_after == pytest.approx(2.0, rel=0.1)
    assert not learned.faults


@pytest.mark.slow
def test_shares_of_faults_are_found(tmp_path: Path) -> None:
    faults: Any = {
        "server_error": 0.06,
        "reset": 0.04,
        "rate_limited": 0.05,
        "no_response": 0.02,
        "bad_request": 0.02,
        "truncated": 0.03,
        "content_filter": 0.02,
    }
    server = SimulatedServer(latency=0.1, faults=faults, timeout_seconds=7.0)
    record_night(
        tmp_path / "night.db", runner(10, llm_retry=RetryPolicy(attempts=9)), dish, range(1500), server
    )
    learned = SimulatedServer.from_record(tmp_path / "night.db")

    assert learned.faults == pytest.approx(faults, abs=0.015)
    assert learned.timeout_seconds == pytest.approx(7.0)


@pytest.mark.slow
def test_the_tail_is_kept(tmp_path: Path) -> None:
    server = SERVERS["stragglers"]
    record_night(tmp_path / "night.db", runner(10), dish, range(800), server)
    latency = SimulatedServer.from_record(tmp_path / "night.db").latency
    assert isinstance(latency, SampledLatency)
    random = Random(2)
    drawn = sorted(latency.draw(random, "dish", 50, 50) for _ in range(20_000))

    assert drawn[10_000] == pytest.approx(0.32, rel=0.1)
    assert 1.2 < drawn[19_400] < 2.6
    assert drawn[-1] > 2.8


@pytest.mark.slow
def test_answers_are_as_long_as_they_were_by_kind_and_prompt(tmp_path: Path) -> None:
    lengths = {"part": SampledNumbers(5, 0.5, factors=(0.5, 1.5)), "whole": SampledNumbers(100)}
    server = SimulatedServer(latency=0.1, answer_tokens=lengths)
    night = record_night(tmp_path / "night.db", runner(10), course, range(200), server)
    learned = SimulatedServer.from_record(tmp_path / "night.db")
    again = runner(10).simulate(course, range(200), learned)

    assert isinstance(learned.answer_tokens, dict)
    assert learned.answer_tokens["part"].per_prompt_token == pytest.approx(0.5, rel=0.25)
    assert learned.answer_tokens["whole"].mean(300) == pytest.approx(100, rel=0.05)
    assert again.server.completion_tokens == pytest.approx(night.server.completion_tokens, rel=0.03)


@pytest.mark.slow
def test_searches_take_as_long_as_they_did(tmp_path: Path) -> None:
    from restaurant_llm_batch import SummarizeAspects

    server = SimulatedServer(latency=0.1, search_seconds=0.7)
    by = runner(10, search=FakeSearch({number: ["good"] for number in range(40)}))
    record_night(tmp_path / "night.db", by, SummarizeAspects(), range(40), server)

    assert SimulatedServer.from_record(tmp_path / "night.db").search_seconds == pytest.approx(0.7)


def test_the_latest_real_run_with_enough_calls_is_taken_or_the_one_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    for seconds, items in ((1.0, 50), (2.0, 50), (9.0, 5)):
        record_night(path, runner(), dish, range(items), SimulatedServer(latency=seconds))
    runner().simulate(dish, range(60), SimulatedServer(latency=5.0), record=path)

    def seconds_of(run: int | None) -> float:
        latency = SimulatedServer.from_record(path, run).latency
        assert isinstance(latency, SampledLatency)
        return latency.draw(Random(0), "dish", 50, 50)

    assert seconds_of(None) == pytest.approx(2.0, rel=1e-3)
    assert seconds_of(1) == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(
        errors.ConfigurationError, match=r"run 3 of .*, which has 5 answered calls .*at least 20 are"
    ):
        SimulatedServer.from_record(path, 3)
    with pytest.raises(errors.ConfigurationError, match=r"run 4 of .* is a simulation"):
        SimulatedServer.from_record(path, 4)
    with pytest.raises(errors.ConfigurationError, match="has no run 9"):
        SimulatedServer.from_record(open_record(path), 9)


def test_what_is_no_record_or_holds_none_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "night.db"

    def refused(file: Path) -> str:
        with pytest.raises(errors.ConfigurationError) as caught:
            SimulatedServer.from_record(file)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such file" in refused(tmp_path / "missing.db")
    (tmp_path / "text.db").write_text("not a database" * 100)
    assert "text.db" in refused(tmp_path / "text.db")
    Store(tmp_path / "store.db").open()
    assert "holds no record" in refused(tmp_path / "store.db")
    runner().simulate(dish, range(60), record=path)
    assert "no real run, but only simulations" in refused(path)
    Recording(tmp_path / "empty.db").open()
    assert "no real run" in refused(tmp_path / "empty.db")
    record_night(tmp_path / "short.db", runner(), dish, range(4), SimulatedServer())
    assert "at least 20 are needed" in refused(tmp_path / "short.db")


def test_fields_that_are_known_better_are_taken(tmp_path: Path) -> None:
    record_night(tmp_path / "night.db", runner(), dish, range(60), SimulatedServer())
    learned = SimulatedServer.from_record(tmp_path / "night.db", slots=4, faults={"reset": 0.1})

    assert (learned.slots, learned.faults) == (4, {"reset": 0.1})
    with pytest.raises(errors.ConfigurationError, match="slots must be"):
        SimulatedServer.from_record(tmp_path / "night.db", slots=0)


def test_replies_from_the_store_are_no_calls(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    for _ in range(2):
        with BatchRunner(llm=FakeLLM(), store=path, record=path, strategy=Strategy.stage(4)) as by:
            by.run(dish, range(60))

    assert [run.cache_hits for run in open_record(path).runs()] == [0, 60]
    with pytest.raises(errors.ConfigurationError, match="has 0 answered calls"):
        SimulatedServer.from_record(path, 2)
    assert isinstance(SimulatedServer.from_record(path).latency, SampledLatency)


def refusal(number: int, message: str) -> ObservedCall:
    outcome = "refused" if number % 3 == 2 else "ok"
    error = message if outcome == "refused" else None
    return ObservedCall(
        1, number, 1, "dish", number / 10, number / 10 + 1, 0.0, outcome, 100, 50, 0, "stop", None, 429, error
    )


@pytest.mark.parametrize(
    ("message", "requests", "tokens"),
    [
        ("Rate limit reached for gpt-5 on tokens per min (TPM): Limit 30000, Used 29000", None, 30_000),
        ("Rate limit reached for gpt-5 on requests per min (RPM): Limit 500, Used 500", 500, None),
        ("You exceeded requests per minute", 402, None),
        ("limit: 1,000 requests/min", 1000, None),
        ("busy", None, None),
    ],
)
def test_a_limit_that_an_error_names_is_believed(
    message: str, requests: int | None, tokens: int | None
) -> None:
    found = find_refusals([refusal(number, message) for number in range(900)], 0.5)

    assert found.requests_per_minute == (None if requests is None else pytest.approx(requests, rel=0.02))
    assert found.tokens_per_minute == tokens
    assert (found.share > 0) == (requests is tokens)


def seen(began: float, ended: float, outcome: str) -> ObservedCall:
    status = 429 if outcome == "refused" else None
    return ObservedCall(1, 1, 1, "dish", began, ended, 0.0, outcome, 100, 50, 0, "stop", None, status, None)


def test_slots_are_found_where_threads_start_calls_in_another_order_than_they_arrive() -> None:
    calls = []
    for turn in range(30):
        start = 0.16 * turn
        calls += [seen(start, start + 0.155, "ok") for _ in range(11)]
        twelfth, over = (start + 0.002, start + 0.001) if turn % 2 else (start + 0.001, start + 0.002)
        calls += [seen(twelfth, start + 0.157, "ok"), seen(over, over + 0.003, "refused")]
    calls.sort(key=lambda call: call.began)

    assert find_refusals(calls, 0.5).slots == 12


@pytest.mark.parametrize("count", [20, 1500])
def test_what_was_fitted_has_the_same_sum(count: int) -> None:
    random = Random(3)
    points = []
    for _ in range(count):
        prompt, answer = random.randrange(50, 500), random.randrange(5, 300)
        seconds = (0.2 + prompt / 2000 + answer / 40) * random.lognormvariate(0, 0.4)
        points.append((prompt, answer, seconds))
    fitted = fit_numbers(points)

    assert sum(fitted.mean(prompt, answer) for prompt, answer, _ in points) == pytest.approx(
        sum(seconds for *_, seconds in points)
    )
    assert sum(fitted.factors) == pytest.approx(len(fitted.factors))
    assert len(fitted.factors) <= 1000


def test_calls_without_tokens_are_learned_as_they_are() -> None:
    calls = [Served("dish", index, index + 0.5 + index % 3 / 10, 0, 0) for index in range(40)]
    service = fit_service(calls)

    assert isinstance(service.latency, SampledLatency)
    assert service.latency.kinds["dish"].mean(500, 500) == pytest.approx(0.6, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Strategy.stage(4), Strategy.threaded()], ids=["stage 4", "threaded"])
@pytest.mark.parametrize("overload", ["queue", "refuse"])
def test_a_real_run_at_a_server_is_foretold_by_its_record(
    overload: str, strategy: Strategy, tmp_path: Path
) -> None:
    path = tmp_path / "night.db"
    # A fixed limit above the slots of a server that refuses has calls which wait for seconds, by chance.
    capacity: Any = {"limit": 12} if overload == "refuse" else {"max_running": 12}
    limit = AdaptiveLimit() if overload == "refuse" else 16
    with FaultServer(Faults(latency=0.15, **capacity), seed=1) as server:
        by = BatchRunner(
            llm=VLLMServerLLM(server.url),
            strategy=strategy,
            limits=Limits(llm=limit, open_items=12),
            record=path,
        )
        with by:
            report = by.run(course, range(100))
    learned = SimulatedServer.from_record(path)
    again = median(by.simulate(course, range(100), learned, seed=seed).seconds for seed in range(7))

    assert len(report.results) == 100
    assert again == pytest.approx(report.stats.wall_seconds, rel=0.1), learned

"""Calls by batches, on virtual time: when a wave is sent, what is done with what comes back, and what a kill leaves."""

from __future__ import annotations

import logging
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.waves import MemoryBatches, MemoryStore, answers, asking, one, play

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    Price,
    RetryPolicy,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._engine.wave_file import Wave
from restaurant_llm_batch._engine.wave_sending import _create
from restaurant_llm_batch.events import CallEnded, CallStarted
from restaurant_llm_batch.steps import Flow, complete, gather, once, sleep


def two_steps(item: object) -> Flow[str]:
    parts = yield from gather(*(complete(asking(f"{item} {aspect}")) for aspect in "abc"))
    texts = [part.text for part in parts if not isinstance(part, Exception)]
    return (yield from complete(asking(f"{item}: {len(texts)}"))).text


def test_one_step_takes_one_wave_and_two_steps_take_two_whatever_the_limits_are() -> None:
    single, double = MemoryBatches(), MemoryBatches()
    report, _ = play(single, one, range(60), limits=Limits(llm=1))
    assert report.results == answers(range(60))
    assert single.waves == [60]

    report, _ = play(double, two_steps, range(60))
    assert report.results == [f"answer to {item}: 3" for item in range(60)]
    assert double.waves == [180, 60]


def test_a_wave_waits_for_every_flow_that_can_go_on_by_itself() -> None:
    def some_are_slow(item: int) -> Flow[str]:
        yield from sleep(7.0 * (item % 3))
        return (yield from one(item))

    service = MemoryBatches()
    play(service, some_are_slow, range(30))
    assert service.waves == [30]
    assert service.batches["batch-0"].made_at == 14.0


def test_a_batch_is_looked_at_after_a_second_then_ever_later_up_to_a_minute() -> None:
    service = MemoryBatches(seconds=1000.0)
    play(service, one, range(3))
    gaps = [
        round(after - before, 3) for before, after in zip([0.0, *service.looks], service.looks, strict=False)
    ]
    assert gaps[:5] == [1.0, 1.5, 2.25, 3.375, 5.062]
    assert max(gaps) == gaps[-1] == 60.0


@pytest.mark.parametrize(
    "bound", [{"max_lines": 40}, {"max_bytes": 40 * 88}, {"max_enqueued_tokens": 40 * 17}]
)
def test_a_full_wave_is_sent_before_all_flows_wait(bound: dict[str, int]) -> None:
    service = MemoryBatches(**bound)  # type: ignore[arg-type]
    report, _ = play(service, one, range(100), limits=Limits(open_items=100))
    assert report.results == answers(range(100))
    assert len(service.waves) >= 3
    assert max(service.waves) <= 60


def test_the_window_is_as_wide_as_a_wave_unless_it_is_set() -> None:
    service, narrow = MemoryBatches(), MemoryBatches()
    play(service, one, range(240))
    play(narrow, one, range(240), limits=Limits(open_items=60))
    assert service.waves == [240]
    assert narrow.waves == [60] * 4


def test_equal_requests_are_sent_once_and_all_who_asked_get_the_answer_and_one_pays() -> None:
    service = MemoryBatches()

    def same(item: int) -> Flow[str]:
        return (yield from one(item % 5))

    report, _ = play(service, same, range(50))
    assert service.waves == [5]
    assert report.results == [f"answer to {item % 5}" for item in range(50)]
    assert report.stats.calls["llm"] == 5
    assert (report.stats.prompt_tokens, report.stats.cache_hits) == (50, 45)


def test_a_flow_that_is_run_once_does_not_keep_a_wave_from_being_sent() -> None:
    service = MemoryBatches()

    def shared(item: int) -> Flow[str]:
        text = yield from once("all", lambda: one("the same"))
        return (yield from one(f"{item} {len(text)}"))

    report, _ = play(service, shared, range(10))
    assert service.waves == [1, 10]
    assert not report.failures


def test_lines_that_fail_for_a_passing_reason_go_into_the_next_wave_and_use_up_attempts() -> None:
    def fails(prompt: str, time: int) -> Any:
        number = int(prompt)
        if number % 10 == 0:
            return errors.TransientBackendError("x") if time < 3 else f"late {prompt}"
        return errors.TransientBackendError("x") if number == 7 else f"answer to {prompt}"

    service = MemoryBatches(answer=fails)
    report, events = play(service, one, range(30), llm_retry=RetryPolicy(attempts=3))
    assert service.waves == [30, 4, 4]
    assert [failure.item_id for failure in report.failures] == [7]
    assert report.failures[0].attempts == 3
    assert report.outcomes[10].value == "late 10"
    started = [event for event in events if isinstance(event, CallStarted)]
    ended = [event for event in events if isinstance(event, CallEnded)]
    assert len(started) == len(ended) == 38
    assert report.stats.retries == 8


def test_permanent_errors_fail_their_item_and_no_other() -> None:
    def fails(prompt: str, _: int) -> Any:
        return errors.PermanentBackendError("no") if prompt in ("3", "5") else prompt

    service = MemoryBatches(answer=fails)
    report, _ = play(service, one, range(8))
    assert service.waves == [8]
    assert [failure.item_id for failure in report.failures] == [3, 5]


def test_lines_without_an_answer_are_asked_again() -> None:
    service = MemoryBatches(answer=lambda prompt, time: None if int(prompt) % 2 and time == 1 else prompt)
    report, _ = play(service, one, range(10))
    assert service.waves == [10, 5]
    assert not report.failures


@pytest.mark.parametrize("end", ["expired", "vanished"])
def test_what_a_batch_has_not_done_goes_into_the_next_one(end: str) -> None:
    service = MemoryBatches(end=lambda number: end if number == 0 else "completed")
    report, _ = play(service, one, range(10))
    assert report.results == answers(range(10))
    assert service.waves == [10, 5 if end == "expired" else 10]


def test_a_batch_that_another_client_cancels_fails_the_lines_it_has_not_done() -> None:
    service = MemoryBatches(end=lambda _: "cancelled")
    report, _ = play(service, one, range(10))
    assert service.waves == [10]
    assert len(report.results) == 5
    assert {type(failure.error) for failure in report.failures} == {errors.PermanentBackendError}


def test_a_line_that_the_service_does_not_accept_fails_alone() -> None:
    service = MemoryBatches(end=lambda number: "bad line 4" if number == 0 else "completed")
    report, _ = play(service, one, range(10))
    assert [failure.item_id for failure in report.failures] == [3]
    assert service.waves == [10, 9]


def test_a_model_that_does_not_exist_stops_the_run() -> None:
    service = MemoryBatches(end=lambda _: "failed")
    report, _ = play(service, one, range(10))
    assert service.waves == [10]
    assert "no such model" in str(report.stats.stopped_because)
    assert len(report.failures) == 10


def test_a_wave_beyond_the_quota_is_halved_and_sent_when_there_is_room() -> None:
    service = MemoryBatches(quota=30 * 88)
    report, _ = play(service, one, range(100))
    assert report.results == answers(range(100))
    assert service.waves[0] == 100
    assert max(service.waves[-4:]) <= 30
    assert set(service.sent.values()) == {1}


def test_a_quota_that_never_has_room_fails_the_calls_in_the_end() -> None:
    service = MemoryBatches(quota=1)
    report, _ = play(service, one, range(3), llm_retry=RetryPolicy(max_rate_limit_attempts=1))
    assert {type(failure.error) for failure in report.failures} == {errors.RateLimited}
    assert len(service.waves) < 200


def test_few_lines_are_called_online_if_that_is_allowed() -> None:
    def fails(prompt: str, _: int) -> Any:
        return errors.TransientBackendError("x") if int(prompt) % 10 == 0 else prompt

    allowed, not_allowed = (
        MemoryBatches(answer=fails, min_wave=5, online_rest=online) for online in (True, False)
    )
    report, _ = play(allowed, one, range(30))
    assert allowed.waves == [30]
    assert sorted(allowed.online_calls) == ["0", "10", "20"]
    assert not report.failures
    play(not_allowed, one, range(30), llm_retry=RetryPolicy(attempts=2))
    assert not_allowed.waves == [30, 3]
    assert not_allowed.online_calls == []


@pytest.mark.parametrize("online", [True, False])
def test_a_batch_that_takes_too_long_is_cancelled_and_what_it_has_done_is_used(online: bool) -> None:
    service = MemoryBatches(seconds=10_000.0, wait_at_most=500.0, online_rest=online)
    report, _ = play(service, one, range(10))
    assert [batch.cancelled for batch in service.batches.values()] == [True]
    assert service.time.now() < 600.0
    assert [outcome.ok for outcome in report.outcomes[:5]] == [True] * 5
    if online:
        assert len(service.online_calls) == 5
        assert not report.failures
    else:
        assert {type(failure.error) for failure in report.failures} == {errors.DeadlineExceeded}


def test_an_item_whose_time_is_up_fails_while_its_batch_goes_on() -> None:
    service = MemoryBatches(seconds=100.0)
    report, _ = play(service, one, range(3), time_limits=TimeLimits(item=50.0))
    assert {type(failure.error) for failure in report.failures} == {errors.DeadlineExceeded}
    assert {failure.stage for failure in report.failures} == {"llm"}
    assert service.time.now() == 50.0
    assert service.cancelled_later == ["batch-0"]


def test_a_batch_that_is_made_as_its_run_ends_is_cancelled_once_and_the_process_waits_for_it() -> None:
    service = MemoryBatches()
    waves: Any = SimpleNamespace(service=service, journal=None)
    wave = Wave()
    wave.file_id = service.upload(BytesIO(), "wave.jsonl")
    wave.is_over = True  # since the request was sent

    _create(wave, waves)
    assert service.cancelled_later == ["batch-0"]
    assert not wave.claim_cancel()  # the end of the run does not cancel it too
    assert service.asked["cancel"] == 0  # which would be tried once


TROUBLE = {
    "upload fails": ("upload", errors.TransientBackendError("503")),
    "create is refused": ("create", errors.RateLimited("429")),
    "create is lost": ("created", errors.TransientBackendError("connection lost")),
    "create never arrived": ("create", errors.TransientBackendError("connection refused")),
    "a look fails": ("look", errors.TransientBackendError("502")),
    "a look finds nothing": ("look", errors.PermanentBackendError("404", status=404)),
    "a file is not there yet": ("fetch", errors.TransientBackendError("404")),
    "the file cannot be deleted": ("forget", errors.PermanentBackendError("403", status=403)),
}


@pytest.mark.parametrize("what", TROUBLE)
@pytest.mark.sample(2)
def test_trouble_with_the_service_passes_and_no_line_is_sent_twice(what: str) -> None:
    operation, error = TROUBLE[what]
    times = 3 if operation != "created" else 1
    service = MemoryBatches(
        trouble=lambda asked, number: error if asked == operation and number <= times else None
    )
    report, _ = play(service, one, range(10))
    assert report.results == answers(range(10))
    assert service.waves == [10]
    assert set(service.sent.values()) == {1}


def test_a_key_that_is_not_accepted_stops_the_run() -> None:
    error = errors.AuthenticationFailed("401", status=401)
    service = MemoryBatches(trouble=lambda asked, _: error if asked == "upload" else None)
    report, _ = play(service, one, range(5))
    assert "AuthenticationFailed" in str(report.stats.stopped_because)
    assert service.waves == []


def test_a_replied_line_costs_the_batch_price_and_an_online_call_the_full_one() -> None:
    def fails(prompt: str, _: int) -> Any:
        return errors.TransientBackendError("x") if prompt == "0" else prompt

    service = MemoryBatches(answer=fails, min_wave=5, online_rest=True)
    prices = {"tiny": Price(prompt=1.0, completion=2.0, batch=0.5)}
    report, _ = play(service, one, range(10), prices=prices)
    each = (10 * 1.0 + 5 * 2.0) / 1e6
    assert report.stats.cost == pytest.approx(9 * each / 2 + each)


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(3)])
def test_one_by_one_each_item_takes_waves_of_its_own_and_a_warning_says_so(
    strategy: Strategy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restaurant_llm_batch._engine.wave_timing.FIRST_LOOK", 0.0)
    service = MemoryBatches(seconds=0.0)
    with BatchRunner(llm=service, strategy=strategy) as runner, caplog.at_level(logging.WARNING):
        report = runner.run(two_steps, range(2))
    assert report.results == [f"answer to {item}: 3" for item in range(2)]
    assert sum(service.waves) == 8
    assert len(service.waves) == (8 if strategy == Strategy.stage(1) else 4)
    assert service.online_calls == []


def test_the_warnings_name_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    BatchRunner(llm=MemoryBatches(), strategy=Strategy.stage(2))
    said = " ".join(record.getMessage() for record in caplog.records)
    assert 'store="run.db"' in said
    assert "Strategy.stage(4)" in said


# With a store: a run that ends at any moment leaves what the next one needs


MOMENTS = [0.0, 0.5, 30.0, 99.0, 200.0]


@pytest.mark.parametrize("on_stop", ["cancel", "keep"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.sample(2)
def test_what_a_stopped_run_has_sent_is_collected_by_the_next_one(moment: float, on_stop: Any) -> None:
    store = MemoryStore()
    service = MemoryBatches(on_stop=on_stop)
    play(service, two_steps, range(20), store=store, until=moment)
    before = dict(service.sent)
    report, _ = play(service, two_steps, range(20), store=store)
    assert report.results == [f"answer to {item}: 3" for item in range(20)]
    if on_stop == "keep":
        assert set(service.sent.values()) == {1}
        assert sum(service.waves) == 80
    paid = [prompt for prompt, times in service.sent.items() if times > 1]
    assert paid == []  # a batch that was cancelled has done half of its lines, which are used
    assert len(before) <= 80
    assert store.jobs == {}


def test_a_run_with_other_items_collects_only_what_it_asks_for_and_keeps_the_rest() -> None:
    store = MemoryStore()
    service = MemoryBatches(on_stop="keep")
    play(service, one, range(20), store=store, until=10.0)
    report, _ = play(service, one, range(10, 30), store=store)
    assert report.results == answers(range(10, 30))
    assert service.waves == [20, 10]
    report, _ = play(service, one, range(30), store=store)
    assert report.results == answers(range(30))
    assert set(service.sent.values()) == {1}
    assert report.stats.cache_hits == 30


@pytest.mark.parametrize("end", ["vanished", "expired"])
def test_a_batch_that_has_gone_meanwhile_is_made_again(end: str) -> None:
    store = MemoryStore()
    service = MemoryBatches(on_stop="keep")
    play(service, one, range(10), store=store, until=10.0)
    service.end = lambda number: end if number == 0 else "completed"
    report, _ = play(service, one, range(10), store=store)
    assert report.results == answers(range(10))
    assert service.waves == [10, 5 if end == "expired" else 10]


def test_a_later_run_uses_the_answers_of_batches() -> None:
    store = MemoryStore()
    service = MemoryBatches()
    play(service, one, range(5), store=store)
    report, _ = play(MemoryBatches(), one, range(5), store=store)
    assert report.stats.cache_hits == 5

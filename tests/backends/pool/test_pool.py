"""`LLMPool` in a runner: calls go where room is, and away from what fails, in every strategy."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchReport,
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    LLMRequest,
    LLMResponse,
    RateLimitInfo,
    RateLimitStatus,
    RetryPolicy,
    SharedLimiter,
    Strategy,
    errors,
)
from restaurant_llm_batch.backends import LLMPool, OfflineLLM, OpenAILLM, RunPodLLM, VLLMServerLLM
from restaurant_llm_batch.events import CallEnded, CallStarted, Event, LimitChanged, RetryScheduled
from restaurant_llm_batch.integrations.metrics import RunMetrics
from restaurant_llm_batch.sharing import FileBroker
from restaurant_llm_batch.steps import complete, gather
from restaurant_llm_batch.testing import FakeLLM

STRATEGIES = [*(Strategy.stage(number) for number in (1, 2, 3, 4)), Strategy.threaded()]
SHORT = RetryPolicy(wait_initial=0.001, wait_max=0.002)
Fault = Callable[[LLMRequest, int], Exception | None]


def request_of(item: object) -> LLMRequest:
    return LLMRequest(
        "ask", ({"role": "user", "content": f"맛은? {item}"},), None, {"item": item}, max_tokens=50
    )


def ask(item: Any) -> Generator[Any, Any, str]:
    reply = yield from complete(request_of(item))
    return str(reply.text)


LONG: dict[str, Any] = {"wait_initial": 600.0, "wait_max": 600.0}
"""Waits of a breaker that no test sees the end of, however slow the machine is."""


def always(error: Callable[[], Exception]) -> Fault:
    return lambda request, attempt: error()


def run(pool: LLMPool, items: int = 30, **options: Any) -> tuple[BatchReport[str], list[Event]]:
    events: list[Event] = []
    options = {"strategy": Strategy.stage(4), "llm_retry": SHORT, **options}
    runner = BatchRunner(llm=pool, observers=[events.append], **options)
    return runner.run(ask, range(items)), events


def calls(pool: LLMPool) -> list[int]:
    return [statistics.calls for statistics in pool.statistics().values()]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_each_endpoint_keeps_to_its_own_limit_and_no_call_is_lost(strategy: Strategy) -> None:
    models = [FakeLLM(seconds=0.001) for _ in range(3)]
    pool = LLMPool(models, limits=[1, 2, 3])
    report, events = run(pool, strategy=strategy)

    assert [outcome.ok for outcome in report.outcomes] == [True] * 30
    assert all(model.peak <= limit for model, limit in zip(models, (1, 2, 3), strict=True))
    assert sum(model.calls for model in models) == 30
    stats = report.stats.endpoints
    assert {name: one.answered for name, one in stats.items()} == Counter(
        event.endpoint for event in events if isinstance(event, CallEnded)
    )
    assert all(one.peak_in_flight <= limit for one, limit in zip(stats.values(), (1, 2, 3), strict=False))
    assert all(one.in_flight == 0 for one in pool.statistics().values())
    if strategy.restaurant_async:
        assert sum(model.peak for model in models) == 6  # not the 8 of a single server


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_runs_on_any_event_loop(backend: str) -> None:
    pool = LLMPool([FakeLLM(seconds=0.001), FakeLLM()], limits=[2, 1])
    runner = BatchRunner(llm=pool, strategy=Strategy.stage(4))
    report = anyio.run(runner.arun, ask, range(10), backend=backend)

    assert len(report.results) == 10


class OnlySync:
    def complete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse("sync")


class OnlyAsync:
    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        await anyio.lowlevel.checkpoint()
        return LLMResponse("async")


def test_endpoints_that_block_and_such_that_are_awaited_work_side_by_side() -> None:
    pool = LLMPool({"s": OnlySync(), "a": OnlyAsync()}, limits=1, weights={"s": 1, "a": 1})
    report, _ = run(pool, 20)

    assert Counter(report.results) == {"sync": calls(pool)[0], "async": calls(pool)[1]}
    assert min(calls(pool)) > 0


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(2), Strategy.threaded()], ids=str)
def test_an_endpoint_that_the_strategy_cannot_call_is_refused_by_name_of_its_class(
    strategy: Strategy,
) -> None:
    with pytest.raises(errors.ConfigurationError, match="OnlyAsync has only acomplete"):
        BatchRunner(llm=LLMPool([OnlySync(), OnlyAsync()]), strategy=strategy)


@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("strategy", [STRATEGIES[0], STRATEGIES[3], STRATEGIES[4]], ids=str)
def test_an_endpoint_that_fails_costs_no_item_and_is_left_out(strategy: Strategy, attempts: int) -> None:
    broken = FakeLLM(fault=always(lambda: errors.TransientBackendError("down", status=500)))
    pool = LLMPool({"broken": broken, "sound": FakeLLM(seconds=0.001)}, limits=2, errors_in_a_row=3, **LONG)
    report, events = run(pool, strategy=strategy, llm_retry=RetryPolicy(attempts=attempts, wait_initial=5.0))

    assert len(report.results) == 30
    assert 3 <= broken.calls <= 5  # those in flight when it was left out
    assert pool.statistics()["broken"].status == "left out"
    moved = [event for event in events if isinstance(event, RetryScheduled)]
    assert {event.wait for event in moved} == {0.0}
    again = [event.endpoint for event in events if isinstance(event, CallStarted) and event.attempt > 1]
    assert set(again) == {"sound"}


@pytest.mark.parametrize(
    "error",
    [
        lambda: errors.AuthenticationFailed("wrong key", status=401),
        lambda: errors.QuotaExhausted("no credit", status=429),
        lambda: errors.ConfigurationError("pass async_client too"),
    ],
    ids=["key", "credit", "configuration"],
)
@pytest.mark.parametrize("strategy", [STRATEGIES[0], STRATEGIES[3]], ids=str)
def test_an_endpoint_that_rejects_every_call_is_left_out_with_one_warning(
    error: Callable[[], Exception], strategy: Strategy, caplog: pytest.LogCaptureFixture
) -> None:
    pool = LLMPool({"closed": FakeLLM(fault=always(error)), "open": FakeLLM(seconds=0.001)}, limits=4)
    with caplog.at_level(logging.WARNING):
        report, _ = run(pool, strategy=strategy, llm_retry=RetryPolicy(attempts=1))

    assert len(report.results) == 30
    warnings = [record for record in caplog.records if "'closed'" in record.getMessage()]
    assert len(warnings) == 1
    assert "rejects every call" in warnings[0].getMessage()


def test_the_run_stops_only_when_all_endpoints_reject_every_call() -> None:
    shut = always(lambda: errors.AuthenticationFailed("wrong key", status=401))
    pool = LLMPool([FakeLLM(fault=shut), FakeLLM(fault=shut)], limits=2)
    report, _ = run(pool)

    assert not report.results
    assert "AuthenticationFailed" in str(report.stats.stopped_because)
    assert sum(calls(pool)) <= 6
    report, _ = run(pool)  # it does not hang because both are left out
    assert "AuthenticationFailed" in str(report.stats.stopped_because)


@pytest.mark.parametrize("status", [403, 404])
def test_a_model_that_one_endpoint_does_not_have_fails_no_item(status: int) -> None:
    wrong = FakeLLM(fault=always(lambda: errors.PermanentBackendError("no such model", status=status)))
    pool = LLMPool([wrong, FakeLLM(seconds=0.001)], limits=2, **LONG)
    report, _ = run(pool)

    assert len(report.results) == 30
    assert wrong.calls <= 6


@pytest.mark.parametrize(
    "error",
    [
        lambda: errors.PermanentBackendError("bad request", status=400),
        lambda: errors.ContentRefused("no", status=403),
        lambda: errors.SubmissionUnknown("lost"),
        lambda: errors.PromptTooLong("long", status=400),
        lambda: ValueError("own"),
    ],
    ids=["bad request", "content", "submission", "length", "own"],
)
def test_what_is_wrong_with_a_request_is_asked_at_one_endpoint_only(error: Callable[[], Exception]) -> None:
    models = [FakeLLM(fault=always(error)) for _ in range(2)]
    pool = LLMPool(models)
    report, _ = run(pool, 3)

    assert len(report.failures) == 3
    assert sum(model.calls for model in models) == 3


def test_a_call_that_fails_everywhere_is_made_as_often_as_its_attempts_and_once_more_at_each_other_endpoint() -> (
    None
):
    models = [FakeLLM(fault=always(lambda: errors.TransientBackendError("bad"))) for _ in range(3)]
    report, _ = run(LLMPool(models, errors_in_a_row=100), 1)

    (failure,) = report.failures
    assert failure.attempts == sum(model.calls for model in models) == 3 + 2


def test_a_refused_call_goes_to_another_endpoint_at_once() -> None:
    busy = FakeLLM(fault=always(lambda: errors.RateLimited("busy", retry_after=30.0)))
    pool = LLMPool(
        {"busy": busy, "free": FakeLLM(seconds=0.001)}, limits={"busy": AdaptiveLimit(), "free": 2}
    )
    report, events = run(pool, llm_retry=RetryPolicy(max_rate_limit_attempts=1))

    assert len(report.results) == 30
    assert {event.wait for event in events if isinstance(event, RetryScheduled)} == {0.0}
    assert report.stats.endpoints["busy"].rate_limited == report.stats.rate_limited == busy.calls
    assert {event.limiter for event in events if isinstance(event, LimitChanged)} == {"llm:busy"}


def test_shares_follow_the_weights_while_there_is_room() -> None:
    for strategy in (Strategy.stage(1), Strategy.stage(4)):
        pool = LLMPool([FakeLLM(), FakeLLM()], weights=[3, 1], limits=100)
        run(pool, 40, strategy=strategy, limits=Limits(open_items=8))
        assert calls(pool)[0] == pytest.approx(30, abs=3), strategy


def test_a_fallback_is_used_only_if_there_is_no_room_before_it() -> None:
    first, second, last = (FakeLLM(seconds=0.005) for _ in range(3))
    pool = LLMPool([first], limits=[2, 1, 5], fallback=[second, last])
    run(pool, 20, limits=Limits(llm=3))
    assert last.calls == 0
    assert second.calls > 0
    assert first.calls > second.calls

    pool = LLMPool({"a": FakeLLM(), "b": FakeLLM()}, fallback=True)
    run(pool, 20, limits=Limits(llm=3))
    assert calls(pool) == [20, 0]

    down = FakeLLM(fault=always(lambda: errors.TransientBackendError("down")))
    pool = LLMPool({"b": FakeLLM(), "a": down}, fallback="b")
    report, _ = run(pool, 20, limits=Limits(llm=3))
    assert len(report.results) == 20
    assert calls(pool)[0] == 20


def test_the_calls_of_an_item_stay_at_one_endpoint_as_long_as_it_has_room() -> None:
    def three(item: int) -> Generator[Any, Any, None]:
        for number in range(3):
            yield from complete(request_of((item, number)))
        yield from gather(*(complete(request_of((item, "side by side", number))) for number in range(3)))

    for strategy in (Strategy.stage(1), Strategy.stage(4), Strategy.threaded()):
        events: list[Event] = []
        pool = LLMPool([FakeLLM(seconds=0.001) for _ in range(3)], limits=100)
        BatchRunner(llm=pool, strategy=strategy, observers=[events.append]).run(three, range(9))
        homes = {
            item: {
                event.endpoint for event in events if isinstance(event, CallStarted) and event.item_id == item
            }
            for item in range(9)
        }
        assert all(len(home) == 1 for home in homes.values())
        assert len(set.union(*homes.values())) == 3


def test_limits_that_the_user_sets_hold_for_all_endpoints_together() -> None:
    models = [FakeLLM(seconds=0.002) for _ in range(3)]
    run(LLMPool(models, limits=10), limits=Limits(llm=2))
    assert sum(model.peak for model in models) <= 3  # each peak by itself

    total = ConcurrencyLimiter(2)
    pool = LLMPool([FakeLLM(seconds=0.002) for _ in range(3)], limits=10)
    report, _ = run(pool, limits=Limits(llm_total=total))
    assert report.stats.peak_in_flight["llm"] == 2


def test_a_limiter_that_others_use_too_is_kept_together_with_them() -> None:
    gpu = ConcurrencyLimiter(2)
    model = FakeLLM(seconds=0.001)
    pool = LLMPool({"shared": model, "own": FakeLLM(seconds=0.001)}, limits={"shared": gpu, "own": 1})
    runners = [
        BatchRunner(llm=pool, strategy=Strategy.stage(4)),
        BatchRunner(llm=model, limits=Limits(llm=gpu)),
    ]
    runners[1] = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=Limits(llm=gpu))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for runner in runners:
                tasks.start_soon(runner.arun, ask, range(30))

    anyio.run(main)
    assert gpu.statistics().peak == 2
    assert model.peak <= 2
    assert gpu.statistics().in_flight == gpu.statistics().waiting == 0


def test_an_endpoint_rests_when_its_service_says_that_its_minute_is_used_up() -> None:
    spent = RateLimitInfo(requests=RateLimitStatus(limit=60, remaining=0, reset=40.0))

    class Spent(FakeLLM):
        async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
            await super().acomplete(request)
            return LLMResponse("spent", rate_limit=spent)

    pool = LLMPool({"spent": Spent(), "free": FakeLLM()}, limits=1)
    report, _ = run(pool, 20)

    assert len(report.results) == 20
    assert pool.statistics()["spent"].status == "resting"
    assert calls(pool) == [1, 19]


def test_metrics_and_statistics_name_the_endpoints() -> None:
    metrics = RunMetrics()
    down = FakeLLM(fault=always(lambda: errors.TransientBackendError("down")))
    pool = LLMPool({"a": FakeLLM(), 'b "quoted"': down}, limits=1, **LONG)
    report = BatchRunner(llm=pool, strategy=Strategy.stage(1), llm_retry=SHORT, observers=[metrics]).run(
        ask, range(20)
    )
    text = metrics.prometheus()

    assert 'restaurant_llm_batch_endpoint_calls_total{endpoint="a",outcome="answered"} 20' in text
    assert r'endpoint="b \"quoted\"",outcome="failed"} 5' in text
    assert 'restaurant_llm_batch_endpoint_calls_in_flight{endpoint="a"} 0' in text
    assert report.stats.endpoints["a"].latency.count == 20
    assert report.stats.endpoints["a"].completion_tokens > 0
    assert "endpoint a" in report.stats._repr_html_()
    assert report.to_dict()["stats"]["endpoints"]["a"]["answered"] == 20


def test_a_backend_that_wraps_a_pool_makes_its_calls_by_itself_within_the_limits() -> None:
    class Wrapped:
        def __init__(self, inner: LLMPool) -> None:
            self.inner = inner
            self.seen = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            self.seen += 1
            return await self.inner.acomplete(request)

    models = [FakeLLM(seconds=0.001), FakeLLM(seconds=0.001)]
    wrapped: Any = Wrapped(LLMPool(models, limits=[1, 2]))
    report = BatchRunner(llm=wrapped, strategy=Strategy.stage(4)).run(ask, range(20))

    assert len(report.results) == wrapped.seen == 20
    assert [model.peak for model in models] == [1, 2]


def test_all_endpoints_are_closed_even_if_one_fails_to(caplog: pytest.LogCaptureFixture) -> None:
    class Closing(FakeLLM):
        def __init__(self, error: Exception | None = None) -> None:
            super().__init__()
            self.closed: list[str] = []
            self.error = error

        def close(self) -> None:
            self.closed.append("close")
            if self.error:
                raise self.error

        async def aclose(self) -> None:
            self.closed.append("aclose")
            if self.error:
                raise self.error

    models = [Closing(ValueError("first")), Closing(), FakeLLM()]
    with BatchRunner(llm=LLMPool(models), strategy=Strategy.stage(4)) as runner:
        runner.run(ask, range(3))

    assert [model.closed for model in models[:2] if isinstance(model, Closing)] == [["aclose", "close"]] * 2
    assert "close() failed" in caplog.text


def test_services_of_all_kinds_make_one_pool() -> None:
    pool = LLMPool(
        [
            OpenAILLM("gpt-5-mini", api_key="k"),
            VLLMServerLLM("http://localhost:1"),
            RunPodLLM("ep", api_key="k"),
            OfflineLLM(),
        ]
    )

    assert list(pool.endpoints) == ["openai-1", "vllm-2", "runpod-3", "offline-4"]
    assert "k'" not in repr(pool)
    assert pool.model is None
    assert LLMPool([OfflineLLM()]).calls_model is False
    for strategy in STRATEGIES:
        BatchRunner(llm=pool, strategy=strategy)


MODEL = FakeLLM()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([[]], {}, "at least one endpoint"),
        ([{}], {}, "at least one endpoint"),
        ([5], {}, "must be a list of backends"),
        (["abc"], {}, "must be a list of backends"),
        ([[FakeLLM]], {}, "must be an LLM backend"),
        ([[object()]], {}, "must be an LLM backend"),
        ([[MODEL, MODEL]], {}, "same object"),
        ([{"": FakeLLM()}], {}, "name of an endpoint must be a text of printable characters"),
        ([{"a\nb": FakeLLM()}], {}, "name of an endpoint must be a text of printable characters"),
        ([{1: FakeLLM()}], {}, "name of an endpoint must be a text of printable characters"),
        ([[LLMPool([FakeLLM()])]], {}, "is a pool"),
        ([[FakeLLM()]], {"limits": 0}, r"limits\['fake-1'\] must be a whole number"),
        ([[FakeLLM()]], {"limits": [1, 2]}, "has 2 entries"),
        ([{"a": FakeLLM()}], {"limits": {"b": 1}}, "no endpoint 'b'"),
        ([{"a": FakeLLM()}], {"limits": {"a": "8"}}, r"limits\['a'\]"),
        ([[FakeLLM(), FakeLLM()]], {"limits": ConcurrencyLimiter(8)}, "one limit for all"),
        ([[FakeLLM()]], {"weights": [0]}, r"weights\['fake-1'\] must be a number above 0"),
        ([[FakeLLM()]], {"weights": [float("nan")]}, "above 0"),
        ([[FakeLLM()]], {"weights": [True]}, "above 0"),
        ([[FakeLLM(), FakeLLM()]], {"weights": [1]}, "has 1 entries"),
        ([[FakeLLM()]], {"fallback": "b"}, "no endpoint 'b'"),
        ([{"a": FakeLLM()}], {"fallback": ["a"]}, "names every endpoint"),
        ([{"a": FakeLLM()}], {"fallback": {"a": FakeLLM()}}, "two endpoints have the name"),
        ([[FakeLLM()]], {"fallback": [5]}, "must be an LLM backend"),
        ([[FakeLLM()]], {"errors_in_a_row": 0}, "errors_in_a_row"),
        ([[FakeLLM()]], {"wait_max": 0.1}, "wait_max"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_with_what_to_write(
    arguments: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        LLMPool(*arguments, **options)


def test_limits_per_minute_of_a_shared_limit_are_refused_at_one_endpoint(tmp_path: Path) -> None:
    shared = SharedLimiter("gpu", 8, broker=FileBroker(tmp_path / "limits.db"), requests_per_minute=60)

    with pytest.raises(
        errors.ConfigurationError, match=r"limits\['a'\] has limits per minute.*give them to Limits"
    ):
        LLMPool({"a": FakeLLM(), "b": FakeLLM()}, limits={"a": shared})

"""What a run takes and returns: input, outcomes, statistics, stopping, closing."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.patience import PATIENCE
from tests.support.run_methods import STRATEGIES, RunMethod, comparable, each_run_method, each_strategy
from tests.support.slow import quick_of

from restaurant_llm_batch import (
    BatchRunner,
    ConcurrencyLimiter,
    Failure,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch._engine.call import Call
from restaurant_llm_batch.events import CallEnded, CallStarted, ItemEnded, RunEnded, RunStarted
from restaurant_llm_batch.steps import complete, gather, sleep
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

QUICK = RetryPolicy(wait_initial=0.001)


def ask(item: Any) -> Any:
    """Ask the model about one item."""
    reply = yield from complete(LLMRequest("t", (), inputs={"item": item}))
    return (item, reply.text)


def reviews(restaurant_id: object) -> list[str]:
    return ["맛있어요"]


def make(strategy: Strategy = Strategy(), **llm: Any) -> BatchRunner:
    limits = Limits(llm=3, open_items=5)
    return BatchRunner(llm=FakeLLM(**llm), strategy=strategy, limits=limits, llm_retry=QUICK)


@each_run_method
@each_strategy
def test_no_items_give_an_empty_report(strategy: Strategy, way: RunMethod) -> None:
    assert way(make(strategy), ask, []) == []
    assert way(make(strategy), ask, iter([])) == []


@settings(max_examples=examples(15), deadline=None)
@given(count=st.integers(0, 30), strategy=st.sampled_from(STRATEGIES), lazy=st.booleans())
def test_there_is_one_outcome_for_every_item_in_input_order(
    count: int, strategy: Strategy, lazy: bool
) -> None:
    items = iter(range(count)) if lazy else range(count)
    report = make(strategy).run(ask, items)

    assert report.results == [(item, "text") for item in range(count)]
    assert [outcome.index for outcome in report.outcomes] == list(range(count))
    assert (report.stats.succeeded, report.stats.failed) == (count, 0)


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        ([1, 2, 1], r"item 2: duplicate id 1, already item 0"),
        ([1, {"restaurant_id": 2, "limt": 3}], r"item 1: field 'limt': extra inputs"),
        ([{"limit": 3}], r"item 0: field 'restaurant_id': field required"),
        ([{"restaurant_id": 1, "limit": 0}], r"item 0: field 'limit': .* greater than or equal to 1, got 0"),
        ([{"restaurant_id": True}], r"item 0: field 'restaurant_id'"),
        ([None], r"item 0: restaurant_id must be an integer or a string, got None"),
        ([1.5], r"item 0: restaurant_id must be"),
        ("12", r"for example \[item\]"),
        ({"restaurant_id": 1}, r"for example \[item\]"),
        (7, r"for example \[item\]"),
    ],
)
def test_a_bad_list_is_refused_before_any_call_and_the_item_and_field_are_named(
    items: Any, complaint: str
) -> None:
    llm, search = FakeLLM(), FakeSearch(reviews)
    runner = BatchRunner(llm=llm, search=search)
    with pytest.raises(errors.ConfigurationError, match=complaint):
        runner.run(SummarizeAspects(), items)

    assert llm.calls == search.calls == 0


@each_run_method
@each_strategy
def test_a_bad_item_of_an_iterator_fails_in_its_place(strategy: Strategy, way: RunMethod) -> None:
    items = iter([1, {"restaurant_id": 2, "limit": "many"}, None, 3])
    runner = BatchRunner(llm=FakeLLM(), search=FakeSearch(reviews), strategy=strategy)
    outcomes = comparable(way(runner, SummarizeAspects(), items))

    assert [row[:2] for row in outcomes if isinstance(row, tuple)] == [(0, 1), (1, 2), (2, None), (3, 3)]
    assert outcomes[1:3] == [
        (1, 2, errors.ConfigurationError, "input", 0),
        (2, None, errors.ConfigurationError, "input", 0),
    ]


def test_duplicates_of_an_iterator_are_noticed_while_open() -> None:
    report = make(Strategy.stage(4), seconds=0.002).run(ask, iter([1, 1, 2]))
    one_by_one = make().run(ask, iter([1, 1, 2]))

    assert [type(outcome) is Failure for outcome in report.outcomes] == [False, True, False]
    assert not one_by_one.failures


def test_numpy_like_ids_are_integers() -> None:
    class Int64:
        def __index__(self) -> int:
            return 7

    runner = BatchRunner(llm=FakeLLM(), search=FakeSearch(reviews))
    report = runner.run(SummarizeAspects(), [Int64(), 0, "0"])

    assert [result.restaurant_id for result in report.results] == [7, 0, "0"]


def test_a_task_that_searches_needs_a_search() -> None:
    llm = FakeLLM()
    with pytest.raises(errors.ConfigurationError, match=r"BatchRunner\(search=EmbeddedSearch"):
        BatchRunner(llm=llm).run(SummarizeAspects(), [1])
    assert llm.calls == 0


def test_a_task_class_instead_of_a_task_says_what_to_write() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"SummarizeAspects\(\.\.\.\)"):
        make().run(SummarizeAspects, [1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"strategy": 4}, r"for example strategy=Strategy\(\.\.\.\)"),
        ({"limits": 8}, r"for example limits=Limits\(\.\.\.\)"),
        ({"llm": FakeLLM}, r"FakeLLM is a class, not a backend; for example FakeLLM\(\.\.\.\)"),
        ({"llm": object()}, r"neither complete\(\) nor acomplete\(\)"),
        ({"search": object()}, r"neither search\(\) nor asearch\(\)"),
    ],
)
def test_a_runner_of_wrong_parts_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=complaint):
        BatchRunner(**{"llm": FakeLLM(), **arguments})


@pytest.mark.sample(10)
@each_run_method
@each_strategy
@pytest.mark.parametrize("error", [errors.AuthenticationFailed("401"), errors.QuotaExhausted("no credit")])
def test_a_stop_returns_what_is_finished_and_reads_no_further(
    error: Exception, strategy: Strategy, way: RunMethod
) -> None:
    taken: list[int] = []

    def items() -> Any:
        for item in range(100):
            taken.append(item)
            yield item

    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        return error if request.inputs["item"] == 8 else None

    outcomes = way(make(strategy, fault=fault), ask, items())
    by_index = {outcome.index: outcome for outcome in outcomes}

    assert sorted(by_index) == taken
    assert len(taken) < 30
    assert all(by_index[item].ok for item in range(5))
    stopped = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert by_index[8] in stopped
    assert {outcome.stage for outcome in stopped} <= {"llm", "run"}


def test_the_report_says_why_it_stopped() -> None:
    report = make(fault=lambda request, attempt: errors.QuotaExhausted("no credit")).run(ask, [1, 2])

    assert report.stats.stopped_because == "QuotaExhausted: no credit"
    assert "QuotaExhausted" in repr(report)
    assert len(report.outcomes) == 1


@each_strategy
def test_stop_lets_calls_in_flight_end_and_begins_nothing_more(strategy: Strategy) -> None:
    llm = FakeLLM(seconds=0.005)
    limits = Limits(llm=2, open_items=6)
    runner = BatchRunner(llm=llm, strategy=strategy, limits=limits)
    stream = runner.stream(ask, range(100))
    outcomes = [next(stream)]
    stream.stop("closing time")
    calls = llm.calls
    outcomes += list(stream)

    assert llm.calls <= calls + 2
    assert llm.in_flight == llm.cancelled == 0
    assert len(outcomes) < 20
    assert stream.stats.stopped_because == "closing time"
    assert all(type(o.error) is errors.RunStopped for o in outcomes if isinstance(o, Failure))


@each_strategy
def test_stop_does_not_wait_for_a_retry(strategy: Strategy) -> None:
    fault = errors.RateLimited("429", retry_after=3600)
    llm = FakeLLM(fault=lambda request, attempt: fault if request.inputs["item"] else None)
    runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(open_items=3))

    def stop(event: Any) -> None:
        if type(event).__name__ == "RetryScheduled":
            import threading

            threading.Timer(0.01, stream.stop).start()

    runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(open_items=3), observers=[stop])
    stream = runner.stream(ask, range(2))

    assert [outcome.ok for outcome in sorted(stream, key=lambda outcome: outcome.index)] == [True, False]


@each_run_method
@each_strategy
def test_an_error_of_the_items_iterable_comes_out_after_what_was_open(
    strategy: Strategy, way: RunMethod
) -> None:
    def items() -> Any:
        yield from range(3)
        raise OSError("the file went away")

    seen: list[Any] = []

    def watch(event: Any) -> None:
        if isinstance(event, ItemEnded):
            seen.append(event.outcome)

    runner = BatchRunner(llm=FakeLLM(), strategy=strategy, observers=[watch])
    with pytest.raises(OSError, match="went away"):
        way(runner, ask, items())

    assert [outcome.ok for outcome in seen] == [True] * 3


def test_the_error_of_the_iterable_carries_the_report() -> None:
    def items() -> Any:
        yield from range(3)
        raise OSError

    for strategy in STRATEGIES:
        with pytest.raises(OSError) as raised:
            make(strategy).run(ask, items())
        assert len(raised.value.report.results) == 3  # type: ignore[attr-defined]


def test_lazy_items_are_read_in_the_calling_thread() -> None:
    import threading

    threads: set[int] = set()

    def items() -> Any:
        for item in range(20):
            threads.add(threading.get_ident())
            yield item

    for strategy in STRATEGIES:
        make(strategy).run(ask, items())
        list(make(strategy).stream(ask, items()))

    assert threads == {threading.get_ident()}


def test_events_tell_the_whole_story_in_order() -> None:
    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        return errors.TransientBackendError("again") if attempt == 1 else None

    for strategy in STRATEGIES:
        events: list[Any] = []
        llm = FakeLLM(fault=fault)
        BatchRunner(llm=llm, strategy=strategy, llm_retry=QUICK, observers=[events.append]).run(ask, range(4))
        kinds = [type(event).__name__ for event in events]

        assert isinstance(events[0], RunStarted)
        assert events[0].total == 4
        assert isinstance(events[-1], RunEnded)
        assert events[-1].stats.calls == {"llm": 8}
        assert events[-1].stats.retries == 4
        assert [kinds.count(kind) for kind in ("ItemStarted", "ItemEnded", "RetryScheduled")] == [4, 4, 4]
        assert [kinds.count(kind) for kind in ("CallStarted", "CallEnded")] == [8, 8]
        in_flight = 0
        for event in events:
            in_flight += isinstance(event, CallStarted) - isinstance(event, CallEnded)
            assert 0 <= in_flight <= 8
        assert [event.time for event in events] == sorted(event.time for event in events)


def test_an_observer_that_fails_does_not_fail_the_run(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Any) -> None:
        raise KeyError("observer")

    report = BatchRunner(llm=FakeLLM(), observers=[broken]).run(ask, [1])

    assert report.results == [(1, "text")]
    assert "an observer failed" in caplog.text


def test_statistics_belong_to_a_run_and_not_to_the_runner() -> None:
    """Fault 11 of the predecessor: counters shared between concurrent calls."""

    class Counting(FakeLLM):
        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            await anyio.lowlevel.checkpoint()
            return LLMResponse("text", "stop", 10, 1, "fake")

    runner = BatchRunner(llm=Counting(), strategy=Strategy.stage(4))

    async def main() -> list[int]:
        tokens: list[int] = []

        async def one(first: int, count: int) -> None:
            report = await runner.arun(ask, range(first, first + count))
            tokens.append(report.stats.prompt_tokens)

        async with anyio.create_task_group() as tasks:
            for number in range(1, 6):
                tasks.start_soon(one, number * 100, number)
        return sorted(tokens)

    assert anyio.run(main) == [10, 20, 30, 40, 50]


def test_raise_for_failures_groups_the_errors_and_names_the_items() -> None:
    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        return errors.PermanentBackendError("400") if request.inputs["item"] == "둘" else None

    report = make(fault=fault).run(ask, ["하나", "둘"])
    with pytest.raises(ExceptionGroup, match="1 of 2 items failed") as raised:
        report.raise_for_failures()

    assert "'둘' failed at llm" in raised.value.exceptions[0].__notes__[0]
    make().run(ask, ["하나"]).raise_for_failures()


def test_backends_are_closed_with_the_last_lease_and_work_again_afterwards() -> None:
    class Closing(FakeLLM):
        def __init__(self) -> None:
            super().__init__()
            self.closed: list[str] = []

        def close(self) -> None:
            self.closed.append("close")

        async def aclose(self) -> None:
            self.closed.append("aclose")

    llm = Closing()
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4))
    with runner:
        runner.run(ask, [1])
        runner.run(ask, [2])
        assert llm.closed == []
    assert llm.closed == ["aclose", "close"]

    async def main() -> None:
        async with runner:
            await runner.arun(ask, [3])
            await runner.arun(ask, [4])
            assert llm.closed == ["aclose", "close"]

    anyio.run(main)
    assert llm.closed == ["aclose", "close"] * 2


def test_a_pause_holds_no_slot() -> None:
    def patient(item: int) -> Any:
        if item == 0:
            yield from sleep(0.05)
        yield from complete(LLMRequest("t", ()))
        return item

    runner = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(llm=1))
    order = [outcome.index for outcome in runner.stream(patient, range(5))]

    assert order == [1, 2, 3, 4, 0]


def test_every_error_survives_pickling() -> None:
    kinds: list[Any] = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    for kind in kinds:
        error = kind("words")
        if isinstance(error, errors.TransientBackendError):
            error = kind("words", retry_after=3.0, backend="b", status=429)
        if isinstance(error, errors.OutputError):
            error = kind("words", reply=LLMResponse("paid for"))
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.args, vars(copy)) == (kind, error.args, vars(error))
    assert len(kinds) >= 13


def test_a_backend_of_the_wrong_shape_says_what_to_write() -> None:
    class Mistaken:
        async def complete(self, request: LLMRequest) -> LLMResponse:
            return LLMResponse("text")

    with pytest.raises(
        errors.ConfigurationError,
        match=r"Mistaken.complete\(\) is defined with `async def`; rename it acomplete",
    ):
        BatchRunner(llm=Mistaken())  # type: ignore[arg-type]


@each_strategy
def test_a_backend_that_forgets_to_return_fails_its_item(strategy: Strategy) -> None:
    class Forgetful(FakeLLM):
        def _reply(self, request: LLMRequest) -> Any:
            return None

    report = BatchRunner(llm=Forgetful(), strategy=strategy).run(ask, [1])

    assert (report.failures[0].stage, report.failures[0].attempts) == ("llm", 1)
    assert "the llm backend must return an LLMResponse, got None" in str(report.failures[0].error)


def test_a_call_admitted_but_not_begun_is_not_made_after_a_stop() -> None:
    """A stop between the gate and the backend takes the call back."""
    llm = FakeLLM()
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=Limits(llm=5))

    async def main() -> int:
        async with runner:
            stream = runner.astream(ask, range(5))
            pending = 0
            async with anyio.create_task_group() as tasks:

                async def first() -> None:
                    await anext(stream)

                tasks.start_soon(first)
                while stream._channel is None or stream._channel.driver is None:
                    await anyio.lowlevel.checkpoint()
                driver = stream._channel.driver
                pending = len(driver._admitted)
                stream._run.stop("now")
                driver.scheduler.drain()
            return pending

    assert anyio.run(main) == 5
    assert llm.calls == 0
    assert runner._config.limiters.llm[0].statistics().in_flight == 0


@each_strategy
def test_a_stop_reads_no_further_even_if_every_item_is_bad(strategy: Strategy) -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(10_000):
            taken.append(number)
            yield None

    stream = make(strategy).stream(ask, items())
    next(stream)
    stream.stop()
    outcomes = list(stream)

    assert len(taken) == len(outcomes) + 1
    assert len(taken) < 100


@each_strategy
def test_a_stream_that_is_not_being_read_holds_nobody_up(strategy: Strategy) -> None:
    runner = make(strategy, seconds=0.001)
    counts = []
    for outcome in runner.stream(ask, range(6)):
        counts.append(len(runner.run(ask, range(100, 104)).results))
        assert outcome.ok

    assert counts == [4] * 6


@each_strategy
def test_a_stop_ends_a_flow_that_polls(strategy: Strategy) -> None:
    def poll(item: int) -> Any:
        if item:
            while True:
                yield from sleep(0.001)
        yield from sleep(0)
        return item

    stream = make(strategy).stream(poll, range(2))
    first = next(stream)
    stream.stop()
    rest = list(stream)

    assert first.item_id == 0
    assert all(type(outcome.error) is errors.RunStopped for outcome in rest if isinstance(outcome, Failure))


def test_stop_before_the_first_outcome_begins_nothing() -> None:
    for strategy in STRATEGIES:
        llm = FakeLLM()
        stream = BatchRunner(llm=llm, strategy=strategy).stream(ask, range(5))
        stream.stop()
        assert list(stream) == []
        assert llm.calls == 0


@each_strategy
def test_a_finally_that_raises_takes_no_outcome_away(
    strategy: Strategy, caplog: pytest.LogCaptureFixture
) -> None:
    def careless(item: int) -> Any:
        try:
            yield from sleep(0.0 if item == 0 else 3600)
        finally:
            if item == 1:
                raise ZeroDivisionError

    stream = make(strategy).stream(careless, range(4))
    outcomes = [next(stream)]
    outcomes += stream.close()

    assert len(outcomes) == (4 if strategy.restaurant_async else len(outcomes))
    assert {outcome.index for outcome in outcomes} == set(range(len(outcomes)))


@each_strategy
def test_an_exit_asked_for_by_a_backend_leaves_run_as_itself(strategy: Strategy) -> None:
    class Leaving(FakeLLM):
        def _reply(self, request: LLMRequest) -> LLMResponse:
            raise SystemExit(3)

    runner = BatchRunner(llm=Leaving(), strategy=strategy)
    with pytest.raises(SystemExit) as raised:
        runner.run(ask, range(3))

    assert raised.value.code == 3
    assert runner._config.limiters.llm[0].statistics().in_flight == 0


def test_one_limiter_for_llm_and_total_is_one_limit() -> None:
    gate = ConcurrencyLimiter(1)
    llm = FakeLLM(seconds=0.001)
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=Limits(llm=gate, llm_total=gate))

    assert len(runner.run(ask, range(3)).results) == 3
    assert llm.peak == 1


def test_a_task_of_the_users_own_may_refuse_an_item_as_it_likes() -> None:
    class Numbers:
        name = "Numbers"
        requires_search = False

        def parse_item(self, raw: Any) -> int:
            return int(raw)

        def item_key(self, item: int) -> tuple[int, int]:
            return item, 0

        def flow(self, item: int) -> Any:
            return ask(item)

    report = make().run(Numbers(), iter(["1", "two", "3"]))
    assert [outcome.ok for outcome in report.outcomes] == [True, False, True]
    with pytest.raises(errors.ConfigurationError, match="item 1: ValueError: invalid literal"):
        make().run(Numbers(), ["1", "two", "3"])


def test_a_task_that_calls_the_runner_whose_event_loop_it_is_on_fails() -> None:
    """It would wait for itself."""
    runner = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4))

    def task(item: int) -> Any:
        if item == 1:
            runner.run(ask, [item])
        yield from ask(item)

    report = runner.run(task, range(3))

    assert [outcome.ok for outcome in report.outcomes] == [True, False, True]
    with pytest.raises(RuntimeError, match="use another runner"):
        raise report.outcomes[1].error


@pytest.mark.parametrize("hosted", ["asyncio", "trio", ""])
@each_strategy
def test_context_variables_reach_the_backend(strategy: Strategy, hosted: str) -> None:
    """Tracing depends on it: those of the caller of each run, and of no other."""
    from contextvars import ContextVar, copy_context

    variable: ContextVar[str] = ContextVar("variable", default="lost")
    seen: set[str] = set()

    class Tracing(FakeLLM):
        def _reply(self, request: LLMRequest) -> LLMResponse:
            seen.add(variable.get())
            return LLMResponse("text")

    runner = BatchRunner(llm=Tracing(), strategy=strategy)

    async def main(value: str) -> None:
        variable.set(value)
        await runner.arun(ask, range(3))

    def block(value: str) -> None:
        variable.set(value)
        runner.run(ask, range(3))

    with runner:
        for value in ("kept", "another"):
            seen.clear()
            if hosted:
                anyio.run(main, value, backend=hosted)
            else:
                copy_context().run(block, value)
            # The thread in which a threaded run lives has no caller's.
            assert seen == {"lost" if strategy.threads and not hosted else value}


@pytest.mark.parametrize("host", ["asyncio", "trio"])
@pytest.mark.parametrize("in_worker", [False, True])
def test_a_blocking_run_may_be_called_from_any_event_loop(host: str, in_worker: bool) -> None:
    """Its own event loop is asyncio's, whatever the caller's variables say."""
    runner = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4))

    def block() -> int:
        return runner.run(ask, range(3)).stats.succeeded

    async def main() -> int:
        return await anyio.to_thread.run_sync(block) if in_worker else block()

    assert anyio.run(main, backend=host) == 3


@pytest.mark.parametrize(
    "strategy", quick_of(["stage(1)", "stage(2)", "stage(4)", "threaded()"], "stage(4)", "threaded()")
)
@pytest.mark.parametrize(
    "left_open",
    ["stream = runner.stream(ask, range(9)); next(stream)", "runner.__enter__(); runner.run(ask, [1])"],
)
@pytest.mark.sample(1)
def test_the_interpreter_exits_with_a_stream_or_a_runner_left_open(strategy: str, left_open: str) -> None:
    code = (
        "from restaurant_llm_batch import BatchRunner, Strategy, Limits\n"
        "from restaurant_llm_batch.testing import FakeLLM\n"
        "from tests.promises.test_runner import ask\n"
        f"llm, strategy = FakeLLM(seconds=0.01), Strategy.{strategy}\n"
        "runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=1))\n"
        f"{left_open}\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_stream_collected_anywhere_ends_without_waiting() -> None:
    import gc

    llm = FakeLLM(seconds=0.01)
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=Limits(llm=1))
    stream = runner.stream(ask, range(100))
    next(stream)
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()

    assert len(runner.run(ask, range(200, 203)).results) == 3
    assert llm.calls < 50


@each_strategy
def test_a_lone_run_does_not_close_what_the_next_one_needs(strategy: Strategy) -> None:
    class Wrapped(FakeLLM):
        closed = False

        def close(self) -> None:
            self.closed = True

        def _reply(self, request: LLMRequest) -> LLMResponse:
            if self.closed:
                raise RuntimeError("the client has been closed")
            return super()._reply(request)

    runner = BatchRunner(llm=Wrapped(), strategy=strategy)

    assert len(runner.run(ask, [1]).results) == len(runner.run(ask, [2]).results) == 1


def test_a_search_that_returns_something_else_is_a_failure_and_not_no_reviews() -> None:
    for answer in (None, [{"review_id": 1}], 7):

        class Odd(FakeSearch):
            def _answer(self, query: Any, answer: Any = answer) -> Any:
                return answer

        runner = BatchRunner(llm=FakeLLM(), search=Odd({}))
        (failure,) = runner.run(SummarizeAspects(), [1]).failures
        assert failure.stage == "search"
        assert "must return a sequence of Hits" in str(failure.error)


def test_a_report_is_its_outcomes() -> None:
    report = make().run(ask, [1, 2])

    assert len(report) == 2
    assert list(report) == list(report.outcomes)


def test_small_mistakes_say_what_to_write() -> None:
    def lost(item: int) -> Any:
        yield from complete(LLMRequest("t", ()), limiter="gpu")  # type: ignore[arg-type]

    (failure,) = make().run(lost, [1]).failures
    assert 'limiter must be "llm" or "batches"' in str(failure.error)
    with pytest.raises(errors.ConfigurationError, match=r"use stream\(\) here"):
        make().astream(ask, [1])


@each_strategy
def test_an_observer_may_close_the_stream_it_watches(strategy: Strategy) -> None:
    def close(event: Any) -> None:
        if isinstance(event, ItemEnded) and event.outcome.ok:
            left.extend(stream.close())

    left: list[Any] = []
    limits = Limits(llm=1, open_items=3)
    runner = BatchRunner(llm=FakeLLM(), strategy=strategy, limits=limits, observers=[close])
    stream = runner.stream(ask, range(5))
    outcomes = list(stream)

    assert len(outcomes) + len(left) <= 5
    while runner._config.limiters.llm[0].statistics().in_flight:
        pass  # a thread that was given up frees its slot when its call ends


@each_strategy
@pytest.mark.sample(1)
def test_calls_are_freed_as_they_end_and_not_left_to_the_garbage_collector(strategy: Strategy) -> None:
    """A call that is part of a reference cycle costs a fifth more, and memory until the next collection."""
    import gc

    def both(item: int) -> Any:
        request = LLMRequest("t", (), inputs={"item": item})
        yield from gather(complete(request), complete(request))
        return item

    runner = make(strategy)
    runner.run(both, [1])
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        runner.run(both, range(300))
        gc.collect()
        found = Counter(type(one) for one in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

    # Of the whole process; so only what calls are made of is counted.
    assert found[Call] + found[LLMResponse] < 10, found.most_common(10)


@pytest.mark.parametrize("observers", [print, None, [print, "x"], [int], "print"])
def test_observers_of_another_kind_are_reported(observers: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="observers must be a list"):
        BatchRunner(llm=FakeLLM(), observers=observers)


@pytest.mark.parametrize(
    "reply",
    [LLMResponse({"a": 1}), LLMResponse(None), LLMResponse(b"x")],  # type: ignore[arg-type]
)
def test_a_reply_filled_with_something_else_is_the_backends_mistake(reply: LLMResponse) -> None:
    class Sloppy:
        def complete(self, request: LLMRequest) -> LLMResponse:
            return reply

    (failure,) = BatchRunner(llm=Sloppy()).run(lambda item: complete(LLMRequest("t", ())), [1]).failures

    assert failure.stage == "llm"
    assert "must return an LLMResponse with a text, got" in str(failure.error)

"""Equal questions that are in flight at once, of one run or of several."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.patience import PATIENCE
from tests.support.run_methods import each_strategy, strategy_name

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    StopConditions,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch import cancellation as patience
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch.events import CallStarted, Event
from restaurant_llm_batch.steps import complete, gather

BLOCKING = Strategy(search_async=True, llm_async=False, restaurant_async=True)
AWAITED = Strategy.stage(4)


class Model:
    """Takes its time, and notes what became of its calls."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds
        self.asked: list[str] = []
        self.cancelled = self.in_flight = 0
        self._lock = threading.Lock()

    def _enter(self, request: LLMRequest) -> None:
        with self._lock:
            self.asked.append(request.messages[0]["content"])
            self.in_flight += 1

    def _leave(self, *, cancelled: bool) -> None:
        with self._lock:
            self.in_flight -= 1
            self.cancelled += cancelled

    def complete(self, request: LLMRequest) -> LLMResponse:
        self._enter(request)
        try:
            patience.sleep(self.seconds)
        except errors.RunStopped:
            self._leave(cancelled=True)
            raise
        self._leave(cancelled=False)
        return LLMResponse(
            f"answer to {request.messages[0]['content']}", prompt_tokens=7, completion_tokens=3
        )

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        self._enter(request)
        try:
            await anyio.sleep(self.seconds)
        except BaseException:
            self._leave(cancelled=True)
            raise
        self._leave(cancelled=False)
        return LLMResponse(
            f"answer to {request.messages[0]['content']}", prompt_tokens=7, completion_tokens=3
        )


def ask(item: Any) -> Any:
    return (yield from complete(LLMRequest("t", ({"role": "user", "content": str(item)},)))).text


@dataclass
class Asking:
    """Asks, with a priority."""

    priority: int
    name: str = "asking"
    requires_search: bool = False

    def parse_item(self, raw: Any) -> Any:
        return raw

    def item_key(self, item: Any) -> tuple[str, int]:
        return item, self.priority

    def flow(self, item: Any) -> Any:
        return ask(item)


@each_strategy
def test_runs_in_several_threads_make_a_call_once(strategy: Strategy, tmp_path: Path) -> None:
    model = Model()
    runner = BatchRunner(llm=model, strategy=strategy, store=tmp_path / "run.db")
    reports: list[Any] = []
    threads = [
        threading.Thread(target=lambda: reports.append(runner.run(ask, ["a", "b", "c"]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert sorted(model.asked) == ["a", "b", "c"]
    assert [report.results for report in reports] == [["answer to a", "answer to b", "answer to c"]] * 4
    assert sum(report.stats.calls.get("llm", 0) for report in reports) == 3
    assert sum(report.stats.cache_hits for report in reports) == 9


@pytest.mark.anyio
async def test_runs_on_one_loop_make_a_call_once(tmp_path: Path) -> None:
    model = Model()
    runner = BatchRunner(llm=model, strategy=AWAITED, store=tmp_path / "run.db")
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(runner.arun, ask, ["a", "b"])

    assert sorted(model.asked) == ["a", "b"]


@pytest.mark.anyio
async def test_two_runners_with_one_store_make_a_call_once(tmp_path: Path) -> None:
    model = Model()
    with Store(tmp_path / "run.db") as store:
        runners = [BatchRunner(llm=model, strategy=AWAITED, store=store) for _ in range(2)]
        async with anyio.create_task_group() as tasks:
            for runner in runners:
                tasks.start_soon(runner.arun, ask, ["a", "b"])

    assert sorted(model.asked) == ["a", "b"]


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", [AWAITED, BLOCKING], ids=["awaited", "blocking"])
async def test_a_call_outlives_its_run_while_another_run_waits(strategy: Strategy, tmp_path: Path) -> None:
    model = Model(0.2)
    runner = BatchRunner(llm=model, strategy=strategy, store=tmp_path / "run.db")
    results: list[str] = []

    async def follow() -> None:
        results.extend((await runner.arun(ask, ["a"])).results)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            leading = anyio.CancelScope()

            async def lead() -> None:
                with leading:
                    await runner.arun(ask, ["a"])

            tasks.start_soon(lead)
            await anyio.sleep(0.05)
            tasks.start_soon(follow)
            await anyio.sleep(0.05)
            leading.cancel()

    assert results == ["answer to a"]
    assert (model.asked, model.cancelled, model.in_flight) == (["a"], 0, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", [AWAITED, BLOCKING], ids=["awaited", "blocking"])
@pytest.mark.sample(2)
async def test_a_call_is_ended_when_the_last_one_who_waits_has_left(
    strategy: Strategy, tmp_path: Path
) -> None:
    model = Model(30)
    runner = BatchRunner(llm=model, strategy=strategy, store=tmp_path / "run.db")
    async with anyio.create_task_group() as tasks:
        scopes = [anyio.CancelScope() for _ in range(3)]

        async def run(scope: anyio.CancelScope) -> None:
            with scope:
                await runner.arun(ask, ["a"])

        for scope in scopes:
            tasks.start_soon(run, scope)
            await anyio.sleep(0.05)
        for scope in scopes:
            assert (model.in_flight, model.cancelled) == (1, 0)
            scope.cancel()
            await anyio.sleep(0.05)
    while model.in_flight:
        await anyio.sleep(0.01)

    assert model.cancelled == 1


@pytest.mark.anyio
async def test_a_follower_on_another_loop_keeps_a_call_alive(tmp_path: Path) -> None:
    model = Model(0.3)
    store = Store(tmp_path / "run.db")
    runner = BatchRunner(llm=model, strategy=AWAITED, store=store)
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.append(runner.run(ask, ["a"])))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.arun, ask, ["a"])
        while not model.asked:
            await anyio.sleep(0.001)
        (question,) = store.in_flight.open.values()
        call: Any = question._call
        other.start()
        while not call.cancel_scope.shield:
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    await anyio.to_thread.run_sync(other.join)

    assert found[0].results == ["answer to a"]
    assert (model.asked, model.cancelled) == (["a"], 0)


@pytest.mark.anyio
async def test_a_followers_better_priority_lifts_the_call(tmp_path: Path) -> None:
    class Held(Model):
        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            self.asked.append(request.messages[0]["content"])
            await release.wait()
            return LLMResponse("done")

    release = anyio.Event()
    model = Held()
    store = Store(tmp_path / "run.db")
    runner = BatchRunner(llm=model, strategy=AWAITED, limits=Limits(llm=1), store=store)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.arun, Asking(priority=5), ["a", "b", "c", "d", "e"])
            while len(store.in_flight.open) < 5:
                await anyio.sleep(0.001)
            tasks.start_soon(runner.arun, Asking(priority=-1), ["e"])
            while not any(question._followers for question in store.in_flight.open.values()):
                await anyio.sleep(0.001)
            release.set()

    assert model.asked == ["a", "e", "b", "c", "d"]


@pytest.mark.parametrize(
    "strategy", [Strategy.stage(1), BLOCKING, AWAITED, Strategy.threaded()], ids=strategy_name
)
@pytest.mark.sample(1)
def test_a_follower_keeps_to_its_own_time_limits(strategy: Strategy, tmp_path: Path) -> None:
    model = Model(3.0)
    store = Store(tmp_path / "run.db")
    patient = BatchRunner(llm=model, strategy=strategy, store=store)
    leading = threading.Thread(target=patient.run, args=(ask, ["a"]))
    leading.start()
    while not model.in_flight:
        time.sleep(0.01)
    item = BatchRunner(llm=model, strategy=strategy, store=store, time_limits=TimeLimits(item=0.1))
    run = BatchRunner(llm=model, strategy=strategy, store=store, time_limits=TimeLimits(run=0.1))
    late = [item.run(ask, ["a"]).failures[0], run.run(ask, ["a"]).failures[0]]
    assert model.in_flight == 1, "neither waited for it"
    leading.join(PATIENCE)

    assert [type(failure.error) for failure in late] == [errors.DeadlineExceeded, errors.RunStopped]
    assert (late[0].stage, late[0].attempts) == ("llm", 0)
    assert model.asked == ["a"]


def test_when_a_run_that_leads_fails_the_next_one_asks(tmp_path: Path) -> None:
    class Moody(Model):
        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            reply = await super().acomplete(request)
            if len(self.asked) == 1:
                raise errors.PermanentBackendError("not the first time")
            return reply

    model = Moody()
    runner = BatchRunner(llm=model, strategy=AWAITED, store=tmp_path / "run.db")
    reports: list[Any] = []
    threads = [threading.Thread(target=lambda: reports.append(runner.run(ask, ["a"]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert sorted(len(report.failures) for report in reports) == [0, 0, 1]
    assert len(model.asked) == 2


def test_an_answer_that_came_too_late_is_counted_and_kept(tmp_path: Path) -> None:
    class Stubborn(Model):
        def complete(self, request: LLMRequest) -> LLMResponse:
            self.asked.append(str(request.messages[0]["content"]))
            time.sleep(self.seconds if request.messages[0]["content"] == "a" else 1)
            return LLMResponse("done", prompt_tokens=7, completion_tokens=3)

    model = Stubborn(0.3)
    runner = BatchRunner(
        llm=model, strategy=BLOCKING, store=tmp_path / "run.db", time_limits=TimeLimits(call=0.1)
    )

    def patiently(item: str) -> Any:
        if item == "b":
            from restaurant_llm_batch.steps import sleep

            yield from sleep(0.6)
            return "b"
        return (yield from ask(item))

    report = runner.run(patiently, ["a", "b"])
    again = runner.run(ask, ["a"])

    assert type(report.failures[0].error) is errors.DeadlineExceeded
    assert (report.stats.prompt_tokens, report.stats.completion_tokens) == (7, 3)
    assert again.results == ["done"]
    assert model.asked == ["a"]


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("strategy", "backend"), [(AWAITED, "asyncio"), (AWAITED, "trio"), (BLOCKING, "asyncio")]
)
@settings(max_examples=examples(15), deadline=None)
@given(
    runs=st.lists(
        st.tuples(st.floats(0, 0.03), st.none() | st.floats(0, 0.05), st.sets(st.integers(0, 4), min_size=1)),
        min_size=2,
        max_size=6,
    )
)
def test_a_follower_leaves_when_the_others_get_their_answers_and_nothing_is_left(
    strategy: Strategy,
    backend: str,
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[float, float | None, set[int]]],
) -> None:
    model = Model(0.01)
    store = Store(tmp_path_factory.mktemp("store") / "run.db")
    runner = BatchRunner(llm=model, strategy=strategy, store=store, limits=Limits(llm=2))
    results: list[tuple[list[str], list[str]]] = []

    async def one(start: float, leave: float | None, items: set[int]) -> None:
        await anyio.sleep(start)
        with anyio.move_on_after(leave) if leave is not None else anyio.CancelScope():
            report = await runner.arun(ask, sorted(items))
            results.append((report.results, [f"answer to {item}" for item in sorted(items)]))

    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for run in runs:
                    tasks.start_soon(partial(one, *run))
            while model.in_flight:
                await anyio.sleep(0.001)

    anyio.run(main, backend=backend)
    assert all(found == due for found, due in results)
    assert len(results) >= sum(leave is None for _, leave, _ in runs)
    finished = len(model.asked) - model.cancelled
    assert finished <= 5  # nothing was answered twice
    store.close()
    assert not store.in_flight.open
    gates = [runner._config.limiters.llm[0].statistics()]
    assert [gate.in_flight for gate in gates] == [0]


def both(item: str) -> Any:
    return (yield from gather(ask(f"{item}1"), ask(f"{item}2")))


@pytest.mark.parametrize("strategy", [AWAITED, BLOCKING, Strategy.threaded()], ids=strategy_name)
def test_a_run_that_is_left_leaves_no_call_behind(strategy: Strategy, tmp_path: Path) -> None:
    model = Model(0.1)
    store = Store(tmp_path / "run.db")
    runner = BatchRunner(llm=model, strategy=strategy, store=store, limits=Limits(llm=8))
    stream = runner.stream(both, ["a", "b"])
    reader = threading.Thread(target=lambda: next(stream, None))
    reader.start()
    while len(model.asked) < 4:
        time.sleep(0.005)
    stream.close()
    reader.join(PATIENCE)

    report = runner.run(both, ["a", "b"])
    assert report.results == [[f"answer to {item}{part}" for part in "12"] for item in "ab"]
    assert not store.in_flight.open


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.threaded()], ids=strategy_name)
def test_a_call_that_is_interrupted_before_it_is_made_leaves_nothing_behind(
    strategy: Strategy, tmp_path: Path
) -> None:
    armed = True

    def interrupting(event: Event) -> None:
        nonlocal armed
        if isinstance(event, CallStarted) and armed:
            armed = False
            raise KeyboardInterrupt

    model = Model()
    runner = BatchRunner(
        llm=model,
        strategy=strategy,
        store=tmp_path / "run.db",
        observers=[interrupting],
        limits=Limits(llm=1),
    )
    with pytest.raises(KeyboardInterrupt):
        runner.run(ask, ["a"])

    assert runner.run(ask, ["a"]).results == ["answer to a"]
    assert model.asked == ["a"]
    assert runner._config.limiters.llm[0].statistics().in_flight == 0


@pytest.mark.sample(1)
@pytest.mark.parametrize("strategy", [AWAITED, Strategy.stage(1), Strategy.threaded()], ids=strategy_name)
def test_a_store_that_takes_no_answer_stops_the_run_and_holds_nobody_up(
    strategy: Strategy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    model = Model()
    store = Store(tmp_path / "run.db")
    runner = BatchRunner(llm=model, strategy=strategy, store=store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "put", no_thread)
        report = runner.run(ask, ["a"])

    assert report.results == ["answer to a"]
    assert report.stats.stopped_because == "the store cannot be written: can't start new thread"
    assert runner.run(ask, ["a"]).results == ["answer to a"]


def test_a_call_that_never_returns_holds_up_nobody_who_comes_later(tmp_path: Path) -> None:
    hang = threading.Event()

    class Hung(Model):
        def complete(self, request: LLMRequest) -> LLMResponse:
            self.asked.append("")
            if len(self.asked) == 1:
                hang.wait(50)
            return LLMResponse("at last" if len(self.asked) == 1 else "at once")

    model, store = Hung(), Store(tmp_path / "run.db")
    hasty = BatchRunner(llm=model, strategy=BLOCKING, store=store, time_limits=TimeLimits(run=1))
    assert hasty.run(ask, ["a"]).results == []
    assert len(model.asked) == 1

    assert BatchRunner(llm=model, strategy=BLOCKING, store=store).run(ask, ["a"]).results == ["at once"]
    hang.set()


def test_hundreds_who_ask_what_always_fails_do_not_hold_each_other_up(tmp_path: Path) -> None:
    class Refusing:
        calls = 0

        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            self.calls += 1
            await anyio.lowlevel.checkpoint()
            raise errors.PermanentBackendError("no")

    def same(item: int) -> Any:
        return (yield from ask("the same"))

    model = Refusing()
    limits = Limits(open_items=500)
    stop = StopConditions(same_error_in_a_row=None)
    runner = BatchRunner(llm=model, strategy=AWAITED, store=tmp_path / "run.db", limits=limits, stop=stop)
    looks = 0
    store = runner._store
    assert store is not None
    get = store.get

    def counted(key: bytes) -> LLMResponse | None:
        nonlocal looks
        looks += 1
        return get(key)

    store.get = counted  # type: ignore[method-assign]
    report = runner.run(same, range(500))

    assert len(report.failures) == model.calls == 500
    assert looks == 500

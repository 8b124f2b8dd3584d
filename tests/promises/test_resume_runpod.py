"""With a store, jobs are noted: a run that was killed in the middle of them is gone on with, and paid once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.local_server import Say, Seen
from tests.support.patience import PATIENCE
from tests.support.run_methods import each_strategy
from tests.support.runpod_server import (
    KEY,
    WORKER,
    Dispatcher,
    End,
    Fault,
    Work,
    asking,
    completion,
    echo,
    worker_environment,
)
from tests.support.slow import quick_of

from restaurant_llm_batch import (
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    TimeLimits,
)
from restaurant_llm_batch._store.journal import current_job_journal
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch.backends.runpod import _flows as job_flow
from restaurant_llm_batch.backends.runpod._job import job_fingerprint
from restaurant_llm_batch.backends.runpod.llm import OperationLimit, PollingPolicy, RunPodLimits, RunPodLLM
from restaurant_llm_batch.steps import Flow, complete

ITEMS = range(40)
AT_ONCE = 8
QUICK = PollingPolicy(wait_initial=0.01, multiplier=1.5, wait_max=0.05)
MANY = RunPodLimits(
    run=OperationLimit(100_000, 1000),
    status=OperationLimit(100_000, 1000),
    cancel=OperationLimit(100_000, 1000),
)
IMPATIENT = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)
FOR_EVER = 600.0


def question(item: object) -> Flow[str]:
    """Ask one thing."""
    return (yield from complete(asking(item))).text


def client(base_url: str) -> RunPodLLM:
    """Return a quick client."""
    return RunPodLLM("ep", api_key=KEY, base_url=base_url, polling=QUICK, limits=MANY)


def runner_of(
    llm: Any, store: Path | Store, strategy: Strategy = Strategy.stage(4), **more: Any
) -> BatchRunner:
    """Return a runner with a store."""
    return BatchRunner(
        llm=llm, strategy=strategy, limits=Limits(llm=AT_ONCE), llm_retry=IMPATIENT, store=store, **more
    )


CHILD = """
import sys
from tests.promises.test_resume_runpod import *

number = sys.argv[3]
strategy = Strategy.threaded() if number == "threaded" else Strategy.stage(int(number))
with runner_of(client(sys.argv[1]), Path(sys.argv[2]), strategy) as runner:
    runner.run(question, sys.argv[4:] or ITEMS)
"""
STAGES = ["1", "2", "4", "threaded"]


def way_of(number: str) -> Strategy:
    """Return the strategy that a child is told by its number."""
    return Strategy.threaded() if number == "threaded" else Strategy.stage(int(number))


def run_and_kill(
    dispatcher: Dispatcher, path: Path, way: str, is_now: Callable[[], bool], *items: str
) -> None:
    """Run in a process of its own, and kill that when it is time."""
    arguments = [sys.executable, "-c", CHILD, dispatcher.base_url, str(path), way, *items]
    with subprocess.Popen(arguments) as child:
        try:
            until = time.monotonic() + PATIENCE
            while not is_now():
                assert child.poll() is None
                assert time.monotonic() < until
                time.sleep(0.001)
        finally:
            os.kill(child.pid, signal.SIGKILL)


def let_end(work: Work, after: float = 0.0, status: str = "COMPLETED", **more: Any) -> None:
    """Have a job end so many seconds from now."""
    told = more or {"output": [completion(work.question)]}
    work.end = End(status, time.monotonic() - work.made_at + after, told)


def noted(path: Path) -> int:
    """Return how many jobs a store holds, those included that nobody will go on with."""
    with Store(path) as store:
        stats = store.stats()
    return stats.jobs + stats.stale_jobs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the store is."""
    return tmp_path / "run.db"


@pytest.fixture
def quick_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests the waits between cancellations that fail."""
    monkeypatch.setattr(job_flow, "CANCEL_WAITS", (0.001,))


needs_kill = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@needs_kill
@pytest.mark.parametrize("way", quick_of(STAGES, "4", "threaded"))
@pytest.mark.sample(1)
def test_jobs_of_a_killed_run_answer_the_next_one_and_none_is_submitted_twice(way: str, path: Path) -> None:
    def some_hang(work: Work) -> End:
        return End(after=FOR_EVER) if int(work.question) >= 6 else echo(work)

    in_flight = AT_ONCE if way in ("4", "threaded") else 1
    with Dispatcher(some_hang) as dispatcher:

        def is_now() -> bool:
            alive = {work.id for work in dispatcher.alive()}
            return len(alive) == in_flight and alive <= dispatcher.looked_at

        run_and_kill(dispatcher, path, way, is_now)
        left = dispatcher.alive()
        assert noted(path) == len(left) == in_flight
        for number, work in enumerate(left):
            let_end(work, after=0.2 * (number % 2))  # half of them while nobody looks
        dispatcher.script = echo
        with runner_of(client(dispatcher.base_url), path, way_of(way)) as runner:
            report = runner.run(question, ITEMS)

        assert report.results == [str(item) for item in ITEMS]
        assert dispatcher.submissions == {str(item): 1 for item in ITEMS}
        assert report.stats.cache_hits == 6
        assert noted(path) == 0


@needs_kill
@pytest.mark.slow
def test_what_became_of_a_job_meanwhile_decides_what_is_done(path: Path) -> None:
    with Dispatcher(lambda work: End(after=FOR_EVER)) as dispatcher:
        run_and_kill(dispatcher, path, "4", lambda: len(dispatcher.looked_at) == AT_ONCE)
        jobs = {work.question: work for work in dispatcher.alive()}
        assert sorted(jobs) == [str(item) for item in range(AT_ONCE)]
        let_end(jobs["0"])
        let_end(dispatcher.jobs.pop(jobs["1"].id))
        dispatcher.jobs["unknown to clients"] = jobs["1"]
        let_end(jobs["2"], status="CANCELLED")
        let_end(jobs["3"], status="FAILED", error="vLLM returned HTTP 503: busy")
        let_end(jobs["4"], status="FAILED", error="the handler is wrong")
        let_end(jobs["5"], status="TIMED_OUT")
        let_end(jobs["6"], output=["no completion"])
        let_end(jobs["7"], after=0.2)
        dispatcher.script = echo
        with runner_of(client(dispatcher.base_url), path) as runner:
            report = runner.run(question, range(AT_ONCE))
        failed = {failure.item_id: str(failure.error) for failure in report.failures}

        assert report.results == ["0", "1", "2", "3", "7"]
        assert list(failed) == [4, 5, 6]  # as they would have in a run that was not killed
        assert "the handler is wrong" in failed[4]
        assert "timed out" in failed[5]
        assert "without a chat completion" in failed[6]
        assert [dispatcher.submissions[str(item)] for item in range(8)] == [1, 2, 2, 2, 1, 1, 1, 1]
        assert dispatcher.doubled == []
        assert noted(path) == 0
        with runner_of(client(dispatcher.base_url), path) as runner:
            again = runner.run(question, range(AT_ONCE))
        assert again.results == [str(item) for item in range(AT_ONCE)]
        assert [dispatcher.submissions[str(item)] for item in range(8)] == [1, 2, 2, 2, 2, 2, 2, 1]


@needs_kill
@pytest.mark.parametrize("share", quick_of([0.25, 0.5, 0.75], 0.5))
@pytest.mark.parametrize("way", ["4", "threaded"])
@pytest.mark.sample(1)
@pytest.mark.slow
def test_a_kill_at_any_moment_costs_at_most_what_was_being_submitted(
    way: str, share: float, path: Path
) -> None:
    def some_time(work: Work) -> End:
        end = echo(work)
        return End(end.status, 0.02 + int(work.question) * 37 % 100 / 1000, end.more)

    with Dispatcher(some_time, latency=0.005) as dispatcher:
        run_and_kill(dispatcher, path, way, lambda: len(dispatcher.jobs) >= share * len(ITEMS))
        before = dict(dispatcher.jobs)
        with runner_of(client(dispatcher.base_url), path, way_of(way)) as runner:
            report = runner.run(question, ITEMS)
        assert report.results == [str(item) for item in ITEMS]

        paid = {job.question for job in dispatcher.jobs.values() if job.id not in before}
        twice = [job for job in before.values() if job.question in paid]
        assert len(dispatcher.jobs) == len(ITEMS) + len(twice) <= len(ITEMS) + AT_ONCE
        assert dispatcher.alive() == []
        assert noted(path) <= AT_ONCE  # of those whose answers had just been kept


@needs_kill
@pytest.mark.slow
def test_a_real_worker_goes_on_with_its_jobs_while_nobody_waits(path: Path) -> None:
    items = [f"slow: {0.5 + item / 1000}" for item in range(AT_ONCE)]
    with Dispatcher(script=None) as dispatcher:
        environment = {**os.environ, **worker_environment(dispatcher, "worker-vllm")}
        worker = subprocess.Popen(
            [sys.executable, str(WORKER)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            run_and_kill(dispatcher, path, "4", lambda: len(dispatcher.looked_at) == AT_ONCE, *items)
            assert len(dispatcher.alive()) == noted(path) == AT_ONCE
            with runner_of(client(dispatcher.base_url), path) as runner:
                report = runner.run(question, items)
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()

        assert report.results == [item.removeprefix("slow: ") for item in items]
        assert dispatcher.submissions == dict.fromkeys(items, 1)
    assert noted(path) == 0


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    """A RunPod whose jobs end when they are told to."""
    with Dispatcher(lambda work: End(after=FOR_EVER)) as dispatcher:
        yield dispatcher


def no_cancels(operation: str, count: int, seen: Seen) -> Fault | None:
    """Refuse to cancel."""
    return Fault(Say(b"", 500)) if operation == "cancel" else None


async def looked_at(dispatcher: Dispatcher, jobs: int) -> None:
    """Wait until so many jobs have been looked at."""
    with anyio.fail_after(PATIENCE):
        while len(dispatcher.looked_at) < jobs:
            await anyio.sleep(0.002)


@pytest.mark.anyio
async def test_a_cancelled_run_cancels_its_jobs_and_forgets_them(dispatcher: Dispatcher, path: Path) -> None:
    async with runner_of(client(dispatcher.base_url), path) as runner:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.arun, question, range(4))
            await looked_at(dispatcher, 4)
            tasks.cancel_scope.cancel()
        assert dispatcher.alive() == []
    assert noted(path) == 0


@pytest.mark.anyio
@pytest.mark.usefixtures("quick_cancels")
async def test_jobs_that_could_not_be_cancelled_answer_the_next_run(
    dispatcher: Dispatcher, path: Path
) -> None:
    dispatcher.faults = no_cancels
    async with runner_of(client(dispatcher.base_url), path) as runner:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.arun, question, range(4))
            await looked_at(dispatcher, 4)
            tasks.cancel_scope.cancel()
        for work in dispatcher.alive():
            let_end(work, after=0.05)
        report = await runner.arun(question, range(4))

    assert report.results == ["0", "1", "2", "3"]
    assert set(dispatcher.submissions.values()) == {1}
    assert noted(path) == 0


@pytest.mark.anyio
@pytest.mark.usefixtures("quick_cancels")
async def test_a_job_that_could_not_be_cancelled_is_cancelled_by_the_next_run_that_gives_it_up(
    dispatcher: Dispatcher, path: Path
) -> None:
    async with runner_of(client(dispatcher.base_url), path) as runner:
        for faults in (no_cancels, None):
            dispatcher.faults = faults
            dispatcher.looked_at.clear()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(runner.arun, question, range(4))
                await looked_at(dispatcher, 4)
                tasks.cancel_scope.cancel()
            assert len(dispatcher.alive()) == (4 if faults else 0)

    assert set(dispatcher.submissions.values()) == {1}
    assert noted(path) == 0


@pytest.mark.sample(1)
@pytest.mark.anyio
@pytest.mark.usefixtures("quick_cancels")
async def test_a_call_that_took_too_long_is_not_made_again_while_its_job_may_live(
    dispatcher: Dispatcher, path: Path
) -> None:
    def no_cancels(operation: str, count: int, seen: Seen) -> Fault | None:
        if operation != "cancel":
            return None
        for work in dispatcher.alive():
            let_end(work, after=0.05)
        return Fault(Say(b"", 500))

    dispatcher.faults = no_cancels
    llm = client(dispatcher.base_url)
    async with runner_of(llm, path, time_limits=TimeLimits(call=0.6)) as runner:
        report = await runner.arun(question, range(4))

    assert report.results == ["0", "1", "2", "3"]
    assert report.stats.retries == 4
    assert set(dispatcher.submissions.values()) == {1}


@pytest.mark.anyio
@pytest.mark.parametrize("leaves", ["the first", "the second"])
@pytest.mark.sample(1)
async def test_two_runs_share_a_job_and_it_is_cancelled_only_when_both_have_left(
    leaves: str, dispatcher: Dispatcher, path: Path
) -> None:
    results: dict[str, list[str]] = {}
    scopes = {name: anyio.CancelScope() for name in ("the first", "the second")}
    llm = client(dispatcher.base_url)

    with Store(path) as store:

        async def run(name: str) -> None:
            with scopes[name]:
                results[name] = (await runner_of(llm, store).arun(question, [1])).results

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, "the first")
            await looked_at(dispatcher, 1)
            asked = dispatcher.asked["status"]
            tasks.start_soon(run, "the second")
            while dispatcher.asked["status"] < asked + 10:
                await anyio.sleep(0.002)
            scopes[leaves].cancel()
            while dispatcher.asked["status"] < asked + 20:
                await anyio.sleep(0.002)
            assert dispatcher.asked["cancel"] == 0
            let_end(dispatcher.alive()[0])
        assert dispatcher.submissions == {"1": 1}
        assert list(results.values()) == [["1"]]
        assert leaves not in results
    await llm.aclose()


@pytest.mark.anyio
async def test_the_last_run_to_leave_cancels_the_job(dispatcher: Dispatcher, path: Path) -> None:
    llm = client(dispatcher.base_url)
    with Store(path) as store:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(runner_of(llm, store).arun, question, [1])
                await looked_at(dispatcher, 1)
            asked = dispatcher.asked["status"]
            while dispatcher.asked["status"] < asked + 10:
                await anyio.sleep(0.002)
            tasks.cancel_scope.cancel()
        assert dispatcher.submissions == {"1": 1}
        assert dispatcher.alive() == []
        assert dispatcher.asked["cancel"] == 1
    await llm.aclose()
    assert noted(path) == 0


class Twice:
    """Asks twice for one answer, as a backend of one's own may."""

    def __init__(self, llm: RunPodLLM) -> None:
        self.llm = llm
        self.second = "again"

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Ask, and ask something else."""
        one = await self.llm.acomplete(request)
        other = await self.llm.acomplete(asking(self.second or one.text))
        return LLMResponse(f"{one.text}, {other.text}")


@pytest.mark.anyio
@pytest.mark.parametrize("second", ["again", ""], ids=["another question", "the same question"])
async def test_a_backend_that_asks_several_times_gets_an_answer_each_time(second: str, path: Path) -> None:
    with Dispatcher(echo) as dispatcher:
        llm = Twice(client(dispatcher.base_url))
        llm.second = second
        async with runner_of(llm, path) as runner:
            report = await runner.arun(question, [1])
        await llm.llm.aclose()

        assert report.results == [f"1, {second or 1}"]
        assert len(dispatcher.jobs) == 2
    assert noted(path) == 0


@pytest.mark.sample(2)
@pytest.mark.anyio
@pytest.mark.usefixtures("quick_cancels")
@pytest.mark.parametrize(
    ("second", "hangs", "jobs"),
    [("again", "again", 4), ("", "1", 2)],
    ids=["another question", "the same question"],
)
async def test_such_a_backend_takes_over_a_job_once_and_only_for_its_request(
    second: str, hangs: str, jobs: int, path: Path
) -> None:
    def script(work: Work) -> End:
        return End(after=FOR_EVER) if work.question == hangs else echo(work)

    with Dispatcher(script, no_cancels) as dispatcher:
        llm = Twice(client(dispatcher.base_url))
        llm.second = second
        async with runner_of(llm, path) as runner:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(runner.arun, question, [1])
                while not any(work.id in dispatcher.looked_at for work in dispatcher.alive()):
                    await anyio.sleep(0.002)
                tasks.cancel_scope.cancel()
            let_end(dispatcher.alive()[0])
            dispatcher.script = echo
            report = await runner.arun(question, [1])
        await llm.llm.aclose()
        llm.llm._async_runner.live_jobs._jobs.clear()  # or the interpreter's end tries to cancel what was not

        assert report.results == [f"1, {second or 1}"]
        assert len(dispatcher.jobs) == jobs
    assert noted(path) == 0


@pytest.mark.sample(1)
@each_strategy
def test_a_job_is_noted_while_it_is_waited_for_and_no_longer(strategy: Strategy, path: Path) -> None:
    with Dispatcher(lambda work: End(after=0.05, more=echo(work).more)) as dispatcher, Store(path) as store:
        most = 0

        class Watched(RunPodLLM):
            def complete(self, request: LLMRequest, /) -> LLMResponse:
                reply = super().complete(request)
                look()
                return reply

            async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
                reply = await super().acomplete(request)
                look()
                return reply

        def look() -> None:
            nonlocal most
            most = max(most, store.stats().jobs)

        llm = Watched("ep", api_key=KEY, base_url=dispatcher.base_url, polling=QUICK, limits=MANY)
        with runner_of(llm, store, strategy) as runner:
            report = runner.run(question, range(4))
        llm.close()
        assert report.results == ["0", "1", "2", "3"]
        assert 1 <= most <= 4
        assert current_job_journal() is None
    assert noted(path) == 0


def test_without_a_store_there_is_no_journal() -> None:
    journals = []

    class Looks:
        def complete(self, request: LLMRequest) -> LLMResponse:
            journals.append(current_job_journal())
            return LLMResponse("fine")

    BatchRunner(llm=Looks()).run(question, [1])
    assert journals == [None]


def test_a_job_serves_equal_requests_to_the_same_model_only() -> None:
    asked = asking("맛은?", schema={"type": "object", "title": "t"})
    equal = replace(asked, schema={"title": "t", "type": "object"}, task="another", priority=5)
    others = [
        replace(asked, messages=asking("맛은? ").messages),
        replace(asked, schema=None),
        replace(asked, max_tokens=7),
        replace(asked, temperature=0.5),
    ]
    mark = job_fingerprint("runpod ep", asked)

    assert mark == job_fingerprint("runpod ep", equal)
    assert mark not in {job_fingerprint("runpod ep", other) for other in others} | {
        job_fingerprint("runpod b", asked)
    }
    assert " " not in mark

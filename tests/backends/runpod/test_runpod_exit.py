"""A process that is interrupted leaves no job behind, whatever it was doing at that moment."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable

import pytest
from tests.support.patience import PATIENCE
from tests.support.runpod_server import KEY, Dispatcher, End, Work, asking, completion
from tests.support.slow import quick_of

from restaurant_llm_batch.backends.runpod import _live_jobs as ledger
from restaurant_llm_batch.backends.runpod._job import Job
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy, RunPodLLM
from restaurant_llm_batch.cancellation import CancelToken, run_with_token
from restaurant_llm_batch.errors import RunStopped

PROGRAM = """
import asyncio, os, sys, threading
from restaurant_llm_batch import BatchRunner, LLMRequest, Limits, Strategy
from restaurant_llm_batch.backends import RunPodLLM
from restaurant_llm_batch.backends.runpod import _live_jobs as ledger
from restaurant_llm_batch.backends.runpod._job import Job
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy
from restaurant_llm_batch.steps import complete

def asking(item):
    return LLMRequest("t", ({{"role": "user", "content": str(item)}},))

def flow(item):
    yield from complete(asking(item))

llm = RunPodLLM("ep", polling=PollingPolicy(wait_max={longest}))
runner = BatchRunner(llm=llm, strategy={strategy}, limits=Limits(llm=6))
items = range(10)
{how}
"""

OWN_THREADS = """
for item in range(4):
    threading.Thread(target=llm.complete, args=[asking(item)], daemon=True).start()
threading.Event().wait()
"""
WAYS = {
    "stage 1": ("Strategy.stage(1)", "runner.run(flow, items)"),
    "stage 2": ("Strategy.stage(2)", "runner.run(flow, items)"),
    "stage 4": ("Strategy.stage(4)", "runner.run(flow, items)"),
    "threaded": ("Strategy.threaded()", "runner.run(flow, items)"),
    "threaded, in a block": ("Strategy.threaded()", "with runner: runner.run(flow, items)"),
    "threaded stream": ("Strategy.threaded()", "for outcome in runner.stream(flow, iter(items)): pass"),
    "awaited": ("Strategy.stage(4)", "asyncio.run(runner.arun(flow, items))"),
    "awaited, in threads": (
        "Strategy(search_async=True, restaurant_async=True)",
        "asyncio.run(runner.arun(flow, items))",
    ),
    "no runner": ("Strategy()", "llm.complete(asking(1))"),
    "threads of one's own": ("Strategy()", OWN_THREADS),
}
SUBMITTING = ["stage 1", "stage 2", "stage 4", "threaded, in a block", "awaited", "threads of one's own"]
WAITING = [way for way in WAYS if way not in ("awaited", "threaded, in a block")]


def start(dispatcher: Dispatcher, way: str, longest: float = 5.0) -> subprocess.Popen[str]:
    """Start a process that waits for jobs that do not end."""
    strategy, how = WAYS[way]
    code = textwrap.dedent(PROGRAM).format(strategy=strategy, how=how, longest=longest)
    environment = {
        **os.environ,
        "RUNPOD_API_KEY": KEY,
        "RUNPOD_ENDPOINT_BASE_URL": dispatcher.base_url,
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def interrupt(dispatcher: Dispatcher, way: str, is_now: Callable[[], bool], times: int = 1) -> str:
    """Interrupt such a process when it is time, and return what it said in the end."""
    child = start(dispatcher, way)
    try:
        until = time.monotonic() + PATIENCE
        while not is_now():
            assert time.monotonic() < until
            assert child.poll() is None
            time.sleep(0.005)
        for _ in range(times):
            child.send_signal(signal.SIGINT)
            time.sleep(0.2)
        return child.communicate(timeout=PATIENCE)[1]
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("way", quick_of(SUBMITTING, "stage 4", "threaded, in a block"))
@pytest.mark.slow
def test_a_process_interrupted_while_it_submits_leaves_no_job(way: str) -> None:
    with Dispatcher(lambda work: End(after=600), latency=0.3) as dispatcher:
        told = interrupt(dispatcher, way, lambda: dispatcher.asked["run"] > 0)

        assert dispatcher.alive() == []
        assert dispatcher.jobs  # the submission was not torn off, but made and cancelled
        assert dispatcher.doubled == []
        assert "KeyboardInterrupt" in told
        assert KEY not in told


@pytest.mark.parametrize("way", quick_of(WAITING, "stage 4", "threaded", "threads of one's own"))
@pytest.mark.sample(1)
@pytest.mark.slow
def test_a_process_interrupted_while_it_waits_leaves_no_job(way: str) -> None:
    with Dispatcher(lambda work: End(after=600)) as dispatcher:
        told = interrupt(dispatcher, way, lambda: len(dispatcher.looked_at) > 0)

        assert dispatcher.alive() == []
        assert dispatcher.asked["cancel"] >= 1
        assert "KeyboardInterrupt" in told
        assert KEY not in told


@pytest.mark.slow
def test_a_cancellation_that_is_interrupted_too_is_made_again_at_the_very_end() -> None:
    with Dispatcher(lambda work: End(after=600)) as dispatcher:

        def is_now() -> bool:
            if dispatcher.looked_at:
                dispatcher.latency = 1.0
            return bool(dispatcher.looked_at)

        interrupt(dispatcher, "stage 1", is_now, times=3)
        assert dispatcher.alive() == []
        assert dispatcher.asked["cancel"] == 2


def test_a_forked_child_has_jobs_of_its_own_and_leaves_its_parents_alone() -> None:
    def script(work: Work) -> End:
        return End(after=600 if "parent" in work.question else 0, more={"output": completion("done")})

    with Dispatcher(script) as dispatcher:
        llm = RunPodLLM(
            "ep", api_key=KEY, base_url=dispatcher.base_url, polling=PollingPolicy(0.01, 1.5, 0.05)
        )
        given_up = CancelToken()
        caught: list[BaseException] = []

        def call() -> None:
            try:
                run_with_token(given_up, lambda: llm.complete(asking("the parent's")))
            except RunStopped as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        while not dispatcher.looked_at:
            time.sleep(0.005)
        jobs = llm._sync_runner
        pid = os.fork()
        if not pid:
            code = 1
            try:
                jobs._live_jobs.cancel_remaining(
                    jobs.cancel
                )  # what the parent has registered for its own end
                code = 0 if llm.complete(asking("the child's")).text == "done" else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert [work.question for work in dispatcher.alive()] == ["the parent's"]
        assert not dispatcher.asked["cancel"]
        given_up.set()
        thread.join()
        llm.close()
        assert dispatcher.alive() == []
        assert len(caught) == 1


def test_a_client_that_nobody_uses_is_not_kept_for_the_end() -> None:
    llm = RunPodLLM("ep", api_key=KEY)
    jobs = weakref.ref(llm._sync_runner)
    del llm
    gc.collect()
    assert jobs() is None


def test_the_end_does_not_wait_for_a_loop_that_runs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "OTHER_THREADS_GRACE", 0.05)
    kept = ledger.LiveJobs()
    with kept.track(Job()):
        kept.cancel_remaining(lambda job: pytest.fail("nothing is known to be alive"))
        with pytest.raises(RunStopped), kept.track(Job()):
            pass

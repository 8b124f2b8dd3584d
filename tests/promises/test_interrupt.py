"""Ctrl-C in a real process: everything ends at once, and what is finished is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from tests.support.patience import PATIENCE

PROGRAM = """
import json, os, signal, sys, threading, time
import anyio
from restaurant_llm_batch import BatchRunner, LLMResponse, LLMRequest, Limits, Strategy
from restaurant_llm_batch.steps import complete

def announce():
    "Say so only when the calling thread has gone to sleep as well."
    print("stuck", flush=True)

class Slow:
    "Answers the first three items at once and never the others; tells when it is stuck."
    cancelled = calls = stuck = 0
    def first(self, request):
        self.calls += 1
        quick = request.inputs["item"] < 3
        if not quick and not self.stuck:
            self.stuck = True
            threading.Timer(0.2, announce).start()
        return quick
    def complete(self, request):
        if self.first(request):
            return LLMResponse("ok")
        threading.Event().wait({stuck})
        raise AssertionError("nobody waits for this")
    async def acomplete(self, request):
        if self.first(request):
            return LLMResponse("ok")
        try:
            await anyio.sleep({stuck})
        except BaseException:
            self.cancelled += 1
            raise

def flow(item):
    yield from complete(LLMRequest("t", (), inputs={{"item": item}}))
    return item

llm = Slow()
runner = BatchRunner(llm=llm, strategy={strategy}, limits=Limits(llm=2))
report = None
try:
    {how}
except KeyboardInterrupt as stop:
    report = stop.report
at = time.monotonic()
calls = llm.calls
print(json.dumps({{
    "results": report.results,
    "failures": [[f.item_id, type(f.error).__name__, f.stage] for f in report.failures],
    "because": report.stats.stopped_because,
    "cancelled": llm.cancelled,
    "calls": calls,
}}), flush=True)
"""

STRATEGIES = {
    "stage 1": "Strategy.stage(1)",
    "stage 2": "Strategy.stage(2)",
    "stage 4": "Strategy.stage(4)",
    "threaded": "Strategy.threaded()",
}


def interrupted(strategy: str, how: str) -> dict[str, object]:
    """Run the program, interrupt it once it is stuck, and return what it said."""
    code = textwrap.dedent(PROGRAM).format(strategy=strategy, how=how, stuck=120)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "stuck\n"
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read()
        child.wait(timeout=PATIENCE)
        return json.loads(rest.splitlines()[-1])  # type: ignore[no-any-return]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.sample(1)
def test_interrupting_run_keeps_what_is_finished_and_ends_at_once(name: str) -> None:
    told = interrupted(STRATEGIES[name], "runner.run(flow, range(10))")
    failures = told["failures"]
    assert isinstance(failures, list)

    assert told["results"] == [0, 1, 2]
    assert failures
    assert {tuple(failure[1:]) for failure in failures} == {("RunStopped", "run")}
    assert told["because"] == "the run was cancelled"
    if name == "stage 4":
        # Both calls in flight were cancelled, and nothing was admitted in their place.
        assert (told["cancelled"], told["calls"]) == (told["calls"] - 3, told["calls"])  # type: ignore[operator]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.sample(1)
def test_interrupting_stream_carries_the_outcomes_nobody_took(name: str) -> None:
    how = "done = [o.item_id for o in runner.stream(flow, iter(range(10))) if o.ok]"
    told = interrupted(STRATEGIES[name], how)

    assert told["results"] == []
    assert told["failures"]


@pytest.mark.slow
def test_interrupting_arun_ends_its_calls() -> None:
    code = textwrap.dedent(PROGRAM).format(strategy="Strategy.stage(4)", how="pass", stuck=120)
    code = code[: code.index("report = None")] + textwrap.dedent(
        """
        import asyncio
        try:
            asyncio.run(runner.arun(flow, range(10)))
        except KeyboardInterrupt:
            print(llm.cancelled, llm.calls, flush=True)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "stuck\n"
        os.kill(child.pid, signal.SIGINT)
        cancelled, calls = child.stdout.read().split()[-2:]
    child.wait(timeout=PATIENCE)

    assert int(cancelled) == int(calls) - 3

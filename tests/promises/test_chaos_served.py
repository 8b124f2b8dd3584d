"""
Chaos over real sockets: plans of faults of all kinds, against every backend, task and mode.

What is promised, whatever the server does and whenever the caller leaves: one outcome for every item that was
taken; nothing in flight afterwards, and no RunPod job alive that the client could know of; never a second job for a
question while its first may live; no limit exceeded; every token of an answered call counted; outcomes that depend on
what the server said and not on the mode; and, with a store, nothing paid for twice.

By default a minute's worth of it. A long soak, with N times as many examples, a seed, and no time limit:

    CHAOS_TIMES=20 python -m pytest tests/promises/test_chaos_served.py -m "" --timeout=0 --hypothesis-seed=7

Where the counts of tokens may differ, and why:

* A call that is given up (a stream that is closed, a cancelled task) may be answered at the server a moment before
  it hears of that. So the run may have counted fewer tokens than the server, never more; after `stop()` they are equal.
* A call whose time is over may be answered at that very moment, likewise. Here nothing takes nearly as long as its
  time, but what never comes.
* A RunPod job whose submission's answer was lost is completed unseen. The server counts what it told, so the counts
  are equal, but such a job was paid for and nobody knows: `LEAVE_AN_UNKNOWN_JOB`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.chaos_plans import (
    ANSWER_WITHIN,
    BACKENDS,
    COMES_FOR_SURE,
    ITEMS_ARE_DONE_IN_SPITE_OF,
    KINDS,
    MODES,
    PLAINEST,
    QUESTIONS,
    STOP_A_RUN,
    TASKS,
    Fate,
    MendedAtOnce,
    Mode,
    Planned,
    Ran,
    comparable,
    fates,
    go,
    lent,
    make_limit,
    make_runner,
    rest,
    serve,
)
from tests.support.examples import examples
from tests.support.patience import PATIENCE, wait_until

from restaurant_llm_batch import BatchReport, Strategy
from restaurant_llm_batch.testing.server import ChatRequest, FaultKind, Faults, FaultServer, ServerStats

HEARD_WITHIN = 10.0
"""Seconds after which a server has heard of a call, or never will: it may have been given up before it was sent."""
TIMES = int(os.environ.get("CHAOS_TIMES", "1"))
pytestmark = pytest.mark.timeout(240)  # shrinking takes longer than what it shrinks


def chaotic(count: int) -> Any:
    return settings(
        max_examples=examples(count) * TIMES,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


backends = pytest.mark.parametrize("backend", BACKENDS)
tasks = st.sampled_from(sorted(TASKS))
limits: st.SearchStrategy[int | str] = st.sampled_from([1, 2, 3, "adaptive"])
servers: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {},
        {"max_running": 1},
        {"limit": 1, "retry_after": 0.004},
        {"limit": 2, "refusal": 503},
        {"requests_per_second": 400, "burst": 3, "retry_after": "exact"},
    ]
)


def check(ran: Ran, counts: ServerStats, backend: str, limit: int | str, plan: Planned) -> None:
    """Check what holds of every run that was not cut off, whatever went wrong in it."""
    path, bound = QUESTIONS[backend], limit if isinstance(limit, int) else 4
    stats = ran.stats
    assert [one.index for one in sorted(ran.outcomes, key=lambda one: one.index)] == list(
        range(len(ran.outcomes))
    )
    assert stats.succeeded + stats.failed == len(ran.outcomes)
    # What teaches a backend that a field is refused is no call of the runner's.
    asked = counts.asked(path) - counts.faults.get("field_refused", 0)
    # A job that vLLM refuses as busy is a refusal only if the run hears of its end.
    in_jobs = counts.faults.get("job_fails_for_now", 0)
    assert stats.rate_limited <= counts.refused + in_jobs
    calls = stats.calls.get("llm", 0)
    if (
        plan.is_impatient
    ):  # a machine that stands still may give a call up before it is sent, or as it is answered
        assert stats.prompt_tokens <= counts.prompt_tokens
        assert stats.completion_tokens <= counts.completion_tokens
        assert asked <= calls
    else:
        assert stats.prompt_tokens == counts.prompt_tokens
        assert stats.completion_tokens == counts.completion_tokens
        assert asked == calls
        assert counts.refused <= stats.rate_limited
    check_limits(ran, counts, bound, plan)


def check_limits(ran: Ran, counts: ServerStats, bound: int, plan: Planned) -> None:
    assert counts.duplicates == 0
    assert ran.stats.peak_in_flight.get("llm", 0) <= bound
    # A server hears a moment later that a call was given up, and that moment is the next call's.
    assert counts.peak <= bound + counts.abandoned
    assert counts.peak_jobs <= bound + len(plan.unknown)


def ended(server: FaultServer, ran: Ran, backend: str) -> None:
    """Wait until the server has heard of all calls that were given up for their time."""
    until = monotonic() + HEARD_WITHIN
    while server.counts.asked(QUESTIONS[backend]) < ran.stats.calls.get("llm", 0) and monotonic() < until:
        sleep(0.002)


class Items:
    """The first items of a task, as they are or read lazily; tells how many were taken."""

    def __init__(self, task: str, number: int, lazy: bool) -> None:
        self.all = [TASKS[task][1](index) for index in range(number)]
        self.given: Any = self._read() if lazy else self.all
        self._lazy = lazy
        self._taken = 0

    def _read(self) -> Iterator[Any]:
        for item in self.all:
            self._taken += 1
            yield item

    def must_have(self, ran: Ran) -> int:
        """Return how many outcomes there must be; of a list, what was taken cannot be seen from outside."""
        return self._taken if self._lazy else len(ran.outcomes)


@pytest.mark.sample(1)
@backends
@given(st.data())
@chaotic(15)
def test_whatever_goes_wrong_all_is_accounted_for(backend: str, data: st.DataObject) -> None:
    plan = Planned(data.draw(fates(KINDS)), backend == "runpod")
    mode, task = data.draw(st.sampled_from(MODES)), data.draw(tasks)
    limit, given = data.draw(limits), data.draw(servers)
    items = Items(task, data.draw(st.integers(1, 7)), data.draw(st.booleans()))
    gate = make_limit(limit)
    with serve(plan, **given) as server, lent(backend, server, plan.patience) as llm:
        with make_runner(llm, mode, gate) as runner:
            ran = go(runner, mode, TASKS[task][0], items.given)
        assert plan.known(server.counts) == []  # at once
        ended(server, ran, backend)
        counts = rest(server, plan, gate)

    check(ran, counts, backend, limit, plan)
    assert len(ran.outcomes) == items.must_have(ran)
    if ran.stats.stopped_because is None:
        assert len(ran.outcomes) == len(items.all)


@backends
@given(st.data())
@chaotic(6)
@pytest.mark.sample(1)
@pytest.mark.slow
def test_outcomes_depend_on_what_the_server_says_and_not_on_the_mode(
    backend: str, data: st.DataObject
) -> None:
    drawn = data.draw(fates([kind for kind in KINDS if kind not in STOP_A_RUN]))
    task, number = data.draw(tasks), data.draw(st.integers(1, 5))
    seen = {}
    for mode in data.draw(st.lists(st.sampled_from(MODES), min_size=2, max_size=3, unique=True)):
        plan, gate = Planned(drawn, backend == "runpod"), make_limit(3)
        with serve(plan) as server, lent(backend, server, plan.patience) as llm:
            with make_runner(llm, mode, gate) as runner:
                ran = go(runner, mode, TASKS[task][0], Items(task, number, lazy=False).all)
            counts = rest(server, plan, gate)
        faults = dict(counts.faults)
        if "field_refused" in faults:
            faults["field_refused"] = 1  # all calls that are in flight before the first refusal are refused
        seen[str(mode)] = comparable(ran.outcomes), counts.completion_tokens, faults
    first, *others = seen.values()
    for other in others:
        assert other == first, list(seen)


BROAD = [
    Mode(Strategy.threaded(), "stream"),
    Mode(Strategy.stage(4), "arun"),
    Mode(Strategy.stage(2), "astream", "trio"),
]


@backends
@pytest.mark.parametrize("mode", BROAD, ids=str)
@pytest.mark.sample(1)
def test_one_of_each_kind_in_one_run(backend: str, mode: Mode) -> None:
    kinds = [kind for kind in KINDS if kind not in STOP_A_RUN]

    class Each(Planned):
        def fate(self, asked: ChatRequest) -> Fate:
            number = _number_in(asked)
            return (kinds[number],) if number is not None and number < len(kinds) else ()

    plan, gate, items = Each([tuple(kinds)], backend == "runpod"), make_limit(8), range(len(kinds) + 3)
    with serve(plan) as server, lent(backend, server, plan.patience) as llm:
        with make_runner(llm, mode, gate) as runner:
            ran = go(runner, mode, TASKS["aspects"][0], items)
        assert plan.known(server.counts) == []
        ended(server, ran, backend)
        counts = rest(server, plan, gate)

    check(ran, counts, backend, 8, plan)
    assert len(ran.outcomes) == len(items)
    assert {kind for kind in kinds if counts.faults.get(kind)} == {
        kind for kind in kinds if backend == "runpod" or not _is_of_jobs(kind)
    }
    assert comparable(ran.outcomes) == EXPECTED.setdefault(backend, comparable(ran.outcomes)), (
        "equal in every mode"
    )


EXPECTED: dict[str, list[object]] = {}


def _number_in(asked: ChatRequest) -> int | None:
    # There is none in a request for an overall summary alone, which shows no review.
    found = re.search(r"(\d+)번 집", str(asked.messages))
    return None if found is None else int(found[1])


def _is_of_jobs(kind: str) -> bool:
    return kind.startswith("job_") or kind in ("submission_lost", "poll_fails", "cancel_fails")


@pytest.mark.sample(1)
@backends
@given(st.data())
@chaotic(15)
def test_a_run_that_is_left_early_leaves_nothing_behind(backend: str, data: st.DataObject) -> None:
    plan = Planned(data.draw(fates(KINDS)), backend == "runpod")
    mode, task, limit = data.draw(st.sampled_from(MODES)), data.draw(tasks), data.draw(limits)
    how = data.draw(leaving(mode))
    items = Items(task, data.draw(st.integers(1, 12)), lazy=True)
    gate = make_limit(limit)
    latency = data.draw(st.sampled_from([0.01, 30.0])) if how[0] == "cancel" and mode.way != "run" else 0.01
    patience = plan.patience if latency < 1 else ANSWER_WITHIN
    with serve(plan, latency=latency) as server, lent(backend, server, patience) as llm:
        with make_runner(llm, mode, gate) as runner:
            ran = leave(runner, mode, TASKS[task][0], items.given, *how)
        if mode.way in ("arun", "astream") and mode.strategy.llm_async:
            assert plan.known(server.counts) == []  # at once: cancelling waits for the jobs
        if how[0] == "stop":
            ended(server, ran, backend)
        counts = rest(server, plan, gate)

    told_all = how[0] == "stop" or mode.way != "astream"
    indices = sorted(outcome.index for outcome in ran.outcomes)
    assert len(set(indices)) == len(indices)
    if told_all:
        assert indices == list(range(items.must_have(ran)))
    if how[0] == "stop":
        check(ran, counts, backend, limit, plan)
    else:
        check_limits(ran, counts, limit if isinstance(limit, int) else 4, plan)
        assert ran.stats.prompt_tokens <= counts.prompt_tokens
        assert ran.stats.completion_tokens <= counts.completion_tokens


def leaving(mode: Mode) -> st.SearchStrategy[tuple[str, float]]:
    """Draw how a run is left, and when: after so many outcomes, or seconds."""
    outcomes = st.integers(0, 6).map(float)
    if mode.way in ("run", "arun"):
        return st.tuples(st.just("cancel"), st.sampled_from([0.0, 0.003, 0.015, 0.05]))
    ways = st.tuples(st.sampled_from(["stop", "stop", "close"]), outcomes)
    if mode.way == "astream":
        ways |= st.tuples(st.just("cancel"), st.sampled_from([0.0, 0.003, 0.015, 0.05]))
    return ways


def leave(runner: Any, mode: Mode, task: Any, items: Any, how: str, when: float) -> Ran:
    """Run, and leave."""
    if mode.way == "run":
        return _interrupted(runner, task, items, when)
    if mode.way == "stream":
        return _left(runner.stream(task, items), how, when)
    if mode.way == "arun":
        return anyio.run(_cancelled, runner, task, items, when, mode.loop, backend=mode.loop)
    return anyio.run(_left_on_loop, runner, task, items, how, when, backend=mode.loop)


def _interrupted(runner: Any, task: Any, items: Any, when: float) -> Ran:
    """Let what a signal handler would raise come out of the items: a lazy input is read in this thread."""

    def read() -> Iterator[Any]:
        until = monotonic() + when
        for item in items:
            yield item
            if monotonic() >= until:
                raise KeyboardInterrupt

    try:
        report = runner.run(task, read())
    except KeyboardInterrupt as stop:
        report = stop.report  # type: ignore[attr-defined]
    return Ran(list(report.outcomes), report.stats)


def _left(stream: Any, how: str, when: float) -> Ran:
    outcomes: list[Any] = []
    if how == "stop" and not when:
        threading.Thread(target=stream.stop).start()
    for outcome in stream:
        outcomes.append(outcome)
        if len(outcomes) == when and how == "stop":
            stream.stop()
        elif len(outcomes) >= when and how == "close":
            outcomes += stream.close()
    return Ran(outcomes, stream.stats)


async def _left_on_loop(runner: Any, task: Any, items: Any, how: str, when: float) -> Ran:
    outcomes: list[Any] = []
    async with runner:
        stream = runner.astream(task, items)
        with anyio.move_on_after(when if how == "cancel" else None):
            async for outcome in stream:
                outcomes.append(outcome)
                if len(outcomes) == when and how == "stop":
                    stream.stop()
                elif len(outcomes) >= when and how == "close":
                    break
        if how == "close":
            await stream.aclose()
    return Ran(outcomes, stream.stats)


async def _cancelled(runner: Any, task: Any, items: Any, when: float, loop: str) -> Ran:
    reports: list[BatchReport[Any]] = []

    async def run() -> None:
        try:
            reports.append(await runner.arun(task, items))
        except anyio.get_cancelled_exc_class() as stop:
            reports.append(stop.report)  # type: ignore[attr-defined]
            raise

    if loop == "asyncio":  # its own cancellation, which comes once, and goes through shields
        await asyncio.wait([running := asyncio.ensure_future(run())], timeout=when)
        running.cancel()
        await asyncio.wait([running])
    else:
        with anyio.move_on_after(when):
            await run()
    return Ran(list(reports[0].outcomes), reports[0].stats)


@backends
@given(st.data())
@chaotic(6)
@pytest.mark.sample(1)
def test_run_again_with_a_store_only_what_was_lost_is_paid_for_again(
    backend: str, data: st.DataObject
) -> None:
    task, number, limit = data.draw(tasks), data.draw(st.integers(2, 8)), data.draw(st.sampled_from([1, 3]))
    modes = data.draw(st.tuples(st.sampled_from(MODES), st.sampled_from(MODES)))
    how = data.draw(leaving(modes[0]))
    stopped = how[0] == "stop"
    # A call that is lost is a try of its question, so the next one meets the fate of the second.
    drawn = data.draw(fates(ITEMS_ARE_DONE_IN_SPITE_OF, length=2 if stopped else 1))
    with TemporaryDirectory() as folder:
        whole, (undisturbed,) = _runs(backend, drawn, task, number, limit, [(PLAINEST, None)], f"{folder}/a")
        parts, (_, second) = _runs(
            backend, drawn, task, number, limit, [(modes[0], how), (modes[1], None)], f"{folder}/b"
        )

    assert sorted(one.index for one in second.outcomes if one.ok) == list(range(number))
    assert parts.duplicates == 0
    if stopped:
        assert comparable(second.outcomes) == comparable(undisturbed.outcomes)
        assert paid(parts, backend) == paid(whole, backend)
    else:
        for both, one in zip(paid(parts, backend), paid(whole, backend), strict=True):
            assert both <= one + limit


def paid(counts: ServerStats, backend: str) -> tuple[int, int, int]:
    """Return what may cost money: answers, questions that came, and jobs that were made."""
    return counts.answered, counts.asked(QUESTIONS[backend]), sum(counts.jobs.values())


def _runs(
    backend: str, drawn: Any, task: str, number: int, limit: int, turns: list[Any], store: str
) -> tuple[ServerStats, list[Ran]]:
    """Run a task as often as there are turns, with one store and one server."""
    plan, gate = MendedAtOnce(drawn, backend == "runpod"), make_limit(limit)
    rans = []
    with serve(plan, latency=0.006) as server:
        for mode, how in turns:
            with (
                lent(backend, server, plan.patience) as llm,
                make_runner(llm, mode, gate, store=store) as runner,
            ):
                items = Items(task, number, lazy=True)
                rans.append(
                    go(runner, mode, TASKS[task][0], items.given)
                    if how is None
                    else leave(runner, mode, TASKS[task][0], items.given, *how)
                )
            rest(server, plan, gate)
        return server.counts, rans


PROGRAM = """
import json, sys
from types import SimpleNamespace
from tests.support.chaos_plans import *

url, backend, strategy, store = sys.argv[1:]
server = SimpleNamespace(url=url, openai_url=url + "/v1", runpod_url=url + "/v2")
chosen = Strategy.threaded() if strategy == "threaded" else Strategy.stage(int(strategy))
gate = make_limit(3)
llm = BACKENDS[backend](server, 60.0)
report = None
try:
    make_runner(llm, Mode(chosen, "run"), gate, store=store).run(TASKS["aspects"][0], range(12))
except KeyboardInterrupt as stop:
    report = stop.report
print(json.dumps([[outcome.index, outcome.ok] for outcome in report.outcomes]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize(
    ("backend", "strategy"),
    [("openai", "4"), ("vllm", "threaded"), ("runpod", "4"), ("runpod", "threaded"), ("runpod", "1")],
)
@pytest.mark.slow
def test_ctrl_c_leaves_nothing_at_the_server_and_keeps_what_was_paid_for(
    backend: str, strategy: str, tmp_path: Path
) -> None:
    def stuck(asked: ChatRequest) -> FaultKind | None:
        number = _number_in(asked)
        if number is None or number < 5 or done.is_set():
            return None
        return "job_never_ends" if backend == "runpod" else "no_response"

    done, side_by_side, store = threading.Event(), 1 if strategy == "1" else 3, str(tmp_path / "run.db")
    with FaultServer(Faults(plan=stuck, latency=0.005)) as server:
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, server.url, backend, strategy, store],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            wait_until(lambda: _all_stuck(server.counts, side_by_side))
            child.send_signal(signal.SIGINT)
            said, _ = child.communicate(timeout=PATIENCE)
        outcomes = json.loads(said)
        plan, gate = Planned((), backend == "runpod"), make_limit(3)
        first = rest(server, plan, gate)
        done.set()
        with (
            lent(backend, server, COMES_FOR_SURE) as llm,
            make_runner(llm, PLAINEST, gate, store=store) as runner,
        ):
            report = runner.run(TASKS["aspects"][0], range(12))
        both = server.counts

    # The last answers may be on their way to disk when the signal comes; they are kept all the same.
    assert {index for index, is_done in outcomes if is_done} <= set(range(5))
    assert [index for index, _ in outcomes] == list(range(len(outcomes)))
    assert child.returncode == 0
    assert (first.answered, first.jobs_alive, first.in_flight) == (5, (), 0)
    assert len(report.results) == 12
    assert (both.answered, both.duplicates, report.stats.cache_hits) == (12, 0, 5)
    assert both.asked(QUESTIONS[backend]) == 12 + side_by_side


def _all_stuck(counts: ServerStats, side_by_side: int) -> bool:
    busy = counts.in_flight + len(counts.jobs_alive)
    return counts.answered == 5 and busy == side_by_side

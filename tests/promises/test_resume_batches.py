"""With a store, batches are found again: a run that was killed at any moment is gone on with, and paid once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.patience import PATIENCE
from tests.support.waves import look_often

from restaurant_llm_batch import (
    BatchRunner,
    LLMRequest,
    RetryPolicy,
    Strategy,
    SummarizeAspects,
)
from restaurant_llm_batch._engine import wave_timing
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch._store.wave_journal import WaveJournal
from restaurant_llm_batch.backends import OpenAIBatchLLM, OpenAILLM
from restaurant_llm_batch.backends.openai_batch._batch_service import OpenAIBatchService
from restaurant_llm_batch.steps import Flow, complete, gather
from restaurant_llm_batch.testing import FakeSearch
from restaurant_llm_batch.testing.server import Faults, FaultServer

ITEMS = 120
needs_kill = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


def two_steps(item: int) -> Flow[str]:
    """Ask two things, then one about the answers."""

    def asking(prompt: str) -> LLMRequest:
        return LLMRequest("dish", ({"role": "user", "content": prompt},), max_tokens=60)

    found: list[Any] = yield from gather(*(complete(asking(f"{item} {aspect}")) for aspect in "ab"))
    return (yield from complete(asking("; ".join(one.text for one in found)))).text


def hurry() -> None:
    """Look at batches often."""
    wave_timing.FIRST_LOOK, wave_timing.LONGEST, wave_timing.LOOK_AGAIN = 0.02, 0.05, 0.05
    wave_timing.SLICE = 10


def runner_of(url: str, store: Path, number: str = "4") -> BatchRunner:
    """Return a runner with a store, whose batches are left alone if it stops."""
    strategy = Strategy.threaded() if number == "threaded" else Strategy.stage(int(number))
    llm = OpenAIBatchLLM("tiny", base_url=url, api_key="any", on_stop="keep")
    return BatchRunner(llm=llm, store=store, strategy=strategy, llm_retry=RetryPolicy(wait_initial=0.01))


def die(*_: Any) -> None:
    """Die as by kill -9, in the middle of what is being done."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(state: str, seed: int) -> None:
    """Have this process die when a wave gets into a state; `seed` says at which line, look or moment of it."""
    service: Any = OpenAIBatchService
    made = {"wave": 0, "looks": 0, "handed": 0}

    def before(cls: Any, name: str, is_now: Callable[[], bool]) -> None:
        real = getattr(cls, name)

        def wrapped(*given: Any, **more: Any) -> Any:
            if is_now():
                die()
            return real(*given, **more)

        setattr(cls, name, wrapped)

    def after(cls: Any, name: str, is_now: Callable[[], bool]) -> None:
        real = getattr(cls, name)

        def wrapped(*given: Any, **more: Any) -> Any:
            found = real(*given, **more)
            if is_now():
                die()
            return found

        setattr(cls, name, wrapped)

    def nth(name: str, number: int) -> Callable[[], bool]:
        def count() -> bool:
            made[name] += 1
            return made[name] == number

        return count

    wave = 1 + (seed == 2)  # the third seed dies in the second wave
    if state == "journalling":
        before(WaveJournal, "claim_lines", nth("wave", 1 + 3 * seed))
    elif state == "before upload":
        before(service, "upload", nth("wave", wave))
    elif state == "uploaded":
        after(service, "upload", nth("wave", wave))
    elif state == "created":  # its id is known to the service alone
        after(service, "create", nth("wave", wave))
    elif state == "in progress":
        after(service, "look", nth("looks", 2 + 2 * seed))
    elif state == "finished":
        before(service, "fetch", nth("wave", wave))
    elif state == "half collected":
        after(WaveJournal, "keep", nth("handed", 3 + 4 * seed))


CHILD = """
import sys
from tests.promises.test_resume_batches import *

hurry()
die_at(sys.argv[3], int(sys.argv[4]))
with runner_of(sys.argv[1], Path(sys.argv[2]), sys.argv[5]) as runner:
    runner.run(two_steps, range(ITEMS))
"""
STATES = [
    "journalling",
    "before upload",
    "uploaded",
    "created",
    "in progress",
    "finished",
    "half collected",
]


@needs_kill
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("state", STATES)
def test_a_run_killed_in_any_state_of_a_wave_is_collected_and_nothing_is_paid_twice(
    state: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_often(monkeypatch)
    path = tmp_path / "run.db"
    way = "threaded" if seed == 1 else "4"
    seconds = 2.0 if state == "in progress" else 0.4  # so that a busy machine looks at it often enough
    with FaultServer(Faults(batch_seconds=seconds), answer="echo") as server:
        given = [server.openai_url, str(path), state, str(seed), way]
        child = subprocess.run([sys.executable, "-c", CHILD, *given], timeout=PATIENCE, check=False)
        assert child.returncode == -signal.SIGKILL
        with runner_of(server.openai_url, path, way) as runner:
            report = runner.run(two_steps, range(ITEMS))
        counts = server.counts

    assert report.results == [f"{item} a; {item} b" for item in range(ITEMS)]
    assert counts.batch_duplicates == 0
    assert counts.batch_paid == counts.batch_lines == 3 * ITEMS
    assert sum(counts.batches.values()) == 2
    with Store(path) as store:
        assert store.stats().jobs <= (state == "journalling")  # the row of a wave that had no line yet


def split_summaries(restaurants: int, tmp_path: Path) -> None:
    """Summarise by batches and online, and compare."""
    search = FakeSearch(
        {n: [f"{n}번 집 맛있어요", "직원이 친절해요", "값이 비싸요"] for n in range(restaurants)}
    )
    task = SummarizeAspects(mode="split")
    with FaultServer() as server:
        online_llm = OpenAILLM("tiny", base_url=server.openai_url, api_key="any")
        with BatchRunner(llm=online_llm, search=search, strategy=Strategy.stage(4)) as runner:
            online = runner.run(task, range(restaurants))
        batch_llm = OpenAIBatchLLM("tiny", base_url=server.openai_url, api_key="any")
        store = tmp_path / "run.db"
        with BatchRunner(llm=batch_llm, search=search, strategy=Strategy.stage(4), store=store) as runner:
            batched = runner.run(task, range(restaurants))
        counts = server.counts
    assert not batched.failures
    assert batched.results == online.results
    assert counts.batches == {"completed": 2}
    assert counts.batch_lines == 4 * restaurants


@pytest.mark.slow
def test_500_restaurants_in_split_mode_take_two_waves_and_are_summarised_as_online(tmp_path: Path) -> None:
    split_summaries(500, tmp_path)


MEMORY = """
import sys
from restaurant_llm_batch import BatchRunner, LLMRequest, Strategy
from restaurant_llm_batch.steps import complete
from tests.support.waves import MemoryBatches

class OnDisk(MemoryBatches):
    \"\"\"Answers at once, and keeps its files on the disk.\"\"\"

    def upload(self, file, name):
        import shutil
        with open(f"{sys.argv[1]}/{name}", "wb") as kept:
            shutil.copyfileobj(file, kept)
        return f"{sys.argv[1]}/{name}"

    def create(self, file_id, wave):
        from restaurant_llm_batch._engine.wave_service import BatchState
        return BatchState(f"b{len(self.batches)}", "completed", file_id)

    def fetch(self, file_id, into):
        import json
        with open(file_id) as kept:
            for line in kept:
                into.write(json.dumps({"id": json.loads(line)["id"], "text": "fine"}).encode() + b"\\n")

    def find(self, wave, file_id):
        return None

def ask(item):
    prompt = f"{item} " + "맛있어요 " * 77
    return (yield from complete(LLMRequest("dish", ({"role": "user", "content": prompt},), max_tokens=50))).text

def base():
    # Not `ru_maxrss`: that begins with what the process that has forked this one had.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

before = base()
report = BatchRunner(llm=OnDisk(), strategy=Strategy.stage(4)).run(ask, range(100_000))
assert report.stats.succeeded == 100_000, report.stats
print(before, base())
"""


@pytest.mark.slow
def test_a_hundred_thousand_flows_of_one_call_take_less_than_300_mb(tmp_path: Path) -> None:
    run = [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE * 10, check=False)
    assert done.returncode == 0, done.stderr
    before, peak = map(float, done.stdout.split())
    assert before < peak < 300

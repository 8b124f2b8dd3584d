"""Celery with a real broker: runners of worker processes share a limit, and what a killed one had is done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.testing.server import Faults, FaultServer
from tests.support.patience import PATIENCE, wait_until
from tests.support.reviews import review
from tests.support.sharing.redis_server import REDIS, RedisServer

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        find_spec("celery") is None, reason="needs celery and redis: pip install celery redis"
    ),
    pytest.mark.skipif(REDIS is None, reason="needs redis-server: apt-get install redis-server"),
]

LIMIT = 4
TASKS = f"""
import os
from pathlib import Path
from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from restaurant_llm_batch import BatchRunner, Limits, SharedLimiter, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.sharing import RedisBroker


def make_runner():
    gpu = SharedLimiter("gpu", {LIMIT}, broker=RedisBroker(os.environ["REDIS_URL"]))
    return BatchRunner(
        llm=VLLMServerLLM(os.environ["MODEL_URL"], model="tiny"),
        search=EmbeddedSearch("reviews.index", read_only=True),
        strategy=Strategy.stage(4),
        limits=Limits(llm=gpu, batches=gpu),
        store="run.db",
    )


celery = Celery("tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
celery.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1)
celery.conf.update(broker_transport_options={{"visibility_timeout": 3600}})


@worker_process_init.connect
def start(**_):
    global runner
    runner = make_runner()
    runner.__enter__()
    Path(f"worker-{{os.getpid()}}").touch()


@worker_process_shutdown.connect
def stop(**_):
    runner.__exit__(None, None, None)
    Path(f"closed-{{os.getpid()}}").touch()


@celery.task
def summaries(restaurants):
    Path(f"busy-{{os.getpid()}}").touch()
    return runner.run(SummarizeAspects(), restaurants).to_dicts()
"""


@contextmanager
def worker(folder: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker with three processes."""
    words = (
        "-A",
        "tasks",
        "worker",
        "--concurrency",
        "3",
        "--loglevel",
        "INFO",
        "--without-gossip",
        "--without-mingle",
    )
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *words], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)
                process.wait(PATIENCE)


def pids(folder: Path, kind: str) -> set[int]:
    return {int(path.name.partition("-")[2]) for path in folder.glob(f"{kind}-*")}


def test_celery_workers_share_a_limit_survive_a_kill_and_end_with_their_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    with EmbeddedSearch(tmp_path / "reviews.index") as index:
        index.index_reviews([review(number % 60, number, f"맛있어요 {number}") for number in range(120)])
    with FaultServer(Faults(latency=0.2)) as model, RedisServer(tmp_path) as redis:
        variables = {"REDIS_URL": redis.url, "MODEL_URL": model.url}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tasks", raising=False)
        tasks = import_module("tasks")

        with worker(tmp_path, **variables) as process:
            given = [tasks.summaries.delay([*range(10 * n, 10 * n + 10)]) for n in range(5)]
            wait_until(lambda: pids(tmp_path, "busy") and model.counts.peak >= 2)
            os.kill(min(pids(tmp_path, "busy")), signal.SIGKILL)  # one of the pool's processes
            rows: list[Any] = [row for each in given for row in each.get(timeout=PATIENCE)]
            before = model.counts.answered
            last = tasks.summaries.delay([*range(50, 60)])
            wait_until(lambda: model.counts.answered > before or model.counts.in_flight)
            process.send_signal(signal.SIGTERM)  # a warm shutdown: what is in progress finishes
            assert process.wait(PATIENCE) == 0
            assert len(last.get(timeout=PATIENCE)) == 10

    assert sorted(row["restaurant_id"] for row in rows) == [*range(50)]
    assert not any(row.get("error") for row in rows)
    assert 2 <= model.counts.peak <= LIMIT
    # Of the answers, those that had come to the killed process were kept: only calls in flight were made again.
    assert model.counts.answered <= 60 + LIMIT
    assert pids(tmp_path, "closed")
    assert pids(tmp_path, "closed") <= pids(tmp_path, "worker")

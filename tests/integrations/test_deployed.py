"""The application of docs/how-to/deploy.md under uvicorn and gunicorn, with several workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.patience import PATIENCE, wait_until
from tests.support.reviews import review

from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.testing.server import Faults, FaultServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="they fork, or need POSIX signals"),
]

LIMIT = 4
SUMMARIES = "/api/v1/llm/summarize/batch"
APP = f"""
import os
from fastapi import FastAPI
from restaurant_llm_batch import BatchRunner, Limits, SharedLimiter, Strategy
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.sharing import FileBroker

gpu = SharedLimiter("gpu", {LIMIT}, broker=FileBroker("limits.db"))
runner = BatchRunner(
    llm=VLLMServerLLM(os.environ["MODEL_URL"], model="tiny"),
    search=EmbeddedSearch("reviews.index", read_only=True),
    strategy=Strategy.stage(4),
    limits=Limits(llm=gpu, batches=gpu),
    record="night.db",
)
app = FastAPI()
app.include_router(batch_router(runner))

@app.get("/process")
def process() -> int:
    return os.getpid()
"""
GUNICORN = ("gunicorn", "app:app", "-b", "127.0.0.1:0", "-k", "uvicorn_worker.UvicornWorker", "-w", "3")
SERVERS = {
    "uvicorn": ("uvicorn", "app:app", "--port", "0", "--workers", "3", "--timeout-graceful-shutdown", "30"),
    "gunicorn": GUNICORN,
    "gunicorn --preload": (*GUNICORN, "--preload"),
}


class Deployed:
    """A server with its workers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        assert self._listening.wait(PATIENCE), self.said
        found = re.search(r"http://127\.0\.0\.1:[1-9]\d*", self.said)
        assert found is not None, self.said
        self.url = found[0]

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if re.search(r"http://127\.0\.0\.1:[1-9]\d*", line):
                self._listening.set()
        self._listening.set()

    def workers(self) -> set[int]:
        """Return the processes that answer: each is asked until no new one turns up."""
        found: set[int] = set()
        for _ in range(60):
            try:
                found.add(int(httpx.get(f"{self.url}/process", timeout=PATIENCE).text))
            except httpx.TransportError:
                continue
        return found

    def wait_for_end(self) -> None:
        self.process.wait(PATIENCE)
        self._thread.join()


@contextmanager
def deployed(words: tuple[str, ...], folder: Path, model: str) -> Iterator[Deployed]:
    (folder / "app.py").write_text(APP)
    with EmbeddedSearch(folder / "reviews.index") as index:
        index.index_reviews([review(number % 40, number, f"맛있어요 {number}") for number in range(80)])
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "MODEL_URL": model, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        try:
            one = Deployed(process)
            wait_until(lambda: _answers(one.url))
            yield one
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/process").status_code == 200
    except httpx.TransportError:
        return False


def ask(url: str, number: int, answers: list[Any]) -> None:
    body = {"restaurants": [{"restaurant_id": (5 * number + i) % 40} for i in range(5)]}
    while True:
        try:
            answers.append(httpx.post(f"{url}{SUMMARIES}", json=body, timeout=PATIENCE).json())
        except httpx.TransportError:  # its worker was killed
            continue
        return


@pytest.mark.parametrize("name", SERVERS)
def test_workers_share_a_limit_and_an_index_survive_a_kill_and_end_with_their_requests(
    name: str, tmp_path: Path
) -> None:
    words = SERVERS[name]
    if find_spec(words[0]) is None or (words[0] == "gunicorn" and find_spec("uvicorn_worker") is None):
        pytest.skip(f"needs {words[0]}")
    answers: list[Any] = []
    with FaultServer(Faults(latency=0.1)) as model, deployed(words, tmp_path, model.url) as service:
        before = service.workers()
        asking = [threading.Thread(target=ask, args=(service.url, number, answers)) for number in range(24)]
        for thread in asking:
            thread.start()
        wait_until(lambda: model.counts.peak >= 2)
        os.kill(min(before), signal.SIGKILL)
        for thread in asking:
            thread.join()
        wait_until(lambda: service.workers() - before)
        handed = httpx.post(
            f"{service.url}/api/v1/jobs",
            json={"task": "summarize", "body": {"restaurants": [{"restaurant_id": 1}]}},
        )
        wait_until(lambda: httpx.get(f"{service.url}{handed.headers['location']}").json()["state"] == "done")
        last = threading.Thread(target=ask, args=(service.url, 0, answers))
        calls = model.counts.answered
        last.start()
        wait_until(lambda: model.counts.answered > calls or model.counts.in_flight)
        service.process.send_signal(signal.SIGTERM)
        last.join()
        service.wait_for_end()

    assert len(answers) == 25
    assert all(len(answer["results"]) == 5 for answer in answers)
    assert 1 < model.counts.peak <= LIMIT
    assert "Traceback" not in service.said
    # That of the worker that was killed, which the next reader that comes alone removes.
    assert len(list((tmp_path / "reviews.index" / "readers").iterdir())) <= 1

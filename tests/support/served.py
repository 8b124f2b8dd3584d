"""The command `serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx

from tests.support.patience import PATIENCE

SUMMARIES = "/api/v1/llm/summarize/batch"


class Served:
    """A service in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        self.listen_for("/docs")
        address = re.search(r"http://[^/\s]+", self.said)
        assert address, self.said
        self.client = httpx.Client(base_url=address.group(), timeout=30)

    def listen_for(self, words: str, times: int = 1) -> None:
        assert self.process.stdout is not None
        while self.said.count(words) < times:
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line

    def wait_until_it_is_up(self) -> None:
        late = monotonic() + PATIENCE
        while True:
            try:
                assert self.client.get("/health").json() == {"status": "ok"}
            except httpx.ConnectError:
                assert monotonic() < late
                sleep(0.02)
            else:
                return

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)


@contextmanager
def served(*words: str | Path, **variables: str) -> Iterator[Served]:
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "BATCH_SERVE_PORT": "0",
    }
    environment |= variables
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env=environment,
        # A parent that ignores Ctrl-C hands that on, and then there would be nothing to test.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        one = Served(process)
        try:
            with one.client:
                one.wait_until_it_is_up()
                yield one
        finally:
            if process.poll() is None:
                process.kill()

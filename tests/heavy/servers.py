"""Real servers in processes of their own, ended by their own handles."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx

from restaurant_llm_batch.backends import VLLMServerLLM

PATIENCE = 180.0
"""Seconds that a server may take to start; vLLM takes 20 to 40 on two cores."""

JSON_WITHOUT_WHITESPACE = '{"backend":"guidance","disable_any_whitespace":true}'


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def llm(self, **arguments: Any) -> VLLMServerLLM:
        """Return a backend for it."""
        return VLLMServerLLM(self.url, timeout=120.0, **arguments)

    def sample(self, name: str, **labels: str) -> float:
        """Read one number off its metrics; the sum, where several lines fit."""
        text = httpx.get(self.url + "/metrics", timeout=10).text
        total = 0.0
        for line in text.splitlines():
            if line.startswith((name + "{", name + " ")) and all(
                f'{label}="{value}"' in line for label, value in labels.items()
            ):
                total += float(line.rpartition(" ")[2])
        return total


def engine_processes(pid: int) -> list[Any]:
    """Return the processes below `pid` in which vLLM computes."""
    psutil = import_module("psutil")
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie counts as one
            if "EngineCore" in " ".join([child.name(), *child.cmdline()]):
                found.append(child)
    return found


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that a server is about to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def start(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start a server, wait until its ``/health`` answers, and end it and its children afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait(server)
        yield server
    finally:
        _end(process)


def start_vllm(model: str, logs: Path, *flags: str) -> Any:
    """Start a vLLM server for the tiny model."""
    port = free_port()
    known = ["--max-num-seqs", "16", "--max-model-len", "4096", "--scheduling-policy", "priority"]
    given = [*known, "--structured-outputs-config", JSON_WITHOUT_WHITESPACE, *flags]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--model", model, "--served-model-name", "tiny", "--enforce-eager"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    return start([*command, "--dtype", "float32", *given], port, logs / f"{port}.log", environment)


def _wait(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(server.url + "/health", timeout=1).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start; its log ends:\n{server.log.read_text()[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        # What is left of its session: workers of an engine that was killed, for example.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

"""``python -m restaurant_llm_batch.testing.server`` as a process, and what importing it costs."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from tests.support.patience import PATIENCE

MODULE = [sys.executable, "-W", "error", "-m", "restaurant_llm_batch.testing.server"]
QUESTION = {"messages": [{"role": "user", "content": "맛은?"}]}


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_it_prints_its_address_serves_and_counts_when_it_is_ended(end: signal.Signals) -> None:
    asked = [
        "--seed",
        "3",
        "--fault",
        "server_error=0.5",
        "--fault",
        "reset=0.5",
        "--tries",
        "0",
        "--limit",
        "9",
    ]
    with subprocess.Popen(
        [*MODULE, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as served:
        try:
            assert served.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", served.stdout.readline())
            assert found is not None
            with pytest.raises(httpx.HTTPError):
                for _ in range(2):  # one of the two faults, again and again
                    httpx.post(f"{found[0]}/v1/chat/completions", json=QUESTION).raise_for_status()
            served.send_signal(end)
            told, complaints = served.communicate(timeout=PATIENCE)
        finally:
            served.kill()

    counts = json.loads(told)
    assert (served.returncode, complaints) == (0, "")
    assert counts["requests"] == 1
    assert sum(counts["faults"].values()) == 1
    assert counts["jobs_alive"] == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--fault", "oops=0.1"], "'oops' is not a kind of fault"),
        (["--fault", "reset"], "KIND=SHARE"),
        (["--limit", "0"], "Faults.limit must be a whole number"),
        (["--spread", "0.5"], "--spread must be at least 1"),
        (["--retry-after", "soon"], "invalid"),
    ],
)
@pytest.mark.slow
def test_what_it_cannot_do_it_says_in_a_line(asked: list[str], words: str) -> None:
    ended = subprocess.run([*MODULE, *asked], capture_output=True, text=True, check=False, timeout=PATIENCE)

    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_port_that_is_taken_is_reported_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [*MODULE, "--port", port], capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    assert ended.returncode == 2
    assert f"--port {port} cannot be listened on" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_its_help_names_the_kinds_of_faults() -> None:
    ended = subprocess.run([*MODULE, "--help"], capture_output=True, text=True, check=True, timeout=PATIENCE)

    assert "job_vanishes" in ended.stdout
    assert "--tokens-per-minute" in ended.stdout
    assert "--no-rate-headers" in ended.stdout


@pytest.mark.slow
def test_importing_it_brings_no_aiohttp() -> None:
    code = (
        "import sys, restaurant_llm_batch.testing, restaurant_llm_batch.testing.server as server\n"
        "server.FaultServer()\n"
        "assert 'aiohttp' not in sys.modules and 'httpx' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE)
    assert ended.returncode == 0

"""`serve --workers N`: several processes at one port, with one limit, one index, one store and one record for all."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from tests.support.patience import PATIENCE, wait_until
from tests.support.served import SUMMARIES, Served, served

from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.cli._listening import PORT_OPTIONS, bind, listen
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.testing.server import Faults, FaultServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers need POSIX")


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    rows = [
        {"restaurant_id": restaurant, "id": number, "content": f"맛있어요 {number}"}
        for restaurant in range(40)
        for number in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def workers_of(service: Served) -> list[int]:
    """Return the process ids of the workers that are up."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    return [pid for pid in map(int, children) if "spawn_main" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""


def counted(service: Served) -> int:
    """Return how many restaurants were done, by ``/metrics``."""
    found = re.search(r'items_total\{outcome="ok",stage=""\} (\d+)', service.client.get("/metrics").text)
    assert found is not None
    return int(found[1])


def ask(url: str, number: int, answers: list[Any]) -> None:
    """Ask for several restaurants over a connection of its own, again if a worker was killed meanwhile."""
    body = {"restaurants": [{"restaurant_id": (number * 5 + i) % 40} for i in range(5)]}
    while True:
        try:
            answers.append(httpx.post(url, json=body, timeout=PATIENCE).json())
        except httpx.TransportError:
            continue
        return


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True], ids=["", "a worker is killed"])
def test_four_workers_never_exceed_one_limit(reviews: Path, tmp_path: Path, kill: bool) -> None:
    faults = Faults(latency=0.1)
    words = ("serve", reviews, "--workers", "4", "--llm-concurrency", "8", "--llm", "vllm", "--model", "tiny")
    record = tmp_path / "night.db"
    answers: list[Any] = []
    with FaultServer(faults) as server:
        files = ("--llm-url", server.url, "--record", record)
        with served("-m", "restaurant_llm_batch", *words, *files) as service:
            # All of them serve: the first one alone would take all requests.
            wait_until(lambda: "restaurant_llm_batch_workers 4" in service.client.get("/metrics").text)
            before = workers_of(service)
            url = f"{service.client.base_url}{SUMMARIES}"
            threads = [threading.Thread(target=ask, args=(url, number, answers)) for number in range(40)]
            for thread in threads:
                thread.start()
            if kill:
                wait_until(lambda: server.counts.peak >= 4)
                sleep(random.uniform(0, 1))
                os.kill(random.choice(before), signal.SIGKILL)
            for thread in threads:
                thread.join()
            wait_until(lambda: len(workers_of(service)) == 4)
            after = workers_of(service)
            # The counts of other workers are up to a second old, and those of a killed one lack its last second.
            wait_until(lambda: counted(service) == 200 if not kill else counted(service) >= 100)
            service.process.send_signal(signal.SIGTERM)
            said, _ = service.process.communicate(timeout=PATIENCE)

    assert len(answers) == 40
    assert all(len(answer["results"]) == 5 for answer in answers)
    assert server.counts.peak == 8
    assert len(set(after) - set(before)) == kill
    assert said.count("has ended with signal SIGKILL; another one is started") == kill
    assert said.splitlines()[-1] == "stopped"
    assert "Traceback" not in said
    assert service.process.returncode == 0
    assert not any(_command(pid) for pid in (*before, *after))
    assert len({run.process for run in open_record(record).runs()}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_all_of_them(reviews: Path, how: signal.Signals) -> None:
    with served("-m", "restaurant_llm_batch", "serve", reviews, "--workers", "2") as service:
        wait_until(lambda: len(workers_of(service)) == 2)
        workers = workers_of(service)
        service.listen_for("share the limits")
        service.process.send_signal(how)
        said, _ = service.process.communicate(timeout=PATIENCE)
        wait_until(lambda: not any(_command(pid) for pid in workers))

    assert "Traceback" not in said
    if how != signal.SIGKILL:
        assert said.splitlines()[-1] == "stopped"
        assert service.process.returncode == 0
        limits = re.search(r"restaurant-llm-batch limits (\S+)`", service.said + said)
        assert limits is not None
        assert not Path(limits[1]).parent.exists()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_lets_requests_in_flight_finish(reviews: Path) -> None:
    """It reaches every process of the group, and the supervisor sends SIGTERM besides."""
    answers: list[Any] = []
    with FaultServer(Faults(latency=1.0)) as server:
        words = (
            "serve",
            reviews,
            "--workers",
            "2",
            "--llm",
            "vllm",
            "--model",
            "tiny",
            "--llm-url",
            server.url,
        )
        with served("-m", "restaurant_llm_batch", *words) as service:
            wait_until(lambda: len(workers_of(service)) == 2)
            workers = workers_of(service)
            url = f"{service.client.base_url}{SUMMARIES}"
            asking = threading.Thread(target=ask, args=(url, 0, answers))
            asking.start()
            wait_until(lambda: server.counts.in_flight > 0)
            for pid in (*workers, service.process.pid):
                os.kill(pid, signal.SIGINT)
            service.process.communicate(timeout=PATIENCE)
            asking.join()

    assert len(answers[0]["results"]) == 5


@pytest.mark.slow
def test_an_index_folder_is_served_by_all_and_by_another_service_too(reviews: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reviews.index"
    made = CliRunner().invoke(build(), ["index", str(reviews), "--into", str(folder)])
    assert made.exit_code == 0, made.output
    words = ("-m", "restaurant_llm_batch", "serve", folder, "--workers", "2")
    with served(*words) as one, served(*words) as other:
        for service in (one, other):
            body = {"restaurants": [{"restaurant_id": 1}]}
            assert service.client.post(SUMMARIES, json=body).json()["results"][0]["restaurant_id"] == 1
            service.press_ctrl_c()
            service.process.communicate(timeout=PATIENCE)
    assert not any((folder / "readers").iterdir())


@pytest.mark.slow
def test_workers_that_cannot_start_are_one_message(reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "my_backend.py").write_text(
        "import multiprocessing\n"
        "from restaurant_llm_batch.testing import FakeLLM\n"
        "def make():\n"
        "    if multiprocessing.parent_process() is not None:\n"
        "        raise RuntimeError('only in the first process')\n"
        "    return FakeLLM()\n"
    )
    words = ("--workers", "3", "--port", "0", "--llm", "my_backend:make")
    done = subprocess.run(
        [sys.executable, "-m", "restaurant_llm_batch", "serve", reviews, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert done.returncode == 2
    assert "only in the first process" in done.stderr
    assert "the workers cannot start" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--uploads"], "--uploads writes to the index"),
        (["--llm", "vllm-engine", "--model", "tiny"], "runs a model in each worker"),
        (["--workers", "0"], "workers"),
        (["--cors", "https://a.example", "--cors", "shop.example"], "an origin is a scheme"),
    ],
)
@pytest.mark.sample(1)
def test_what_several_workers_cannot_do_is_said_before_anything_is_indexed(
    words: list[str], complaint: str
) -> None:
    result = CliRunner().invoke(build(), ["serve", "--port", "0", "--workers", "2", *words])

    assert result.exit_code == 2
    assert complaint in result.output
    assert "serving" not in result.output


@pytest.mark.parametrize(
    "key", ["", "two words", "name:", ":key", "a b:key", "x" * 1001, "한글", f"{'n' * 65}:key", "a:k,b:k"]
)
@pytest.mark.sample(1)
def test_a_key_that_no_client_can_send_is_refused_without_repeating_it(key: str) -> None:
    for words, variables in (
        (["--api-key", key], {}),
        ([], {"BATCH_SERVE_API_KEYS": key}),
    ):
        if words and "," in key:
            continue
        result = CliRunner().invoke(build(), ["serve", "--port", "0", *words], env=variables)
        assert result.exit_code == 2
        assert "number" in result.output
        assert not key.strip() or key not in result.output


def test_of_two_services_that_start_at_once_the_second_says_so() -> None:
    with bind("127.0.0.1", 0, PORT_OPTIONS) as one:
        port = one.getsockname()[1]
        with bind("127.0.0.1", port, PORT_OPTIONS) as two:  # it does not listen yet, so both may
            listen(one, PORT_OPTIONS)
            with pytest.raises(
                ConfigurationError, match=f"port {port}: .*; change it with --host and --port"
            ):
                listen(two, PORT_OPTIONS)


@pytest.mark.parametrize(
    ("shares", "complaint"),
    [
        ("shp=3", "no key is that of a client 'shp', and the clients are kiosk, shop"),
        ("shop=0", "must be a number from 0.001 to 1,000"),
        ("shop", "such as shop=3,kiosk=1"),
        ("=3", "such as shop=3,kiosk=1"),
    ],
)
@pytest.mark.sample(1)
def test_shares_that_are_those_of_nobody_are_refused(shares: str, complaint: str) -> None:
    keys = {"BATCH_SERVE_API_KEYS": "shop:one-key,kiosk:another-key,third-key"}
    result = CliRunner().invoke(build(), ["serve", "--port", "0", "--shares", shares], env=keys)

    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())
    assert "one-key" not in result.output


@pytest.mark.slow
def test_a_supervisor_that_is_killed_leaves_no_folder_behind(reviews: Path) -> None:
    with served("-m", "restaurant_llm_batch", "serve", reviews, "--workers", "2") as service:
        wait_until(lambda: len(workers_of(service)) == 2)
        workers = workers_of(service)
        service.listen_for("share the limits")
        limits = re.search(r"restaurant-llm-batch limits (\S+)`", service.said)
        assert limits is not None
        folder = Path(limits[1]).parent
        assert folder.exists()
        service.process.kill()
        wait_until(lambda: not any(_command(pid) for pid in workers))

    assert not folder.exists()


@pytest.mark.slow
def test_a_hang_up_of_the_terminal_lets_requests_in_flight_finish(reviews: Path) -> None:
    answers: list[Any] = []
    with FaultServer(Faults(latency=1.0)) as server:
        for workers in ("1", "2"):
            words = ("--workers", workers, "--llm", "vllm", "--model", "tiny", "--llm-url", server.url)
            with served("-m", "restaurant_llm_batch", "serve", reviews, *words) as service:
                url = f"{service.client.base_url}{SUMMARIES}"
                asking = threading.Thread(target=ask, args=(url, 0, answers))
                asking.start()
                wait_until(lambda: server.counts.in_flight > 0)
                for pid in (service.process.pid, *workers_of(service)):
                    os.kill(pid, signal.SIGHUP)
                service.process.communicate(timeout=PATIENCE)
                asking.join()
                assert service.process.returncode == 0

    assert [len(answer["results"]) for answer in answers] == [5, 5]

"""Metrics over all processes of a service, which leave their counts in files."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.integrations.test_fastapi import SUMMARIES, ids, labelled

from restaurant_llm_batch import BatchRunner, Strategy, SummarizeAspects
from restaurant_llm_batch.integrations._fastapi.application import application
from restaurant_llm_batch.integrations._prometheus import render
from restaurant_llm_batch.integrations._worker_metrics import WorkerMetrics, decoded, encoded, leave, total
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.integrations.metrics import RunMetrics
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a service is one process there")


def counted(folder: Path | None, *restaurants: int) -> WorkerMetrics:
    """Return the metrics of a process that has done these restaurants."""
    metrics = RunMetrics()
    runner = BatchRunner(
        llm=FakeLLM(answer=labelled), search=FakeSearch(lambda name: ["맛"]), observers=[metrics]
    )
    runner.run(SummarizeAspects(), restaurants)
    return WorkerMetrics(metrics, folder)


def value(text: str, name: str) -> float:
    (found,) = re.findall(rf"^restaurant_llm_batch_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found)


OK = 'items_total{outcome="ok",stage=""}'


def test_any_process_says_what_all_have_done(tmp_path: Path) -> None:
    one, other = counted(tmp_path, 1, 2), counted(tmp_path, 3)
    other.write()
    text = one.prometheus()

    assert value(text, OK) == 3
    assert value(text, "runs_ended_total") == 2
    assert value(text, 'calls_total{stage="llm",outcome="answered"}') == 3
    assert value(text, 'call_seconds_count{stage="llm"}') == 3
    assert value(text, "workers") == 2
    assert other.prometheus() == text


def test_what_one_has_said_the_others_do_not_take_back(tmp_path: Path) -> None:
    one, other = counted(tmp_path, 1, 2), counted(tmp_path)
    assert value(one.prometheus(), OK) == 2
    assert value(other.prometheus(), OK) == 2


def test_the_counts_of_an_ended_process_stay_and_what_it_had_in_flight_does_not(tmp_path: Path) -> None:
    one, other = counted(tmp_path, 1), counted(tmp_path, 2)
    other._metrics._open_items = 7
    other._metrics._in_flight["llm"] = 5
    other.write()
    assert value(one.prometheus(), "items_open") == 7
    other.release()
    text = one.prometheus()

    assert value(text, OK) == 2
    assert value(text, "items_open") == 0
    assert value(text, 'calls_in_flight{stage="llm"}') == 0
    assert value(text, "workers") == 1


@pytest.mark.slow
def test_a_process_that_serves_alone_needs_no_folder() -> None:
    text = counted(None, 1).prometheus()

    assert value(text, OK) == 1
    assert value(text, "workers") == 1


@pytest.mark.slow
def test_a_folder_that_is_gone_ends_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "counts"
    folder.mkdir()
    metrics = counted(folder, 1)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    metrics.write()


def test_a_snapshot_is_what_it_was_after_it_was_written() -> None:
    snapshot = counted(None, 1, 2)._metrics.snapshot()

    assert decoded(json.loads(json.dumps(encoded(snapshot)))) == snapshot
    assert render(total([snapshot], [])) == render(snapshot)


@pytest.mark.slow
def test_the_service_has_a_path_for_them(tmp_path: Path) -> None:
    metrics = RunMetrics()
    runner = BatchRunner(
        llm=FakeLLM(answer=labelled),
        search=FakeSearch(lambda name: ["맛"]),
        strategy=Strategy.stage(4),
        observers=[metrics],
    )
    app = application(batch_router(runner), runner, metrics=WorkerMetrics(metrics, tmp_path))
    with TestClient(app) as client:
        assert client.post(SUMMARIES, json=ids(1, 2)).status_code == 200
        answer = client.get("/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert value(answer.text, OK) == 2
    with TestClient(application(batch_router(runner), runner)) as client:
        assert client.get("/metrics").status_code == 404


def test_counts_of_processes_that_end_again_and_again_are_in_one_file(tmp_path: Path) -> None:
    for number in range(6):
        one = counted(tmp_path, number)
        one.write()
        one.release()
    last = counted(tmp_path, 9)

    assert value(last.prometheus(), OK) == 7
    assert value(last.prometheus(), "workers") == 1
    assert len(list(tmp_path.glob("*.json"))) <= 3
    assert len(list(tmp_path.glob("*.lock"))) <= 3


def test_of_processes_that_end_together_one_finds_that_it_is_the_last(tmp_path: Path) -> None:
    one = counted(tmp_path)
    path = next(tmp_path.glob("*.lock"))
    other = path.rename(
        path.with_name(path.name.replace(str(os.getpid()), "1"))
    )  # as that of another process
    two = counted(tmp_path)

    assert not leave(tmp_path)
    assert [*tmp_path.glob("*.lock")] == [other]
    one.release()
    two.release()
    assert leave(tmp_path)

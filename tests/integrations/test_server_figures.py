"""What the model's server says of its load, and why limits change: the same figures wherever they are shown."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter as Numbers
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, LLMRequest, RetryPolicy, Strategy, errors
from restaurant_llm_batch.cli._top import drawing
from restaurant_llm_batch.events import CallEnded, LimitChanged, RunEnded, RunStarted, ServerRead
from restaurant_llm_batch.integrations._tally import ProgressState
from restaurant_llm_batch.integrations._worker_metrics import decoded, encoded, total
from restaurant_llm_batch.integrations.metrics import RunMetrics
from restaurant_llm_batch.models import ServerLoad
from restaurant_llm_batch.outcomes import RunStats
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.records._live import LiveView
from restaurant_llm_batch.records._page.data import RecordData
from restaurant_llm_batch.simulation import SimulatedServer, TokenSpeed
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM


def ask(item: int) -> Any:
    """Ask once."""
    message = {"role": "user", "content": f"review {item}"}
    return (yield from complete(LLMRequest("rating", (message,), max_tokens=100))).text


class Night(NamedTuple):
    """A simulated run whose server preempts, and is down for a while; and what observers saw of it."""

    path: Path
    stats: RunStats
    events: list[Any]
    metrics: RunMetrics
    half_way: ProgressState


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    path = tmp_path_factory.mktemp("night") / "night.db"
    metrics, progress, events = RunMetrics(), ProgressState(), []
    half_way = ProgressState()

    def observe(event: Any) -> None:
        events.append(event)
        metrics(event)
        progress.handle(event, event.time)
        if type(event) is ServerRead and len([one for one in events if type(one) is ServerRead]) == 3:
            half_way.servers, half_way.preemptions = dict(progress.servers), progress.preemptions

    speed = TokenSpeed(prefill=5000, decode=40, batch_slowdown=0.01)
    server = SimulatedServer(latency=speed, kv_tokens=1500, answer_tokens=90, outages=[(5.0, 9.0)])
    runner = BatchRunner(
        llm=FakeLLM(),
        strategy=Strategy.stage(4),
        limits=Limits(llm=AdaptiveLimit(start=40), tokens_in_flight=1_000_000),
        llm_retry=RetryPolicy(attempts=20, wait_initial=0.5, wait_max=2.0),
        watch_server=2.0,
    )
    played = runner.simulate(ask, range(200), server, observers=[observe], record=path)
    return Night(path, played.report.stats, events, metrics, half_way)


def test_the_figures_of_a_server_are_the_same_in_statistics_events_metrics_and_record(night: Night) -> None:
    said = night.stats.servers["llm"]
    read = [event for event in night.events if type(event) is ServerRead]
    counted = night.metrics.snapshot()
    rows = open_record(night.path).server_loads()
    connection = sqlite3.connect(night.path)
    (overview,) = connection.execute(
        "SELECT readings, failed_readings, peak_running, peak_waiting, kv_tokens, preemptions FROM server_overview"
    ).fetchall()
    connection.close()

    assert said.preemptions > 0
    assert said.failed_readings > 0
    assert said.peak_waiting > 0
    assert sum(event.preemptions for event in read) == said.preemptions
    assert counted.server_preemptions == {"llm": said.preemptions}
    assert counted.server_readings == {
        ("llm", "read"): said.readings,
        ("llm", "failed"): said.failed_readings,
    }
    assert len(rows) == len(read) == said.readings + said.failed_readings
    assert sum(row.preemptions or 0 for row in rows) == said.preemptions
    assert max(row.kv_usage or 0.0 for row in rows) == said.peak_kv_usage
    assert overview == (
        said.readings,
        said.failed_readings,
        said.peak_running,
        said.peak_waiting,
        1500,
        said.preemptions,
    )
    failed = next(row for row in rows if row.error is not None)
    assert (failed.running, failed.kv_usage, failed.preemptions) == (None, None, None)
    assert "the connection was lost" in (failed.error or "")


def test_every_change_of_a_limit_is_counted_with_its_reason(night: Night) -> None:
    changes = Numbers((event.limiter, event.reason) for event in night.events if type(event) is LimitChanged)
    counted = night.metrics.snapshot()
    recorded = Numbers((limit.limiter, limit.reason) for limit in open_record(night.path).limits())

    assert changes == recorded
    assert {key: number for key, number in changes.items() if key[1] != "start"} == counted.limit_changes
    assert counted.limit_changes["llm", "server"] > 0
    assert counted.limits["llm"] == night.stats.limit_history[-1].limit


def test_prometheus_has_the_load_the_limits_and_memory_that_was_full(night: Night) -> None:
    page = night.metrics.prometheus()

    assert re.search(
        r'^restaurant_llm_batch_server_kv_cache_usage_ratio\{server="llm"\} [01](\.\d+)?$', page, re.MULTILINE
    )
    assert 'restaurant_llm_batch_server_kv_cache_tokens{server="llm"} 1500\n' in page
    assert 'restaurant_llm_batch_out_of_memory_total{kind="gpu"} 0\n' in page
    assert 'restaurant_llm_batch_limit_changes_total{limiter="llm",reason="server"} ' in page
    assert re.search(r"^restaurant_llm_batch_run_peak_memory_bytes \d+$", page, re.MULTILINE)


def test_progress_and_top_name_the_load(night: Night) -> None:
    picture = LiveView(night.path, 1).look()
    (latest,) = picture.servers

    assert re.fullmatch(
        r"server \d+ running(, \d+ waiting)?, KV cache \d+%(, \d+ preempted)?", night.half_way.load
    )
    assert latest.server == "llm"
    assert picture.preemptions == night.stats.servers["llm"].preemptions
    assert "server" not in drawing.line(picture).partition("tokens out")[2]  # it has ended


def test_the_page_and_the_row_of_the_run_have_them(night: Night) -> None:
    record = open_record(night.path)
    (server,) = RecordData(night.path).overview(1)["servers"]

    assert server["preemptions"] == night.stats.servers["llm"].preemptions
    assert (server["server"], server["kv_tokens"]) == ("llm", 1500)
    assert record.run().out_of_memory == 0
    assert record.run().peak_memory_mib == night.events[-1].stats.peak_memory_mib


@pytest.mark.parametrize("tables", [("server_loads", "run_memory"), ("server_loads",), ("run_memory",)])
def test_a_record_from_before_there_were_these_tables_is_read_and_gets_them(
    tmp_path: Path, tables: tuple[str, ...]
) -> None:
    path = tmp_path / "night.db"
    used = BatchRunner(llm=FakeLLM(), record=path)
    used.run(ask, [1])
    used.close()
    connection = sqlite3.connect(path)
    connection.executescript("DROP VIEW server_overview;" + "".join(f"DROP TABLE {one};" for one in tables))
    connection.close()
    record = open_record(path)

    assert record.server_loads() == []
    assert record.run().succeeded == 1
    assert {one.limiter for one in record.limiters()} == {"search", "llm", "batches"}
    assert len(record.calls()) == 1
    assert LiveView(path, 1).look().servers == []
    again = BatchRunner(llm=FakeLLM(), record=path, watch_server=2.0)
    again.run(ask, [2])
    again.close()
    assert record.run().out_of_memory == 0


def error_of(text: str) -> CallEnded:
    error = errors.TransientBackendError(text)
    return CallEnded(1, 1.0, 1, "llm", "rating", 1, 1.0, 1, None, error)


def test_full_memory_is_counted_by_kind() -> None:
    metrics = RunMetrics()
    metrics(RunStarted(1, 0.0, None))
    for text in (
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "torch.OutOfMemoryError: HIP",
        "no available memory for the cache blocks",
        "worker exited with exit code: 137",
        "the container was OOM-killed",
        "out of memory",
        "the boom was 137 metres long",
    ):
        metrics(error_of(text))

    assert metrics.snapshot().out_of_memory == {"gpu": 2, "kv_cache": 1, "host": 2, "unknown": 1}


def reading(time: float, load: ServerLoad | None, preemptions: int = 0) -> ServerRead:
    return ServerRead(1, time, "llm", load, preemptions)


def counts(*events: Any) -> RunMetrics:
    metrics = RunMetrics()
    for event in (RunStarted(1, 0.0, None), *events):
        metrics(event)
    return metrics


def test_a_server_that_cannot_be_read_any_more_has_no_load() -> None:
    metrics = counts(reading(1.0, ServerLoad(3, 1, 0.5)), reading(2.0, None))

    assert metrics.snapshot().server_running == {}
    assert "server_requests_running" not in metrics.prometheus()
    assert metrics.snapshot().server_readings == {("llm", "read"): 1, ("llm", "failed"): 1}


def test_processes_that_read_the_same_server_do_not_add_up_its_load() -> None:
    one = counts(reading(1.0, ServerLoad(30, 2, 0.5, 1000), 4), LimitChanged(1, 1.0, "llm", 12, "server"))
    other = counts(reading(1.0, ServerLoad(31, 1, 0.6, 1000), 1), LimitChanged(1, 1.0, "llm", 8, "server"))
    gone = counts(
        reading(1.0, ServerLoad(90, 9, 0.9, 1000), 2), RunEnded(1, 2.0, RunStats(peak_memory_mib=9.0))
    )
    alive = [decoded(encoded(each.snapshot())) for each in (one, other)]
    both = total(alive, [gone.snapshot()])

    assert (both.server_running, both.server_waiting) == ({"llm": 31}, {"llm": 2})
    assert both.server_kv_usage == {"llm": 0.6}
    assert both.server_preemptions == {"llm": 7}
    assert both.limits == {"llm": 20}
    assert both.limit_changes == {("llm", "server"): 2}
    assert both.peak_memory_mib is None


def test_opentelemetry_has_the_load_and_the_changes_of_limits(night: Night) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from restaurant_llm_batch.integrations.opentelemetry import OpenTelemetryObserver

    reader = InMemoryMetricReader()
    observer = OpenTelemetryObserver(meter_provider=MeterProvider([reader]))
    for event in night.events:
        observer(event)
    data = reader.get_metrics_data()
    assert data is not None
    points: dict[str, list[Any]] = {
        metric.name.removeprefix("restaurant_llm_batch."): list(metric.data.data_points)
        for of in data.resource_metrics
        for scope in of.scope_metrics
        for metric in scope.metrics
    }

    said = night.stats.servers["llm"]
    (preempted,) = points["server.preemptions"]
    assert preempted.value == said.preemptions
    assert dict(preempted.attributes) == {"restaurant_llm_batch.server": "llm"}
    assert sum(point.value for point in points["server.readings"]) == said.readings + said.failed_readings
    (limit,) = [one for one in points["limit"] if one.attributes["restaurant_llm_batch.limiter"] == "llm"]
    assert limit.value == night.stats.limit_history[-1].limit
    assert "server" in {one.attributes["reason"] for one in points["limit.changes"]}

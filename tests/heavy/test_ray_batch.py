"""`RayBatch` in a real Ray, a cluster of two nodes in this machine: `tests/heavy/run` says what has to be installed."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    Limits,
    LLMRequest,
    RunStats,
    SharedLimiter,
    Strategy,
    errors,
)
from restaurant_llm_batch.backends import OfflineLLM, OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.integrations.metrics import RunMetrics
from restaurant_llm_batch.integrations.ray import RayBatch, RayBroker
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing.server import Faults, FaultServer
from tests.support.patience import wait_until

ray: Any = pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("ray.data", reason="ray[data] is not installed")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

LIMIT = 8
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray").setLevel(logging.ERROR)
    yield
    ray.shutdown()
    nodes.shutdown()


def ask(item: Any) -> Flow[str]:
    request = LLMRequest("ask", ({"role": "user", "content": f"about {item['id']}"},), max_tokens=20)
    reply = yield from complete(request)
    return reply.text


def make_runner(url: str, pids: str, **options: Any) -> BatchRunner:
    with Path(pids).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    return BatchRunner(llm=VLLMServerLLM(url, "tiny"), strategy=Strategy.stage(4), **options)


def slow(draw: random.Random) -> float:
    """A long tail: one call in twenty takes ten times as long."""
    return 0.15 * draw.uniform(0.5, 1.5) * (10 if draw.random() < 0.05 else 1)


def dataset(count: int, blocks: int = 24) -> Any:
    return ray.data.from_items([{"id": number} for number in range(count)], override_num_blocks=blocks)


def collected(rows: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows.take_all()
    return sorted(found, key=lambda row: row["id"])


def work_seconds(server: FaultServer, work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds from the first call to the last answer, and what work returned."""
    times: list[float] = []
    over = threading.Event()

    def watch() -> None:
        before = server.counts.answered
        while not over.wait(0.02):
            counts = server.counts
            if counts.in_flight or counts.answered > before:
                if not times or counts.answered > before or counts.in_flight:
                    times.append(time.monotonic())
                before = counts.answered

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        done = work()
    finally:
        over.set()
        thread.join()
    return times[-1] - times[0], done


def test_four_actors_keep_to_one_limit_and_are_as_fast_as_one_process(cluster: None, tmp_path: Path) -> None:
    count = 700
    seconds: dict[str, float] = {}
    with FaultServer(Faults(limit=LIMIT, latency=slow)) as server:
        runner = BatchRunner(
            llm=VLLMServerLLM(server.url, "tiny"), strategy=Strategy.stage(4), limits=Limits(llm=LIMIT)
        )
        with runner:
            seconds["one process"], report = work_seconds(
                server, lambda: runner.run(ask, [{"id": number} for number in range(count)])
            )
        assert len(report.results) == count
    with FaultServer(Faults(limit=LIMIT, latency=slow)) as server:
        make = partial(make_runner, server.url, str(tmp_path / "pids"))
        with RayBatch(make, ask, limits=Limits(llm=LIMIT)) as batch:
            rows = batch.map(dataset(count), concurrency=4, batch_size=16)
            seconds["four actors"], found = work_seconds(server, lambda: collected(rows))
        counts = server.counts
    log.warning("%s, peak %d, refused %d", seconds, counts.peak, counts.refused)

    assert [row["id"] for row in found] == list(range(count))
    assert all(row["ok"] for row in found)
    assert len(set((tmp_path / "pids").read_text().split())) == 4
    assert (counts.peak, counts.refused, counts.answered) == (LIMIT, 0, count)
    assert seconds["four actors"] < 1.1 * seconds["one process"]


@pytest.mark.parametrize("percent", [25, 50, 75])
def test_a_killed_actor_pays_only_for_what_was_lost(cluster: None, tmp_path: Path, percent: int) -> None:
    count = 400
    with FaultServer(Faults(limit=LIMIT, latency=slow)) as server:
        make = partial(make_runner, server.url, str(tmp_path / "pids"))
        in_flight: list[int] = []

        def kill() -> None:
            wait_until(lambda: server.counts.answered >= count * percent // 100)
            pid = int(random.Random(percent).choice((tmp_path / "pids").read_text().split()))
            in_flight.append(server.counts.in_flight)
            os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with RayBatch(make, ask, limits=Limits(llm=LIMIT), store=tmp_path / "night") as batch:
            found = collected(batch.map(dataset(count), concurrency=4, batch_size=16))
        killer.join()
        counts = server.counts
    log.warning(
        "killed at %d %%: %d answered, peak %d, %s in flight",
        percent,
        counts.answered,
        counts.peak,
        in_flight,
    )

    assert [row["id"] for row in found] == list(range(count))
    assert all(row["ok"] for row in found)
    assert counts.answered + counts.abandoned <= count + in_flight[0]
    assert len((tmp_path / "pids").read_text().split()) == 5
    assert counts.peak <= 2 * LIMIT
    again = FaultServer(Faults())
    with (
        again,
        RayBatch(
            partial(make_runner, server.url, str(tmp_path / "pids")), ask, store=tmp_path / "night"
        ) as b,
    ):
        assert all(row["ok"] for row in collected(b.map(dataset(count), concurrency=2)))


def test_no_row_fails_the_job(cluster: None, tmp_path: Path) -> None:
    rows = [{"restaurant_id": number, "reviews": [{"content": f"맛있어요 {number}"}]} for number in range(40)]
    rows[3]["restaurant_id"] = None
    rows[9]["restaurant_id"] = 8
    rows[20]["reviews"] = None
    for number, row in enumerate(rows):
        row["place"] = number

    def offline(**options: Any) -> BatchRunner:
        return BatchRunner(llm=OfflineLLM(), strategy=Strategy.stage(4), **options)

    with RayBatch(offline, AnalyzeSentiment(), keep=["place"]) as batch:
        mapped = batch.map(ray.data.from_items(rows, override_num_blocks=5), concurrency=2, batch_size=3)
        mapped.write_parquet(str(tmp_path / "out"))
    found = sorted(ray.data.read_parquet(str(tmp_path / "out")).take_all(), key=lambda row: row["place"])

    assert [row["place"] for row in found] == list(range(40))
    assert [row["place"] for row in found if not row["ok"]] in ([3], [3, 8], [3, 9])
    assert "restaurant_id" in found[3]["error"]
    assert found[7]["positive_count"] == 1
    frame = mapped.to_pandas()
    assert {"ok", "error", "stage", "attempts", "tokens", "cost"} <= {*frame.columns}


@pytest.mark.parametrize("form", ["class", "object"])
def test_the_class_and_an_object_are_taken_by_map_batches_too(cluster: None, form: str) -> None:
    make = partial(BatchRunner, llm=OfflineLLM(), strategy=Strategy.stage(4))
    data = ray.data.from_items([{"restaurant_id": n, "reviews": [{"content": "좋아요"}]} for n in range(20)])
    if form == "class":
        mapped = data.map_batches(
            RayBatch,
            fn_constructor_args=(make, AnalyzeSentiment()),
            fn_constructor_kwargs={"limits": Limits(llm=4)},
            compute=ray.data.ActorPoolStrategy(size=2),
            batch_size=4,
        )
    else:
        mapped = data.map_batches(RayBatch(make, AnalyzeSentiment()), batch_size=4, concurrency=2)

    found = sorted(mapped.take_all(), key=lambda row: row["restaurant_id"])
    assert [(row["restaurant_id"], row["ok"], row["total_count"]) for row in found] == [
        (n, True, 1) for n in range(20)
    ]


def test_the_events_of_all_actors_are_one_record_and_one_set_of_counters(
    cluster: None, tmp_path: Path
) -> None:
    metrics, seen = RunMetrics(), []
    with FaultServer(Faults(probabilities={"server_error": 0.1}, latency=0.02)) as server:
        make = partial(make_runner, server.url, str(tmp_path / "pids"))
        options: dict[str, Any] = {"record": tmp_path / "night.db", "observers": [metrics, seen.append]}
        with RayBatch(make, ask, **options) as batch:
            found = collected(batch.map(dataset(60, 8), concurrency=2, batch_size=8))

    record = open_record(tmp_path / "night.db")
    runs = record.runs()
    items = [item for run in runs for item in record.items(run)]
    assert 1 <= len(runs) <= 2  # the first actor that is ready may do all
    assert all(run.ended is not None for run in runs)
    assert sorted(int(item.item_id) for item in items if item.item_id is not None) == list(range(60))
    assert sum(row["tokens"] for row in found) > 0
    stats = [event.stats for event in seen if hasattr(event, "stats")]
    assert all(isinstance(one, RunStats) for one in stats)
    assert sum(one.retries for one in stats) > 0
    assert sum(one.succeeded for one in stats) == 60
    assert metrics.snapshot().items["succeeded"] == 60


def test_a_key_is_read_where_the_actors_are_and_never_sent(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.ConfigurationError, match="keys are never pickled; set OPENAI_API_KEY"):
        RayBatch(partial(BatchRunner, llm=OpenAILLM("gpt", api_key="sk-secret-123456")), ask).map(dataset(3))
    lock = threading.Lock()
    with pytest.raises(errors.ConfigurationError, match="make what it refers to inside the function"):
        RayBatch(lambda **options: BatchRunner(llm=lock, **options), ask).map(dataset(3))  # type: ignore[arg-type]


def test_a_misconfigured_runner_fails_the_job_with_its_own_words(cluster: None) -> None:
    def broken(**options: Any) -> BatchRunner:
        return BatchRunner(llm=VLLMServerLLM("no url"), **options)

    with pytest.raises(Exception, match="base_url"):
        RayBatch(broken, ask).map(dataset(3)).take_all()


def test_the_tail_of_a_block_does_not_hold_up_the_next(cluster: None, tmp_path: Path) -> None:
    seconds: dict[int, list[float]] = {1: [], 4: []}
    for blocks in (1, 4, 4, 1):
        with FaultServer(Faults(latency=slow)) as server:
            make = partial(make_runner, server.url, str(tmp_path / "pids"))
            with RayBatch(make, ask, limits=Limits(llm=32)) as batch:
                rows = batch.map(dataset(480, 12), concurrency=2, batch_size=10, blocks=blocks)
                seconds[blocks].append(work_seconds(server, lambda rows=rows: collected(rows))[0])
    log.warning("seconds by blocks at a time: %s", seconds)

    assert median(seconds[4]) < 0.9 * median(seconds[1])


def test_a_shared_limiter_of_ones_own_is_shared_with_the_driver(cluster: None, tmp_path: Path) -> None:
    gpu = SharedLimiter("own", 5, broker=RayBroker())
    with FaultServer(Faults(limit=5, latency=0.05)) as server:
        make = partial(make_runner, server.url, str(tmp_path / "pids"))
        with make(limits=Limits(llm=gpu)) as mine, RayBatch(make, ask, limits=Limits(llm=gpu)) as batch:
            rows = batch.map(dataset(100), concurrency=2, batch_size=8)
            stream = threading.Thread(target=mine.run, args=(ask, [{"id": f"own {n}"} for n in range(100)]))
            stream.start()
            found = collected(rows)
            stream.join()
        assert (server.counts.peak, server.counts.refused, len(found)) == (5, 0, 100)

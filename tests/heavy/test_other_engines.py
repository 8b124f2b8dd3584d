"""The examples of docs/how-to/other-engines.md in Spark, Dask, Daft and Celery: `tests/heavy/run` installs these."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from restaurant_llm_batch.sharing import FileBroker
from tests.support.patience import wait_until
from tests.support.sharing.redis_server import REDIS, RedisServer

pa: Any = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq: Any = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

PAGE = Path(__file__).parents[2] / "docs/how-to/other-engines.md"
COUNT = 60
TEXTS = ["국물이 진하고 맛있어요", "너무 오래 기다렸어요", "직원이 친절해요"]


SLOWLY = """
import os, time

def slowly(restaurants):
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(3 if open("pids").read().count("\\n") == 1 else 0)
    return analyze(restaurants)

app.task(name="slowly", acks_late=True, reject_on_worker_lost=True)(slowly)
"""


CLUSTER = """
from distributed import Client, LocalCluster

if __name__ == "__main__":
    client = Client(LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None))
"""


def code(section: str) -> str:
    """Return the Python of the page's beginning and of a section."""
    beginning, *sections = PAGE.read_text(encoding="utf-8").split("\n## ")
    wanted = next(one for one in sections if one.startswith(f"{section}\n"))
    return "\n\n".join(re.findall(r"```python\n(.*?)```", f"{beginning}\n{wanted}", re.DOTALL))


@pytest.fixture
def restaurants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the table of restaurants, the last of which is not one, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    (tmp_path / "restaurants").mkdir()
    reviews = [[TEXTS[(number + place) % 3] for place in range(3)] for number in range(COUNT)]
    reviews[-1] = None  # type: ignore[call-overload]
    table = pa.table({"restaurant_id": [*range(COUNT)], "reviews": reviews})
    for part in range(3):
        pq.write_table(
            table.slice(part * COUNT // 3, COUNT // 3), tmp_path / "restaurants" / f"{part}.parquet"
        )
    yield tmp_path
    sys.modules.pop("tasks", None)


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr[-4000:]


def run_as_a_program(folder: Path, section: str, more: str) -> None:
    """Run a section of the page as a user would."""
    (folder / "job.py").write_text(f"{code(section)}\n\n{more}", encoding="utf-8")
    run([sys.executable, "job.py"], folder)


def made_module(folder: Path, section: str) -> ModuleType:
    """Run a section of the page as the module ``tasks``, as a user would write it."""
    (folder / "tasks.py").write_text(code(section), encoding="utf-8")
    return importlib.import_module("tasks")


def answered(folder: Path) -> dict[int, Any]:
    rows = pq.read_table(folder / "sentiment").to_pylist()
    assert len(rows) == COUNT
    return {row["restaurant_id"]: row["positive"] for row in rows}


def check(folder: Path, found: dict[int, Any]) -> None:
    assert sorted(found) == [*range(COUNT)]
    assert all(found[number] == 2 for number in range(COUNT - 1))
    (limit,) = FileBroker(folder / "limits.db").limits().values()
    assert limit.limit == 8
    assert (folder / "night").is_dir()


def test_spark(restaurants: Path) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    again = "repartition(20).mapInPandas(sentiment, schema=schema).write.parquet('again')"
    run_as_a_program(restaurants, "Spark", f"restaurants.{again}\nspark.stop()\n")
    check(restaurants, answered(restaurants))
    assert pq.read_table(restaurants / "again").num_rows == COUNT  # though partitions were empty


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_dask(restaurants: Path, workers: str) -> None:
    pytest.importorskip("dask.dataframe", reason="dask is not installed")
    pytest.importorskip("distributed", reason="distributed is not installed")
    if workers == "threads":
        run_as_a_program(restaurants, "Dask", "")
    else:
        body = "\n".join(f"    {line}" for line in code("Dask").splitlines())
        (restaurants / "job.py").write_text(CLUSTER + body, encoding="utf-8")
        run([sys.executable, "job.py"], restaurants)
    check(restaurants, answered(restaurants))


def test_daft(restaurants: Path) -> None:
    pytest.importorskip("daft", reason="daft is not installed")
    made_module(restaurants, "Daft")
    check(restaurants, answered(restaurants))


@pytest.mark.skipif(REDIS is None, reason="redis-server is not installed")
def test_celery(restaurants: Path) -> None:
    celery = pytest.importorskip("celery", reason="celery is not installed")
    with RedisServer(restaurants) as server:
        text = code("Celery").replace("localhost:6379", f"127.0.0.1:{server.port}")
        (restaurants / "tasks.py").write_text(text + SLOWLY, encoding="utf-8")
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--concurrency", "2"]
        with subprocess.Popen([*command, "--loglevel", "ERROR"], cwd=restaurants) as worker:
            try:
                app = celery.Celery(
                    "elsewhere",
                    broker=f"redis://127.0.0.1:{server.port}/0",
                    backend=f"redis://127.0.0.1:{server.port}/1",
                )
                items = [{"restaurant_id": number, "reviews": TEXTS} for number in range(20)]
                asked = [app.send_task("analyze", [items]) for _ in range(4)]
                for one in asked:
                    stats = one.get(timeout=60)["stats"]
                    assert (stats["succeeded"], stats["failed"]) == (20, 0)
                killed = app.send_task("slowly", [[*items, {"restaurant_id": "x", "reviews": 7}]])
                pids = restaurants / "pids"
                wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
                time.sleep(0.2)
                os.kill(int(pids.read_text()), signal.SIGKILL)
                stats = killed.get(timeout=60)["stats"]
                assert (stats["succeeded"], stats["failed"]) == (20, 1)
                assert len(set(pids.read_text().split())) == 2
            finally:
                worker.send_signal(signal.SIGTERM)
                worker.wait(30)

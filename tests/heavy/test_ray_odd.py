"""`RayBatch` and `RayBroker` in a real Ray, with what is odd: datasets, blocks that differ, folders, sessions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    Limits,
    LLMRequest,
    SharedLimiter,
    Strategy,
    errors,
)
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.integrations.ray import RayBatch, RayBroker
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM
from tests.support.patience import wait_until

ray: Any = pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("ray.data", reason="ray[data] is not installed")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

REVIEWS = [{"id": 1, "content": "국물이 진하고 맛있어요"}, {"id": 2, "content": "불친절하고 비싸요"}]


def start() -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    start()
    yield
    ray.shutdown()


def offline(**options: Any) -> BatchRunner:
    return BatchRunner(llm=OfflineLLM(), strategy=Strategy.stage(4), **options)


def fake(**options: Any) -> BatchRunner:
    return BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4), **options)


def ask(item: Any) -> Flow[str]:
    reply = yield from complete(
        LLMRequest("ask", ({"role": "user", "content": f"about {item['id']}"},), max_tokens=20)
    )
    return reply.text


def of_two_types(item: Any) -> Flow[Any]:
    """Return a number for some rows, and a text or a list for others."""
    yield from complete(LLMRequest("ask", ({"role": "user", "content": f"about {item['id']}"},)))
    return {"found": [item["id"], f"text {item['id']}", [item["id"]]][item["id"] // 10 % 3]}


def test_datasets_without_a_row_and_with_one(cluster: None) -> None:
    with RayBatch(offline, AnalyzeSentiment()) as batch:
        none = ray.data.range(5).filter(lambda row: False)
        assert batch.map(none).take_all() == []
        one = ray.data.from_items([{"restaurant_id": 7, "reviews": REVIEWS}])
        (row,) = batch.map(one, batch_size=1, concurrency=2).take_all()
    assert (row["ok"], row["restaurant_id"], row["total_count"]) == (True, 7, 2)


def test_rows_that_are_missing_nan_twice_or_nested_come_back_each(cluster: None, tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "restaurant_id": [1.0, 1.0, float("nan"), 4.0] * 10,
            "reviews": [REVIEWS, None, REVIEWS, []] * 10,
            "opened": pd.to_datetime(["2020-01-01", None, "2021-01-01", "2022-01-01"] * 10),
            "place": [{"lat": 1.5, "tags": ["a"]}, None, {"lat": None, "tags": []}, {"lat": 2, "tags": None}]
            * 10,
        }
    )
    data = ray.data.from_pandas([frame.iloc[start : start + 5] for start in range(0, 40, 5)])
    with RayBatch(offline, AnalyzeSentiment(), keep=["opened", "place"]) as batch:
        batch.map(data, batch_size=3).write_parquet(str(tmp_path / "out"))
    made = ray.data.read_parquet(str(tmp_path / "out"))
    rows = made.take_all()

    assert len(rows) == 40
    assert sorted(row["restaurant_id"] for row in rows if row["ok"]) == [1] * 20 + [4] * 10
    assert sum(not row["ok"] for row in rows) == 10
    assert "timestamp" in str(made.schema())
    assert made.to_pandas()["opened"].notna().sum() == 30


def test_results_of_two_types_in_two_blocks_come_back_too(cluster: None, tmp_path: Path) -> None:
    data = ray.data.range(60, override_num_blocks=6)
    with RayBatch(fake, of_two_types) as batch:
        rows = batch.map(data, concurrency=2, batch_size=10).take_all()
        batch.map(data, concurrency=2, batch_size=10).write_parquet(str(tmp_path / "out"))

    assert sorted(row["id"] for row in rows) == [*range(60)]
    assert all(row["ok"] for row in rows)


def test_what_is_no_dataset_and_numbers_that_make_no_sense_are_refused(cluster: None) -> None:
    batch = RayBatch(fake, ask)
    with pytest.raises(errors.ConfigurationError, match=r"needs a ray\.data\.Dataset, got \[1\]"):
        batch.map([1])
    for options in ({"concurrency": 0}, {"batch_size": 0}, {"blocks": True}, {"concurrency": "2"}):
        with pytest.raises(errors.ConfigurationError, match="at least 1"):
            batch.map(ray.data.range(3), **options)


def test_a_folder_that_cannot_be_made_fails_the_job_with_its_own_words(cluster: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, words in ((tmp_path / "no" / "such", "does not exist"), (tmp_path / "file", "is a file")):
        with RayBatch(fake, ask, store=path) as batch, pytest.raises(Exception, match=words):
            batch.map(ray.data.range(3), num_cpus=0.1).take_all()


def test_a_key_that_the_function_holds_is_warned_of(
    cluster: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key := "proxy-key-of-ours-1")

    def holds(**options: Any) -> BatchRunner:
        assert key
        return fake(**options)

    with caplog.at_level(logging.WARNING):
        RayBatch(holds, ask).map(ray.data.range(3))
    assert any("holds the value of OPENAI_API_KEY" in message for message in caplog.messages)
    caplog.clear()
    RayBatch(fake, ask).map(ray.data.range(3))
    assert not [message for message in caplog.messages if "holds" in message]


def test_a_broker_of_any_name_is_one_place(cluster: None) -> None:
    name = "한글/with: spaces & 'quotes'"
    gpu, other = (SharedLimiter(name, 3, broker=RayBroker(name)) for _ in range(2))
    gpu.open()
    with RayBatch(partial(fake, limits=Limits(llm=gpu)), ask) as batch:
        batch.run({"id": [1, 2, 3]})
        with pytest.raises(errors.ConfigurationError, match="declare"):
            SharedLimiter(name, 4, broker=RayBroker(name)).open()
    RayBroker(name).set_limit(name, 5)
    assert other.broker.limits()[name].limit == 5


def test_a_broker_outlives_a_session_of_ray() -> None:
    ray.shutdown()
    broker = RayBroker("sessions")
    for _ in range(2):
        start()
        wait_until(partial(_opens, SharedLimiter("gpu", 3, broker=broker)))
        assert broker.names() == ["gpu"]
        ray.shutdown()
        with pytest.raises(errors.ConfigurationError, match=r"call ray.init\(\) first"):
            broker.names()


def _opens(limiter: SharedLimiter) -> bool:
    try:
        limiter.open()
    except errors.ConfigurationError:
        return False
    return True

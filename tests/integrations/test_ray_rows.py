"""Rows of `RayBatch`, of any kind: what columns, cells and results may be, without a row that fails the job."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import BaseModel
from tests.support.ray_batches import REVIEWS, Line, answered, ask, make_runner

from restaurant_llm_batch import AnalyzeSentiment, BatchRunner, Limits, Strategy, errors
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.integrations._ray.checks import _warn_of_keys, check_runner
from restaurant_llm_batch.integrations._ray.events import EventSender
from restaurant_llm_batch.integrations.ray import RayBatch, _cpus
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM


def fake(**options: Any) -> BatchRunner:
    return BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4), **options)


# Rows in


def test_two_rows_of_one_id_are_two_items() -> None:
    with RayBatch(fake, ask) as batch:
        rows = answered(batch, {"id": [7] * 6})
        again = answered(batch, {"id": ["가게", "가게", "둘"]})
    with RayBatch(make_runner, AnalyzeSentiment()) as batch:
        first, second = answered(batch, {"restaurant_id": [1, 1], "reviews": [REVIEWS, []]})

    assert [row["ok"] for row in [*rows, *again]] == [True] * 9
    assert [row["id"] for row in again] == ["가게", "가게", "둘"]
    assert (first["total_count"], second["total_count"]) == (2, 0)


def test_a_batch_may_have_one_row_or_none() -> None:
    with RayBatch(make_runner, AnalyzeSentiment(), keep=["city"]) as batch:
        none = batch.run(pa.table({"restaurant_id": [], "reviews": [], "city": []}))
        (row,) = answered(batch, pa.table({"restaurant_id": [1], "reviews": [REVIEWS], "city": ["서울"]}))

    assert none.num_rows == 0
    assert (row["ok"], row["city"]) == (True, "서울")


def test_without_the_column_of_the_id_each_row_says_so() -> None:
    with RayBatch(make_runner, AnalyzeSentiment()) as batch:
        rows = answered(batch, {"reviews": [REVIEWS, REVIEWS], "name": ["a", "b"]})

    assert [row["ok"] for row in rows] == [False, False]
    assert all("restaurant_id" in row["error"] for row in rows)


def not_utf8(texts: list[bytes]) -> pa.Array:
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
    )


def test_a_cell_that_python_cannot_hold_fails_its_row_only_and_no_row_that_does_not_need_it() -> None:
    ids = not_utf8([b"one", b"\xff\xfe", b"three"])
    dates = pa.array([0, 10**7, None], pa.int32()).cast(pa.date32())
    table = pa.table({"restaurant_id": ids, "reviews": [REVIEWS] * 3, "opened": dates})
    with RayBatch(make_runner, AnalyzeSentiment(), keep=["opened"]) as batch:
        made = batch.run(table)

    assert made["ok"].to_pylist() == [True, False, True]
    assert "cannot be read" in made["error"].to_pylist()[1]
    assert made["opened"].type == pa.date32()
    assert made["opened"].cast(pa.int32()).to_pylist() == [0, 10**7, None]


class Hostile:
    """A cell, or a result, whose every method fails."""

    def tolist(self) -> Any:
        raise RuntimeError("no list")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def nested() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("cell", [Hostile(), nested()], ids=["methods that fail", "itself"])
def test_a_cell_whose_class_is_broken_fails_its_row_only(cell: object) -> None:
    with RayBatch(fake, ask) as batch:
        rows = answered(batch, {"id": [1, 2], "odd": [None, cell]})

    assert [row["ok"] for row in rows] == [True, False]


# Columns that are kept


KEPT: dict[str, pa.Array] = {
    "opened": pa.array([datetime(2020, 5, 1, tzinfo=UTC), None], pa.timestamp("ns", "Asia/Seoul")),
    "price": pa.array([Decimal("12.50"), None], pa.decimal128(8, 2)),
    "place": pa.array([{"lat": 37.5, "tags": ["a"]}, {"lat": None, "tags": None}]),
    "photo": pa.array([b"\x00\xff", None]),
    "small": pa.array([1, None], pa.int8()),
    "nothing": pa.nulls(2),
    "kind": pa.array(["한식", None]).dictionary_encode(),
}


def test_columns_that_are_kept_have_the_types_that_they_had() -> None:
    table = pa.table({"id": [1, 2], **KEPT})
    with RayBatch(fake, ask, keep=[*KEPT, "small"]) as batch:
        made = batch.run(table)
        of_pandas = batch.run(table.to_pandas())

    for name, cells in KEPT.items():
        assert made[name].combine_chunks().equals(pa.chunked_array([cells]).combine_chunks()), name
    assert str(of_pandas["opened"].type).startswith("timestamp[")
    assert of_pandas["price"].to_pylist() == [Decimal("12.50"), None]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([1.5, float("nan")], [1.5, None]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (pd.Series(["a", None], dtype="string"), ["a", None]),
        ([date(2020, 1, 2), None], [date(2020, 1, 2), None]),
        ([1, "two"], ["1", "two"]),
        ([{"a": 1}, [2]], ['{"a": 1}', "[2]"]),
    ],
)
def test_columns_of_other_libraries_are_kept_as_they_are_meant(cells: Any, expected: Any) -> None:
    with RayBatch(fake, ask, keep=["kept"]) as batch:
        assert batch.run({"id": [1, 2], "kept": cells})["kept"].to_pylist() == expected


def test_a_column_that_is_kept_has_its_name_and_one_of_the_result_gives_way() -> None:
    with RayBatch(make_runner, AnalyzeSentiment(), keep=["total_count", "restaurant_id"]) as batch:
        (row,) = answered(batch, {"restaurant_id": [1], "reviews": [REVIEWS], "total_count": ["mine"]})

    assert (row["restaurant_id"], row["total_count"], row["value.total_count"]) == (1, "mine", 2)


@pytest.mark.parametrize("name", ["ok", "error", "stage", "attempts", "tokens", "cost"])
def test_a_column_with_the_name_of_one_of_the_outcome_is_not_kept(name: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=rf"keep names the column '{name}'.*rename"):
        RayBatch(fake, ask, keep=["id", name])


# Results


class Color(Enum):
    RED = "red"


class Model(BaseModel):
    dish: str = "국수"


@dataclass(slots=True)
class Half:
    """A dataclass of which an attribute was never set."""

    dish: str = field(init=False)


RESULTS: list[tuple[str, Callable[[], Any], bool]] = [
    ("nothing", lambda: None, True),
    ("a set", lambda: {3}, True),
    ("bytes", lambda: {"photo": b"\xff"}, True),
    ("a complex number", lambda: 1j, True),
    ("a long number", lambda: {"n": 2**80}, True),
    ("not a number", lambda: {"n": float("nan")}, True),
    ("a time", lambda: {"at": datetime(2020, 1, 1, tzinfo=UTC), "price": Decimal("1.5")}, True),
    ("an enum", lambda: Color.RED, True),
    ("a model", Model, True),
    ("an array", lambda: {"vector": np.ones(3)}, True),
    ("itself", nested, True),
    ("names that are no texts", lambda: {1: "a", None: "b", (2, 3): "c"}, True),
    ("names that are no UTF-8", lambda: {"\ud800": "\udfff"}, True),
    ("names of columns", lambda: {"ok": 1, "id": 2, "item_id": 3, "spent.calls": 4, "cost": {"x": 5}}, True),
    ("lists of several kinds", lambda: {"list": [1, "a", None, [2.5]]}, True),
    ("methods that fail", Hostile, True),
    ("half a dataclass", Half, False),
]


@pytest.mark.parametrize(("make", "ok"), [case[1:] for case in RESULTS], ids=[case[0] for case in RESULTS])
def test_a_result_of_any_class_is_a_row_or_fails_its_row_only(make: Callable[[], Any], ok: bool) -> None:
    def odd(item: Any) -> Flow[Any]:
        yield from complete(ask_for(item))
        return make() if item["id"] == 2 else {"dish": "국밥"}

    with RayBatch(fake, odd) as batch:
        first, second, third = answered(batch, {"id": [1, 2, 3]})

    assert (first["ok"], second["ok"], third["ok"]) == (True, ok, True)
    assert (first["dish"], third["dish"]) == ("국밥", "국밥")
    assert second["id"] == 2
    if not ok:
        assert "cannot be a row of a table" in second["error"]
        assert (second["stage"], second["attempts"], second["spent.calls"]) == ("task", 1, 1)


def ask_for(item: Any) -> Any:
    return next(ask(item)).request  # type: ignore[union-attr]


# The runner that is made


def test_a_function_that_does_not_pass_on_what_it_is_given_is_told(tmp_path: Path) -> None:
    def forgetful(**options: Any) -> BatchRunner:
        return BatchRunner(llm=OfflineLLM(), limits=Limits(llm=4))

    with (
        RayBatch(forgetful, ask, store=tmp_path / "night") as batch,
        pytest.raises(errors.ConfigurationError, match="was given store and made a runner with others"),
    ):
        batch.run({"id": [1]})


def test_limits_that_are_not_passed_on_are_named(shared: Limits) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"was given limits \(llm\) and made"):
        check_runner(BatchRunner(llm=FakeLLM(), limits=Limits(llm=4)), {"limits": shared})
    runner = BatchRunner(llm=FakeLLM(), limits=shared)
    assert check_runner(runner, {"limits": shared}) is runner


@pytest.fixture
def shared() -> Limits:
    from time import monotonic

    from restaurant_llm_batch import SharedLimiter
    from restaurant_llm_batch.sharing._memory import MemoryBroker

    return Limits(llm=SharedLimiter("gpu", 4, broker=MemoryBroker(monotonic)))


def test_a_runner_that_cannot_be_opened_says_so_to_each_batch_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("restaurant_llm_batch.integrations._ray.events._wait_for", lambda sent: None)
    observers = [EventSender(Line(), wants_requests=False)]
    with RayBatch(make_runner, SearchesForNothing(), observers=observers) as batch:
        for _ in range(2):
            with pytest.raises(errors.ConfigurationError, match="search"):
                batch.run({"id": [1]})


class SearchesForNothing:
    """A task that needs a search."""

    name = "nothing"
    requires_search = True

    def parse_item(self, raw: Any, /) -> Any:
        return raw

    def item_key(self, item: Any, /) -> tuple[int, int]:
        return item["id"], 0

    def flow(self, item: Any, /) -> Flow[None]:
        yield from complete(ask_for(item))


@pytest.mark.parametrize(
    ("name", "value", "held", "said"),
    [
        ("MY_SERVICE_TOKEN", "abcdefghijkl-1", "abcdefghijkl-1", "the value of MY_SERVICE_TOKEN"),
        ("OPENAI_API_KEY", "proxy-key-of-ours", "Bearer proxy-key-of-ours", "the value of OPENAI_API_KEY"),
        ("HOME_OF_KEYS", "abcdefghijkl-1", "abcdefghijkl-1", ""),
        ("SHORT_KEY", "EMPTY", "EMPTY", ""),
        ("OTHER", "x", "sk-proj-ABCDEFGHIJKLMNOPQRST", "what looks like a key"),
        ("OTHER", "x", "task-force-ABCDEFGHIJKLMNOPQRST", ""),
    ],
)
def test_a_key_in_what_is_sent_to_the_actors_is_warned_of_and_not_shown(
    name: str,
    value: str,
    held: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING):
        _warn_of_keys(pickle.dumps({"headers": held}))

    assert bool(caplog.messages) == bool(said)
    assert all(said in message and value not in message for message in caplog.messages if len(value) > 1)


@pytest.mark.parametrize(
    ("cpus", "actors", "each"),
    [
        (8, 4, None),
        (5, 4, None),
        (4, 4, 0.75),
        (2, 2, 0.5),
        (2, 1, None),
        (1, 1, 0.5),
        (1, 8, 0.06),
        (64, 200, 0.31),
    ],
)
def test_actors_leave_a_cpu_to_read_the_dataset_with(cpus: int, actors: int, each: float | None) -> None:
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": float(cpus)})

    assert _cpus(cluster, actors) == ({} if each is None else {"num_cpus": each})

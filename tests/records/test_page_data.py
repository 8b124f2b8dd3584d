"""What the page is told of a record: figures, tables, lanes, causes and items, each as the record's own methods say."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.nights import SCRIPT, record_night, write_large
from tests.support.records import ask, runner

from restaurant_llm_batch._page.sketches import Sketch, SketchAggregate, histogram, read_sketch
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.records._page.causes import cause_of
from restaurant_llm_batch.records._page.data import RecordData
from restaurant_llm_batch.records._page.tables import Query
from restaurant_llm_batch.records._page.timeline import Lanes, Level


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "night.db"
    record_night(path)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.db"
    write_large(path, 2_100, 2)
    return path


def named(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(answer["names"], row, strict=True)) for row in answer["rows"]]


def test_the_overview_has_the_figures_of_the_run(night: Path) -> None:
    run = open_record(night).run()
    found = RecordData(night).overview(1)
    for name in ("succeeded", "failed", "calls", "retries", "rate_limited", "prompt_tokens", "cost", "total"):
        assert found["run"][name] == run[name], name
    assert sum(one["calls"] for one in found["groups"] if one["stage"] == "llm") == len(
        [call for call in open_record(night).calls() if call.stage == "llm" and call.attempt]
    )
    assert sum(found["progress"]["succeeded"]) == run.succeeded
    assert sum(found["progress"]["failed"]) == run.failed
    assert found["projected"] is None


def test_limiters_are_shown_if_the_record_has_them(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    write_large(path, 10)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO limiters VALUES ((1 << 32) + 1, 1, 'llm', 1.0, 16, 12, 40, 3, 16)")
    connection.commit()
    connection.close()
    (found,) = RecordData(path).overview(1)["limiters"]
    assert found == {"limiter": "llm", "most": 16, "in_use": 12, "waiting": 40, "retrying": 3, "peak": 16}


def test_a_run_that_goes_on_says_what_it_will_come_to(tmp_path: Path) -> None:
    write_large(tmp_path / "night.db", 200, ends=False)
    connection = sqlite3.connect(tmp_path / "night.db")
    connection.execute("UPDATE runs SET total = 800")
    connection.execute("UPDATE items SET outcome = 'succeeded'")
    connection.commit()
    connection.close()
    found = RecordData(tmp_path / "night.db").overview(1)
    assert found["projected"]["cost"] == pytest.approx(0.8)
    assert found["projected"]["calls"] == 800
    assert found["projected"]["seconds_left"] > 0


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "sort", ["", "-seconds", "seconds", "-cost", "-waited", "id", "-place", "nonsense; DROP TABLE"]
)
def test_items_are_those_of_the_record_in_every_order(large: Path, sort: str) -> None:
    data, items = RecordData(large), open_record(large).items()
    rows = named(data.rows("items", 1, Query(sort=sort), 0, 500))
    found = data.rows("items", 1, Query(sort=sort), 2_090, 500)
    assert found["total"] == len(items)
    assert len(found["rows"]) == 10
    by_place = {item.place: item for item in items}
    for row in rows:
        item = by_place[row["place"]]
        assert (row["outcome"], row["error"], row["calls"]) == (item.outcome, item.error, item.calls)
        assert row["cost"] == pytest.approx(item.cost)
        assert json.loads(row["id"]) == item.item_id
    if sort == "-seconds":
        times = [row["ended"] - row["started"] for row in rows]
        assert times == sorted(times, reverse=True)
        assert times[0] == pytest.approx(max(item.seconds or 0 for item in items))


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("query", "fits"),
    [
        (Query(outcome="failed"), lambda item, calls: item.outcome == "failed"),
        (Query(outcome="open"), lambda item, calls: item.outcome is None),
        (
            Query(search="R77"),
            lambda item, calls: "r77" in item.item_id or any("r77" in str(c.error) for c in calls),
        ),
        (Query(search="100%_"), lambda item, calls: False),
        (Query(stage="llm", error_type="OutputInvalid"), lambda item, calls: item.outcome == "failed"),
        (Query(label="label 1"), lambda item, calls: any(call.label == "label 1" for call in calls)),
        (Query(cause="OutputInvalid: no JSON in answer N"), lambda item, calls: item.outcome == "failed"),
        (Query(search="slow down 2099"), lambda item, calls: any("down 2099" in str(c.error) for c in calls)),
        (Query(again=True), lambda item, calls: any(call.attempt > 1 for call in calls)),
    ],
)
def test_items_are_filtered_as_by_hand(large: Path, query: Query, fits: Any) -> None:
    record = open_record(large)
    calls: dict[Any, list[Any]] = {}
    for call in record.calls():
        calls.setdefault(call.item_id, []).append(call)
    wanted = [item.place for item in record.items() if fits(item, calls[item.item_id])]
    data = RecordData(large)
    found = data.rows("items", 1, query, 0, 500)
    assert found["total"] == len(wanted)
    assert [row["place"] for row in named(found)] == wanted[:500]


def test_calls_are_filtered_and_sorted_as_by_hand(large: Path) -> None:
    data, calls = RecordData(large), open_record(large).calls()
    refused = named(data.rows("calls", 1, Query(outcome="refused", sort="-seconds"), 0, 500))
    wanted = sorted(
        (call for call in calls if call.outcome == "refused"), key=lambda call: -(call.seconds or 0)
    )
    assert [row["started"] for row in refused] == [call.started for call in wanted]
    assert data.rows("calls", 1, Query(search="label 2"), 0, 1)["total"] == sum(
        call.label == "label 2" for call in calls
    )


def test_texts_are_searched_if_that_is_asked(night: Path) -> None:
    data = RecordData(night)
    assert data.rows("items", 1, Query(search="친절해요"), 0, 10)["total"] == 0
    assert data.rows("items", 1, Query(search="친절해요", texts=True), 0, 10)["total"] > 0


def test_failures_that_differ_in_numbers_and_quotes_have_one_cause(large: Path) -> None:
    found = RecordData(large).causes(1)
    failed = sum(item.outcome == "failed" for item in open_record(large).items())
    assert [(one["cause"], one["count"]) for one in found["items"]["causes"]] == [
        ("OutputInvalid: no JSON in answer N", failed)
    ]
    assert (
        cause_of("X: id 'a b' of 3f2504e0-4f89-11d3-9a0c-0305e82c3301, 1,200.5 s") == "X: id '...' of N, N s"
    )
    assert cause_of(None) is None


def test_every_call_has_a_lane_of_its_own_while_it_is_in_flight(large: Path) -> None:
    data = RecordData(large)
    lanes = Lanes(1)
    data.read(lanes.extend)
    busy: dict[int, float] = {}
    for number, call in enumerate(open_record(large).calls(), 1):
        lane = lanes.of(number)
        assert lane is not None
        assert call.started >= busy.get(lane, 0.0) - 1e-6
        busy[lane] = call.ended or 0.0
    assert lanes.counts == {"llm": len(busy)}


def test_lanes_do_not_depend_on_when_the_file_was_read(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    write_large(path, 200)
    data, whole, parts = RecordData(path), Lanes(1), Lanes(1)
    data.read(whole.extend)
    rows = data.read(lambda c: c.execute("SELECT * FROM calls ORDER BY id").fetchall())
    end = max(row[10] for row in rows)
    connection = sqlite3.connect(path)
    for step in range(1, 11):
        now = end * step / 10
        connection.execute("DELETE FROM calls")
        seen = [(*row[:10], row[10] if row[10] <= now else None, *row[11:]) for row in rows if row[9] <= now]
        connection.executemany(f"INSERT INTO calls VALUES ({', '.join('?' * 25)})", seen)
        connection.commit()
        data.read(parts.extend)
    connection.close()
    assert [parts.of(number) for number in range(1, 201)] == [whole.of(number) for number in range(1, 201)]


def test_a_window_shows_calls_one_by_one_or_how_busy_each_lane_is(large: Path) -> None:
    data = RecordData(large)
    calls = open_record(large).calls()
    all_of_it = data.timeline(1)
    assert all_of_it["calls"] == len(calls)
    assert "spans" not in all_of_it
    assert len(all_of_it["busy"]) == all_of_it["stages"]["llm"]
    window = data.timeline(1, 10.0, 12.0)
    within = [call for call in calls if call.started <= 12.0 and (call.ended or 0) >= 10.0]
    assert (
        window["calls"]
        >= len(within)
        == sum(span[window["columns"].index("started")] <= 12.0 for span in window["spans"])
    )
    flight = sum(window["levels"]["flight"]["llm"]) / len(window["levels"]["flight"]["llm"])
    by_hand = sum(min(call.ended or 0, 12.0) - max(call.started, 10.0) for call in within) / 2.0
    assert flight == pytest.approx(by_hand, rel=1e-3)


@given(st.lists(st.tuples(st.floats(-5, 15), st.floats(0, 8)), max_size=30))
def test_a_level_is_the_mean_number_of_intervals(spans: list[tuple[float, float]]) -> None:
    level = Level(0.0, 10.0, 7)
    for start, length in spans:
        level.add(start, start + length)
    inside = sum(max(0.0, min(start + length, 10.0) - max(start, 0.0)) for start, length in spans)
    assert sum(level.values()) * 10 / 7 == pytest.approx(inside, abs=0.02)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=200))
def test_a_sketch_knows_quantiles_to_a_part_in_five_hundred(numbers: list[float]) -> None:
    aggregate = SketchAggregate()
    for number in numbers:
        aggregate.step(number)
    aggregate.step(None)
    aggregate.step("text")
    sketch = read_sketch(aggregate.finalize())
    ordered = sorted(numbers)
    assert sketch.count == len(numbers)
    for share in (0.5, 0.95):
        rank = max(0, -(-len(ordered) * share // 1) - 1)
        assert sketch.quantile(share) == pytest.approx(ordered[int(rank)], rel=0.002)
    shape = histogram([("all", sketch), ("none", Sketch())])
    assert shape is not None
    assert sum(shape["series"][0]["counts"]) + shape["series"][0]["zeros"] == len(numbers)


def test_an_item_shows_reviews_prompt_answer_and_attempts(night: Path) -> None:
    found = RecordData(night).item(1, 1)
    assert found["outcome"] == "succeeded"
    assert any(SCRIPT in review["content"] for review in found["reviews"])
    call = next(one for one in found["calls_made"] if one["stage"] == "llm")
    assert call["messages"]
    assert call["answer"]
    assert call["attempts"][0]["outcome"] == "ok"
    assert (found["before"], found["after"]) == (0, 2)
    json.dumps(found)


def test_an_item_without_texts_says_how_to_record_them(tmp_path: Path) -> None:
    record_night(tmp_path / "night.db", texts=False)
    found = RecordData(tmp_path / "night.db").item(1, 0)
    assert "texts=True" in found["missing"]
    assert found["reviews"] == []
    assert found["calls_made"]


def test_two_runs_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    record_night(path)
    with runner(path) as used:
        used.run(ask, [])
    found = RecordData(path).comparison(1, 2)
    assert found["figures"]["succeeded"] == (5, 0)
    assert found["lists"]["only_a"]["count"] == 6


def test_what_is_not_in_the_record_is_a_lookup_error(night: Path) -> None:
    data = RecordData(night)
    wrong: list[Callable[[], object]] = [
        lambda: data.overview(9),
        lambda: data.item(1, 99),
        lambda: data.item(2, 5 - 2**32),
        lambda: data.item(9, 0),
        lambda: data.timeline(7),
        lambda: data.comparison(1, 9),
    ]
    for ask_for in wrong:
        with pytest.raises(LookupError):
            ask_for()


def test_the_version_changes_with_the_file_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "night.db"
    record_night(path)
    data = RecordData(path)
    before = data.version()
    data.overview(1)
    assert data.version() == before
    record_night(path)
    assert data.version() != before

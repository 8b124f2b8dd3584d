"""One file: it holds the run, is small enough to be sent, appears whole, and never replaces the record."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.support.nights import REVIEWS, SCRIPT, record_night, write_large

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.records._page import export
from restaurant_llm_batch.testing import FakeSearch


def unpacked(given: Any) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(given["gzip"]))) if "gzip" in given else given


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL
    )
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def test_the_file_holds_the_run_with_its_texts(tmp_path: Path) -> None:
    record_night(tmp_path / "night.db")
    record_night(tmp_path / "night.db", 3)
    open_record(tmp_path / "night.db").to_html(tmp_path / "night.html", 1)
    data = data_of(tmp_path / "night.html")
    assert [one["run"] for one in data["runs"]] == [1]
    items = unpacked(data["items"])
    assert items["total"] == len(items["rows"]) == 6
    details = unpacked(data["details"]["chunks"][data["details"]["of"]["1"]])
    assert {review["content"] for review in details["1"]["reviews"]} >= set(REVIEWS)
    assert data["notes"] == []
    assert SCRIPT not in (tmp_path / "night.html").read_text("utf-8")


def test_without_texts_no_review_is_in_the_file(tmp_path: Path) -> None:
    record_night(tmp_path / "night.db", texts=False)
    open_record(tmp_path / "night.db").to_html(tmp_path / "night.html")
    data = data_of(tmp_path / "night.html")
    assert REVIEWS[1] not in json.dumps(
        [unpacked(one) for one in data["details"]["chunks"]], ensure_ascii=False
    )


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["night.db", "link", "folder", "missing/night.html"])
def test_the_record_and_what_is_no_file_are_refused_and_stay(tmp_path: Path, name: str) -> None:
    record_night(tmp_path / "night.db", 1)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("night.db")
    before = (tmp_path / "night.db").read_bytes()
    with pytest.raises(ConfigurationError):
        open_record(tmp_path / "night.db").to_html(tmp_path / name)
    assert (tmp_path / "night.db").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "night.db"]


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_night(tmp_path / "night.db", 1)
    (tmp_path / "night.html").write_text("older")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(Exception, match="full"):
        open_record(tmp_path / "night.db").to_html(tmp_path / "night.html")
    assert (tmp_path / "night.html").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["night.db", "night.html"]


def test_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    record_night(tmp_path / "night.db", 1)
    with pytest.raises(ConfigurationError, match="no run 5"):
        open_record(tmp_path / "night.db").to_html(tmp_path / "x.html", 5)


def test_of_very_many_items_the_file_has_those_that_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_large(tmp_path / "large.db", 2_000)
    for name, most in {"MOST_ITEMS": 200, "MOST_CALLS": 300, "MOST_DETAILS": 40}.items():
        monkeypatch.setattr(export, name, most)
    record = open_record(tmp_path / "large.db")
    record.to_html(tmp_path / "large.html")
    data = data_of(tmp_path / "large.html")
    rows = unpacked(data["items"])["rows"]
    assert len(rows) == 200
    places = {row[0] for row in rows}
    items = record.items()
    assert {item.place for item in items if item.outcome == "failed"} <= places
    slowest = sorted(items, key=lambda item: -(item.seconds or 0))[:20]
    assert {item.place for item in slowest} <= places
    assert len(data["details"]["of"]) == 40
    assert data["overview"]["run"]["succeeded"] == 2_000
    assert [number for note in data["notes"] for number in re.findall(r"[\d,]+ of [\d,]+", note)] == [
        "200 of 2,000",
        "300 of 2,000",
        "40 of 2,000",
    ]


@pytest.mark.slow
def test_a_thousand_restaurants_take_at_most_five_megabytes_with_and_without_texts(tmp_path: Path) -> None:
    def reviews(item: object) -> list[str]:
        drawn = Random(str(item))
        words = ["".join(chr(drawn.randrange(0xAC00, 0xAC00 + 2_000)) for _ in range(3)) for _ in range(40)]
        return [" ".join(drawn.choices(words, k=12)) for _ in range(10)]

    for texts in (False, True):
        path = tmp_path / f"{texts}.db"
        record_night(path, 1_000, texts=texts, search=FakeSearch(reviews))
        open_record(path).to_html(tmp_path / f"{texts}.html")
        size = (tmp_path / f"{texts}.html").stat().st_size
        print(f"1,000 restaurants, texts {texts}: {size / 1e6:.2f} MB")  # noqa: T201
        assert size <= 5_000_000
        assert data_of(tmp_path / f"{texts}.html")["notes"] == []  # all of them, with all that is behind them

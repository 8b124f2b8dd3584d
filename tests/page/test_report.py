"""The page of a report: results with the reviews that they cite, failures by cause, and what each item has taken."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.support.nights import REVIEWS, SCRIPT
from tests.support.records import AT_ONCE

from restaurant_llm_batch import BatchReport, BatchRunner, LLMRequest, Strategy, SummarizeAspects, errors
from restaurant_llm_batch._page import report as page_report
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM, FakeSearch


@pytest.fixture(scope="module")
def report() -> BatchReport[Any]:
    search = FakeSearch(dict.fromkeys(range(20), REVIEWS))

    class Failing(OfflineLLM):
        def complete(self, request: LLMRequest, /) -> Any:
            if request.inputs.get("restaurant_id") in (3, 5):
                raise errors.PromptTooLong(f"{request.inputs['restaurant_id']} tokens too many {SCRIPT}")
            return super().complete(request)

    with BatchRunner(llm=Failing(), search=search, strategy=Strategy.stage(1), llm_retry=AT_ONCE) as runner:
        return runner.run(SummarizeAspects(), range(8))


def unpacked(given: Any) -> Any:
    packed = isinstance(given, dict) and "gzip" in given
    return json.loads(gzip.decompress(base64.b64decode(given["gzip"]))) if packed else given


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL
    )
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def test_the_page_has_the_results_the_failures_and_the_figures(
    report: BatchReport[Any], tmp_path: Path
) -> None:
    report.to_html(tmp_path / "report.html")
    data = data_of(tmp_path / "report.html")
    run = data["overview"]["run"]
    assert (run["succeeded"], run["failed"], run["total"]) == (6, 2, 8)
    assert run["calls"] == sum(report.stats.calls.values())
    (cause,) = unpacked(data["causes"])["items"]["causes"]
    assert cause["count"] == 2
    items = unpacked(data["items"])
    rows = [dict(zip(items["names"], row, strict=True)) for row in items["rows"]]
    assert [row["outcome"] for row in rows] == ["succeeded"] * 3 + ["failed", "succeeded", "failed"] + [
        "succeeded"
    ] * 2
    assert rows[3]["cause"] == cause["cause"]
    assert rows[0]["ended"] == pytest.approx(report.outcomes[0].spent.seconds)
    detail = unpacked(data["details"]["chunks"][data["details"]["of"]["0"]])["0"]
    assert any(sentence["reviews"] for sentence in detail["sentences"])
    assert detail["result"]["restaurant_id"] == 0
    assert "Recording" in detail["missing"]
    assert SCRIPT not in (tmp_path / "report.html").read_text("utf-8")


def test_a_report_without_anything_and_one_of_own_results_have_a_page(tmp_path: Path) -> None:
    def own(item: Any) -> Flow[Any]:
        reply = yield from complete(LLMRequest("own", ({"role": "user", "content": str(item)},)))
        return {"text": reply.text, "nothing": float("nan"), "set": {1}, "bytes": b"\xff"}

    with BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(1)) as runner:
        for name, items in {"none": [], "own": [1, "x", 10**30]}.items():
            runner.run(own, items).to_html(tmp_path / f"{name}.html")
            assert data_of(tmp_path / f"{name}.html")["overview"]["run"]["total"] == len(items)


@pytest.mark.parametrize("name", ["folder", "missing/x.html", "store.db"])
def test_what_is_no_place_for_it_is_refused(report: BatchReport[Any], tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "store.db").write_bytes(b"SQLite format 3\0" + b"\0" * 600)
    with pytest.raises(ConfigurationError):
        report.to_html(tmp_path / name)


def test_of_very_large_results_the_page_has_the_first(
    report: BatchReport[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_report, "_CHUNK", 2)
    monkeypatch.setattr(page_report, "MOST_BYTES", 10_000)
    report.to_html(tmp_path / "report.html")
    data = data_of(tmp_path / "report.html")
    kept = len(data["details"]["of"])
    assert 0 < kept < 8
    assert f"first {kept} of 8" in data["notes"][0]
    assert len(unpacked(data["items"])["rows"]) == 8

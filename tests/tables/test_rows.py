"""A report as rows: of each level, with ids and names, of built-in results and of anything a user's task returns."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from restaurant_llm_batch import (
    AnalyzeSentiment,
    AspectComparison,
    AspectLift,
    AspectSummary,
    BatchReport,
    BatchRunner,
    Evidence,
    ExtendedVocabulary,
    ExtendedWord,
    Failure,
    RestaurantSentiment,
    RestaurantSummary,
    ReviewLabel,
    ReviewSummary,
    RunStats,
    Spent,
    Success,
    Vocabulary,
    Word,
    errors,
)
from restaurant_llm_batch.testing import FakeLLM


def report(*outcomes: Any) -> BatchReport[Any]:
    return BatchReport(list(outcomes), RunStats(succeeded=len(outcomes)))


def summary(item_id: int | str = 12) -> RestaurantSummary:
    ok = AspectSummary("ok", "친절하다", ("빠르다", "웃는다"), (Evidence(7, "맛", 0), Evidence("b", "멋", 1)))
    return RestaurantSummary(item_id, "좋은 집", "m", {"service": ok, "price": AspectSummary("no_reviews")})


LABELS = (ReviewLabel(1, "positive"), ReviewLabel("둘", None, "no label"))
SENTIMENT = RestaurantSentiment(12, 1, 0, 0, 1, 2, 100, 0, 0, LABELS, "m")


def test_a_result_is_a_row_with_its_aspects_in_dotted_columns() -> None:
    (row,) = report(Success(12, summary(), 0, Spent(2.5, 1.0, 3, 2, 0, 10, 5, 0.5, 1))).to_dicts()

    assert row["restaurant_id"] == 12
    assert row["overall_summary"] == "좋은 집"
    assert row["service.status"] == "ok"
    assert row["service.bullets"] == ["빠르다", "웃는다"]
    assert row["service.evidence"] == [7, "b"]
    assert row["price.status"] == "no_reviews"
    assert (row["spent.seconds"], row["spent.calls"], row["spent.cost"]) == (2.5, 3, 0.5)
    assert next(iter(row)) == "restaurant_id"


def test_an_aspect_is_a_row_with_the_restaurant_it_is_of() -> None:
    rows = report(Success(12, summary())).to_dicts("aspects", names={12: "을지면옥"})

    assert [(row["restaurant_id"], row["name"], row["aspect"]) for row in rows] == [
        (12, "을지면옥", "service"),
        (12, "을지면옥", "price"),
    ]
    assert rows[0]["snippets"] == ["맛", "멋"]
    lift = AspectComparison(12, {"food": AspectLift(0.9, 0.6, 50.0)}, ("50 % 높다",), 9, 1, "m")
    (compared,) = report(Success(12, lift)).to_dicts("aspects")
    assert (compared["aspect"], compared["share"], compared["lift_percentage"]) == ("food", 0.9, 50.0)


def test_a_label_is_a_row_and_a_review_without_one_says_why() -> None:
    rows = report(Success(12, SENTIMENT)).to_dicts(level="labels")

    assert rows == [
        {"restaurant_id": 12, "review_id": 1, "label": "positive", "error": None},
        {"restaurant_id": 12, "review_id": "둘", "label": None, "error": "no label"},
    ]
    assert "labels" not in report(Success(12, SENTIMENT)).to_dicts()[0]


def test_a_word_is_a_row_and_so_is_a_phrase() -> None:
    words = {"맛": ExtendedWord("n", ("taste",), ("풍미",), "맛이 좋다")}
    value = ExtendedVocabulary(
        "d", words, {"맛이 가다": "to spoil"}, (), "m", phrase_examples={"맛이 가다": "갔다"}
    )
    rows = report(Success("d", value)).to_dicts("words")

    assert [(row["document_id"], row["kind"], row["text"], row["example"]) for row in rows] == [
        ("d", "word", "맛", "맛이 좋다"),
        ("d", "phrase", "맛이 가다", "갔다"),
    ]
    (row,) = report(Success("d", value)).to_dicts()
    assert (row["word_count"], row["phrase_count"]) == (1, 1)


def test_a_failure_is_a_row_with_its_cause() -> None:
    failure = Failure(12, errors.RateLimited("slow down"), "llm", 3, 4, Spent(1.0, calls=3))
    (row,) = report(Success(1, SENTIMENT), failure).to_dicts("failures", names={"12": "을지면옥"})

    assert (row["item_id"], row["name"], row["index"], row["stage"]) == (12, "을지면옥", 4, "llm")
    assert (row["error"], row["message"], row["attempts"]) == ("RateLimited", "slow down", 3)
    assert row["spent.calls"] == 3


def test_results_are_those_of_the_successes_only() -> None:
    both = report(Success(1, SENTIMENT), Failure(2, ValueError("x"), "task"))

    assert len(both.to_dicts()) == len(both.results) == 1


@pytest.mark.parametrize("level", ["Results", "result", "", None, 3, ["results"]])
def test_an_unknown_level_is_refused_with_those_that_there_are(level: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="level must be one of 'results', 'aspects'"):
        report().to_dicts(level)


def test_calls_are_refused_with_the_way_to_have_them() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"record='night\.db'"):
        report().to_dicts("calls")


@pytest.mark.parametrize(
    ("value", "level", "other"),
    [(SENTIMENT, "aspects", "labels"), (summary(), "labels", "aspects"), ("text", "words", "results")],
)
def test_a_level_that_the_results_do_not_have_is_refused_with_one_that_they_have(
    value: Any, level: Any, other: str
) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"has no {level}.*level='{other}'"):
        report(Success(1, value)).to_dicts(level)


class Taste(Enum):
    SALTY = "salty"


class Pair(NamedTuple):
    left: int
    right: str


@dataclass(frozen=True)
class Dish:
    name: str
    price: Any
    tags: tuple[str, ...] = ()


class Model(BaseModel):
    dish: str
    score: float


@pytest.mark.parametrize(
    ("value", "cells"),
    [
        ("맛", {"value": "맛"}),
        (None, {"value": None}),
        (7, {"value": 7}),
        ([1, 2], {"value": [1, 2]}),
        ({"a": {"b": 1, "c": {"d": None}}}, {"a.b": 1, "a.c.d": None}),
        (Dish("국수", np.int64(9), ("x",)), {"name": "국수", "price": 9, "tags": ["x"]}),
        (Dish("국수", np.float32(0.5)), {"price": 0.5}),
        (Dish("국수", np.array([1, 2])), {"price": [1, 2]}),
        (Dish("국수", float("nan")), {"price": None}),
        (Model(dish="탕", score=0.5), {"dish": "탕", "score": 0.5}),
        (Pair(1, "b"), {"left": 1, "right": "b"}),
        ({"t": Taste.SALTY, "d": date(2026, 1, 2)}, {"t": "salty", "d": "2026-01-02"}),
        ({"item_id": 9, "spent.calls": 1}, {"item_id": 1, "value.item_id": 9, "value.spent.calls": 1}),
        ({1: "a", Taste.SALTY: "b"}, {"1": "a", "salty": "b"}),
        (b"\xff", {"value": "b'\\xff'"}),
        (True, {"value": True}),
    ],
)
def test_the_result_of_a_task_of_ones_own_is_a_row(value: Any, cells: Mapping[str, Any]) -> None:
    (row,) = report(Success(1, value)).to_dicts()

    assert row["item_id"] == 1
    assert {name: row[name] for name in cells} == cells
    assert json.loads(json.dumps(row)) == row


def test_a_value_that_refers_to_itself_or_has_no_text_ends_in_a_text() -> None:
    loop: list[Any] = []
    loop.append(loop)

    class Mute:
        def __str__(self) -> str:
            raise ValueError

    rows = report(Success(1, loop), Success(2, Mute()), Success(3, Dish)).to_dicts()

    assert json.dumps(rows)
    assert rows[1]["value"] == "<Mute>"


def test_a_name_of_a_users_result_does_not_hide_the_name_of_the_item() -> None:
    (row,) = report(Success(1, {"name": "국수"})).to_dicts(names={1: "을지면옥"})

    assert (row["name"], row["value.name"]) == ("을지면옥", "국수")


def test_by_id_finds_every_outcome_that_has_one() -> None:
    failure = Failure("b", ValueError("x"), "task", 0, 1)
    found = report(Success(0, "zero"), failure, Failure(None, ValueError("y"), "input")).by_id

    assert found[0].value == "zero"
    assert found["b"] is failure
    assert len(found) == 2
    assert "0" not in found


def test_failures_are_grouped_by_cause_the_most_frequent_first() -> None:
    messages = [
        "400: 5,000 tokens, at most 4096",
        "400: 123 tokens, at most 4096",
        "no such dish: '국수'",
        "no such dish: '탕'",
        "400: 9 tokens, at most 1",
    ]
    done = report(*(Failure(n, ValueError(text), "llm", 1, n) for n, text in enumerate(messages)))
    groups = done.failures_by_cause()

    assert [len(group) for group in groups.values()] == [3, 2]
    assert list(groups) == [
        "llm: ValueError: N: N tokens, at most N",
        "llm: ValueError: no such dish: '...'",
    ]
    assert [failure.item_id for failure in next(iter(groups.values()))] == [0, 1, 4]


def test_causes_differ_by_stage_and_type() -> None:
    done = report(
        Failure(1, ValueError("x"), "llm"),
        Failure(2, ValueError("x"), "task"),
        Failure(3, KeyError("x"), "task"),
        Failure(4, ValueError("job 3f2a9c1b-77aa-4e21-9d61-0a1b2c3d4e5f lost"), "llm"),
        Failure(5, ValueError("job 99999999-77aa-4e21-9d61-0a1b2c3d4e5f lost"), "llm"),
    )

    assert sorted(map(len, done.failures_by_cause().values())) == [1, 1, 1, 2]


def test_a_report_is_json_and_says_all() -> None:
    done = report(
        Success(12, summary(), 0, Spent(1.0)),
        Success("b", {"x": np.float64("inf"), "y": "\ud800"}, 1),
        Failure(None, errors.OutputInvalid("bad", reply=None), "llm", 2, 2),
    ).to_dict()
    again = json.loads(json.dumps(done, allow_nan=False))

    assert again == done
    assert [one["ok"] for one in done["outcomes"]] == [True, True, False]
    assert done["outcomes"][0]["value"]["categories"]["service"]["evidence"][0]["review_id"] == 7
    assert done["outcomes"][1]["value"]["x"] is None
    assert done["outcomes"][2]["error"] == {"type": "OutputInvalid", "message": "bad"}
    assert done["stats"]["succeeded"] == 3


def test_a_report_survives_pickling_with_what_its_items_took() -> None:
    done = report(Success(12, summary(), 0, Spent(1.0)), Failure(2, ValueError("x"), "task"))
    again = pickle.loads(pickle.dumps(done))

    assert again.outcomes[0] == done.outcomes[0]
    assert again.outcomes[0].spent.seconds == 1.0
    assert again.by_id[12].ok


def test_every_kind_of_result_has_a_row_that_json_can_hold() -> None:
    results = [
        summary(),
        SENTIMENT,
        ReviewSummary(1, "a", "b", "c", 1, 2, 3, "m"),
        AspectComparison(1, {"food": AspectLift(None, None, None)}, (), 0, 0, "m"),
        Vocabulary("d", {"맛": Word("n")}, {}, (), "m"),
    ]
    rows = report(*(Success(number, result) for number, result in enumerate(results))).to_dicts()

    assert json.loads(json.dumps(rows)) == rows


def test_an_empty_report_has_no_rows() -> None:
    empty = BatchRunner(llm=FakeLLM()).run(AnalyzeSentiment(), [])

    assert empty.to_dicts() == []
    assert empty.failures_by_cause() == {}
    assert empty.by_id == {}


@pytest.mark.parametrize("names", [None, {12: "을지면옥"}])
def test_a_table_without_failures_has_their_columns(names: dict[int, str] | None, tmp_path: Path) -> None:
    failure = Failure(1, errors.RateLimited("busy"), "llm", 2, 0)
    expected = [*report(failure).to_dicts("failures", names=names)[0]]
    empty = report(Success(12, SENTIMENT))
    empty.to_csv(tmp_path / "a.csv", "failures", names=names)
    empty.to_parquet(tmp_path / "a.parquet", "failures", names=names)

    assert [*empty.to_pandas("failures", names=names).columns] == expected
    assert empty.to_polars("failures", names=names).columns == expected
    assert empty.to_arrow("failures", names=names).column_names == expected
    assert [*pd.read_csv(tmp_path / "a.csv").columns] == expected
    assert [*pd.read_parquet(tmp_path / "a.parquet").columns] == expected
    assert empty.to_dicts("failures", names=names) == []


@pytest.mark.parametrize("names", [["을지면옥"], "을지면옥", pd.DataFrame({"name": ["을지면옥"]}), 7])
def test_names_that_are_no_mapping_are_refused_with_what_to_write(names: Any) -> None:
    for level in ("results", "labels", "failures"):
        with pytest.raises(errors.ConfigurationError, match=r"names=dict\(zip\("):
            report(Success(12, SENTIMENT)).to_dicts(level, names=names)

"""Data frames and opened tables in place of lists of items and reviews: the runner, indexing, plans, every task."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    CompareAspects,
    ExtractStrengths,
    ExtractVocabulary,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
)
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.records import read_items, read_reviews
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.search._indexing import read_batches
from restaurant_llm_batch.testing import FakeSearch

REVIEWS = pd.DataFrame(
    {
        "restaurant_id": [1.0, 2.0, 1.0],
        "review_id": [np.int64(5), np.int64(6), np.int64(7)],
        "content": ["음식이 맛있어요", "직원이 불친절해요", np.nan],
        "rating": [5, 1, 3],
        "visited": pd.to_datetime(["2024-01-01"] * 3),
    }
)
FRAMES = {
    "pandas": REVIEWS,
    "polars": pl.from_arrow(pa.Table.from_pandas(REVIEWS, preserve_index=False)),
    "arrow": pa.Table.from_pandas(REVIEWS, preserve_index=False),
}


def runner(**arguments: Any) -> BatchRunner:
    search = FakeSearch({number: ["음식이 맛있어요", "직원이 친절해요"] for number in range(5)})
    return BatchRunner(llm=OfflineLLM(), search=search, **arguments)


@pytest.mark.parametrize("library", FRAMES)
@pytest.mark.parametrize(
    "task", [SummarizeAspects(), CompareAspects(), ExtractStrengths(), AnalyzeSentiment()]
)
@pytest.mark.sample(5)
def test_a_frame_of_reviews_is_a_list_of_restaurants(library: str, task: Any) -> None:
    report = runner().run(task, FRAMES[library])
    assert [outcome.item_id for outcome in report.outcomes] == [1, 2]
    assert not report.failures


@pytest.mark.parametrize("library", FRAMES)
def test_reviews_of_a_frame_come_together_by_restaurant(library: str) -> None:
    labels = runner(strategy=Strategy.stage(4)).run(AnalyzeSentiment(), FRAMES[library]).results
    assert [[label.review_id for label in result.labels] for result in labels] == [[5, 7], [6]]
    [one, two] = runner().run(SummarizeReviews(), FRAMES[library]).results
    assert (one.positive_count, one.negative_count, two.negative_count) == (1, 0, 1)
    words = runner().run(ExtractVocabulary(), FRAMES[library]).results
    assert [result.document_id for result in words] == [1, 2]


BLANK = REVIEWS.astype(object).reindex([0, 9, 1, 8, 2])  # as read_csv has the lines ",,,,"
BLANK_FRAMES = {
    "pandas": BLANK,
    "pandas, nullable": BLANK.convert_dtypes(),
    "pandas, empty texts": BLANK[["restaurant_id", "content"]].fillna(""),
    "polars": pl.from_arrow(pa.Table.from_pandas(BLANK.convert_dtypes(), preserve_index=False)),
    "arrow": pa.Table.from_pandas(BLANK.convert_dtypes(), preserve_index=False),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("library", BLANK_FRAMES)
def test_blank_rows_of_a_frame_are_skipped_as_those_of_a_file_are(library: str) -> None:
    frame = BLANK_FRAMES[library]
    assert [row["restaurant_id"] for row in read_items(frame)] == [1, 2, 1]
    assert len([*read_reviews(frame)]) == 3
    search = EmbeddedSearch()
    assert search.index_reviews(frame).reviews == 2
    report = BatchRunner(llm=OfflineLLM(), search=search).run(SummarizeAspects(), frame)
    assert [outcome.item_id for outcome in report.outcomes] == [1, 2]


def test_rows_after_a_blank_one_keep_their_numbers() -> None:
    frame = pd.DataFrame({"restaurant_id": [1, None, None], "content": ["맛", None, "멋"]})
    with pytest.raises(ConfigurationError, match="row 2: restaurant_id is missing"):
        list(read_reviews(frame))


@pytest.mark.parametrize("library", FRAMES)
def test_a_frame_is_read_for_an_index(library: str) -> None:
    [batch] = read_batches(FRAMES[library], 10)
    assert [(entry.restaurant_id, entry.review_id) for entry in batch.entries] == [(1, 5), (2, 6)]
    assert (batch.useful, batch.blank) == (2, 1)


def test_bad_rows_of_a_frame_are_refused_or_skipped_when_indexed() -> None:
    frame = pd.DataFrame({"restaurant_id": [1, None], "content": ["a", "b"]})
    with pytest.raises(ConfigurationError, match=r"reviews\[1\]: restaurant_id is missing"):
        list(read_batches(frame, 10))
    [batch] = read_batches(frame, 10, "skip")
    assert batch.useful == 1
    assert [(row.position, row.reason) for row in batch.invalid] == [
        (1, "reviews[1]: restaurant_id is missing")
    ]


def test_opened_tables_are_indexed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("store,text\n1,맛있어요\n", encoding="cp949")
    columns = {"restaurant_id": "store", "content": "text"}
    with EmbeddedSearch() as search:
        assert search.index_reviews(read_items(tmp_path / "a.csv", columns=columns)).reviews == 1
        assert search.index_reviews(read_reviews(tmp_path / "a.csv", columns=columns)).reviews == 1
        assert search.index_reviews(REVIEWS).reviews == 2
        assert search.count() == 3


def test_a_frame_of_restaurants_has_their_options() -> None:
    frame = pd.DataFrame(
        {"restaurant_id": [1, 2], "limit": [1.0, np.nan], "query": ["냉면", None], "city": ["a", "b"]}
    )
    outcomes = runner().run(SummarizeAspects(), frame).outcomes
    assert [outcome.ok for outcome in outcomes] == [True, True]


def test_a_bad_row_of_a_frame_refuses_all_before_any_call() -> None:
    frame = pd.DataFrame({"restaurant_id": [1, 1, 3], "limit": [5, 5, 5]})
    with pytest.raises(ConfigurationError, match=r"row 1: duplicate id 1, already row 0"):
        runner().run(SummarizeAspects(), frame)
    with pytest.raises(ConfigurationError, match=r"row 2: field 'restaurant_id'"):
        runner().run(SummarizeAspects(), pd.DataFrame({"restaurant_id": [1, 2, None]}))
    table = read_items(frame, bad_rows="skip")
    assert len(runner().run(SummarizeAspects(), table).outcomes) == 2
    assert table.skipped == 1


def test_a_frame_without_the_column_says_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match=r'did you mean columns={"restaurant_id": "가게"}'):
        runner().run(SummarizeAspects(), pd.DataFrame({"가게": [1, 2]}))


def test_a_column_and_an_array_are_lists_of_ids() -> None:
    for items in (
        pd.Series([1.0, 2.0]),
        pd.Series(pd.array([1, 2], "Int64")),
        np.array([1, 2]),
        np.array([1.0, 2.0]),
        pl.Series([1, 2]),
        pa.chunked_array([[1, 2]]),
    ):
        assert [one.restaurant_id for one in runner().run(SummarizeAspects(), items).results] == [1, 2]


def test_a_frame_is_planned_and_simulated_as_it_is_run() -> None:
    frame = pd.DataFrame({"restaurant_id": [1, 2, 3]})
    assert runner().plan(SummarizeAspects(), frame).items == 3
    assert len(runner().simulate(SummarizeAspects(), frame).report.outcomes) == 3


def test_rows_are_given_as_they_are_to_a_function() -> None:
    def own(row: dict[str, Any]) -> Any:
        yield from ()
        return row

    rows = [
        outcome.value
        for outcome in runner().run(own, pl.DataFrame({"id": [1, 2], "x": ["a", None]})).outcomes
    ]
    assert rows == [{"id": 1, "x": "a"}, {"id": 2, "x": None}]


def test_documents_and_lists_in_cells_are_items(tmp_path: Path) -> None:
    frame = pl.DataFrame({"document_id": ["a", "b"], "chunks": [["국물이 진하다"], ["면이 쫄깃하다"]]})
    assert [one.document_id for one in runner().run(ExtractVocabulary(), frame).results] == ["a", "b"]
    (tmp_path / "a.csv").write_text('document_id,chunks\na,"[""국물이 진하다""]"\n', encoding="utf-8")
    assert len(runner().run(ExtractVocabulary(), read_items(tmp_path / "a.csv")).results) == 1
    texts = pd.DataFrame({"document_id": ["a", "a"], "text": ["국물이 진하다", "면이 쫄깃하다"]})
    assert [one.document_id for one in runner().run(ExtractVocabulary(), texts).results] == ["a"]
    nested = pl.DataFrame({"restaurant_id": [1], "reviews": [[{"id": 7, "content": "맛있어요"}]]})
    [result] = runner().run(AnalyzeSentiment(), nested).results
    assert [label.review_id for label in result.labels] == [7]


def test_an_opened_table_is_read_as_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("restaurant_id\n" + "\n".join(map(str, range(1, 5))))
    table = read_items(tmp_path / "a.csv")
    with runner(strategy=Strategy.stage(1)) as one:
        stream = one.stream(SummarizeAspects(), table)
        assert next(iter(stream)).item_id == 1
        assert table.line == 2
        stream.close()


class _Lazy:
    """As a lazy frame of Spark, and of a library that only narwhals knows."""

    columns = ("restaurant_id",)
    shape = (2, 1)


def lazy() -> Any:
    """Return one, whatever the declared type of items is."""
    return _Lazy()


def test_a_frame_of_any_other_library_goes_through_narwhals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Narwhals(ModuleType):
        @staticmethod
        def from_native(frame: object) -> pl.LazyFrame:
            return pl.LazyFrame({"restaurant_id": [1, 2]})

    monkeypatch.setitem(sys.modules, "narwhals", Narwhals("narwhals"))
    assert len(runner().run(SummarizeAspects(), lazy()).results) == 2
    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(ConfigurationError, match=r"needs the package narwhals: pip install"):
        runner().run(SummarizeAspects(), lazy())


def test_rows_of_spark_are_read_one_by_one() -> None:
    class Row(dict[str, Any]):
        def asDict(self, recursive: bool) -> dict[str, Any]:  # noqa: N802
            return dict(self)

    class Spark(_Lazy):
        def toLocalIterator(self) -> Any:  # noqa: N802
            return iter([Row(restaurant_id=1), Row(restaurant_id=2)])

    frame: Any = Spark()
    assert len(runner().run(SummarizeAspects(), frame).results) == 2


def test_two_columns_of_one_name_are_refused() -> None:
    frame = pd.DataFrame([[1, 2]], columns=["restaurant_id", "restaurant_id"])
    with pytest.raises(ConfigurationError, match="two columns are called 'restaurant_id'"):
        runner().run(SummarizeAspects(), frame)
    with pytest.raises(ConfigurationError, match="two columns are called 'a'"):
        list(read_items(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])))

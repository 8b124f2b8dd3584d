"""What `EmbeddedSearch` takes in: reviews replaced, skipped, named or refused."""

from __future__ import annotations

import pytest
from tests.support.reviews import FlatEmbedder, review

from restaurant_llm_batch.errors import ConfigurationError, PermanentBackendError
from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch, IndexReport


def test_indexing_again_replaces() -> None:
    search = EmbeddedSearch()
    search.index_reviews([review(1, 5, "맛없어요"), review(1, 5, "맛있어요")])
    search.index_reviews([{"restaurant_id": "1", "review_id": "5", "content": "친절해요"}])

    hits = search.search(SearchQuery(1, "친절"))

    assert [(hit.review_id, hit.content) for hit in hits] == [("5", "친절해요")]
    assert search.count() == 1


def test_reviews_that_replace_each_other_in_one_input_are_counted_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    search = EmbeddedSearch()
    rows = [review(1, 1, f"맛있어요 {number}") for number in range(5)] + [review(2, 1, "친절해요")] * 3

    indexed = search.index_reviews(rows, batch_size=8)
    again = search.index_reviews(rows + rows, batch_size=8)

    assert (indexed.replaced, again.replaced) == (4, 8)  # equal texts lose nothing
    warnings = [record.getMessage() for record in caplog.records]
    assert [text[:47] for text in warnings] == ["4 of the first 8 reviews have the restaurant and"[:47]] * 2
    assert search.count() == 2


def test_a_review_without_id_is_named_after_its_text() -> None:
    search = EmbeddedSearch()
    search.index_reviews([review(1, None, "맛있어요"), review(2, None, "맛있어요")])
    search.index_reviews([{"restaurant_id": 1, "content": "맛있어요"}])

    [one] = search.search(SearchQuery(1, "맛"))
    [two] = search.search(SearchQuery(2, "맛"))

    assert one.review_id == two.review_id
    assert search.count() == 2


def test_blank_reviews_are_counted_and_left_out() -> None:
    search = EmbeddedSearch()

    indexed = search.index_reviews([review(1, 1, " \n"), review(1, 2, "맛있어요"), review(1, 3, "")])

    assert indexed == IndexReport(reviews=1, blank=2)
    assert search.count() == 1


def test_half_an_emoji_does_not_stop_the_indexing() -> None:
    search = EmbeddedSearch()
    search.index_reviews([review(1, 1, "최고 \ud83d"), review(1, 2, "최고 \ud83d\ude00")])

    assert [hit.content for hit in search.search(SearchQuery(1, "최고"))] == [
        "최고 \ufffd",
        "최고 😀",
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"content": "a"}, r"reviews\[2\]\.restaurant_id is missing"),
        (
            {"restaurant_id": True, "content": "a"},
            r"reviews\[2\]\.restaurant_id must be an integer",
        ),
        ({"restaurant_id": 1.5, "content": "a"}, r"reviews\[2\]\.restaurant_id must be an integer"),
        ({"restaurant_id": 1, "id": 2.0, "content": "a"}, r"reviews\[2\]\.id must be an integer"),
        (
            {"restaurant_id": 1, "id": 2**70, "content": "a"},
            r"reviews\[2\]\.id does not fit 64 bits",
        ),
        (
            {"restaurant_id": 1, "id": "\ud83d", "content": "a"},
            r"reviews\[2\]\.id is not valid text",
        ),
        (
            {"restaurant_id": 1, "content": None},
            r"reviews\[2\]\.content must be text, got NoneType",
        ),
        ("just text", r"reviews\[2\] must be a Review or a mapping"),
    ],
)
def test_a_bad_review_is_named(bad: object, message: str) -> None:
    reviews = [review(1, 1, "a"), review(1, 2, ""), bad]

    with pytest.raises(ConfigurationError, match=message):
        EmbeddedSearch().index_reviews(reviews)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_a_useless_batch_size_is_refused(batch_size: object) -> None:
    with pytest.raises(ConfigurationError, match="batch_size must be 1 or more"):
        EmbeddedSearch().index_reviews([], batch_size=batch_size)  # type: ignore[arg-type]


def test_progress_tells_the_reviews_written_so_far() -> None:
    told: list[int] = []
    reviews = [review(1, number, "맛있어요" if number else " ") for number in range(7)]

    EmbeddedSearch().index_reviews(iter(reviews), batch_size=3, on_progress=told.append)

    assert told == [2, 5, 6]


def test_an_integer_of_another_kind_is_an_integer() -> None:
    class Int64:
        def __index__(self) -> int:
            return 0

    search = EmbeddedSearch()
    search.index_reviews([{"restaurant_id": Int64(), "id": Int64(), "content": "새 리뷰"}])

    hits = search.search(SearchQuery(Int64(), "새 리뷰", limit=1))  # type: ignore[arg-type]
    assert [(type(hit.review_id), hit.review_id) for hit in hits] == [(int, 0)]
    assert [(type(hit.restaurant_id), hit.restaurant_id) for hit in hits] == [(int, 0)]


def test_an_embedder_of_another_size_is_named_and_nothing_is_left_out_in_silence() -> None:
    class Liar(FlatEmbedder):
        size = 3

    search = EmbeddedSearch(embedder=Liar())

    with pytest.raises(
        PermanentBackendError, match="Liar returned a dense vector of dimension 2, expected 3"
    ):
        search.index_reviews([review(1, 1, "1 0 | 1"), review(1, 2, "1 0 | 1")])


def test_an_error_of_the_engine_is_mapped_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(points: object) -> None:
        raise RuntimeError("segment is locked")

    search = EmbeddedSearch(embedder=FlatEmbedder())
    search.index_reviews([review(1, 1, "1 0 | 1")])
    monkeypatch.setattr("qdrant_edge.UpdateOperation.upsert_points", fail)

    with pytest.raises(PermanentBackendError, match="the search engine failed: segment is locked") as caught:
        search.index_reviews([review(1, 1, "1 0 | 1")])

    assert caught.value.backend == "embedded"
    assert caught.value.__cause__ is not None


def test_rows_that_are_no_reviews_are_left_out_and_named_if_the_caller_says_so() -> None:
    rows: list[object] = [
        review(1, 1, "맛있어요"),
        None,
        {"restaurant_id": 1, "id": 2, "content": None},
        {"restaurant_id": float("nan"), "id": 3, "content": "a"},
        {"restaurant_id": 1, "id": [4], "content": "a"},
        review(1, 5, "친절해요"),
    ]
    search = EmbeddedSearch()

    report = search.index_reviews(rows, batch_size=2, bad_rows="skip")  # type: ignore[arg-type]

    assert (report.reviews, report.blank, report.failed) == (2, 0, 4)
    assert [failure.position for failure in report.failures] == [1, 2, 3, 4]
    assert "reviews[1] must be a Review or a mapping" in report.failures[0].reason
    assert "reviews[4].id must be an integer" in report.failures[3].reason
    assert search.count() == 2
    with pytest.raises(ConfigurationError, match='bad_rows must be "refuse" or "skip"'):
        search.index_reviews([], bad_rows="drop")  # type: ignore[arg-type]

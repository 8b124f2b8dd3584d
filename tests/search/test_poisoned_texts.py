"""Texts that cannot be embedded: left out, named and counted, while all others are indexed."""

from __future__ import annotations

import json
import logging
import math
import random
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.local_server import LocalServer, Say, Seen

from restaurant_llm_batch import BatchRunner, SearchQuery, SummarizeAspects, errors
from restaurant_llm_batch.protocols import Embedding, SparseVector
from restaurant_llm_batch.search import EmbeddedSearch, QdrantSearch
from restaurant_llm_batch.search._batch_embedding import BatchEmbedder
from restaurant_llm_batch.search.embedders import APIEmbedder, HashingEmbedder
from restaurant_llm_batch.testing import FakeLLM

POISON = "POISON"


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits before retries instead of waiting."""
    found: list[float] = []
    monkeypatch.setattr("restaurant_llm_batch.cancellation.sleep", found.append)
    return found


def rows(count: int, *poisoned: int) -> list[dict[str, Any]]:
    """Return reviews, some of them poisoned."""
    return [
        {"restaurant_id": 1, "review_id": f"r{i}", "content": f"{POISON if i in poisoned else 'soup'} {i}"}
        for i in range(count)
    ]


def vector(text: str) -> list[Any]:
    """Return a vector of four numbers."""
    return [1.0, float(len(text)), 0.5, 0.1]


def data(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries of an answer."""
    return [{"index": i, "embedding": vector(text)} for i, text in enumerate(texts)]


def bad_vector(make: Callable[[list[Any]], Any]) -> Callable[[list[str]], Say]:
    """Answer with a bad vector for each poisoned text."""

    def answer(texts: list[str]) -> Say:
        entries = data(texts)
        for entry, text in zip(entries, texts, strict=True):
            if POISON in text:
                entry["embedding"] = make(entry["embedding"])
        return Say({"data": entries})

    return answer


def refused(say: Say) -> Callable[[list[str]], Say]:
    """Refuse each request that holds a poisoned text."""
    return lambda texts: say if any(POISON in text for text in texts) else Say({"data": data(texts)})


def altered(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[list[str]], Say]:
    """Answer with other entries than the right ones if a text is poisoned."""

    def answer(texts: list[str]) -> Say:
        entries = data(texts)
        return Say({"data": change(entries) if any(POISON in text for text in texts) else entries})

    return answer


ANSWERS = {
    "500": refused(Say({"error": "json: unsupported value: NaN"}, status=500)),
    "504 of a proxy": refused(Say(b"<html>timeout</html>", status=504)),
    "400 too long": refused(Say({"error": {"message": "maximum context length is 512"}}, status=400)),
    "400 refused": refused(Say({"error": {"message": "content policy"}}, status=400)),
    "413": refused(Say({"error": "batch too large"}, status=413)),
    "422": refused(Say({"detail": "inputs must have at least 1 token"}, status=422)),
    "connection lost": refused(Say(b"", hang_up=True)),
    "nulls": bad_vector(lambda numbers: [None] * 4),
    "null": bad_vector(lambda numbers: None),
    "short": bad_vector(lambda numbers: numbers[:3]),
    "long": bad_vector(lambda numbers: [*numbers, 1.0]),
    "empty": bad_vector(lambda numbers: []),
    "NaN": bad_vector(lambda numbers: [math.nan, *numbers[1:]]),
    "infinite": bad_vector(lambda numbers: [*numbers[:3], -math.inf]),
    "text": bad_vector(lambda numbers: ["a", "b", "c", "d"]),
    "no base64": bad_vector(lambda numbers: "%%%"),
    "nested": bad_vector(lambda numbers: [numbers]),
    "too few": altered(lambda entries: entries[:-1]),
    "too many": altered(lambda entries: [*entries, {"index": len(entries), "embedding": vector("")}]),
    "an index twice": altered(lambda entries: [{**entry, "index": 0} for entry in entries] * 2),
    "no data": altered(lambda entries: None),  # type: ignore[arg-type, return-value]
}


def serve(answer: Callable[[list[str]], Say]) -> LocalServer:
    """Serve embeddings."""
    return LocalServer(lambda seen: answer(seen.json["input"]))


_OPEN: list[APIEmbedder] = []


def embedder_of(server: LocalServer, model: str, size: int | None = None) -> APIEmbedder:
    """Return an embedder that is closed after the test."""
    embedder = APIEmbedder(server.url, model, size=size)
    _OPEN.append(embedder)
    return embedder


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the embedders of the test."""
    yield
    while _OPEN:
        _OPEN.pop().close()


@pytest.mark.parametrize("size", [4, None])
@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.sample(1)
def test_one_poisoned_text_is_named_and_the_others_are_indexed(
    how: str, size: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(ANSWERS[how]) as server:
        search = EmbeddedSearch(embedder=embedder_of(server, "m", size=size))
        report = search.index_reviews(rows(40, 0))
        requests = len(server.seen)

    assert (report.reviews, report.blank, report.failed) == (39, 0, 1)
    [failure] = report.failures
    assert (failure.restaurant_id, failure.review_id, failure.position) == (1, "r0", 0)
    assert failure.reason
    assert "review 'r0' of restaurant 1" in caplog.text
    assert search.count() == 39
    assert requests < 30


@pytest.mark.parametrize("how", ["500", "NaN"])
@pytest.mark.parametrize("poisoned", [(0, 39), (3, 4), (0, 1, 2, 3, 20, 30, 38, 39)])
@pytest.mark.sample(1)
def test_several_poisoned_texts_are_told_from_an_outage(how: str, poisoned: tuple[int, ...]) -> None:
    with serve(ANSWERS[how]) as server:
        search = EmbeddedSearch(embedder=embedder_of(server, "m", size=4))
        report = search.index_reviews(rows(40, *poisoned), batch_size=20)

    assert [failure.review_id for failure in report.failures] == [f"r{i}" for i in poisoned]
    assert search.count() == report.reviews == 40 - len(poisoned)


def test_a_batch_of_poisoned_texts_only_is_left_out_if_the_service_works() -> None:
    with serve(ANSWERS["400 refused"]) as server:
        search = EmbeddedSearch(embedder=embedder_of(server, "m", size=4))
        report = search.index_reviews(rows(5, 3, 4), batch_size=3)

    assert [failure.review_id for failure in report.failures] == ["r3", "r4"]


@pytest.mark.parametrize("backend", ["embedded", "qdrant"])
@pytest.mark.sample(1)
def test_an_outage_is_raised_after_the_retries_with_what_was_indexed_kept_and_said(
    backend: str, waits: list[float]
) -> None:
    down = False

    def answer(texts: list[str]) -> Say:
        nonlocal down
        down = down or "soup 10" in texts
        return Say(b"", status=502) if down else Say({"data": data(texts)})

    with serve(answer) as server:
        embedder = embedder_of(server, "m", size=4)
        search: EmbeddedSearch | QdrantSearch = (
            EmbeddedSearch(embedder=embedder)
            if backend == "embedded"
            else QdrantSearch("reviews", url=":memory:", embedder=embedder)
        )
        with pytest.raises(errors.TransientBackendError, match=r"502.*10 reviews were indexed before"):
            search.index_reviews(rows(300), batch_size=10)
        requests = len(server.seen)

    assert search.count() == 10
    assert len(waits) == 2
    assert requests == 1 + 3 + 2 + 1  # the first batch; the second three times, its halves, and a probe


@pytest.mark.parametrize(
    ("say", "kind", "requests"),
    [
        (Say({"error": {"message": "no such model"}}, status=404), errors.PermanentBackendError, 4),
        (Say({"error": {"message": "bad key"}}, status=401), errors.AuthenticationFailed, 1),
        (Say({"error": {"type": "insufficient_quota"}}, status=429), errors.QuotaExhausted, 1),
        (Say({"data": [], "error": "loading"}), errors.TransientBackendError, 4),
    ],
)
@pytest.mark.sample(2)
def test_a_service_that_takes_no_text_is_asked_few_times(
    say: Say, kind: type[Exception], requests: int
) -> None:
    with serve(lambda texts: say) as server:
        search = EmbeddedSearch(embedder=embedder_of(server, "m", size=4))
        with pytest.raises(kind):
            search.index_reviews(rows(200))
        assert len(server.seen) == requests


def test_a_refusal_is_waited_out_and_no_text_is_blamed(waits: list[float]) -> None:
    asked: list[int] = []

    def answer(texts: list[str]) -> Say:
        asked.append(len(texts))
        busy = len(asked) in (2, 3, 4, 5, 6)
        return Say({"error": "slow down"}, status=429) if busy else Say({"data": data(texts)})

    with serve(answer) as server:
        search = EmbeddedSearch(embedder=embedder_of(server, "m", size=4))
        report = search.index_reviews(rows(40), batch_size=20)

    assert (report.reviews, report.failed) == (40, 0)
    assert asked == [20] * 7
    assert len(waits) == 5


def test_a_blip_that_hits_a_lone_text_does_not_leave_it_out() -> None:
    asked: list[int] = []

    def answer(texts: list[str]) -> Say:
        asked.append(len(texts))
        failing = len(asked) <= 5 and "soup 0" in texts
        return Say(b"", status=503) if failing else Say({"data": data(texts)})

    with serve(answer) as server:
        search = EmbeddedSearch(embedder=embedder_of(server, "m", size=4))
        report = search.index_reviews(rows(4))

    assert (report.reviews, report.failed) == (4, 0)


@pytest.mark.parametrize("kind", ["shuffled", "without index", "base64"])
def test_odd_but_whole_answers_are_read(kind: str) -> None:
    def answer(seen: Seen) -> Say:
        entries = data(seen.json["input"])
        if kind == "shuffled":
            random.Random(7).shuffle(entries)
        for entry in entries:
            if kind == "without index":
                del entry["index"]
            if kind == "base64":
                entry["embedding"] = b64encode(pack("<4f", *entry["embedding"])).decode()
        return Say({"data": entries})

    texts = ["a", "bbbb", "cc", "ddddddd"]
    with LocalServer(answer) as server:
        found = embedder_of(server, "m").embed_documents(texts)

    for text, embedding in zip(texts, found, strict=True):
        length = math.hypot(*vector(text))
        assert embedding.dense == pytest.approx([value / length for value in vector(text)])


class Picky:
    """An embedder of a user that fails for some texts."""

    name = "picky"
    size = 2

    def __init__(self, how: Callable[[], Any]) -> None:
        self.how = how

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """Embed, or fail."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str, /) -> Embedding:
        """Embed, or fail."""
        made: Embedding = self.how() if POISON in text else Embedding([0.6, 0.8], SparseVector([1], [1.0]))
        return made


def crash() -> Any:
    """Fail as a tokenizer may."""
    raise RuntimeError("token id out of range")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (crash, "token id out of range"),
        (lambda: None, "something else than an Embedding"),
        (lambda: Embedding([0.6], SparseVector([], [])), "dimension 1, expected 2"),
        (lambda: Embedding([math.nan, 1.0], SparseVector([], [])), "not finite"),
        (lambda: Embedding([math.inf, -math.inf], SparseVector([], [])), "not finite"),
        (lambda: Embedding([3e38, 3e39], SparseVector([], [])), "not finite"),
        (lambda: Embedding([None, 1.0], SparseVector([], [])), "something else than an Embedding"),  # type: ignore[list-item]
        (lambda: Embedding([0.6, 0.8], SparseVector([1, 2], [1.0])), "2 indices and 1 values"),
        (lambda: Embedding([0.6, 0.8], SparseVector([-1], [1.0])), "does not fit 32 bits"),
        (lambda: Embedding([0.6, 0.8], SparseVector([1], [math.nan])), "not finite"),
        (lambda: Embedding([0.6, 0.8], SparseVector([1, 1], [1.0, 2.0])), "an index twice"),
    ],
)
@pytest.mark.parametrize("backend", ["embedded", "qdrant"])
@pytest.mark.sample(1)
def test_an_embedder_of_the_users_may_fail_for_one_text(
    backend: str, how: Callable[[], Any], reason: str
) -> None:
    search: EmbeddedSearch | QdrantSearch = (
        EmbeddedSearch(embedder=Picky(how))
        if backend == "embedded"
        else QdrantSearch("reviews", url=":memory:", embedder=Picky(how))
    )

    report = search.index_reviews(rows(20, 7))

    assert [failure.review_id for failure in report.failures] == ["r7"]
    assert reason in report.failures[0].reason
    assert search.count() == report.reviews == 19


def test_only_the_first_thousand_are_named_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    search = EmbeddedSearch(embedder=Picky(lambda: None))

    report = search.index_reviews(rows(1_210, *range(10, 1_210)))

    assert (report.reviews, report.failed, len(report.failures)) == (10, 1_200, 1_000)


@given(st.sets(st.integers(0, 49)), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_whatever_texts_are_poisoned_exactly_these_have_errors(poisoned: set[int], size: int) -> None:
    embedder = BatchEmbedder(Picky(crash))
    texts = [row["content"] for row in rows(50, *poisoned)]

    if len(poisoned) == 50:
        return
    embedder.embed(["soup"])
    found = [one for i in range(0, 50, size) for one in embedder.embed(texts[i : i + size])]

    assert {i for i, one in enumerate(found) if isinstance(one, Exception)} == poisoned


@pytest.mark.parametrize("how", ["500", "NaN", "400 refused"])
@pytest.mark.sample(1)
def test_a_poisoned_query_fails_its_aspect_and_no_other(how: str) -> None:
    """The query of the aspect "price" is the poisoned one."""

    def answer(texts: list[str]) -> Say:
        return ANSWERS[how]([f"{POISON} {text}" if text.startswith("가격") else text for text in texts])

    with serve(answer) as server:
        search = EmbeddedSearch(embedder=embedder_of(server, "m", size=4))
        search.index_reviews(rows(5))
        runner = BatchRunner(llm=FakeLLM(), search=search)
        [outcome] = runner.run(SummarizeAspects(), [1]).outcomes

    summary = outcome.value
    statuses = {name: one.status for name, one in summary.categories.items()}
    assert statuses == {"service": "ok", "price": "failed", "food": "ok"}


def test_a_query_vector_that_is_not_finite_is_refused() -> None:
    search = EmbeddedSearch(embedder=Picky(lambda: Embedding([math.nan, 1.0], SparseVector([], []))))
    search.index_reviews(rows(3))

    with pytest.raises(
        errors.PermanentBackendError, match=r"Picky\.embed_query returned a dense vector with"
    ):
        search.search_many([SearchQuery(1, "soup"), SearchQuery(1, POISON)])


def test_the_report_can_be_printed_and_compared_as_before() -> None:
    search = EmbeddedSearch(embedder=HashingEmbedder())
    report = search.index_reviews(rows(3))

    assert (report.reviews, report.blank) == (3, 0)
    assert json.dumps(report.failures) == "[]"

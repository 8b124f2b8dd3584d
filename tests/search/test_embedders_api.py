"""`APIEmbedder` over a real socket: batches, order, unit length, and what refusals become."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
from tests.support.local_server import LocalServer, Say, Seen

from restaurant_llm_batch import SearchQuery, errors
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.search.embedders.api import APIEmbedder
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder

KEY = "sk-proj-Abc123secret"
WORDS = ("noodles", "pasta", "waiter")


def vector_of(text: str) -> list[float]:
    """Count the words: what a model would do, if it knew only these."""
    return [3.0 * text.count("noodles") + 3.0 * text.count("pasta"), 2.0 * text.count("waiter"), 1.0]


def answers(seen: Seen) -> Say:
    """Answer in an order of its own, as services may."""
    data = [{"index": i, "embedding": vector_of(text)} for i, text in enumerate(seen.json["input"])]
    return Say({"object": "list", "data": data[::-1], "model": seen.json["model"]})


def test_vectors_come_in_the_texts_order_at_unit_length() -> None:
    texts = ["waiter", "noodles", "", "pasta waiter", "맛있어요"]
    with LocalServer(answers) as server:
        embedder = APIEmbedder(server.url, "tiny", api_key=KEY, batch_size=2)
        found = embedder.embed_documents(texts)
        embedder.close()

    for text, embedding in zip(texts, found, strict=True):
        length = math.hypot(*vector_of(text))
        wanted = [value / length for value in vector_of(text)] if text else [0.0, 0.0, 0.0]
        assert embedding.dense == pytest.approx(wanted)
    inputs = [seen.json["input"] for seen in server.seen]
    assert inputs == [["waiter", "noodles"], ["pasta waiter", "맛있어요"]]
    assert server.connections == 1
    assert (server.seen[0].method, server.seen[0].path) == ("POST", "/v1/embeddings")
    assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    whole = HashingEmbedder().embed_documents(texts)
    assert [embedding.sparse for embedding in found] == [embedding.sparse for embedding in whole]


def test_a_query_is_embedded_with_its_prefix_and_the_fields_given() -> None:
    with LocalServer(answers) as server:
        embedder = APIEmbedder(
            f"{server.url}/api/v3",
            "tiny",
            query_prefix="query: ",
            document_prefix="passage: ",
            extra_body={"dimensions": 3},
        )
        query = embedder.embed_query(" waiter\ud83d ")
        embedder.embed_documents(["pasta"])
        embedder.close()

    assert server.seen[0].path == "/api/v3/embeddings"
    assert server.seen[0].json == {"model": "tiny", "input": ["query: waiter?"], "dimensions": 3}
    assert server.seen[1].json["input"] == ["passage: pasta"]
    assert "Authorization" not in server.seen[0].headers
    assert query.sparse == HashingEmbedder().embed_query("waiter").sparse


def test_the_size_is_asked_for_once_unless_it_is_given() -> None:
    with LocalServer(answers) as server:
        embedder = APIEmbedder(server.url, "tiny")
        assert (embedder.size, embedder.size) == (3, 3)
        assert embedder.embed_query("").dense == [0.0, 0.0, 0.0]
        assert APIEmbedder(server.url, "tiny", size=1536).size == 1536
        embedder.close()

    assert len(server.seen) == 1


def test_texts_without_a_letter_have_the_models_size_from_the_first() -> None:
    with LocalServer(answers) as server:
        embedder = APIEmbedder(server.url, "tiny")
        assert [len(one.dense) for one in embedder.embed_documents(["", "  "])] == [3, 3]
        assert embedder.embed_documents([]) == []
        embedder.close()


def test_vectors_of_another_length_than_promised_are_refused() -> None:
    with LocalServer(answers) as server:
        embedder = APIEmbedder(server.url, "tiny", size=4)
        with pytest.raises(errors.PermanentBackendError, match="size=3"):
            embedder.embed_query("pasta")
        embedder.close()


def test_long_texts_are_cut_and_batches_stay_below_what_services_take() -> None:
    texts = ["가" * 10_000] * 70
    with LocalServer(answers) as server:
        embedder = APIEmbedder(server.url, "tiny")
        assert len(embedder.embed_documents(texts)) == 70
        embedder.close()

    inputs = [seen.json["input"] for seen in server.seen]
    assert [len(batch) for batch in inputs] == [33, 33, 4]
    assert all(len(text) == 6_000 for batch in inputs for text in batch)


def test_a_search_uses_it() -> None:
    contents = ["noodles", "friendly waiter"]
    rows = [{"restaurant_id": 1, "review_id": str(i), "content": text} for i, text in enumerate(contents)]
    with LocalServer(answers) as server:
        embedder = APIEmbedder(server.url, "tiny")
        search = EmbeddedSearch(embedder=embedder)
        search.index_reviews(rows)
        assert search.search(SearchQuery(1, "pasta", limit=1))[0].content == "noodles"
        search.close()
        embedder.close()


def test_the_name_changes_with_whatever_makes_the_vectors() -> None:
    def name(model: str = "m", **more: Any) -> str:
        return APIEmbedder("http://localhost", model, **more).name

    names = [name(), name("other"), name(query_prefix="q: "), name(extra_body={"dimensions": 256})]
    assert len(set(names)) == 4
    assert name(size=3) == name()


REFUSALS: list[tuple[Say, type[errors.BackendError]]] = [
    (Say({"error": {"message": "no", "code": "rate_limit_exceeded"}}, status=429), errors.RateLimited),
    (Say({"error": {"message": "no", "type": "insufficient_quota"}}, status=429), errors.QuotaExhausted),
    (Say({"error": {"message": f"bad key {KEY}"}}, status=401), errors.AuthenticationFailed),
    (Say({"error": f"batch size 33 > maximum {KEY}"}, status=422), errors.PermanentBackendError),
    (Say(f"<html>{KEY}</html>".encode(), status=502), errors.TransientBackendError),
    (Say(f"<html>{KEY}</html>".encode()), errors.TransientBackendError),
    (Say({"data": []}), errors.TransientBackendError),
    (Say({"data": [{"index": 1, "embedding": [1.0]}]}), errors.TransientBackendError),
    (Say({"data": [{"index": 0, "embedding": []}]}), errors.TransientBackendError),
    (Say({"data": [{"index": 0, "embedding": [1.0, float("nan")]}]}), errors.TransientBackendError),
    (Say({"data": [{"index": 0, "embedding": ["a"]}], "key": KEY}), errors.TransientBackendError),
    (Say({"data": [{"index": 0, "embedding": [1.0]}] * 2}), errors.TransientBackendError),
    (Say({"error": {"message": "loading"}}), errors.TransientBackendError),
    (Say([1]), errors.TransientBackendError),
    (Say(b"", hang_up=True), errors.TransientBackendError),
    (Say({"data": []}, cut=True), errors.TransientBackendError),
]


@pytest.mark.parametrize(("answer", "kind"), REFUSALS)
@pytest.mark.sample(4)
def test_every_refusal_is_understood_and_asked_once(
    answer: Say, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with LocalServer(lambda seen: answer) as server:
        embedder = APIEmbedder(server.url, "tiny", api_key=KEY)
        with pytest.raises(kind) as caught:
            embedder.embed_query("pasta")
        embedder.close()

    assert type(caught.value) is kind
    assert len(server.seen) == 1
    assert KEY not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r} {embedder!r}"
    assert KEY not in caplog.text


def test_a_silent_service_times_out() -> None:
    with LocalServer(lambda seen: Say({}, after=30)) as server:
        embedder = APIEmbedder(server.url, "tiny", timeout=0.05)
        with pytest.raises(errors.TransientBackendError, match="did not answer"):
            embedder.embed_query("pasta")
        embedder.close()


def test_only_openai_is_sent_the_environments_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    APIEmbedder("https://api.openai.com/v1", "text-embedding-3-small")
    with LocalServer(answers) as server:
        embedder = APIEmbedder(server.url, "tiny")
        embedder.embed_query("pasta")
        embedder.close()
    assert "Authorization" not in server.seen[0].headers

    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(errors.ConfigurationError, match="OPENAI_API_KEY"):
        APIEmbedder("https://api.openai.com/v1", "text-embedding-3-small")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": ""}, "model must be a name"),
        ({"base_url": "localhost"}, "base_url must start with http"),
        ({"size": 0}, "size must be an integer from 1"),
        ({"batch_size": 5_000}, "batch_size must be an integer from 1 to 2,048"),
        ({"longest_text": 1.5}, "longest_text must be"),
        ({"timeout": -1}, "Timeout.total"),
        ({"transport": object()}, "transport must have send"),
        ({"api_key": 1}, "api_key must be a string"),
    ],
)
def test_a_wrong_argument_is_reported_at_once(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=words):
        APIEmbedder(**{"base_url": "http://localhost", "model": "m", **arguments})

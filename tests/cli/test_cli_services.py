"""The command line with real services behind it, on sockets of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support.local_server import LocalServer, Say
from tests.support.qdrant_server import Engine, rest

from restaurant_llm_batch import BatchSettings
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.cli._commands.serve import _check_search
from restaurant_llm_batch.cli._sources import ReviewSource
from restaurant_llm_batch.errors import ConfigurationError, TransientBackendError
from restaurant_llm_batch.models import Hit, ItemId, SearchQuery
from restaurant_llm_batch.search import QdrantSearch
from restaurant_llm_batch.search.embedders import HashingEmbedder
from restaurant_llm_batch.testing.server import FaultServer

OTHERS = ("summarize-reviews", "sentiment", "strengths", "compare", "vocabulary")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*(field.upper() for field in BatchSettings.model_fields), "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def invoke(*words: object) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words])


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """Three restaurants."""
    file = tmp_path / "reviews.jsonl"
    lines = [
        {"restaurant_id": 100 + n, "review_id": n, "content": f"{100 + n}번 집 맛있어요", "rating": 5}
        for n in (7, 8, 9)
    ]
    file.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("command", "stage"),
    [*(("summarize", stage) for stage in ("1", "4", "threaded")), *((command, "4") for command in OTHERS)],
)
@pytest.mark.parametrize("llm", ["vllm", "openai"])
@pytest.mark.sample(1)
def test_a_service_is_one_word_and_an_address(
    llm: str, command: str, stage: str, reviews: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hush")
    target = tmp_path / "out.jsonl"
    with FaultServer() as server:
        words = ["--llm", llm, "--llm-url", server.openai_url, "--model", "tiny", "--stage", stage]
        result = invoke(command, reviews, *words, "-o", target)
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    name = "document_id" if command == "vocabulary" else "restaurant_id"
    assert {record[name] for record in records} == {107, 108, 109}
    assert {record["model"] for record in records} == {"tiny"}
    assert "hush" not in result.output


def test_the_environment_says_what_options_leave_out(reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(api_key="hush") as server:
        monkeypatch.setenv("BATCH_LLM_URL", server.url)
        monkeypatch.setenv("VLLM_API_KEY", "hush")
        result = invoke("summarize", reviews, "--llm", "vllm")
    assert result.exit_code == 0, result.output
    assert server.counts.answered
    assert "hush" not in result.output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["summarize", "--llm", "openai"],
            "--llm openai needs --model; for example --model gpt-5-mini, or set BATCH_LLM_MODEL=",
        ),
        (["summarize", "--llm", "vllm"], "--llm-url http://localhost:8000"),
        (["summarize", "--llm", "vllm"], "BATCH_LLM_URL=http://localhost:8000"),
        (["summarize", "--llm", "vllm", "--llm-url", "localhost"], "http://"),
        (["summarize", "--llm", "runpod"], "RUNPOD_ENDPOINT_ID"),
        (["summarize", "--llm", "openai", "--model", "m"], "OPENAI_API_KEY"),
        (["summarize", "--search", "qdrant"], "QDRANT_URL=http://localhost:6333"),
        (["search", "--search", "qdrant", "--restaurant", "1", "맛"], "QDRANT_URL"),
    ],
)
@pytest.mark.sample(2)
def test_what_is_missing_is_named_in_one_line(words: list[str], complaint: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_a_key_that_is_refused_ends_the_run_with_its_reason(
    reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "hush")
    with LocalServer(lambda seen: Say({"error": "Unauthorized"}, 401)) as server:
        result = invoke("summarize", reviews, "--llm", "vllm", "--llm-url", server.url, "--model", "m")
    assert result.exit_code == 1
    assert "AuthenticationFailed" in result.output
    assert "hush" not in result.output


def test_qdrant_takes_no_file(reviews: Path) -> None:
    result = invoke("summarize", reviews, "--search", "qdrant", "--qdrant-url", "http://127.0.0.1:9")
    assert result.exit_code == 2
    assert "leave" in result.output


def test_an_index_needs_one_place(reviews: Path, tmp_path: Path) -> None:
    assert "--into FOLDER" in invoke("index", reviews).output
    both = invoke("index", reviews, "--into", tmp_path / "x", "--search", "qdrant")
    assert both.exit_code == 2
    assert "choose one" in both.output


def test_a_qdrant_server_that_is_not_there_is_reported_in_one_line(reviews: Path) -> None:
    with LocalServer(lambda seen: Say()) as server:
        url = server.url
    for words in (["summarize"], ["index", reviews], ["search", "--restaurant", "1", "맛"]):
        result = invoke(*words, "--search", "qdrant", "--qdrant-url", url)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        assert "qdrant" in result.output.lower()


@pytest.mark.sample(1)
@pytest.mark.parametrize("command", ["summarize", "strengths"])
@pytest.mark.parametrize("stage", ["1", "4"])
def test_reviews_go_into_qdrant_and_are_found_there(
    command: str, stage: str, reviews: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    with LocalServer(rest(Engine())) as server:
        monkeypatch.setenv("QDRANT_URL", server.url)
        indexed = invoke("index", reviews, "--search", "qdrant", "--collection", "places")
        assert indexed.exit_code == 0, indexed.output
        assert "Indexed 3 reviews of 3 restaurants" in indexed.output
        found = invoke("search", "--search", "qdrant", "--collection", "places", "--restaurant", "107", "맛")
        assert "107번 집 맛있어요" in found.output
        words = ["--search", "qdrant", "--collection", "places", "--stage", stage, "-o", target]
        result = invoke(command, *words)
    assert result.exit_code == 0, result.output
    assert len(target.read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", [16, 768])
def test_serve_ends_before_it_listens_if_the_embedder_is_not_that_of_the_collection(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with QdrantSearch("reviews", path=tmp_path / "data", embedder=HashingEmbedder(size=size)) as search:
        search.index_reviews([{"restaurant_id": 1, "review_id": 1, "content": "맛있어요"}])
    words = ["--search", "qdrant", "--qdrant-url", "./data", "--collection", "reviews", "--port", "0"]
    result = invoke("serve", *words)
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.split())
    assert f"are by 'hashing-v1-{size}', but embedder is 'hashing-v1-384' of size 384" in said
    assert "serving" not in said


class Fails:
    """A search that cannot search now."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def search(self, query: SearchQuery) -> list[Hit]:
        raise self._error


def test_serve_starts_if_its_first_search_fails_with_what_may_pass(caplog: pytest.LogCaptureFixture) -> None:
    def check(error: Exception, ids: list[ItemId]) -> None:
        _check_search(ReviewSource(label="here", ids=ids, search=Fails(error)))  # type: ignore[arg-type]

    check(TransientBackendError("HTTP 503", status=503), [1])
    assert "the first search failed" in caplog.text
    check(ConfigurationError("no reviews, no search"), [])
    with pytest.raises(ConfigurationError, match="size"):
        check(ConfigurationError("another size"), ["ko-1"])

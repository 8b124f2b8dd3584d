"""Every variable of the source service, and every option of a task, has an effect on the calls that are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.runpod_server import KEY, Dispatcher, End, asking, completion

from restaurant_llm_batch import BatchRunner, BatchSettings, LLMRequest, LLMResponse, RunStats, SearchQuery
from restaurant_llm_batch.errors import ConfigurationError, PermanentBackendError
from restaurant_llm_batch.models import Hit
from restaurant_llm_batch.search import QdrantSearch
from restaurant_llm_batch.testing import FakeLLM, FakeSearch
from restaurant_llm_batch.testing.server import FaultServer


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder and an environment without settings."""
    for name in (*BatchSettings.model_fields, "batch_config"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Seen:
    """What a run was: its calls, and how many were in flight at once."""

    def __init__(self) -> None:
        self.requests: list[LLMRequest] = []
        self.queries: list[SearchQuery] = []
        self.awaited = 0
        self.llm = _LLM(self)
        self.search = _Search(self)
        self.stats = RunStats()


class _LLM(FakeLLM):
    def __init__(self, seen: Seen) -> None:
        super().__init__(seconds=0.01, requests=seen.requests)
        self.seen = seen

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        self.seen.awaited += 1
        return await super().acomplete(request)


class _Search(FakeSearch):
    def __init__(self, seen: Seen) -> None:
        super().__init__(lambda name: [f"{name} 친절해요 {n}번 맛있어요" for n in range(40)], seconds=0.01)
        self.seen = seen

    def _answer(self, query: SearchQuery) -> list[Hit]:
        self.seen.queries.append(query)
        return super()._answer(query)


Run = Callable[[BatchSettings, BatchRunner], Any]


def summaries(settings: BatchSettings, runner: BatchRunner) -> Any:
    return runner.run(settings.summary(), range(8))


def one_summary(settings: BatchSettings, runner: BatchRunner) -> Any:
    return runner.run(settings.summary(), [1])


def labels(settings: BatchSettings, runner: BatchRunner) -> Any:
    items = [{"restaurant_id": n, "reviews": ["정말 맛있어요 또 올게요"] * 20} for n in range(4)]
    return runner.run(settings.sentiment(), items)


def found_labels(settings: BatchSettings, runner: BatchRunner) -> Any:
    return runner.run(settings.sentiment(), [1])


def words(settings: BatchSettings, runner: BatchRunner) -> Any:
    return runner.run(settings.vocabulary(), [{"document_id": 1, "chunks": ["맛있어요"]}])


def strengths(settings: BatchSettings, runner: BatchRunner) -> Any:
    items = [{"target_restaurant_id": 1, "comparison_reviews": ["맛없어요"]}]
    return runner.run(settings.strengths(), items)


def made(run: Run, variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Return what a run with some variables was."""
    seen = Seen()
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        settings = BatchSettings()
        with BatchRunner.from_settings(settings, llm=seen.llm, search=seen.search) as runner:
            report = run(settings, runner)
    seen.stats = report.stats
    return seen


ASYNC = {"BATCH_STAGE": "4"}
RESTAURANTS = {"BATCH_RESTAURANT_ASYNC": "true"}
EFFECTS: list[tuple[Run, dict[str, str], dict[str, str], Callable[[Seen], object], object, object]] = [
    # how it is run, what all runs have, what is set, what is looked at, without it, with it
    (one_summary, {}, {"BATCH_SEARCH_ASYNC": "true"}, lambda s: s.search.peak, 1, 3),
    (summaries, {}, RESTAURANTS, lambda s: s.llm.peak, 1, 8),
    (one_summary, {}, {"LLM_ASYNC": "true"}, lambda s: s.awaited, 0, 1),
    (summaries, ASYNC, {"BATCH_SEARCH_CONCURRENCY": "2"}, lambda s: s.search.peak, 24, 2),
    (summaries, ASYNC, {"BATCH_LLM_CONCURRENCY": "2"}, lambda s: s.llm.peak, 8, 2),
    (labels, ASYNC, {"VLLM_MAX_CONCURRENT_BATCHES": "2"}, lambda s: s.llm.peak, 4, 2),
    (labels, {}, {"VLLM_MAX_TOKENS_PER_BATCH": "450"}, lambda s: len(s.requests) > 4, False, True),
    (labels, {}, {"VLLM_MAX_BATCH_SIZE": "5"}, lambda s: len(s.requests), 4, 16),
    (labels, {}, {"BATCH_SENTIMENT_BATCH_SIZE": "10"}, lambda s: len(s.requests), 4, 8),
    (summaries, ASYNC, {"BATCH_RESTAURANT_WINDOW": "3"}, lambda s: s.llm.peak, 8, 3),
    (words, ASYNC, {"ENABLE_PARALLEL_WORD_PHRASE_EXTRACTION": "true"}, lambda s: s.llm.peak, 1, 2),
    (
        words,
        {**ASYNC, "ENABLE_PARALLEL_WORD_PHRASE_EXTRACTION": "true"},
        {"MAX_SAFE_CHUNKS_FOR_PARALLEL": "0"},
        lambda s: s.llm.peak,
        2,
        1,
    ),
    (words, ASYNC, {"BATCH_VOCABULARY_PLAN": "a"}, lambda s: s.llm.peak, 1, 2),
    (
        one_summary,
        {},
        {"ASPECT_SEEDS_FILE": "seeds.json"},
        lambda s: [query.text for query in s.queries if "조용" in query.text],
        [],
        ["조용 음악"],
    ),
    (
        one_summary,
        {},
        {"BATCH_ASPECTS": "food, mood"},
        lambda s: [query.aspect for query in s.queries],
        ["service", "price", "food"],
        ["food", "mood"],
    ),
    (one_summary, {}, {"BATCH_LIMIT": "4"}, lambda s: {query.limit for query in s.queries}, {10}, {4}),
    (
        one_summary,
        {},
        {"BATCH_MIN_SCORE": "0.3"},
        lambda s: {query.min_score for query in s.queries},
        {0.0},
        {0.3},
    ),
    (
        one_summary,
        {},
        {"BATCH_CATEGORY": "한식"},
        lambda s: {query.category for query in s.queries},
        {None},
        {"한식"},
    ),
    (one_summary, {}, {"BATCH_MODE": "split"}, lambda s: len(s.requests), 1, 4),
    (one_summary, {}, {"BATCH_TEMPERATURE": "0.7"}, lambda s: s.requests[0].temperature, 0.1, 0.7),
    (one_summary, {}, {"BATCH_REPLY_TOKENS": "99"}, lambda s: s.requests[0].max_tokens, 1500, 99),
    (
        one_summary,
        {},
        {"BATCH_LANGUAGE": "ja"},
        lambda s: "Japanese" in str(s.requests[0].messages),
        False,
        True,
    ),
    (
        labels,
        {},
        {"BATCH_INSTRUCTIONS": "짧게"},
        lambda s: "짧게" in str(s.requests[0].messages),
        False,
        True,
    ),
    (
        labels,
        {"BATCH_INSTRUCTIONS": "짧게"},
        {"BATCH_REPLACE_INSTRUCTIONS": "true"},
        lambda s: str(s.requests[0].messages[0]["content"]).startswith("짧게"),
        False,
        True,
    ),
    (
        one_summary,
        {},
        {"BATCH_MAX_REVIEW_TOKENS": "300"},
        lambda s: str(s.requests[0].messages).count("번 맛"),
        30,
        12,
    ),
    (
        found_labels,
        {},
        {"BATCH_SENTIMENT_LIMIT": "7"},
        lambda s: {query.limit for query in s.queries},
        {100},
        {7},
    ),
    (found_labels, {"BATCH_LIMIT": "9"}, {"BATCH_SENTIMENT_LIMIT": "7"}, lambda s: s.queries[0].limit, 9, 7),
    (
        found_labels,
        {},
        {"BATCH_QUERY": "친절한 직원"},
        lambda s: s.queries[0].text == "친절한 직원",
        False,
        True,
    ),
    (
        strengths,
        {},
        {"BATCH_QUERY": "친절한 직원"},
        lambda s: s.queries[0].text == "친절한 직원",
        False,
        True,
    ),
]


@pytest.mark.parametrize(
    ("run", "common", "variables", "look", "without", "given"),
    EFFECTS,
    ids=[f"{next(iter(row[2]))}-{row[0].__name__}" for row in EFFECTS],
)
@pytest.mark.sample(2)
def test_a_variable_changes_the_calls(
    run: Run,
    common: dict[str, str],
    variables: dict[str, str],
    look: Callable[[Seen], object],
    without: object,
    given: object,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = {"service": ["조용", "음악"], "price": ["가격"], "food": ["맛"]}
    (folder / "seeds.json").write_text(json.dumps(seeds), encoding="utf-8")
    assert look(made(run, common, monkeypatch)) == without
    assert look(made(run, {**common, **variables}, monkeypatch)) == given


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("VLLM_DEFAULT_BATCH_SIZE", "30", 30),
        ("VLLM_MIN_BATCH_SIZE", "70", 70),
        ("VLLM_MAX_BATCH_SIZE", "20", 20),
    ],
)
def test_batch_sizes_for_no_reviews_are_what_calculate_dynamic_batch_size_returns(
    name: str, value: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BatchSettings().limits().batch_size([]) == 50
    monkeypatch.setenv(name, value)
    assert BatchSettings().limits().batch_size([]) == expected


def _tokenizer(path: Path) -> Path:
    """Write a tokenizer of which every character is a token."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"x": 0, "?": 1}, unk_token="?")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made.save(str(path))
    return path


def test_a_tokenizer_decides_how_many_reviews_a_batch_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _tokenizer(folder / "tokenizer.json")
    few = {"VLLM_MAX_TOKENS_PER_BATCH": "900"}

    def first_batch(seen: Seen) -> int:
        return len(seen.requests[0].inputs["reviews"])

    estimated = made(labels, few, monkeypatch)
    counted = made(labels, {**few, "BATCH_TOKEN_COUNTER": f"hf:{file}"}, monkeypatch)
    assert first_batch(counted) < first_batch(estimated)
    with pytest.raises(ConfigurationError, match="tokenizers cannot load"):
        made(labels, {"BATCH_TOKEN_COUNTER": f"hf:{folder / 'none.json'}"}, monkeypatch)


def test_a_vllm_server_counts_for_the_run_that_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as server:
        for name, value in {
            "BATCH_LLM_BACKEND": "vllm",
            "BATCH_LLM_URL": server.url,
            "BATCH_TOKEN_COUNTER": "vllm",
        }.items():
            monkeypatch.setenv(name, value)
        settings = BatchSettings()
        with BatchRunner.from_settings(settings, search=FakeSearch({})) as runner:
            report = labels(settings, runner)
    assert not report.failures, report.failures[0]
    assert report.stats.calls["tokens"] > 0


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("vllm", "BATCH_LLM_BACKEND=vllm"),
        ("hf", "hf:Qwen/"),
        ("guess", "give estimate, tiktoken"),
        ("estimate:x", "give estimate, tiktoken"),
        ("hf:", "give estimate, tiktoken"),
        ("tiktoken:no-such-encoding", "tiktoken knows no model or encoding 'no-such-encoding'"),
    ],
)
def test_a_counter_that_cannot_count_says_what_to_write(
    value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_TOKEN_COUNTER", value)
    with pytest.raises(ConfigurationError, match=complaint):
        BatchSettings().runner_arguments()


def test_runpods_times_and_form_of_input_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(work: Any) -> End:
        return End(after=0.2, more={"output": "text" if "prompt" in work.input else [completion("chat")]})

    with Dispatcher(script) as dispatcher:
        common = {
            "BATCH_LLM_BACKEND": "runpod",
            "RUNPOD_API_KEY": KEY,
            "RUNPOD_ENDPOINT_ID": "ep",
            "RUNPOD_ENDPOINT_BASE_URL": dispatcher.base_url,
            "RUNPOD_POLL_INTERVAL": "0.02",
        }
        for name, value in common.items():
            monkeypatch.setenv(name, value)

        def ask() -> str:
            llm: Any = BatchSettings().llm()
            try:
                return str(llm.complete(asking("x")).text)
            finally:
                llm.close()

        assert ask() == "chat"
        assert dispatcher.asked["status"] > 3
        monkeypatch.setenv("RUNPOD_INPUT", "prompt")
        assert ask() == "text"
        monkeypatch.setenv("RUNPOD_MAX_WAIT_TIME", "0.05")
        with pytest.raises(PermanentBackendError, match=r"timeout=0\.05"):
            ask()


def test_an_option_goes_before_a_more_special_variable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("RUNPOD_MAX_WAIT_TIME", "300")
    monkeypatch.setenv("BATCH_SENTIMENT_LIMIT", "50")
    assert BatchSettings().arguments("runpod")["timeout"] == 300
    assert BatchSettings(batch_llm_timeout=60, batch_limit=5).arguments("runpod")["timeout"] == 60
    assert BatchSettings(batch_llm_timeout=60, batch_limit=5).sentiment().limit == 5
    assert BatchSettings(batch_limit=5).summary().limit == 5
    (folder / "restaurant-llm-batch.toml").write_text("batch_sentiment_limit = 7\nbatch_limit = 8\n")
    monkeypatch.delenv("BATCH_SENTIMENT_LIMIT")
    assert BatchSettings().sentiment().limit == 7
    (folder / ".env").write_text("BATCH_LIMIT=9\n")
    assert BatchSettings().sentiment().limit == 9


def test_a_folder_in_qdrant_url_is_the_local_mode_of_its_client(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with QdrantSearch("places", path=folder / "qdrant_data") as search:
        search.index_reviews([{"restaurant_id": 1, "id": 7, "content": "직원이 친절해요"}])
    monkeypatch.setenv("BATCH_SEARCH_BACKEND", "qdrant")
    monkeypatch.setenv("QDRANT_COLLECTION", "places")
    monkeypatch.setenv("QDRANT_API_KEY", "left over")
    for location in ("qdrant_data", str(folder / "qdrant_data"), "./qdrant_data"):
        monkeypatch.setenv("QDRANT_URL", location)
        found: Any = BatchSettings().search()
        assert "qdrant_data" in repr(found)
    with found:
        assert [hit.content for hit in found.search(SearchQuery(1, "친절"))] == ["직원이 친절해요"]


@pytest.mark.parametrize(
    "written",
    ["service=0.6,price=.55", ' {"service": 0.6, "price": "0.55"} ', "price=0.55, service = 0.6"],
)
def test_averages_are_shares_by_aspect(written: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("BATCH_AVERAGES", written)
    assert BatchSettings().comparison().averages == {"service": 0.6, "price": 0.55}
    monkeypatch.delenv("BATCH_AVERAGES")
    (folder / "restaurant-llm-batch.toml").write_text("[batch_averages]\nservice = 0.6\nprice = 0.55\n")
    assert BatchSettings().comparison().averages == {"service": 0.6, "price": 0.55}


@pytest.mark.parametrize("written", ["service", "{}", "{", "service=much", "=0.5,", ","])
def test_averages_that_are_none_are_refused(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_AVERAGES", written)
    with pytest.raises(ConfigurationError, match="BATCH_AVERAGES"):
        BatchSettings().comparison()

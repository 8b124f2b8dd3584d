"""The environment, under the names and with the defaults of the source service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from restaurant_llm_batch import (
    BatchRunner,
    BatchSettings,
    ConcurrencyLimiter,
    ExtractVocabulary,
    Limits,
    Strategy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.testing import FakeLLM, FakeSearch


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in BatchSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("BATCH_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)  # no .env and no file of settings


def test_the_defaults_are_those_of_the_source_service() -> None:
    settings = BatchSettings()

    assert settings.strategy() == Strategy(False, False, False)
    assert settings.limits() == Limits(search=50, llm=8, batches=20, open_items=200)
    assert settings.aspects() == ("service", "price", "food")
    assert settings.vocabulary() == ExtractVocabulary(parallel=False, max_safe_chunks=4)


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "BATCH_SEARCH_ASYNC": "true",
        "BATCH_RESTAURANT_ASYNC": "1",
        "LLM_ASYNC": "on",
        "BATCH_SEARCH_CONCURRENCY": "31",
        "BATCH_LLM_CONCURRENCY": "32",
        "VLLM_MAX_CONCURRENT_BATCHES": "33",
        "BATCH_RESTAURANT_WINDOW": "34",
        "VLLM_MAX_TOKENS_PER_BATCH": "3500",
        "VLLM_MIN_BATCH_SIZE": "11",
        "VLLM_DEFAULT_BATCH_SIZE": "12",
        "VLLM_MAX_BATCH_SIZE": "13",
        "ENABLE_PARALLEL_WORD_PHRASE_EXTRACTION": "true",
        "MAX_SAFE_CHUNKS_FOR_PARALLEL": "14",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = BatchSettings()

    assert settings.strategy() == Strategy.stage(4)
    assert settings.limits() == Limits(31, 32, 33, None, 34, 3500, 11, 13, 12)
    assert settings.vocabulary() == ExtractVocabulary(parallel=True, max_safe_chunks=14)


def test_arguments_of_a_vocabulary_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_PARALLEL_WORD_PHRASE_EXTRACTION", "true")
    task = BatchSettings().vocabulary(max_safe_chunks=9, language="en", max_concurrent_sequences=40)

    assert task == ExtractVocabulary(
        parallel=True, max_safe_chunks=9, language="en", max_concurrent_sequences=40
    )
    with pytest.raises(errors.ConfigurationError, match=r"ExtractVocabulary\.plan must be"):
        BatchSettings().vocabulary(plan="D")


def test_a_useless_value_is_refused_and_the_variable_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_LLM_CONCURRENCY", "lots")
    with pytest.raises(errors.ConfigurationError, match="BATCH_LLM_CONCURRENCY='lots'"):
        BatchSettings()
    monkeypatch.delenv("BATCH_LLM_CONCURRENCY")
    monkeypatch.setenv("MAX_SAFE_CHUNKS_FOR_PARALLEL", "-1")
    with pytest.raises(errors.ConfigurationError, match="MAX_SAFE_CHUNKS_FOR_PARALLEL='-1'"):
        BatchSettings()


def test_a_runner_from_the_environment_runs_and_arguments_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_RESTAURANT_ASYNC", "true")
    runner = BatchRunner.from_settings(
        BatchSettings(), llm=FakeLLM(), search=FakeSearch({1: ["맛"]}), limits=Limits(llm=2)
    )

    assert runner.strategy == Strategy(restaurant_async=True)
    assert runner.limits.llm == 2
    assert len(runner.run(SummarizeAspects(), [1]).results) == 1


def test_the_backends_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from restaurant_llm_batch import Review
    from restaurant_llm_batch.search import EmbeddedSearch

    with EmbeddedSearch(tmp_path / "index") as search:
        search.index_reviews([Review("직원이 친절해요", "r1", 1)])
    monkeypatch.setenv("BATCH_SEARCH_PATH", str(tmp_path / "index"))
    (result,) = BatchRunner.from_settings(BatchSettings()).run(SummarizeAspects(), [1]).results

    assert result.model == "offline-extractive"


def test_seed_words_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "seeds.json"
    file.write_text(json.dumps({"분위기": ["조용", "음악"]}), encoding="utf-8")
    monkeypatch.setenv("ASPECT_SEEDS_FILE", str(file))
    assert BatchSettings().aspects() == {"분위기": ["조용", "음악"]}

    for broken in ("[1]", "{", None):
        if broken is None:
            file.unlink()
        else:
            file.write_text(broken)
        with pytest.raises(errors.ConfigurationError, match="ASPECT_SEEDS_FILE"):
            BatchSettings().aspects()


def test_no_batch_size_without_effect_blocks_one_that_has_one() -> None:
    limits = Limits(max_batch_size=5)
    assert limits.batch_size(["맛있어요"] * 1000) == 5
    assert limits.batch_size([]) == 5
    assert Limits().batch_size([]) == 50
    assert (
        Limits(min_batch_size=30, max_tokens_per_batch=100).batch_size(["아주 긴 리뷰입니다 " * 30] * 9) == 1
    )


def test_a_preset_yields_to_a_limit_that_is_given() -> None:
    assert Limits.preset("24gb", batches=3) == Limits(batches=3, max_tokens_per_batch=3000, max_batch_size=80)
    assert Limits.preset("80gb").batches == 50


@pytest.mark.parametrize("name", ["24gb", "40gb"])
def test_presets_are_the_source_services_gpu_settings(name: str) -> None:
    expected = {
        "24gb": Limits(batches=15, max_tokens_per_batch=3000, max_batch_size=80),
        "40gb": Limits(batches=30, max_tokens_per_batch=6000, max_batch_size=150),
    }

    assert expected[name] == Limits.preset(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            {"llm": 0},
            r"at least 1, an AdaptiveLimit\(...\) or a ConcurrencyLimiter\(...\), got 0; for example Limits\(llm=8\)",
        ),
        ({"tokens_per_minute": 0}, r"got 0; for example Limits\(tokens_per_minute=200000\)"),
        ({"search": "50"}, "Limits.search"),
        ({"llm_total": 0}, "Limits.llm_total"),
        ({"open_items": True}, "Limits.open_items"),
        ({"open_items": ConcurrencyLimiter(3)}, "Limits.open_items"),
        ({"min_batch_size": 0}, "Limits.min_batch_size"),
    ],
)
def test_useless_limits_are_refused_with_what_to_write(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=complaint):
        Limits(**arguments)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigurationError, match="preset must be"):
        Limits.preset("16gb")  # type: ignore[arg-type]


def test_strategies_say_what_to_write() -> None:
    for number in (0, 5, True, "4"):
        with pytest.raises(errors.ConfigurationError, match=r"Strategy.stage\(4\)"):
            Strategy.stage(number)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigurationError, match=r"Strategy.threaded\(\)"):
        Strategy(llm_async=True, restaurant_async=True, threads=True)
    with pytest.raises(errors.ConfigurationError, match="must be True or False"):
        Strategy(search_async="yes")  # type: ignore[arg-type]


SERVICES = {
    "openai": {
        "BATCH_LLM_MODEL": "gpt-x",
        "OPENAI_API_KEY": "hush",
        "BATCH_LLM_URL": "http://127.0.0.1:9/v1",
    },
    "vllm": {"BATCH_LLM_URL": "http://127.0.0.1:9", "VLLM_API_KEY": "hush"},
    "runpod": {"RUNPOD_ENDPOINT_ID": "abc", "RUNPOD_API_KEY": "hush"},
}
KINDS = {"openai": "OpenAILLM", "vllm": "VLLMServerLLM", "runpod": "RunPodLLM"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_made_from_its_variables(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_LLM_BACKEND", service)
    for name, value in SERVICES[service].items():
        monkeypatch.setenv(name, value)
    settings = BatchSettings()

    assert type(settings.llm()).__name__ == KINDS[service]
    assert "hush" not in f"{settings!r} {settings} {settings.llm()!r}"


def test_qdrant_is_made_from_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SEARCH_BACKEND", "qdrant")
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("QDRANT_API_KEY", "hush")
    search = BatchSettings().search()

    assert type(search).__name__ == "QdrantSearch"
    assert "'reviews'" in repr(search)
    assert "hush" not in repr(search)


def test_an_embedder_is_made_from_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(BatchSettings().embedder()).__name__ == "HashingEmbedder"
    monkeypatch.setenv("BATCH_EMBEDDER", "api")
    monkeypatch.setenv("BATCH_EMBEDDING_MODEL", "tiny")
    monkeypatch.setenv("BATCH_EMBEDDING_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("BATCH_EMBEDDING_API_KEY", "hush")
    embedder = BatchSettings().embedder()

    assert type(embedder).__name__ == "APIEmbedder"
    assert "hush" not in f"{embedder!r} {BatchSettings()!r}"


@pytest.mark.parametrize(
    ("variable", "value", "missing"),
    [
        ("BATCH_LLM_BACKEND", "openai", "BATCH_LLM_MODEL"),
        ("BATCH_LLM_BACKEND", "vllm", "BATCH_LLM_URL"),
        ("BATCH_LLM_BACKEND", "runpod", "RUNPOD_ENDPOINT_ID"),
        ("BATCH_SEARCH_BACKEND", "qdrant", "QDRANT_URL"),
        ("BATCH_EMBEDDER", "api", "BATCH_EMBEDDING_MODEL"),
    ],
)
def test_a_missing_variable_is_named_with_an_example(
    variable: str, value: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(
        errors.ConfigurationError, match=f"{variable}={value} needs {missing}; for example .*{missing}="
    ):
        BatchRunner.from_settings(BatchSettings())


def test_a_key_of_the_wrong_kind_is_not_repeated() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"OPENAI_API_KEY=\*\*\*") as caught:
        BatchSettings(openai_api_key=["hush"])
    assert "hush" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("texts", ["", "1", "false"])
def test_a_record_is_made_from_its_variables(texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_RECORD", "night.db")
    monkeypatch.setenv("BATCH_RECORD_TEXTS", texts)
    search = FakeSearch({1: ["맛있어요"]})
    with BatchRunner.from_settings(BatchSettings(), llm=FakeLLM(), search=search) as runner:
        runner.run(SummarizeAspects(), [1])

    assert open_record("night.db").run().texts is (texts == "1")

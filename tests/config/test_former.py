"""The source service's variables: each is read, or has a successor, or a sentence that says why it has none."""

from __future__ import annotations

import logging
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dotenv import dotenv_values

from restaurant_llm_batch import BatchSettings
from restaurant_llm_batch._settings.former import FORMER, former_of
from restaurant_llm_batch._settings.translation import as_env, as_toml, translate
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.cli._commands import config

NAMES = [
    "BATCH_SEARCH_ASYNC",
    "BATCH_RESTAURANT_ASYNC",
    "LLM_ASYNC",
    "BATCH_SEARCH_CONCURRENCY",
    "BATCH_LLM_CONCURRENCY",
    "VLLM_MAX_CONCURRENT_BATCHES",
    "VLLM_MAX_TOKENS_PER_BATCH",
    "VLLM_MIN_BATCH_SIZE",
    "VLLM_MAX_BATCH_SIZE",
    "VLLM_DEFAULT_BATCH_SIZE",
    "BATCH_RESTAURANT_WINDOW",
    "ENABLE_PARALLEL_WORD_PHRASE_EXTRACTION",
    "MAX_SAFE_CHUNKS_FOR_PARALLEL",
    "ASPECT_SEEDS_FILE",
    "SENTIMENT_MODEL",
    "EMBEDDING_MODEL",
    "EMBEDDING_DIM",
    "SPARSE_EMBEDDING_MODEL",
    "LLM_MODEL",
    "LLM_PROVIDER",
    "OPENAI_MODEL",
    "USE_GPU",
    "GPU_DEVICE",
    "USE_FP16",
    "MAX_RETRIES",
    "LLM_POLISH_TIMEOUT_SECONDS",
    "LLM_BATCH_SIZE",
    "VLLM_USE_PRIORITY_QUEUE",
    "VLLM_PRIORITY_BY_PREFILL_COST",
    "OPENAI_API_KEY",
    "ENABLE_OPENAI_FALLBACK",
    "RUNPOD_API_KEY",
    "RUNPOD_ENDPOINT_ID",
    "USE_RUNPOD",
    "RUNPOD_POLL_INTERVAL",
    "RUNPOD_MAX_WAIT_TIME",
    "USE_POD_VLLM",
    "VLLM_TENSOR_PARALLEL_SIZE",
    "VLLM_MAX_MODEL_LEN",
    "SENTIMENT_CLASSIFIER_USE_THREAD",
    "SENTIMENT_LLM_ASYNC",
    "SENTIMENT_RESTAURANT_ASYNC",
    "SENTIMENT_FORCE_CPU",
    "SUMMARY_LLM_ASYNC",
    "SUMMARY_SEARCH_ASYNC",
    "SUMMARY_RESTAURANT_ASYNC",
    "COMPARISON_ASYNC",
    "COMPARISON_BATCH_ASYNC",
    "QDRANT_URL",
    "QDRANT_VECTORS_ON_DISK",
    "COLLECTION_NAME",
    "SCORE_THRESHOLD",
    "ENABLE_SENTIMENT_SAMPLING",
    "SENTIMENT_RECENT_TOP_K",
    "SKIP_MIN_INTERVAL_SECONDS",
    "ALL_AVERAGE_ASPECT_DATA_PATH",
    "ALL_AVERAGE_SERVICE_RATIO",
    "ALL_AVERAGE_PRICE_RATIO",
    "METRICS_ENABLED",
    "METRICS_LOG_PATH",
    "CPU_MONITOR_ENABLED",
    "CPU_MONITOR_INTERVAL",
    "RUNPOD_POD_ID",
    "IDLE_THRESHOLD",
    "CHECK_INTERVAL",
    "IDLE_LIMIT",
    "MIN_RUNTIME",
]
"""Every variable that it read."""

TRANSLATED: dict[str, dict[str, object]] = {
    "LLM_PROVIDER=openai": {"batch_llm_backend": "openai", "batch_llm_model": "gpt-4o-mini"},
    "LLM_PROVIDER=runpod": {
        "batch_llm_backend": "runpod",
        "batch_llm_model": "Qwen/Qwen2.5-7B-Instruct",
        "runpod_input": "prompt",
    },
    "LLM_PROVIDER=local": {"batch_llm_backend": "vllm-engine", "batch_llm_model": "Qwen/Qwen2.5-7B-Instruct"},
    "USE_RUNPOD=true": {"batch_llm_backend": "runpod", "runpod_input": "prompt"},
    "USE_RUNPOD=false": {},
    "USE_POD_VLLM=1": {"batch_llm_backend": "vllm-engine"},
    "USE_POD_VLLM=true\nUSE_RUNPOD=true\nLLM_MODEL=mine": {
        "batch_llm_backend": "vllm-engine",
        "batch_llm_model": "mine",
    },
    "OPENAI_MODEL=gpt-5-mini": {"batch_llm_backend": "openai", "batch_llm_model": "gpt-5-mini"},
    "LLM_PROVIDER=runpod\nLLM_MODEL=a\nOPENAI_MODEL=b": {"batch_llm_model": "a"},
    "LLM_PROVIDER=openai\nLLM_MODEL=a\nOPENAI_MODEL=b": {"batch_llm_model": "b"},
    "LLM_MODEL=a": {},
    "OPENAI_API_KEY=sk-1": {"batch_llm_backend": "openai", "batch_llm_model": "gpt-4o-mini"},
    "OPENAI_API_KEY=sk-1\nRUNPOD_ENDPOINT_ID=abc": {
        "batch_llm_backend": "runpod",
        "runpod_endpoint_id": "abc",
    },
    "MAX_RETRIES=5": {"batch_attempts": 5},
    "MAX_RETRIES=0": {"batch_attempts": 1},
    "LLM_BATCH_SIZE=12": {"batch_sentiment_batch_size": 12},
    "RUNPOD_MAX_WAIT_TIME=300": {"runpod_max_wait_time": 300.0},
    "RUNPOD_POLL_INTERVAL=2": {"runpod_poll_interval": 2.0},
    "USE_POD_VLLM=true\nVLLM_TENSOR_PARALLEL_SIZE=2\nVLLM_MAX_MODEL_LEN=8192": {
        "vllm_engine_arguments": {"tensor_parallel_size": 2, "max_model_len": 8192}
    },
    "VLLM_MAX_MODEL_LEN=8192": {},
    "SUMMARY_LLM_ASYNC=true": {"llm_async": True},
    "LLM_ASYNC=false\nSENTIMENT_LLM_ASYNC=true": {"llm_async": True},
    "SUMMARY_LLM_ASYNC=false\nSENTIMENT_LLM_ASYNC=false": {"llm_async": False},
    "SUMMARY_SEARCH_ASYNC=on": {"batch_search_async": True},
    "COMPARISON_ASYNC=yes": {"batch_search_async": True},
    "SUMMARY_RESTAURANT_ASYNC=true\nCOMPARISON_BATCH_ASYNC=false": {"batch_restaurant_async": True},
    "COLLECTION_NAME=places": {"qdrant_collection": "places"},
    "QDRANT_URL=http://q:6333": {
        "qdrant_url": "http://q:6333",
        "batch_search_backend": "qdrant",
        "qdrant_collection": "reviews_collection",
        "batch_embedder": "fastembed",
        "batch_sparse_embedder": "bm25",
    },
    "QDRANT_URL=./qdrant_data\nCOLLECTION_NAME=c\nEMBEDDING_MODEL=m\nSPARSE_EMBEDDING_MODEL=Qdrant/bm25": {
        "qdrant_url": "./qdrant_data",
        "qdrant_collection": "c",
        "batch_embedding_model": "m",
        "batch_sparse_embedder": "bm25",
    },
    "SPARSE_EMBEDDING_MODEL=none": {"batch_sparse_embedder": "hashing"},
    "SENTIMENT_RECENT_TOP_K=70": {"batch_sentiment_limit": 70},
    "ALL_AVERAGE_SERVICE_RATIO=0.7": {"batch_averages": {"service": 0.7, "price": 0.55}},
    "ALL_AVERAGE_SERVICE_RATIO=0.7\nALL_AVERAGE_PRICE_RATIO=0.4": {
        "batch_averages": {"service": 0.7, "price": 0.4}
    },
    "MAX_RETRIES=5\nBATCH_ATTEMPTS=2": {"batch_attempts": 2},
    "SCORE_THRESHOLD=0.8": {},
    "ENABLE_OPENAI_FALLBACK=true": {},
}
"""Lines of an old file, with the settings that they come to."""
VALUES = {
    "true": re.compile("ASYNC|^USE_|ENABLE|THREAD|FORCE|QUEUE|COST|ON_DISK"),
    "0.5": re.compile("RATIO|THRESHOLD"),
    "openai": re.compile("PROVIDER"),
    "seeds.json": re.compile("FILE|PATH"),
    "Qdrant/bm25": re.compile("MODEL$"),
    "http://q:6333": re.compile("URL"),
    "rpa_hush": re.compile("KEY$"),
    "abc": re.compile("_ID$|NAME$|DEVICE"),
}


def value_for(name: str) -> str:
    """Return a value that fits a variable."""
    return next((value for value, names in VALUES.items() if names.search(name)), "7")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder and an environment without settings."""
    for name in (*map(str.upper, BatchSettings.model_fields), "BATCH_CONFIG", *NAMES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*words: object) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words])


def loaded(folder: Path, text: str, *, toml: bool = False) -> BatchSettings:
    """Return the settings that a file gives."""
    (folder / ("restaurant-llm-batch.toml" if toml else ".env")).write_text(text, encoding="utf-8")
    return BatchSettings()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.sample(2)
def test_every_variable_is_a_setting_or_explained_and_its_translation_loads(name: str, folder: Path) -> None:
    former = former_of(name)
    assert (name.lower() in BatchSettings.model_fields) != (former is not None)
    text = as_env(translate(f"{name}={value_for(name)}\n"), "old.env")
    assert f"# {name}: " in text
    assert "passed over" not in text
    settings = loaded(folder, text)
    if former is None and "KEY" not in name:
        assert name.lower() in settings.model_fields_set
    if former is not None and former.successors:
        assert {successor.lower() for successor in former.successors} <= BatchSettings.model_fields.keys()
        assert former.note.count(".") == 0 or not former.note.endswith(".")


def test_a_successor_is_a_setting_and_no_former_variable() -> None:
    for name, former in FORMER.items():
        assert name.lower() not in BatchSettings.model_fields
        assert all(one.lower() in BatchSettings.model_fields for one in former.successors), name


@pytest.mark.parametrize("toml", [False, True], ids=["env", "toml"])
@pytest.mark.parametrize("lines", TRANSLATED)
@pytest.mark.sample(2)
def test_what_an_old_file_says_comes_to_the_same_settings(lines: str, toml: bool, folder: Path) -> None:
    found = translate(lines)
    settings = loaded(folder, as_toml(found, "old.env") if toml else as_env(found, "old.env"), toml=toml)
    expected = TRANSLATED[lines]
    assert {name: getattr(settings, name) for name in expected} == expected
    if not expected:
        assert settings.model_fields_set == set()


def test_the_whole_old_file_comes_to_one_that_loads(folder: Path) -> None:
    text = "".join(f"{name}={value_for(name)}\n" for name in NAMES)
    (folder / "old.env").write_text(text)
    shown = invoke("config", "--from-env", "old.env")
    assert shown.exit_code == 0, shown.output
    assert all(f"# {name}:" in shown.output for name in NAMES)
    assert "hush" not in shown.output
    settings = loaded(folder, shown.output)
    assert settings.batch_llm_backend == "openai"
    assert settings.batch_search_backend == "qdrant"
    names = [line.partition("=")[0] for line in shown.output.splitlines() if not line.startswith("#")]
    assert len(names) - names.count("") == len(set(names) - {""})
    other = tomllib.loads(invoke("config", "--from-env", "old.env", "--toml").output)
    assert other["batch_llm_backend"] == "openai"


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("export LLM_PROVIDER='runpod'\n", "runpod"),
        ('LLM_PROVIDER="runpod" # which\n', "runpod"),
        ("LLM_PROVIDER=runpod\r\nLLM_MODEL=x\r\n", "runpod"),
        ("\ufeffLLM_PROVIDER=runpod\n", "runpod"),
        ("llm_provider = runpod\n", "runpod"),
        ("LLM_PROVIDER=openai\nLLM_PROVIDER=runpod\n", "runpod"),
        ("# LLM_PROVIDER=openai\n\n\nLLM_PROVIDER=runpod", "runpod"),
        ("a broken line\n=\n'\nLLM_PROVIDER=runpod", "runpod"),
        ("LLM_PROVIDER=\nUSE_RUNPOD=true", "runpod"),
        ("LLM_PROVIDER=azure\nUSE_RUNPOD=true", "runpod"),
        ("", "offline"),
        ("LLM_PROVIDER", "offline"),
        ("LLM_PROVIDER=" + "x" * 100_000, "offline"),
        ("\x00\x1b[2J=1\n", "offline"),
    ],
)
def test_odd_files_are_read(raw: str, expected: str, folder: Path) -> None:
    text = as_env(translate(config.decoded(raw.encode())), "old.env")
    assert "\x1b" not in text
    assert len(text) < 5_000
    assert loaded(folder, text).batch_llm_backend == expected


@pytest.mark.parametrize("encoding", ["utf-16", "cp949", "utf-8-sig"])
def test_files_of_windows_are_read(encoding: str) -> None:
    text = config.decoded("# 한국어 설명\nLLM_PROVIDER=local\n".encode(encoding))
    assert "vllm-engine" in as_env(translate(text), "old.env")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("BATCH_LLM_CONCURRENCY=lots", "give a whole number of at least 1, or auto"),
        ("MAX_RETRIES=often", "give a whole number of at least 0"),
        ("SUMMARY_LLM_ASYNC=perhaps", "give true or false"),
        ("LLM_PROVIDER=azure", "give openai, runpod or local"),
        ("ALL_AVERAGE_SERVICE_RATIO=7", "give a share above 0 and at most 1"),
        ("ALL_AVERAGE_PRICE_RATIO=x", "give a share above 0 and at most 1"),
        ("LLM_BATCH_SIZE=0", "greater than or equal to 1"),
        ("SENTIMENT_RECENT_TOP_K=5000", "less than or equal to 1000"),
        ("USE_POD_VLLM=true\nVLLM_MAX_MODEL_LEN=long", "give a whole number of at least 1"),
        ("RUNPOD_POLL_INTERVAL=often", "valid number"),
    ],
)
def test_a_value_that_cannot_be_used_is_passed_over_with_what_to_write(
    line: str, complaint: str, folder: Path
) -> None:
    text = as_env(translate(line), "old.env")
    assert "cannot be used and is passed over" in " ".join(text.replace("#", "").split())
    assert complaint in " ".join(text.replace("#", "").split())
    loaded(folder, text)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "line",
    [
        "OPENAI_API_KEY=sk-hush",
        "RUNPOD_API_KEY=rpa_hush",
        "QDRANT_API_KEY=hush",
        "VLLM_API_KEY=hush",
        "BATCH_SERVE_TOKEN=hush",
        "QDRANT_URL=https://user:hush@qdrant:6333",
        "BATCH_PROXY=http://user:hush@proxy:1",
        "OPENAI_MODEL=sk-hush",
        'BATCH_LLM_EXTRA_BODY=\'{"api_key": "hush"}\'',
        'VLLM_ENGINE_ARGUMENTS=\'{"hf_token": "hush"}\'',
        "DATABASE_URL=postgres://me:hush@db/reviews",
        "SOME_PASSWORD=hush",
        "METRICS_TOKEN=hush",
        "hush hush",
        "MAX_RETRIES=hush",
        "LLM_PROVIDER=hush",
        "BATCH_STAGE=hush",
        'BATCH_LLM_MODEL="x\x1bhush"',
    ],
)
def test_what_may_be_a_key_is_printed_nowhere(line: str, folder: Path) -> None:
    for write in (as_env, as_toml):
        text = write(translate(f"{line}\n"), "old.env")
        assert "hush" not in text
    loaded(folder, as_env(translate(line), "old.env"))


def test_a_key_is_a_line_to_fill_in() -> None:
    text = as_env(translate("RUNPOD_API_KEY=rpa_hush"), "old.env")
    assert text.endswith("\nRUNPOD_API_KEY=\n")
    assert "keep the line of the old file" in text


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "value", ["it's", 'say "no"', "back\\slash", "two\nlines", "# no comment", "한글 & more"]
)
def test_a_text_stays_what_it_was(value: str, folder: Path) -> None:
    old = "BATCH_INSTRUCTIONS='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'\n"
    (folder / "old.env").write_text(old, encoding="utf-8")
    assert dotenv_values("old.env")["BATCH_INSTRUCTIONS"] == value
    for toml in (False, True):
        text = (as_toml if toml else as_env)(translate(old), "old.env")
        assert loaded(folder, text, toml=toml).batch_instructions == value
        (folder / ".env").unlink(missing_ok=True)


@pytest.mark.slow
def test_unknown_names_are_passed_over_and_ten_thousand_lines_are_few() -> None:
    text = "".join(f"BATCH_MINE_{n}=x{n}\n" for n in range(9_999)) + "MAX_RETRIES=4\n"
    shown = as_env(translate(text), "old.env")
    assert shown.endswith("\nBATCH_ATTEMPTS=4\n")
    assert shown.count("passed over") == 9_999


def test_there_must_be_a_file(folder: Path) -> None:
    for name, complaint in (("missing.env", "No such file"), (folder, "directory")):
        shown = invoke("config", "--from-env", name)
        assert (shown.exit_code, complaint in shown.output) == (2, True), shown.output
    assert "--from-env" in invoke("config", "--toml").output


def test_a_former_variable_that_is_set_is_warned_of_with_its_successor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SUMMARY_LLM_ASYNC", "true")
    monkeypatch.setenv("LLM_MODEL", "theirs")  # another program's, perhaps: only `config` speaks of it
    with caplog.at_level(logging.WARNING, "restaurant_llm_batch"):
        BatchSettings()
    assert [record.getMessage().partition(" is not read")[0] for record in caplog.records] == [
        "the variable SUMMARY_LLM_ASYNC"
    ]
    shown = " ".join(invoke("config", "--set").output.split())
    assert "LLM_MODEL is not read: BATCH_LLM_MODEL" in shown
    monkeypatch.setenv("LLM_ASYNC", "true")
    caplog.clear()
    BatchSettings()
    assert not caplog.records

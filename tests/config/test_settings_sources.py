"""Where settings come from, that each has an effect, and that none is missing."""

from __future__ import annotations

import importlib.util
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import (
    AdaptiveBatch,
    AdaptiveLimit,
    AnalyzeSentiment,
    BatchRunner,
    BatchSettings,
    CompareAspects,
    ExtractStrengths,
    ExtractVocabulary,
    Limits,
    Price,
    RetryPolicy,
    StopConditions,
    Store,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
    TimeLimits,
)
from restaurant_llm_batch._settings.setting import setting_of
from restaurant_llm_batch.backends import (
    HTTPTransport,
    OpenAILLM,
    PollingPolicy,
    RunPodLLM,
    Timeout,
    VLLMEngineLLM,
    VLLMServerLLM,
)
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.search import EmbeddedSearch, QdrantSearch
from restaurant_llm_batch.search.embedders import APIEmbedder, FastEmbedder, HashingEmbedder


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder and an environment without settings."""
    for name in (*BatchSettings.model_fields, "batch_config"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TARGETS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "limits": (Limits, ()),
    "adaptive": (AdaptiveLimit, ()),
    "adaptive_batch": (AdaptiveBatch, ()),
    "search_retry": (RetryPolicy, ()),
    "llm_retry": (RetryPolicy, ()),
    "time_limits": (TimeLimits, ()),
    "stop": (StopConditions, ()),
    "store": (Store, ()),
    "timeout": (Timeout, ()),
    "transport": (HTTPTransport, ()),
    # The budget of a batch is that of the limits; the aspects are the settings' own method.
    "summary": (SummarizeAspects, ("aspects",)),
    "reviews": (SummarizeReviews, ("max_tokens_per_batch",)),
    "sentiment": (AnalyzeSentiment, ("max_tokens_per_batch",)),
    "strengths": (ExtractStrengths, ("max_tokens_per_batch",)),
    "comparison": (CompareAspects, ("aspects", "max_tokens_per_batch")),
    "vocabulary": (ExtractVocabulary, ()),
    "polling": (PollingPolicy, ("wait_initial", "multiplier")),
    # Objects of the user's own, and what other targets make.
    "openai": (OpenAILLM, ("client", "async_client", "transport", "timeout")),
    "vllm": (VLLMServerLLM, ("transport", "timeout")),
    "engine": (VLLMEngineLLM, ("llm", "engine", "engine_arguments")),
    "runpod": (RunPodLLM, ("base_url", "polling", "limits", "transport")),
    "embedded": (EmbeddedSearch, ("embedder",)),
    "qdrant": (QdrantSearch, ("path", "client", "async_client", "embedder")),
    "hashing": (HashingEmbedder, ()),
    "fastembed": (FastEmbedder, ("sparse",)),
    "api": (APIEmbedder, ("sparse", "transport")),
}
"""What settings set, with the arguments that are objects and so no settings."""


def arguments_set(target: str) -> set[str]:
    places = (place for field in BatchSettings.model_fields.values() for place in setting_of(field).sets)
    return {place.partition(".")[2] for place in places if place.startswith(f"{target}.")}


@pytest.mark.parametrize("target", TARGETS)
def test_every_argument_is_a_setting(target: str) -> None:
    made, objects = TARGETS[target]
    expected = {name for name in inspect.signature(made).parameters if name not in (*objects, "self")}
    extra = {"limits": {"preset"}, "engine": {"arguments"}}.get(target, set())
    assert arguments_set(target) == expected | extra


def test_every_argument_of_the_runner_is_a_setting() -> None:
    made = {
        "llm",
        "search",
        "strategy",
        "limits",
        "search_retry",
        "llm_retry",
        "time_limits",
        "stop",
        "store",
        "record",
    }
    objects = {"count_tokens", "observers"}
    assert set(inspect.signature(BatchRunner).parameters) - made - objects == arguments_set("runner")


@pytest.mark.parametrize("target", TARGETS)
def test_a_default_is_that_of_the_argument(target: str) -> None:
    parameters = inspect.signature(TARGETS[target][0]).parameters
    for name, field in BatchSettings.model_fields.items():
        for place in setting_of(field).sets:
            owner, _, argument = place.partition(".")
            if owner != target or field.default is None or argument not in parameters:
                continue
            default: Any = parameters[argument].default
            if default is inspect.Parameter.empty:
                continue
            if isinstance(default, Timeout):
                default = default.total
            # RunPod's timeout includes the queue, so its own default is longer than that of the setting.
            assert field.default == default or place == "runpod.timeout", name


def set_variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> BatchSettings:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return BatchSettings()


def test_the_runner_is_made_from_its_variables(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    settings = set_variables(
        monkeypatch,
        BATCH_STAGE="threaded",
        BATCH_LLM_CONCURRENCY="auto",
        BATCH_ADAPTIVE_START="3",
        BATCH_ADAPTIVE_MAX="9",
        VLLM_MAX_TOKENS_PER_BATCH="auto",
        BATCH_ADAPTIVE_BATCH_MAX="9000",
        BATCH_SEARCH_CONCURRENCY="7",
        BATCH_LLM_TOTAL_CONCURRENCY="11",
        BATCH_TOKENS_IN_FLIGHT="1000",
        BATCH_REQUESTS_PER_MINUTE="60",
        BATCH_TOKENS_PER_MINUTE="6000",
        BATCH_LLM_ATTEMPTS="5",
        BATCH_LLM_WAIT_INITIAL="0.25",
        BATCH_SEARCH_WAIT_MAX="3",
        BATCH_CALL_SECONDS="20",
        BATCH_ITEM_SECONDS="30",
        BATCH_RUN_SECONDS="40",
        BATCH_STOP_COST="5",
        BATCH_STOP_ERROR_RATE="0.5",
        BATCH_STOP_SAME_ERROR_IN_A_ROW="4",
        BATCH_PRICES='{"": [0.25, 2], "big": {"prompt": 1, "completion": 2, "cached": 0.1}}',
        BATCH_STORE="run.db",
        BATCH_STORE_LOCK_TIMEOUT="2",
        BATCH_GC_THRESHOLD="50000",
    )
    made = settings.runner_arguments()
    store = made.pop("store")
    assert made == {
        "strategy": Strategy.threaded(),
        "limits": Limits(
            search=7,
            llm=AdaptiveLimit(start=3, max=9),
            llm_total=11,
            max_tokens_per_batch=AdaptiveBatch(max=9000),
            tokens_in_flight=1000,
            requests_per_minute=60,
            tokens_per_minute=6000,
        ),
        "search_retry": RetryPolicy(wait_max=3),
        "llm_retry": RetryPolicy(attempts=5, wait_initial=0.25),
        "time_limits": TimeLimits(call=20, item=30, run=40),
        "stop": StopConditions(max_cost=5, error_rate=0.5, same_error_in_a_row=4),
        "prices": {"": Price(0.25, 2), "big": Price(1, 2, 0.1)},
        "gc_threshold": 50000,
    }
    assert isinstance(store, Store)
    with BatchRunner.from_settings(settings):
        assert (folder / "run.db").exists()


def test_a_service_has_adaptive_limits_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = AdaptiveLimit()
    assert set_variables(monkeypatch, BATCH_LLM_BACKEND="vllm").limits() == Limits(llm=auto, batches=auto)
    assert set_variables(monkeypatch, BATCH_LLM_CONCURRENCY="4").limits() == Limits(llm=4, batches=auto)
    assert set_variables(monkeypatch, BATCH_LIMITS="24gb").limits() == Limits.preset("24gb", llm=4)


@pytest.mark.parametrize(
    ("written", "given"), [("3500", 3500), ("auto", "auto"), (" AUTO ", "auto"), ("1", 1)]
)
def test_the_tokens_of_a_batch_are_a_number_or_auto(
    written: str, given: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = set_variables(monkeypatch, VLLM_MAX_TOKENS_PER_BATCH=written, BATCH_LLM_BACKEND="vllm")

    assert settings.limits().max_tokens_per_batch == given
    assert isinstance(settings.limits().llm, AdaptiveLimit)


@pytest.mark.parametrize("written", ["16", "auto", " AUTO "])
def test_a_limit_is_a_number_or_auto(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = set_variables(monkeypatch, BATCH_LLM_CONCURRENCY=written)
    assert settings.batch_llm_concurrency == (16 if written == "16" else "auto")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("BATCH_LLM_CONCURRENCY", "many", "give a whole number of at least 1, or auto"),
        ("BATCH_LLM_CONCURRENCY", "0", "give a whole number of at least 1, or auto"),
        ("VLLM_MAX_TOKENS_PER_BATCH", "0", "give a whole number of at least 1, or auto"),
        ("VLLM_MAX_TOKENS_PER_BATCH", "automatic", "give a whole number of at least 1, or auto"),
        ("BATCH_STAGE", "5", "input should be '1', '2', '3', '4' or 'threaded'"),
        ("BATCH_PRICES", "[1, 2]", "give a JSON object of dollars"),
        ("BATCH_PRICES", '{"m": [1]}', "give a JSON object of dollars"),
        ("BATCH_PRICES", "{", "give a JSON object of dollars"),
        ("BATCH_LLM_EXTRA_BODY", "[]", "give a JSON object, such as"),
        ("BATCH_STOP_ERROR_RATE", "2", "less than or equal to 1"),
    ],
)
def test_a_useless_value_is_refused_with_what_to_write(
    name: str, value: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        set_variables(monkeypatch, **{name: value})
    assert str(refused.value).startswith(f"{name}=")
    assert complaint in str(refused.value)
    assert str(refused.value).count(name) == 1


def test_a_key_stands_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("BATCH_STAGE", "nine")
    with pytest.raises(ConfigurationError) as refused:
        BatchSettings()
    assert "sk-secret" not in repr(refused.value) + repr(refused.value.__cause__) + repr(
        refused.value.__context__
    )


def test_the_environment_goes_before_dot_env_before_the_file_and_an_argument_before_all(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "restaurant-llm-batch.toml").write_text(
        'batch_llm_model = "file"\nbatch_llm_attempts = 7\nbatch_search_concurrency = 1\nbatch_restaurant_window = 2\n'
    )
    (folder / ".env").write_text(
        'BATCH_SEARCH_CONCURRENCY=3\nBATCH_RESTAURANT_WINDOW=4\nexport BATCH_LLM_URL="x"\n'
    )
    monkeypatch.setenv("BATCH_RESTAURANT_WINDOW", "5")
    settings = BatchSettings(batch_llm_model="argument")

    chosen = (
        "batch_llm_attempts",
        "batch_search_concurrency",
        "batch_restaurant_window",
        "batch_llm_model",
        "llm_async",
    )
    assert [getattr(settings, name) for name in chosen] == [7, 3, 5, "argument", False]
    origins = settings.origins()
    assert [origins[name] for name in chosen] == [
        "restaurant-llm-batch.toml",
        ".env",
        "environment",
        "argument",
        "default",
    ]


def test_a_file_is_named_by_a_variable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "night.toml").write_text('batch_stage = "4"\n[batch_prices]\n"gpt-5-mini" = [0.25, 2.0]\n')
    settings = set_variables(monkeypatch, BATCH_CONFIG="night.toml")
    assert settings.strategy() == Strategy.stage(4)
    assert settings.batch_prices == {"gpt-5-mini": Price(0.25, 2.0)}
    assert settings.origins()["batch_stage"] == "night.toml"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read"),
        ("batch_stage = ", "cannot be read"),
        ("batch_stag = 4", "'batch_stag' is no setting; did you mean batch_stage?"),
        ("[table]\nx = 1", "'table' is no setting; `restaurant-llm-batch config` lists them"),
    ],
)
def test_a_file_that_says_nothing_is_refused(
    text: str | None, complaint: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    if text is not None:
        (folder / "night.toml").write_text(text)
    monkeypatch.setenv("BATCH_CONFIG", "night.toml")
    with pytest.raises(ConfigurationError, match=r"night\.toml") as refused:
        BatchSettings()
    assert complaint in str(refused.value)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("BATCH_LLM_CONCURENCY", "did you mean BATCH_LLM_CONCURRENCY?"),
        ("BATCH_STORAGE", "did you mean BATCH_STORE?"),
        ("BATCH_XYZZY_PLUGH", "`restaurant-llm-batch config` lists them"),
        ("VLLM_MAX_TOKEN_PER_BATCH", "did you mean VLLM_MAX_TOKENS_PER_BATCH?"),
        ("RUNPOD_ENDPOINT", "did you mean RUNPOD_ENDPOINT_ID?"),
        ("VLLM_LOGGING_LEVEL", None),
        ("OPENAI_BASE_URL", None),
        ("RUNPOD_POD_ID", None),
        ("LLM_CACHE", None),
        ("PATH_TO_BATCH", None),
    ],
)
def test_a_misspelt_variable_is_warned_of_with_the_nearest_name(
    name: str, hint: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "restaurant_llm_batch"):
        set_variables(monkeypatch, **{name: "1"})
    told = [record.getMessage() for record in caplog.records if name in record.getMessage()]
    assert told == ([] if hint is None else [f"the variable {name} is no setting; {hint}"])


def test_dot_env_is_looked_through_too(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / ".env").write_text("# a comment\nexport BATCH_STAGGE=4\n")
    BatchSettings()
    assert "BATCH_STAGGE is no setting; did you mean BATCH_STAGE?" in caplog.text


def test_every_setting_says_what_it_means_and_has_an_option_of_its_own() -> None:
    fields = BatchSettings.model_fields
    assert [
        name for name, field in fields.items() if not field.description or not setting_of(field).sets
    ] == []
    options = [option for field in fields.values() if (option := setting_of(field).option)]
    assert len(options) == len(set(options))


def test_the_page_of_settings_is_written_from_the_fields() -> None:
    folder = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("settings_table", folder / "scripts" / "settings_table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    text = table.PAGE.read_text(encoding="utf-8")
    assert table.page(text) == text, "run python scripts/settings_table.py"

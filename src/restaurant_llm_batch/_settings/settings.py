"""
`BatchSettings`: configuration from environment variables, ``.env`` and a TOML file, as runner arguments and backends.

Theory of operation. Every field says which arguments it sets (`Setting.sets`), such as ``limits.llm`` or
``openai.timeout``. `BatchSettings.arguments` collects those of one target that were set, and each method makes the
object of its target with them: what nothing sets keeps the default of the argument, so a default stands in one place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsError

from .. import backends
from .. import search as search_backends
from .._config.limits import Limits
from .._config.retry import RetryPolicy
from .._config.stopping import StopConditions, TimeLimits
from .._config.strategy import Strategy
from .._limits.aimd import AdaptiveLimit
from .._limits.batch_budget import AdaptiveBatch
from .._store.store import Store
from ..errors import ConfigurationError
from ..protocols import AsyncLLMBackend, AsyncSearchBackend, Embedder, LLMBackend, SearchBackend, TokenCounter
from ..records._recording import Recording
from ..search import embedders
from ..tasks.aspects import SEEDS, Aspects
from ..tasks.comparison import CompareAspects
from ..tasks.reviews import SummarizeReviews
from ..tasks.sentiment import AnalyzeSentiment
from ..tasks.strengths import ExtractStrengths
from ..tasks.summary import SummarizeAspects
from ..tasks.vocabulary import ExtractVocabulary
from ..tokens import TiktokenCounter, TokenizersCounter, estimate_tokens
from .fields import SettingFields
from .keys import without_keys
from .setting import setting_of
from .sources import ENV_FILE, Origin, config_sources, origin_of, warn_of_misspelt_names

_EXAMPLES = {
    "batch_llm_model": "gpt-5-mini",
    "batch_llm_url": "http://localhost:8000",
    "runpod_endpoint_id": "abc123def456",
    "qdrant_url": "http://localhost:6333",
    "batch_embedding_model": "text-embedding-3-small",
}
"""Example values for error messages."""
_REQUIRED_BY = {
    "batch_llm_model": "batch_llm_backend",
    "batch_llm_url": "batch_llm_backend",
    "runpod_endpoint_id": "batch_llm_backend",
    "qdrant_url": "batch_search_backend",
    "batch_embedding_model": "batch_embedder",
}
"""The variable whose value makes each of these required."""
_OF_A_SERVER = ("api_key", "prefer_grpc", "grpc_port", "pool_size")
"""Arguments of `QdrantSearch` that a folder does not take."""
_SERVICES = frozenset({"openai", "openai-batch", "vllm", "runpod"})
"""Backends that may have more or fewer slots than any number given here."""


class BatchSettings(SettingFields):
    """
    Configuration from environment variables, ``.env`` and a TOML file. A keyword argument overrides all of them.

    Every field is read from the environment variable of its name in capitals, otherwise from the same name in the file
    ``.env``, otherwise from the field's name in the TOML file ``restaurant-llm-batch.toml``, or in the one that
    ``BATCH_CONFIG`` names. The names are those of the service that this library was made for, as far as it had them.
    ``restaurant-llm-batch config`` prints every setting with its value, its meaning and where the value comes from.

    A variable whose name is nearly that of a setting is warned of.

    Raises:
        ConfigurationError: A variable has an invalid value; the message names the variable.
    """

    _given: frozenset[str] = PrivateAttr(default=frozenset())

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_describe(error)) from None
        except SettingsError as error:
            raise ConfigurationError(f"the settings cannot be read: {error}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(
                f"{ENV_FILE} cannot be read: it is not UTF-8; save it as UTF-8 (PowerShell 5 writes UTF-16 by >)"
            ) from None
        self._given = frozenset(values)
        warn_of_misspelt_names(type(self))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the first of which goes before the others."""
        return init_settings, *config_sources(settings_cls, env_settings, dotenv_settings)

    def origins(self) -> dict[str, Origin]:
        """Return where each value comes from, by the field's name; "argument" for those given in Python."""
        found = {**origin_of(type(self)), **dict.fromkeys(self._given, "argument")}
        return {name: found.get(name, "default") for name in type(self).model_fields}

    def arguments(self, target: str) -> dict[str, Any]:
        """
        Return the arguments of a target that something sets.

        Args:
            target: The first part of `Setting.sets`, such as "limits" or "openai".
        """
        found: dict[str, str] = {}
        for name, field in type(self).model_fields.items():
            if name not in self.model_fields_set or (field.default is None and getattr(self, name) is None):
                continue
            for place in setting_of(field).sets:
                owner, _, argument = place.partition(".")
                if owner == target and (argument not in found or self._goes_before(name, found[argument])):
                    found[argument] = name
        return {argument: getattr(self, name) for argument, name in found.items()}

    def _goes_before(self, later: str, earlier: str) -> bool:
        """Return whether a field holds, of two that set one argument: unless its source yields to the earlier one's."""
        origins = self.origins()
        return _rank(origins[later]) >= _rank(origins[earlier])

    def strategy(self) -> Strategy:
        """Return the strategy that ``BATCH_STAGE`` or the three ``*_async`` variables select."""
        if self.batch_stage == "threaded":
            return Strategy.threaded()
        if self.batch_stage is not None:
            return Strategy.stage(int(self.batch_stage))
        return Strategy(
            search_async=self.batch_search_async,
            restaurant_async=self.batch_restaurant_async,
            llm_async=self.llm_async,
        )

    def limits(self) -> Limits:
        """Return the limits; those of calls of the model adapt by default if a service is behind it."""
        given = self.arguments("limits")
        preset = given.pop("preset", None)
        if preset is None and self.batch_llm_backend in _SERVICES:
            given = {"llm": "auto", "batches": "auto", **given}
        chosen = {name: self._adaptive(name, value) for name, value in given.items() if value is not None}
        return Limits(**chosen) if preset is None else Limits.preset(preset, **chosen)

    def _adaptive(self, name: str, value: Any) -> Any:
        """Return the value of a limit, with its bounds if it is auto."""
        if value != "auto":
            return value
        if name == "max_tokens_per_batch":
            bounds = AdaptiveBatch(**self.arguments("adaptive_batch"))
            return value if bounds == AdaptiveBatch() else bounds
        return AdaptiveLimit(**self.arguments("adaptive"))

    def runner_arguments(self, llm: object = None) -> dict[str, Any]:
        """
        Return the arguments of `BatchRunner`, without its backends.

        Args:
            llm: The LLM backend of the runner; a vLLM server also counts tokens, if ``BATCH_TOKEN_COUNTER`` says so.

        Raises:
            ConfigurationError: A token counter cannot be loaded, or a value is out of its bounds.
        """
        found = {
            "strategy": self.strategy(),
            "limits": self.limits(),
            "search_retry": RetryPolicy(**self.arguments("search_retry")),
            "llm_retry": RetryPolicy(**self.arguments("llm_retry")),
            "time_limits": TimeLimits(**self.arguments("time_limits")),
            "stop": StopConditions(**self.arguments("stop")),
            **self.arguments("runner"),
        }
        if self.batch_token_counter != "estimate":
            found["count_tokens"] = self.token_counter(llm)
        if self.batch_store is not None:
            store = self.arguments("store")
            found["store"] = Store(store.pop("path"), **store)
        if self.batch_record is not None:
            found["record"] = Recording(**self.arguments("record"))
        return found

    def token_counter(self, llm: object = None) -> TokenCounter:
        """
        Return the counter of tokens.

        Args:
            llm: The LLM backend of the runner; if it is a vLLM server, it counts for ``BATCH_TOKEN_COUNTER=vllm``.

        Raises:
            ConfigurationError: A package is missing, a tokenizer cannot be loaded, or there is no vLLM server to ask.
        """
        kind, _, name = self.batch_token_counter.partition(":")
        match kind:
            case "tiktoken":
                return TiktokenCounter(name) if name else TiktokenCounter()
            case "hf":
                return TokenizersCounter(name or self._model_of_tokenizer())
            case "vllm":
                return backends.VLLMTokenCounter(self._vllm_server(llm))
        return estimate_tokens

    def _model_of_tokenizer(self) -> str:
        if not self.batch_llm_model:
            raise ConfigurationError(
                "BATCH_TOKEN_COUNTER=hf needs the name of a tokenizer, or BATCH_LLM_MODEL; "
                "for example BATCH_TOKEN_COUNTER=hf:Qwen/Qwen2.5-7B-Instruct"
            )
        return self.batch_llm_model

    def _vllm_server(self, llm: object) -> backends.VLLMServerLLM:
        server = self.llm() if llm is None else llm
        if not isinstance(server, backends.VLLMServerLLM):
            raise ConfigurationError(
                "BATCH_TOKEN_COUNTER=vllm asks the vLLM server that answers, and there is none; "
                "set BATCH_LLM_BACKEND=vllm and BATCH_LLM_URL=http://localhost:8000, or BATCH_TOKEN_COUNTER=estimate"
            )
        return server

    def aspects(self) -> Aspects:
        """
        Return the aspects for `SummarizeAspects(aspects=...)`: those of ``BATCH_ASPECTS``, or of the seeds file.

        The file's seed words go before the default ones.

        Raises:
            ConfigurationError: The file cannot be read or is not a JSON object.
        """
        seeds = self._seeds()
        if self.batch_aspects is None:
            return SummarizeAspects.aspects if seeds is None else seeds
        return _with_seeds(self.batch_aspects, seeds)

    def _seeds(self) -> dict[str, Any] | None:
        path = self.aspect_seeds_file
        if path is None:
            return None
        try:
            seeds = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"ASPECT_SEEDS_FILE={path} cannot be read: {error}") from error
        if not isinstance(seeds, dict):
            raise ConfigurationError(
                f'ASPECT_SEEDS_FILE={path} must hold a JSON object; for example {{"service": ["직원 친절"]}}'
            )
        return cast("dict[str, Any]", seeds)

    def summary(self, **arguments: Any) -> SummarizeAspects:
        """
        Return a `SummarizeAspects` task.

        Args:
            arguments: Fields of the task; they go before the settings. So it is in the methods that follow.

        Raises:
            ConfigurationError: A field is out of its bounds, or the file of seed words cannot be read.
        """
        return SummarizeAspects(**{"aspects": self.aspects(), **self.arguments("summary"), **arguments})

    def review_summary(self, **arguments: Any) -> SummarizeReviews:
        """Return a `SummarizeReviews` task; see `summary`."""
        return SummarizeReviews(**{**self.arguments("reviews"), **arguments})

    def sentiment(self, **arguments: Any) -> AnalyzeSentiment:
        """Return an `AnalyzeSentiment` task; see `summary`."""
        return AnalyzeSentiment(**{**self.arguments("sentiment"), **arguments})

    def strengths(self, **arguments: Any) -> ExtractStrengths:
        """Return an `ExtractStrengths` task; see `summary`."""
        return ExtractStrengths(**{**self.arguments("strengths"), **arguments})

    def comparison(self, **arguments: Any) -> CompareAspects:
        """Return a `CompareAspects` task; see `summary`."""
        names = self.batch_aspects or tuple(self.batch_averages or CompareAspects.aspects)
        aspects = _with_seeds(names, self._seeds())
        return CompareAspects(**{"aspects": aspects, **self.arguments("comparison"), **arguments})

    def vocabulary(self, **arguments: Any) -> ExtractVocabulary:
        """Return an `ExtractVocabulary` task; see `summary`."""
        return ExtractVocabulary(**{**self.arguments("vocabulary"), **arguments})

    def llm(self) -> LLMBackend | AsyncLLMBackend:
        """
        Return a new LLM backend.

        Raises:
            ConfigurationError: A variable that the backend needs is missing.
        """
        match self.batch_llm_backend:
            case "openai":
                given = {**self.arguments("openai"), "model": self._required("batch_llm_model")}
                return backends.OpenAILLM(**given, **self._http())
            case "openai-batch":
                given = {**self.arguments("openai_batch"), "model": self._required("batch_llm_model")}
                return backends.OpenAIBatchLLM(**given, **self._timeout_of_batches())
            case "vllm":
                given = {**self.arguments("vllm"), "base_url": self._required("batch_llm_url")}
                return backends.VLLMServerLLM(**given, **self._http())
            case "vllm-engine":
                given = self.arguments("engine")
                given = {**given.pop("arguments", {}), **given}
                given["model"] = given.get("model") or self._required(
                    "batch_llm_model", "Qwen/Qwen2.5-7B-Instruct"
                )
                return backends.VLLMEngineLLM(**given)
            case "runpod":
                given = {**self.arguments("runpod"), "endpoint_id": self._required("runpod_endpoint_id")}
                given.setdefault("timeout", self.batch_llm_timeout)
                if polling := self.arguments("polling"):
                    given["polling"] = _polling(**polling)
                return backends.RunPodLLM(**given, **self._transport())
        return backends.OfflineLLM()

    def search(self) -> SearchBackend | AsyncSearchBackend:
        """
        Return a new search backend.

        Raises:
            ConfigurationError: A variable that the backend needs is missing.
        """
        if self.batch_search_backend == "qdrant":
            given = {
                **self.arguments("qdrant"),
                "collection": self.qdrant_collection,
                "url": self._required("qdrant_url"),
            }
            if _is_folder(given["url"]):  # as the service that this library was made for writes it
                given = {**_without(given, "url", *_OF_A_SERVER), "path": Path(given["url"]).expanduser()}
            if given.get("schema") is not None:
                given["schema"] = _schema(given["schema"])
            return search_backends.QdrantSearch(**given, embedder=self.embedder())
        return search_backends.EmbeddedSearch(**self.arguments("embedded"), embedder=self.embedder())

    def embedder(self) -> Embedder:
        """
        Return a new embedder.

        Raises:
            ConfigurationError: A variable that the embedder needs is missing, or its extra is not installed.
        """
        match self.batch_embedder:
            case "fastembed":
                return embedders.FastEmbedder(**self.arguments("fastembed"), **self._sparse_half())
            case "api":
                given = {
                    **self.arguments("api"),
                    "base_url": self.batch_embedding_url,
                    "model": self._required("batch_embedding_model"),
                }
                if self.batch_embedding_url == type(self).model_fields["batch_embedding_url"].default:
                    given.setdefault("api_key", self.openai_api_key)  # nobody else is sent OpenAI's key
                return embedders.APIEmbedder(**given, **self._sparse_half())
        return embedders.HashingEmbedder(**self.arguments("hashing"))

    def _sparse_half(self) -> dict[str, Any]:
        if self.batch_sparse_embedder == "hashing":
            return {}
        return {"sparse": embedders.FastEmbedBM25(self.batch_sparse_language)}

    def _http(self) -> dict[str, Any]:
        return {"timeout": backends.Timeout(**self.arguments("timeout")), **self._transport()}

    def _timeout_of_batches(self) -> dict[str, Any]:
        if self.arguments("transport"):
            raise ConfigurationError(
                "BATCH_LLM_BACKEND=openai-batch has no transport of its own: leave BATCH_PROXY, BATCH_CA_BUNDLE, "
                "BATCH_KEEPALIVE_EXPIRY and BATCH_MAX_ANSWER out; HTTPS_PROXY and SSL_CERT_FILE are followed"
            )
        given = self.arguments("timeout")
        return {"timeout": backends.Timeout(**{"total": 60.0, **given})} if given else {}

    def _transport(self) -> dict[str, Any]:
        given = self.arguments("transport")
        return {"transport": backends.HTTPTransport(**given)} if given else {}

    def _required(self, name: str, example: str = "") -> str:
        value = getattr(self, name)
        if not value:
            choice = _REQUIRED_BY[name]
            raise ConfigurationError(
                f"{choice.upper()}={getattr(self, choice)} needs {name.upper()}; "
                f"for example {name.upper()}={example or _EXAMPLES[name]}"
            )
        return str(value)


def _rank(origin: Origin) -> int:
    """Return the place of a source in the order in which sources go before each other."""
    return {"default": 0, ENV_FILE: 2, "environment": 3, "argument": 4}.get(origin, 1)  # 1: a TOML file


def _with_seeds(names: Sequence[str], seeds: Mapping[str, Any] | None) -> Aspects:
    """Return aspects with the seed words of a file, and the default ones of those that the file has not."""
    if seeds is None:
        return names
    return {
        name: seeds.get(name, {language: words.get(name, ()) for language, words in SEEDS.items()})
        for name in names
    }


def _is_folder(location: str) -> bool:
    """Return whether a location of Qdrant is a folder for its client's local mode: "./qdrant_data", "~/data"."""
    return "://" not in location and (location[0] in "./~" or Path(location).is_dir())


def _without(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


def _polling(wait_max: float) -> backends.PollingPolicy:
    first = min(backends.PollingPolicy().wait_initial, wait_max)
    return backends.PollingPolicy(wait_initial=first, wait_max=wait_max)


def _schema(names: Mapping[str, Any]) -> search_backends.CollectionSchema:
    try:
        return search_backends.CollectionSchema(**names)
    except TypeError as error:
        raise ConfigurationError(
            f'QDRANT_SCHEMA={json.dumps(names)}: {error}; for example QDRANT_SCHEMA={{"content": "page_content"}}'
        ) from None


def _describe(error: ValidationError) -> str:
    messages: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]).upper() if detail["loc"] else "the settings"
        value = "***" if name.endswith("KEY") else repr(detail["input"])
        text = (
            detail["msg"].removeprefix("Value error, ")
            if detail["type"] == "value_error"
            else detail["msg"].lower()
        )
        messages.setdefault(name, without_keys(f"{name}={value}: {text}"))
    return "; ".join(messages.values())

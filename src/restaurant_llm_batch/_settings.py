"""`BatchSettings`: the environment, as a strategy, limits and backends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from . import backends
from . import search as search_backends
from ._config.limits import Limits
from ._config.strategy import Strategy
from .errors import ConfigurationError
from .protocols import AsyncLLMBackend, AsyncSearchBackend, Embedder, LLMBackend, SearchBackend
from .search import embedders
from .tasks.vocabulary import ExtractVocabulary

_EXAMPLES = {
    "batch_llm_model": "gpt-5-mini",
    "batch_llm_url": "http://localhost:8000",
    "runpod_endpoint_id": "abc123def456",
    "qdrant_url": "http://localhost:6333",
    "batch_embedding_model": "text-embedding-3-small",
}
_NEEDED_BY = {
    "batch_llm_model": "batch_llm_backend",
    "batch_llm_url": "batch_llm_backend",
    "runpod_endpoint_id": "batch_llm_backend",
    "qdrant_url": "batch_search_backend",
    "batch_embedding_model": "batch_embedder",
}


class BatchSettings(BaseSettings):
    """
    What the environment says; an argument goes before it.

    Every field is read from the environment variable of its name in capitals, which is the name that the
    source service uses.

    Attributes:
        batch_search_async: `Strategy.search_async`.
        batch_restaurant_async: `Strategy.restaurant_async`.
        llm_async: `Strategy.llm_async`.
        batch_search_concurrency: `Limits.search`.
        batch_llm_concurrency: `Limits.llm`.
        vllm_max_concurrent_batches: `Limits.batches`.
        batch_restaurant_window: `Limits.open_items`.
        vllm_max_tokens_per_batch: `Limits.max_tokens_per_batch`.
        vllm_min_batch_size: `Limits.min_batch_size`.
        vllm_max_batch_size: `Limits.max_batch_size`.
        vllm_default_batch_size: `Limits.default_batch_size`.
        enable_parallel_word_phrase_extraction: `ExtractVocabulary.parallel`.
        max_safe_chunks_for_parallel: `ExtractVocabulary.max_safe_chunks`.
        aspect_seeds_file: A JSON file of seed words, ``{"service": ["직원 친절", ...], ...}``; see `aspects`.
        batch_llm_backend: The model: "openai", "vllm" (its server), "runpod", or "offline", which needs none.
        batch_llm_model: The model's name; needed for "openai", elsewhere the service's own if left out.
        batch_llm_url: The address of a vLLM server, or of a service that speaks OpenAI's API.
        batch_llm_timeout: Seconds to wait for an answer; for "runpod" the queue's time included.
        openai_api_key: OpenAI's key, or that of the service at `batch_llm_url`.
        vllm_api_key: The key of a vLLM server that wants one.
        runpod_api_key: RunPod's key.
        runpod_endpoint_id: The serverless endpoint, as in its address.
        batch_search_backend: The search: "embedded" runs in this process, "qdrant" asks a server.
        batch_search_path: The folder of the embedded search; without one it is empty and in memory.
        batch_search_timeout: Seconds to wait for a Qdrant server.
        qdrant_url: The Qdrant server's address.
        qdrant_api_key: Its key.
        qdrant_collection: The collection of the reviews.
        qdrant_prefer_grpc: Whether to speak gRPC to it.
        batch_embedder: What makes vectors of texts: "hashing" needs no download, "fastembed" runs a model in
            this process, "api" asks a service that speaks OpenAI's API. The one that indexed must search.
        batch_embedding_model: The model's name; needed for "api".
        batch_embedding_url: The address of that service, with its ``/v1``.
        batch_embedding_api_key: Its key.

    Raises:
        ConfigurationError: When a variable has no usable value; it names the variable.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    batch_search_async: bool = False
    batch_restaurant_async: bool = False
    llm_async: bool = False
    batch_search_concurrency: int = Field(default=50, ge=1)
    batch_llm_concurrency: int = Field(default=8, ge=1)
    vllm_max_concurrent_batches: int = Field(default=20, ge=1)
    batch_restaurant_window: int = Field(default=200, ge=1)
    vllm_max_tokens_per_batch: int = Field(default=4000, ge=1)
    vllm_min_batch_size: int = Field(default=10, ge=1)
    vllm_max_batch_size: int = Field(default=100, ge=1)
    vllm_default_batch_size: int = Field(default=50, ge=1)
    enable_parallel_word_phrase_extraction: bool = False
    max_safe_chunks_for_parallel: int = Field(default=4, ge=0)
    aspect_seeds_file: Path | None = None
    batch_llm_backend: Literal["offline", "openai", "vllm", "runpod"] = "offline"
    batch_llm_model: str | None = None
    batch_llm_url: str | None = None
    batch_llm_timeout: float = Field(default=600, gt=0)
    openai_api_key: SecretStr | None = None
    vllm_api_key: SecretStr | None = None
    runpod_api_key: SecretStr | None = None
    runpod_endpoint_id: str | None = None
    batch_search_backend: Literal["embedded", "qdrant"] = "embedded"
    batch_search_path: Path | None = None
    batch_search_timeout: float = Field(default=30, gt=0)
    qdrant_url: str | None = None
    qdrant_api_key: SecretStr | None = None
    qdrant_collection: str = "reviews"
    qdrant_prefer_grpc: bool = False
    batch_embedder: Literal["hashing", "fastembed", "api"] = "hashing"
    batch_embedding_model: str | None = None
    batch_embedding_url: str = "https://api.openai.com/v1"
    batch_embedding_api_key: SecretStr | None = None

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_complaint(error)) from error

    def strategy(self) -> Strategy:
        """Return the strategy of the three switches."""
        return Strategy(
            search_async=self.batch_search_async,
            restaurant_async=self.batch_restaurant_async,
            llm_async=self.llm_async,
        )

    def limits(self) -> Limits:
        """Return the limits."""
        return Limits(
            search=self.batch_search_concurrency,
            llm=self.batch_llm_concurrency,
            batches=self.vllm_max_concurrent_batches,
            open_items=self.batch_restaurant_window,
            max_tokens_per_batch=self.vllm_max_tokens_per_batch,
            min_batch_size=self.vllm_min_batch_size,
            max_batch_size=self.vllm_max_batch_size,
            default_batch_size=self.vllm_default_batch_size,
        )

    def aspects(self) -> Mapping[str, Sequence[str]] | Sequence[str]:
        """
        Return the aspects for `SummarizeAspects(aspects=...)`: those of the seeds file, or the default ones.

        Raises:
            ConfigurationError: When the file cannot be read or is not a JSON object.
        """
        path = self.aspect_seeds_file
        if path is None:
            return ("service", "price", "food")
        try:
            seeds = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"ASPECT_SEEDS_FILE={path} cannot be read: {error}") from error
        if not isinstance(seeds, dict):
            raise ConfigurationError(
                f'ASPECT_SEEDS_FILE={path} must hold a JSON object like {{"service": ["직원 친절"]}}'
            )
        return cast("Mapping[str, Sequence[str]]", seeds)

    def vocabulary(self, **arguments: Any) -> ExtractVocabulary:
        """
        Return the task that extracts vocabularies.

        Args:
            arguments: Fields of `ExtractVocabulary`; they go before the environment's.

        Raises:
            ConfigurationError: When a field is out of its bounds.
        """
        parallel, chunks = self.enable_parallel_word_phrase_extraction, self.max_safe_chunks_for_parallel
        return ExtractVocabulary(**{"parallel": parallel, "max_safe_chunks": chunks, **arguments})

    def llm(self) -> LLMBackend | AsyncLLMBackend:
        """
        Return a new model.

        Raises:
            ConfigurationError: When a variable is missing that the backend needs.
        """
        match self.batch_llm_backend:
            case "openai":
                return backends.OpenAILLM(
                    self._needed("batch_llm_model"),
                    api_key=self.openai_api_key,
                    base_url=self.batch_llm_url,
                    timeout=self.batch_llm_timeout,
                )
            case "vllm":
                return backends.VLLMServerLLM(
                    self._needed("batch_llm_url"),
                    self.batch_llm_model,
                    api_key=self.vllm_api_key,
                    timeout=self.batch_llm_timeout,
                )
            case "runpod":
                return backends.RunPodLLM(
                    self._needed("runpod_endpoint_id"),
                    api_key=self.runpod_api_key,
                    model=self.batch_llm_model,
                    timeout=self.batch_llm_timeout,
                )
        return backends.OfflineLLM()

    def search(self) -> SearchBackend | AsyncSearchBackend:
        """
        Return a new search.

        Raises:
            ConfigurationError: When a variable is missing that the backend needs.
        """
        if self.batch_search_backend == "qdrant":
            return search_backends.QdrantSearch(
                self.qdrant_collection,
                url=self._needed("qdrant_url"),
                api_key=self.qdrant_api_key,
                prefer_grpc=self.qdrant_prefer_grpc,
                timeout=self.batch_search_timeout,
                embedder=self.embedder(),
            )
        return search_backends.EmbeddedSearch(self.batch_search_path, embedder=self.embedder())

    def embedder(self) -> Embedder:
        """
        Return a new embedder.

        Raises:
            ConfigurationError: When a variable is missing that it needs, or the extra is not installed.
        """
        match self.batch_embedder:
            case "fastembed":
                model = self.batch_embedding_model
                return embedders.FastEmbedder() if model is None else embedders.FastEmbedder(model)
            case "api":
                return embedders.APIEmbedder(
                    self.batch_embedding_url,
                    self._needed("batch_embedding_model"),
                    api_key=self.batch_embedding_api_key,
                )
        return embedders.HashingEmbedder()

    def _needed(self, name: str) -> str:
        value = getattr(self, name)
        if not value:
            kind = _NEEDED_BY[name]
            raise ConfigurationError(
                f"{kind.upper()}={getattr(self, kind)} needs {name.upper()}; "
                f"write for example {name.upper()}={_EXAMPLES[name]}"
            )
        return str(value)


def _complaint(error: ValidationError) -> str:
    complaints = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]).upper() if detail["loc"] else "the settings"
        value = "***" if name.endswith("KEY") else repr(detail["input"])
        complaints.append(f"{name}={value}: {detail['msg'].lower()}")
    return "; ".join(complaints)

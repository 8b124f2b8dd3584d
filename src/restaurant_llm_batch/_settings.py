"""`BatchSettings`: configuration from environment variables, as a strategy, limits and backends."""

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
"""Example values for error messages."""
_REQUIRED_BY = {
    "batch_llm_model": "batch_llm_backend",
    "batch_llm_url": "batch_llm_backend",
    "runpod_endpoint_id": "batch_llm_backend",
    "qdrant_url": "batch_search_backend",
    "batch_embedding_model": "batch_embedder",
}
"""The variable whose value makes each of these required."""


class BatchSettings(BaseSettings):
    """
    Configuration from environment variables. A keyword argument overrides the variable.

    Every field is read from the environment variable of its name in capitals. The names are those of the service that
    this library was made for.

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
        aspect_seeds_file: Path of a JSON file of seed words, ``{"service": ["직원 친절", ...], ...}``; see `aspects`.
        batch_llm_backend: LLM backend: "openai", "vllm" (a vLLM server), "runpod", or "offline" (no model).
        batch_llm_model: Name of the model; required for "openai", otherwise the service's own model by default.
        batch_llm_url: URL of a vLLM server, or of an OpenAI-compatible service.
        batch_llm_timeout: Maximum seconds to wait for a reply; for "runpod", time in the queue included.
        openai_api_key: API key of OpenAI, or of the service at `batch_llm_url`.
        vllm_api_key: API key of the vLLM server, if it requires one.
        runpod_api_key: API key of RunPod.
        runpod_endpoint_id: Id of the RunPod serverless endpoint, as in its URL.
        batch_search_backend: Search backend: "embedded" (in this process) or "qdrant" (a server).
        batch_search_path: Folder of the embedded search; without one the index is in memory, and empty at first.
        batch_search_timeout: Maximum seconds to wait for the Qdrant server.
        qdrant_url: URL of the Qdrant server.
        qdrant_api_key: API key of the Qdrant server.
        qdrant_collection: Name of the collection of reviews.
        qdrant_prefer_grpc: Whether to use gRPC for the Qdrant server.
        batch_embedder: Embedder: "hashing" (no download), "fastembed" (a model in this process) or "api" (an
            OpenAI-compatible service). Search with the embedder that made the index.
        batch_embedding_model: Name of the embedding model; required for "api".
        batch_embedding_url: URL of the embedding service, with its ``/v1``.
        batch_embedding_api_key: API key of the embedding service.

    Raises:
        ConfigurationError: A variable has an invalid value; the message names the variable.
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
            raise ConfigurationError(_describe(error)) from error

    def strategy(self) -> Strategy:
        """Return the strategy that the three ``*_async`` variables select."""
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
            ConfigurationError: The file cannot be read or is not a JSON object.
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
                f'ASPECT_SEEDS_FILE={path} must hold a JSON object; for example {{"service": ["직원 친절"]}}'
            )
        return cast("Mapping[str, Sequence[str]]", seeds)

    def vocabulary(self, **arguments: Any) -> ExtractVocabulary:
        """
        Return an `ExtractVocabulary` task.

        Args:
            arguments: Fields of `ExtractVocabulary`; they override the environment variables.

        Raises:
            ConfigurationError: A field is out of its bounds.
        """
        from_environment = {
            "parallel": self.enable_parallel_word_phrase_extraction,
            "max_safe_chunks": self.max_safe_chunks_for_parallel,
        }
        return ExtractVocabulary(**{**from_environment, **arguments})

    def llm(self) -> LLMBackend | AsyncLLMBackend:
        """
        Return a new LLM backend.

        Raises:
            ConfigurationError: A variable that the backend needs is missing.
        """
        match self.batch_llm_backend:
            case "openai":
                return backends.OpenAILLM(
                    self._required("batch_llm_model"),
                    api_key=self.openai_api_key,
                    base_url=self.batch_llm_url,
                    timeout=self.batch_llm_timeout,
                )
            case "vllm":
                return backends.VLLMServerLLM(
                    self._required("batch_llm_url"),
                    self.batch_llm_model,
                    api_key=self.vllm_api_key,
                    timeout=self.batch_llm_timeout,
                )
            case "runpod":
                return backends.RunPodLLM(
                    self._required("runpod_endpoint_id"),
                    api_key=self.runpod_api_key,
                    model=self.batch_llm_model,
                    timeout=self.batch_llm_timeout,
                )
        return backends.OfflineLLM()

    def search(self) -> SearchBackend | AsyncSearchBackend:
        """
        Return a new search backend.

        Raises:
            ConfigurationError: A variable that the backend needs is missing.
        """
        if self.batch_search_backend == "qdrant":
            return search_backends.QdrantSearch(
                self.qdrant_collection,
                url=self._required("qdrant_url"),
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
            ConfigurationError: A variable that the embedder needs is missing, or its extra is not installed.
        """
        match self.batch_embedder:
            case "fastembed":
                model = self.batch_embedding_model
                return embedders.FastEmbedder() if model is None else embedders.FastEmbedder(model)
            case "api":
                return embedders.APIEmbedder(
                    self.batch_embedding_url,
                    self._required("batch_embedding_model"),
                    api_key=self.batch_embedding_api_key,
                )
        return embedders.HashingEmbedder()

    def _required(self, name: str) -> str:
        value = getattr(self, name)
        if not value:
            choice = _REQUIRED_BY[name]
            raise ConfigurationError(
                f"{choice.upper()}={getattr(self, choice)} needs {name.upper()}; "
                f"for example {name.upper()}={_EXAMPLES[name]}"
            )
        return str(value)


def _describe(error: ValidationError) -> str:
    messages = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]).upper() if detail["loc"] else "the settings"
        value = "***" if name.endswith("KEY") else repr(detail["input"])
        messages.append(f"{name}={value}: {detail['msg'].lower()}")
    return "; ".join(messages)

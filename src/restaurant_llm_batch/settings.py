"""`BatchSettings`: the environment, as a strategy, limits and backends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .backends.embedded import EmbeddedSearch
from .backends.offline import OfflineLLM
from .errors import ConfigurationError
from .limits import Limits
from .protocols import AsyncLLMBackend, AsyncSearchBackend, LLMBackend, SearchBackend
from .strategy import Strategy


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
        batch_restaurant_window: `Limits.restaurants`.
        vllm_max_tokens_per_batch: `Limits.tokens_per_batch`.
        vllm_min_batch_size: `Limits.min_batch_size`.
        vllm_max_batch_size: `Limits.max_batch_size`.
        vllm_default_batch_size: `Limits.default_batch_size`.
        aspect_seeds_file: A JSON file of seed words, ``{"service": ["직원 친절", ...], ...}``; see `aspects`.
        batch_llm_backend: The model: "offline" needs none.
        batch_search_backend: The search: "embedded" runs in this process.
        batch_search_path: The folder of the embedded search; without one it is empty and in memory.

    Raises:
        ConfigurationError: When a variable has no usable value; it names the variable.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

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
    aspect_seeds_file: Path | None = None
    batch_llm_backend: Literal["offline"] = "offline"
    batch_search_backend: Literal["embedded"] = "embedded"
    batch_search_path: Path | None = None

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
            restaurants=self.batch_restaurant_window,
            tokens_per_batch=self.vllm_max_tokens_per_batch,
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

    def llm(self) -> LLMBackend | AsyncLLMBackend:
        """Return a new model."""
        return OfflineLLM()

    def search(self) -> SearchBackend | AsyncSearchBackend:
        """Return a new search."""
        return EmbeddedSearch(self.batch_search_path)


def _complaint(error: ValidationError) -> str:
    complaints = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]).upper() if detail["loc"] else "the settings"
        complaints.append(f"{name}={detail['input']!r}: {detail['msg'].lower()}")
    return "; ".join(complaints)

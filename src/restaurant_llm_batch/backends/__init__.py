"""Search and model backends, and counters of tokens; each is imported when it is first used, with what it needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .counters import TiktokenCounter, TokenizersCounter, VLLMTokenCounter
    from .embedded import EmbeddedSearch
    from .embedders import HashingEmbedder, HashingSparse
    from .embedders_api import EmbeddingsAPI
    from .embedders_fastembed import FastEmbedBM25, FastEmbedder
    from .offline import OfflineLLM
    from .openai import OpenAILLM
    from .qdrant import QdrantSearch
    from .runpod import RunPodLLM
    from .transport import HTTPTransport, Timeout
    from .vllm import VLLMServerLLM
    from .vllm_engine import VLLMEngineLLM

_HOMES = {
    "EmbeddedSearch": "embedded",
    "EmbeddingsAPI": "embedders_api",
    "FastEmbedBM25": "embedders_fastembed",
    "FastEmbedder": "embedders_fastembed",
    "HTTPTransport": "transport",
    "HashingEmbedder": "embedders",
    "HashingSparse": "embedders",
    "OfflineLLM": "offline",
    "OpenAILLM": "openai",
    "QdrantSearch": "qdrant",
    "RunPodLLM": "runpod",
    "TiktokenCounter": "counters",
    "Timeout": "transport",
    "TokenizersCounter": "counters",
    "VLLMEngineLLM": "vllm_engine",
    "VLLMServerLLM": "vllm",
    "VLLMTokenCounter": "counters",
}

__all__ = [
    "EmbeddedSearch",
    "EmbeddingsAPI",
    "FastEmbedBM25",
    "FastEmbedder",
    "HTTPTransport",
    "HashingEmbedder",
    "HashingSparse",
    "OfflineLLM",
    "OpenAILLM",
    "QdrantSearch",
    "RunPodLLM",
    "TiktokenCounter",
    "Timeout",
    "TokenizersCounter",
    "VLLMEngineLLM",
    "VLLMServerLLM",
    "VLLMTokenCounter",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__]

"""LLM backends, one package for each service; each is imported with its client when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._http.transport import HTTPTransport
    from .._http.types import Timeout
    from .offline.llm import OfflineLLM
    from .openai.llm import OpenAILLM
    from .runpod.llm import RunPodLLM
    from .vllm._counter import VLLMTokenCounter
    from .vllm.engine import VLLMEngineLLM
    from .vllm.server import VLLMServerLLM

_MODULES = {
    "HTTPTransport": ".._http.transport",
    "OfflineLLM": ".offline.llm",
    "OpenAILLM": ".openai.llm",
    "RunPodLLM": ".runpod.llm",
    "Timeout": ".._http.types",
    "VLLMEngineLLM": ".vllm.engine",
    "VLLMServerLLM": ".vllm.server",
    "VLLMTokenCounter": ".vllm._counter",
}

__all__ = [
    "HTTPTransport",
    "OfflineLLM",
    "OpenAILLM",
    "RunPodLLM",
    "Timeout",
    "VLLMEngineLLM",
    "VLLMServerLLM",
    "VLLMTokenCounter",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return [*__all__]

"""LLM backends, one package for each service; each is imported with its client when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._http.transport import HTTPTransport
    from .._http.types import HTTPResponse, Timeout, Transport, TransportError
    from .._limits.endpoints import EndpointStatistics
    from .offline.llm import OfflineLLM
    from .openai.llm import OpenAILLM
    from .openai_batch.llm import OpenAIBatchLLM
    from .pool.llm import LLMPool
    from .runpod.llm import (
        JobCounts,
        OperationLimit,
        PollingPolicy,
        RunPodHealth,
        RunPodLimits,
        RunPodLLM,
        WorkerCounts,
    )
    from .status import error_for_status
    from .vllm._counter import VLLMTokenCounter
    from .vllm._metrics import VLLMMetrics
    from .vllm.engine import VLLMEngineLLM
    from .vllm.server import ServedModel, VLLMServerLLM

_MODULES = {
    "EndpointStatistics": ".._limits.endpoints",
    "HTTPResponse": ".._http.types",
    "HTTPTransport": ".._http.transport",
    "JobCounts": ".runpod.llm",
    "LLMPool": ".pool.llm",
    "OfflineLLM": ".offline.llm",
    "OpenAIBatchLLM": ".openai_batch.llm",
    "OpenAILLM": ".openai.llm",
    "OperationLimit": ".runpod.llm",
    "PollingPolicy": ".runpod.llm",
    "RunPodHealth": ".runpod.llm",
    "RunPodLLM": ".runpod.llm",
    "RunPodLimits": ".runpod.llm",
    "ServedModel": ".vllm.server",
    "Timeout": ".._http.types",
    "Transport": ".._http.types",
    "TransportError": ".._http.types",
    "VLLMEngineLLM": ".vllm.engine",
    "VLLMMetrics": ".vllm._metrics",
    "VLLMServerLLM": ".vllm.server",
    "VLLMTokenCounter": ".vllm._counter",
    "WorkerCounts": ".runpod.llm",
    "error_for_status": ".status",
}

__all__ = [
    "EndpointStatistics",
    "HTTPResponse",
    "HTTPTransport",
    "JobCounts",
    "LLMPool",
    "OfflineLLM",
    "OpenAIBatchLLM",
    "OpenAILLM",
    "OperationLimit",
    "PollingPolicy",
    "RunPodHealth",
    "RunPodLLM",
    "RunPodLimits",
    "ServedModel",
    "Timeout",
    "Transport",
    "TransportError",
    "VLLMEngineLLM",
    "VLLMMetrics",
    "VLLMServerLLM",
    "VLLMTokenCounter",
    "WorkerCounts",
    "error_for_status",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return [*__all__]

"""LLM backends of the command line, by their names, and messages that name options instead of variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from pydantic import SecretStr

from .._settings import BatchSettings
from ..errors import ConfigurationError
from ..protocols import AsyncLLMBackend, LLMBackend
from ..search import QdrantSearch
from ._objects import is_object_name, make_object, not_made

MakeLLM: TypeAlias = Callable[[BatchSettings], LLMBackend | AsyncLLMBackend]
"""Factory of an LLM backend."""

_REQUIRED = {
    "openai": ("batch_llm_model", "--model", "gpt-5-mini"),
    "openai-batch": ("batch_llm_model", "--model", "gpt-5-mini"),
    "vllm": ("batch_llm_url", "--llm-url", "http://localhost:8000"),
    "vllm-engine": ("batch_llm_model", "--model", "Qwen/Qwen2.5-7B-Instruct"),
    "runpod": ("runpod_endpoint_id", "--runpod-endpoint", "abc123def456"),
}
"""Required setting of a backend, with its option and an example."""

_KEYS = ("openai_api_key", "runpod_api_key")
"""Settings without which a backend is not made."""

LLMS = ("offline", "openai", "openai-batch", "vllm", "vllm-engine", "runpod")


def models() -> dict[str, MakeLLM]:
    """Return the factories of LLM backends, by their names for ``--llm``; the first is the default."""
    return dict.fromkeys(LLMS, _make)


def _make(settings: BatchSettings) -> LLMBackend | AsyncLLMBackend:
    name = settings.batch_llm_backend
    has_own_model = name == "vllm-engine" and "model" in (settings.vllm_engine_arguments or {})
    if name in _REQUIRED and not has_own_model:
        field, option, example = _REQUIRED[name]
        if not getattr(settings, field):
            raise ConfigurationError(
                f"--llm {name} needs {option}; for example {option} {example}, or set {field.upper()}={example}"
            )
    return settings.llm()


def take_llm(llms: Mapping[str, MakeLLM], values: dict[str, Any]) -> str | None:
    """
    Take the name of a model that is not among the settings' out of a command's values.

    Args:
        llms: The models of the command.
        values: The values by parameter.
    """
    return values.pop("batch_llm_backend") if values.get("batch_llm_backend") not in (None, *LLMS) else None


def make_llm(
    llms: Mapping[str, MakeLLM], chosen: str | None, settings: BatchSettings
) -> tuple[str, LLMBackend | AsyncLLMBackend]:
    """Return the name and the backend of the chosen model, or of the one that the settings name."""
    name = chosen or settings.batch_llm_backend
    if name not in llms and is_object_name(name):
        return name, _own(name)
    name = name if name in llms else next(iter(llms))
    return name, llms[name](settings)


def with_any_keys(settings: BatchSettings) -> BatchSettings:
    """Return the settings for a model that is never called, which needs no key."""
    missing = [name for name in _KEYS if getattr(settings, name) is None]
    return settings.model_copy(update=dict.fromkeys(missing, SecretStr("not-needed")))


def _own(name: str) -> LLMBackend | AsyncLLMBackend:
    """Return a backend of the user's own: an object, or what a class or a function makes."""
    found: Any = make_object(name, "--llm")
    if callable(found) and not _is_backend(found):
        try:
            found = found()
        except Exception as error:
            raise not_made(name, "--llm", error) from error
    if not _is_backend(found):
        raise ConfigurationError(
            f"--llm {name} must be a backend, or a function that makes one, got {type(found).__name__}; a backend has "
            "complete(request) or acomplete(request)"
        )
    return cast("LLMBackend | AsyncLLMBackend", found)


def _is_backend(found: object) -> bool:
    return hasattr(found, "complete") or hasattr(found, "acomplete")


def qdrant(settings: BatchSettings) -> tuple[QdrantSearch, str]:
    """
    Return the search backend for a Qdrant server, and its name for messages.

    Raises:
        ConfigurationError: Neither an option nor the environment has the server's URL.
    """
    settings = settings.model_copy(update={"batch_search_backend": "qdrant"})
    label = f"the collection {settings.qdrant_collection!r} at {settings.qdrant_url}"
    return cast("QdrantSearch", settings.search()), label

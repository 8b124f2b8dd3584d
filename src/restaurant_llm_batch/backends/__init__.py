"""Search and model backends; each is imported when it is first used, with what it needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embedded import EmbeddedSearch
    from .embedders import HashingEmbedder
    from .offline import OfflineLLM

__all__ = ["EmbeddedSearch", "HashingEmbedder", "OfflineLLM"]


def __getattr__(name: str) -> Any:
    homes = {
        "EmbeddedSearch": "embedded",
        "HashingEmbedder": "embedders",
        "OfflineLLM": "offline",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{homes[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__]

"""Text embedders: feature hashing (offline), any ``/v1/embeddings`` API, and fastembed; lazily imported."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import APIEmbedder
    from .fastembed import FastEmbedBM25, FastEmbedder
    from .hashing import HashingEmbedder, HashingSparseEmbedder

_MODULES = {
    "APIEmbedder": "api",
    "FastEmbedBM25": "fastembed",
    "FastEmbedder": "fastembed",
    "HashingEmbedder": "hashing",
    "HashingSparseEmbedder": "hashing",
}

__all__ = ["APIEmbedder", "FastEmbedBM25", "FastEmbedder", "HashingEmbedder", "HashingSparseEmbedder"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__]

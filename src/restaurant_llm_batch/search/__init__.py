"""Search backends: `EmbeddedSearch` and `QdrantSearch`, lazily imported; embedders are in `search.embedders`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._indexing import IndexFailure, IndexReport
    from .embedded.search import EmbeddedSearch
    from .qdrant.search import CollectionSchema, QdrantSearch

_MODULES = {
    "CollectionSchema": "qdrant.search",
    "EmbeddedSearch": "embedded.search",
    "IndexFailure": "_indexing",
    "IndexReport": "_indexing",
    "QdrantSearch": "qdrant.search",
}

__all__ = ["CollectionSchema", "EmbeddedSearch", "IndexFailure", "IndexReport", "QdrantSearch"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__]

"""Token counters, batch sizes, packing and splitting of texts, and the KV-cache arithmetic of a GPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chunking import split_text
    from .counting import CalibratedCounter
    from .kv import kv_cache_tokens, max_concurrent_sequences
    from .packing import (
        TRUNCATION_MARK,
        PackedText,
        calculate_dynamic_batch_size,
        estimate_tokens,
        pack_reviews,
        truncate_to_half,
    )
    from .tokenizers import TiktokenCounter, TokenizersCounter

_MODULES = {
    "TRUNCATION_MARK": "packing",
    "CalibratedCounter": "counting",
    "PackedText": "packing",
    "TiktokenCounter": "tokenizers",
    "TokenizersCounter": "tokenizers",
    "calculate_dynamic_batch_size": "packing",
    "estimate_tokens": "packing",
    "kv_cache_tokens": "kv",
    "max_concurrent_sequences": "kv",
    "pack_reviews": "packing",
    "split_text": "chunking",
    "truncate_to_half": "packing",
}

__all__ = [
    "TRUNCATION_MARK",
    "CalibratedCounter",
    "PackedText",
    "TiktokenCounter",
    "TokenizersCounter",
    "calculate_dynamic_batch_size",
    "estimate_tokens",
    "kv_cache_tokens",
    "max_concurrent_sequences",
    "pack_reviews",
    "split_text",
    "truncate_to_half",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__]

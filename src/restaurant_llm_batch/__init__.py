"""Summarise thousands of restaurants from their reviews, with an LLM that is never overloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors
from .engine.retry import RetryPolicy
from .gate import Gate
from .limits import Limits
from .models import (
    AspectSummary,
    Evidence,
    Hit,
    LLMReply,
    LLMRequest,
    RestaurantRef,
    RestaurantSummary,
    Review,
    SearchQuery,
)
from .protocols import (
    AsyncLLMBackend,
    AsyncSearchBackend,
    Embedder,
    Embedding,
    LLMBackend,
    Observer,
    SearchBackend,
    SparseVector,
    Task,
)
from .report import BatchReport, Failure, RunStats, Success
from .runner import BatchRunner
from .strategy import Strategy
from .tasks.summary import SummarizeAspects

if TYPE_CHECKING:
    from .settings import BatchSettings

__all__ = [
    "AspectSummary",
    "AsyncLLMBackend",
    "AsyncSearchBackend",
    "BatchReport",
    "BatchRunner",
    "BatchSettings",
    "Embedder",
    "Embedding",
    "Evidence",
    "Failure",
    "Gate",
    "Hit",
    "LLMBackend",
    "LLMReply",
    "LLMRequest",
    "Limits",
    "Observer",
    "RestaurantRef",
    "RestaurantSummary",
    "RetryPolicy",
    "Review",
    "RunStats",
    "SearchBackend",
    "SearchQuery",
    "SparseVector",
    "Strategy",
    "Success",
    "SummarizeAspects",
    "Task",
    "__version__",
    "errors",
]


def __getattr__(name: str) -> Any:
    # Settings cost as much to import as everything else together, and many programs read none.
    if name == "BatchSettings":
        from .settings import BatchSettings

        return BatchSettings
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("restaurant-llm-batch")
        except PackageNotFoundError:
            return "0+unknown"  # used from a source tree that was never installed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Batch LLM processing of restaurant reviews: summaries, sentiment, strengths and vocabulary, within rate limits."""

from __future__ import annotations

from importlib import import_module
from logging import NullHandler, getLogger
from typing import TYPE_CHECKING, Any

from . import errors
from ._config.limits import Limits
from ._config.retry import RetryPolicy
from ._config.stopping import Price, StopConditions, TimeLimits
from ._config.strategy import Strategy
from ._limits.aimd import AdaptiveLimit
from ._limits.batch_budget import AdaptiveBatch
from ._limits.clients import Client
from ._limits.concurrency import ConcurrencyLimiter
from ._llm_response import LLMResponse, RateLimitInfo, RateLimitStatus
from ._runner import BatchRunner
from ._spent import Spent
from .models import (
    ComparisonItem,
    Document,
    Hit,
    LLMRequest,
    RestaurantRef,
    RestaurantReviews,
    Review,
    ReviewsByPolarity,
    SearchQuery,
    ServerLoad,
)
from .outcomes import (
    BatchReport,
    EndpointStats,
    Failure,
    Latency,
    LimitChange,
    RunStats,
    ServerStats,
    Success,
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
    TokenCounter,
)
from .tokens.packing import calculate_dynamic_batch_size, estimate_tokens, pack_reviews

if TYPE_CHECKING:
    from ._settings import BatchSettings
    from ._store.folder import StoreFolder
    from ._store.store import Store
    from .results import (
        AspectComparison,
        AspectLift,
        AspectSummary,
        Evidence,
        ExtendedVocabulary,
        ExtendedWord,
        FailedChunk,
        FailedReview,
        RestaurantSentiment,
        RestaurantStrength,
        RestaurantSummary,
        ReviewLabel,
        ReviewSummary,
        Vocabulary,
        Word,
    )
    from .sharing.limiter import SharedLimiter
    from .tasks.comparison import CompareAspects
    from .tasks.reviews import SummarizeReviews
    from .tasks.sentiment import AnalyzeSentiment
    from .tasks.strengths import ExtractStrengths
    from .tasks.summary import SummarizeAspects
    from .tasks.vocabulary import ExtractVocabulary
    from .tokens.chunking import split_text
    from .tokens.kv import kv_cache_tokens, max_concurrent_sequences

# A library logs only through its user's handlers: without this, Python would print warnings to stderr by itself.
getLogger(__name__).addHandler(NullHandler())

_MODULES = {
    "AnalyzeSentiment": "tasks.sentiment",
    "AspectComparison": "results",
    "AspectLift": "results",
    "AspectSummary": "results",
    "BatchSettings": "_settings",
    "CompareAspects": "tasks.comparison",
    "Evidence": "results",
    "ExtendedVocabulary": "results",
    "ExtendedWord": "results",
    "ExtractStrengths": "tasks.strengths",
    "ExtractVocabulary": "tasks.vocabulary",
    "FailedChunk": "results",
    "FailedReview": "results",
    "RestaurantSentiment": "results",
    "RestaurantStrength": "results",
    "RestaurantSummary": "results",
    "ReviewLabel": "results",
    "ReviewSummary": "results",
    "SharedLimiter": "sharing.limiter",
    "Store": "_store.store",
    "StoreFolder": "_store.folder",
    "SummarizeAspects": "tasks.summary",
    "SummarizeReviews": "tasks.reviews",
    "Vocabulary": "results",
    "Word": "results",
    "kv_cache_tokens": "tokens.kv",
    "max_concurrent_sequences": "tokens.kv",
    "split_text": "tokens.chunking",
}
"""Names that are imported when they are used: tasks, results, stores, limits of several processes, settings."""

__all__ = [
    "AdaptiveBatch",
    "AdaptiveLimit",
    "AnalyzeSentiment",
    "AspectComparison",
    "AspectLift",
    "AspectSummary",
    "AsyncLLMBackend",
    "AsyncSearchBackend",
    "BatchReport",
    "BatchRunner",
    "BatchSettings",
    "Client",
    "CompareAspects",
    "ComparisonItem",
    "ConcurrencyLimiter",
    "Document",
    "Embedder",
    "Embedding",
    "EndpointStats",
    "Evidence",
    "ExtendedVocabulary",
    "ExtendedWord",
    "ExtractStrengths",
    "ExtractVocabulary",
    "FailedChunk",
    "FailedReview",
    "Failure",
    "Hit",
    "LLMBackend",
    "LLMRequest",
    "LLMResponse",
    "Latency",
    "LimitChange",
    "Limits",
    "Observer",
    "Price",
    "RateLimitInfo",
    "RateLimitStatus",
    "RestaurantRef",
    "RestaurantReviews",
    "RestaurantSentiment",
    "RestaurantStrength",
    "RestaurantSummary",
    "RetryPolicy",
    "Review",
    "ReviewLabel",
    "ReviewSummary",
    "ReviewsByPolarity",
    "RunStats",
    "SearchBackend",
    "SearchQuery",
    "ServerLoad",
    "ServerStats",
    "SharedLimiter",
    "SparseVector",
    "Spent",
    "StopConditions",
    "Store",
    "StoreFolder",
    "Strategy",
    "Success",
    "SummarizeAspects",
    "SummarizeReviews",
    "Task",
    "TimeLimits",
    "TokenCounter",
    "Vocabulary",
    "Word",
    "__version__",
    "calculate_dynamic_batch_size",
    "errors",
    "estimate_tokens",
    "kv_cache_tokens",
    "max_concurrent_sequences",
    "pack_reviews",
    "split_text",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("restaurant-llm-batch")
        except PackageNotFoundError:
            return "0+unknown"  # run from a source tree that is not installed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__]

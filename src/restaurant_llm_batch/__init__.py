"""Summarise thousands of restaurants from their reviews, with an LLM that is never overloaded."""

from __future__ import annotations

from logging import NullHandler, getLogger
from typing import TYPE_CHECKING, Any

from . import errors
from ._config.limits import Limits
from ._config.retry import RetryPolicy
from ._config.stopping import Deadlines, Price, StopRules
from ._config.strategy import Strategy
from ._limits.aimd import AdaptiveLimit
from ._limits.concurrency import Gate
from ._llm_response import LLMReply, RateBudget, RateReport
from ._runner import BatchRunner
from ._store.store import Store
from .models import (
    Comparison,
    Document,
    Hit,
    LLMRequest,
    RestaurantRef,
    Review,
    ReviewedRestaurant,
    SearchQuery,
    SortedReviews,
)
from .outcomes import BatchReport, Failure, LimitStep, RunStats, Success
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
from .results import (
    AspectSummary,
    Evidence,
    FailedChunk,
    RestaurantSentiment,
    RestaurantStrength,
    RestaurantSummary,
    ReviewLabel,
    ReviewSummary,
    Vocabulary,
    Word,
)
from .tasks.reviews import SummarizeReviews
from .tasks.sentiment import AnalyzeSentiment
from .tasks.strengths import ExtractStrengths
from .tasks.summary import SummarizeAspects
from .tasks.vocabulary import ExtractVocabulary
from .tokens.chunking import split_text
from .tokens.kv import kv_cache_tokens, resident_sequences
from .tokens.packing import calculate_dynamic_batch_size, estimate_tokens, pack_reviews

if TYPE_CHECKING:
    from ._settings import BatchSettings

# What is logged is shown by the handlers of whoever uses the library, and by none of Python's own.
getLogger(__name__).addHandler(NullHandler())

__all__ = [
    "AdaptiveLimit",
    "AnalyzeSentiment",
    "AspectSummary",
    "AsyncLLMBackend",
    "AsyncSearchBackend",
    "BatchReport",
    "BatchRunner",
    "BatchSettings",
    "Comparison",
    "Deadlines",
    "Document",
    "Embedder",
    "Embedding",
    "Evidence",
    "ExtractStrengths",
    "ExtractVocabulary",
    "FailedChunk",
    "Failure",
    "Gate",
    "Hit",
    "LLMBackend",
    "LLMReply",
    "LLMRequest",
    "LimitStep",
    "Limits",
    "Observer",
    "Price",
    "RateBudget",
    "RateReport",
    "RestaurantRef",
    "RestaurantSentiment",
    "RestaurantStrength",
    "RestaurantSummary",
    "RetryPolicy",
    "Review",
    "ReviewLabel",
    "ReviewSummary",
    "ReviewedRestaurant",
    "RunStats",
    "SearchBackend",
    "SearchQuery",
    "SortedReviews",
    "SparseVector",
    "StopRules",
    "Store",
    "Strategy",
    "Success",
    "SummarizeAspects",
    "SummarizeReviews",
    "Task",
    "TokenCounter",
    "Vocabulary",
    "Word",
    "__version__",
    "calculate_dynamic_batch_size",
    "errors",
    "estimate_tokens",
    "kv_cache_tokens",
    "pack_reviews",
    "resident_sequences",
    "split_text",
]


def __getattr__(name: str) -> Any:
    # Settings cost as much to import as everything else together, and many programs read none.
    if name == "BatchSettings":
        from ._settings import BatchSettings

        return BatchSettings
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("restaurant-llm-batch")
        except PackageNotFoundError:
            return "0+unknown"  # used from a source tree that was never installed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Limits: how much may happen at once. Numbers only; `Gate` does the holding."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from .errors import ConfigurationError
from .gate import Gate

_GATED = ("search", "llm", "batches", "llm_total")


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The most that a runner does at once, across all of its runs, threads and loops.

    `search`, `llm`, `batches` and `llm_total` count calls to a backend, and each may be a number or a
    `Gate` that is shared with other runners.

    Attributes:
        search: Searches in flight.
        llm: LLM calls in flight, other than packed batches.
        batches: LLM calls in flight that carry a packed batch of reviews.
        llm_total: Both kinds together; None for no bound of its own.
        restaurants: Restaurants open at once in one run (the sliding window).
        tokens_per_batch: Token budget of a packed batch.
        min_batch_size: Fewest reviews in a packed batch, where the budget allows it.
        max_batch_size: Most reviews in a packed batch.
        default_batch_size: Batch size when there is nothing to judge it by.

    Raises:
        ConfigurationError: When a number is not a positive integer, or the batch sizes are out of order.
    """

    search: int | Gate = 50
    llm: int | Gate = 8
    batches: int | Gate = 20
    llm_total: int | Gate | None = None
    restaurants: int = 200
    tokens_per_batch: int = 4000
    min_batch_size: int = 10
    max_batch_size: int = 100
    default_batch_size: int = 50

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Gate) and field.name in _GATED:
                continue
            if value is None and field.name == "llm_total":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(
                    f"Limits.{field.name} must be a whole number of at least 1, got {value!r}; "
                    f"write for example Limits({field.name}={field.default or 8})"
                )
        if not self.min_batch_size <= self.default_batch_size <= self.max_batch_size:
            raise ConfigurationError(
                "Limits needs min_batch_size <= default_batch_size <= max_batch_size, got "
                f"{self.min_batch_size}, {self.default_batch_size}, {self.max_batch_size}"
            )

    @classmethod
    def preset(cls, name: Literal["24gb", "40gb"]) -> Limits:
        """
        Return the source service's settings for a GPU of that memory.

        Raises:
            ConfigurationError: For any other name.
        """
        presets = {
            "24gb": cls(batches=15, tokens_per_batch=3000, max_batch_size=80),
            "40gb": cls(batches=30, tokens_per_batch=6000, max_batch_size=150),
        }
        try:
            return presets[name]
        except KeyError:
            raise ConfigurationError(
                f"there is no preset {name!r}; write one of {', '.join(map(repr, presets))}"
            ) from None

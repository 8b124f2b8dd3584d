"""Limits: how much may happen at once, and how much a GPU holds. Numbers only; `Gate` does the holding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal

from .adaptive import AdaptiveLimit
from .errors import ConfigurationError
from .gate import Gate

_GATED = ("search", "llm", "batches", "llm_total")
_EXAMPLES = {
    "llm_total": 8,
    "tokens_in_flight": 100_000,
    "requests_per_minute": 500,
    "tokens_per_minute": 200_000,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """
    The most that a runner does at once, across all of its runs, threads and loops.

    `search`, `llm`, `batches` and `llm_total` count calls to a backend. Each may be a number, an `AdaptiveLimit`
    that finds the number, or a `Gate` that is shared with other runners.

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
        tokens_in_flight: Tokens of LLM calls in flight, prompts and longest answers: what a GPU's KV cache holds
            (`kv_cache_tokens`, or `VLLMServerLLM.metrics().kv_tokens`). A number or a `Gate`; None for no bound. The
            first in the queue waits, and nobody overtakes it; a call that is larger than all of it goes alone.
        requests_per_minute: LLM calls that begin in any 60 seconds, tries counted each; spread over the minute. None
            for what the service says in its ``x-ratelimit-*`` headers, if it does.
        tokens_per_minute: Tokens that they take, likewise. A call is counted with its prompt and its longest answer
            when it begins, and with what it really took when it has ended.

    Raises:
        ConfigurationError: When a number is not a positive integer, or the batch sizes are out of order.
    """

    search: int | AdaptiveLimit | Gate = 50
    llm: int | AdaptiveLimit | Gate = 8
    batches: int | AdaptiveLimit | Gate = 20
    llm_total: int | AdaptiveLimit | Gate | None = None
    restaurants: int = 200
    tokens_per_batch: int = 4000
    min_batch_size: int = 10
    max_batch_size: int = 100
    default_batch_size: int = 50
    tokens_in_flight: int | Gate | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (AdaptiveLimit, Gate)) and field.name in _GATED:
                continue
            if field.name == "tokens_in_flight" and isinstance(value, Gate):
                continue
            if value is None and field.default is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                kinds = ", an AdaptiveLimit(...) or a Gate(...)" if field.name in _GATED else ""
                example = field.default or _EXAMPLES[field.name]
                raise ConfigurationError(
                    f"Limits.{field.name} must be a whole number of at least 1{kinds}, got {value!r}; "
                    f"write for example Limits({field.name}={example})"
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


def kv_cache_tokens(
    model_config: Mapping[str, Any],
    gpu_gib: float,
    *,
    weights_gib: float,
    utilization: float = 0.92,
    overhead_gib: float = 3.0,
    kv_dtype_bytes: float = 2,
) -> int:
    """
    Return how many tokens a GPU's memory can keep the keys and values of, beside a model's weights.

    What is left for the cache, ``utilization * gpu_gib - weights_gib - overhead_gib``, is divided by what a
    token takes: ``2 (key and value) * num_hidden_layers * num_key_value_heads * head_dim * kv_dtype_bytes``.
    Both are vLLM's (`vllm/v1/kv_cache_interface.py`, and ``--gpu-memory-utilization``); for
    Qwen2.5-14B-Instruct-AWQ, with 48 layers and 8 heads of 128 numbers, a token takes 192 KiB. Models that
    keep less (latent attention, sliding windows) have room for more. vLLM says the true figure when it
    starts, "GPU KV cache size: N tokens": believe that.

    Args:
        model_config: The model's ``config.json`` as Hugging Face has it: "num_hidden_layers",
            "num_key_value_heads" (else "num_attention_heads"), and "head_dim" (else "hidden_size" divided by
            "num_attention_heads"), by themselves or in its "text_config".
        gpu_gib: The GPU's memory as the driver reports it, in GiB: 22.5 for an L4, 39.5 for an A100 of 40 GB.
        weights_gib: The model's weights, in GiB.
        utilization: The part of the memory that the server may use.
        overhead_gib: What activations, CUDA graphs and the allocator take: 1.5 to 3 GiB.
        kv_dtype_bytes: Bytes of a number in the cache: 2 for fp16 and bf16, 1 for fp8.

    Raises:
        ConfigurationError: When a number is missing or unusable, or the weights leave no room.
    """
    _check("gpu_gib", gpu_gib, lambda value: value > 0, "a number of more than 0")
    _check("weights_gib", weights_gib, lambda value: value > 0, "a number of more than 0")
    _check("utilization", utilization, lambda value: 0 < value <= 1, "a number of more than 0 and at most 1")
    _check("overhead_gib", overhead_gib, lambda value: value >= 0, "a number of at least 0")
    _check("kv_dtype_bytes", kv_dtype_bytes, lambda value: value > 0, "a number of more than 0")
    room = utilization * gpu_gib - weights_gib - overhead_gib
    if room <= 0:
        raise ConfigurationError(
            f"weights_gib={weights_gib} and overhead_gib={overhead_gib} leave no room for a cache in "
            f"{utilization} of gpu_gib={gpu_gib}; write a smaller model's weights_gib, or a larger gpu_gib"
        )
    return int(room * 2**30 / (_kv_numbers(model_config) * kv_dtype_bytes))


def resident_sequences(
    kv_tokens: int, tokens_per_sequence: int, *, shared_prefix: int = 0, block_size: int = 16
) -> int:
    """
    Return how many sequences a KV cache holds at once, so that none of them waits or is computed twice.

    More than these do no harm but wait their turn. The cache is given out in blocks: a sequence takes
    ``ceil(tokens_per_sequence / block_size)`` of them, except those of a prefix that all sequences begin with,
    which is kept once as far as it fills blocks (vLLM's prefix caching).

    Args:
        kv_tokens: What `kv_cache_tokens` returns, or what the server says at its start.
        tokens_per_sequence: Tokens of the prompt, the prefix included, and of the answer.
        shared_prefix: Tokens that all prompts begin with, such as the instructions.
        block_size: Tokens in a block; 16 is vLLM's on CUDA.

    Raises:
        ConfigurationError: When a number is not a whole one or out of its bounds.
    """
    _check_whole("kv_tokens", kv_tokens, 0)
    _check_whole("tokens_per_sequence", tokens_per_sequence, 1)
    _check_whole("shared_prefix", shared_prefix, 0)
    _check_whole("block_size", block_size, 1)
    if shared_prefix >= tokens_per_sequence:
        raise ConfigurationError(
            f"shared_prefix={shared_prefix} must be less than tokens_per_sequence={tokens_per_sequence}, "
            "which counts the prefix too"
        )
    shared = shared_prefix // block_size
    each = -(-tokens_per_sequence // block_size) - shared
    return max(kv_tokens // block_size - shared, 0) // each


def _kv_numbers(model_config: Mapping[str, Any]) -> int:
    """Return how many numbers a model keeps for a token."""
    inner = model_config.get("text_config")
    config = inner if "num_hidden_layers" not in model_config and isinstance(inner, Mapping) else model_config

    def read(*names: str) -> int:
        for name in names:
            value = config.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        needed = " or ".join(f'"{name}"' for name in names)
        raise ConfigurationError(
            f"model_config has no usable {needed}; write json.load() of the model's config.json"
        )

    explicit = config.get("head_dim") is not None
    head = read("head_dim") if explicit else read("hidden_size") // read("num_attention_heads")
    return 2 * read("num_hidden_layers") * read("num_key_value_heads", "num_attention_heads") * head


def _check(name: str, value: object, fine: Callable[[float], bool], bounds: str) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and fine(value):
        return
    raise ConfigurationError(f"{name} must be {bounds}, got {value!r}")


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name} must be a whole number of at least {least}, got {value!r}")

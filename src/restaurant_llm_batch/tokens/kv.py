"""KV-cache arithmetic: how many tokens and sequences a GPU holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from ..errors import ConfigurationError


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


def max_concurrent_sequences(
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

"""KV cache arithmetic: number of tokens and of concurrent sequences that fit a GPU's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._validation import check_whole, is_number, is_whole
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
    Return the number of tokens whose keys and values fit a GPU's memory beside a model's weights.

    The memory left for the cache, ``utilization * gpu_gib - weights_gib - overhead_gib``, is divided by the size of a
    token: ``2 (key and value) * num_hidden_layers * num_key_value_heads * head_dim * kv_dtype_bytes``. Both
        formulas are
    vLLM's (`vllm/v1/kv_cache_interface.py`, and ``--gpu-memory-utilization``). With Qwen2.5-14B-Instruct-AWQ,
    which has 48 layers and 8 heads of 128 numbers, a token takes 192 KiB. Models with a smaller cache (latent
    attention, sliding windows) fit more tokens. vLLM logs the actual figure when it starts, "GPU KV cache size: N
    tokens"; prefer that.

    Args:
        model_config: The model's Hugging Face ``config.json``: "num_hidden_layers", "num_key_value_heads" (else
            "num_attention_heads"), and "head_dim" (else "hidden_size" divided by "num_attention_heads"), at the top
            level or in "text_config".
        gpu_gib: The GPU's memory as the driver reports it, in GiB: 22.5 for an L4, 39.5 for an A100 of 40 GB.
        weights_gib: Size of the model's weights, in GiB.
        utilization: Fraction of the memory that the server may use, 0 to 1.
        overhead_gib: Memory of activations, CUDA graphs and the allocator, in GiB: 1.5 to 3.
        kv_dtype_bytes: Bytes per number in the cache: 2 for fp16 and bf16, 1 for fp8.

    Raises:
        ConfigurationError: If a number is missing or invalid, or the weights leave no memory for a cache.
    """
    _check_number("gpu_gib", gpu_gib, lambda value: value > 0, "a number of more than 0")
    _check_number("weights_gib", weights_gib, lambda value: value > 0, "a number of more than 0")
    _check_number(
        "utilization", utilization, lambda value: 0 < value <= 1, "a number of more than 0 and at most 1"
    )
    _check_number("overhead_gib", overhead_gib, lambda value: value >= 0, "a number of at least 0")
    _check_number("kv_dtype_bytes", kv_dtype_bytes, lambda value: value > 0, "a number of more than 0")
    cache_gib = utilization * gpu_gib - weights_gib - overhead_gib
    if cache_gib <= 0:
        raise ConfigurationError(
            f"weights_gib={weights_gib} and overhead_gib={overhead_gib} leave no room for a cache in "
            f"{utilization} of gpu_gib={gpu_gib}; use a smaller model or a larger GPU"
        )
    return int(cache_gib * 2**30 / (_numbers_per_token(model_config) * kv_dtype_bytes))


def max_concurrent_sequences(
    kv_tokens: int, tokens_per_sequence: int, *, shared_prefix: int = 0, block_size: int = 16
) -> int:
    """
    Return the number of sequences that fit a KV cache at once, so that none is queued or preempted.

    More sequences do no harm, but wait. The cache is allocated in blocks: a sequence takes
    ``ceil(tokens_per_sequence / block_size)`` blocks. A prefix shared by all sequences is stored once, as far as it
    fills whole blocks (vLLM's automatic prefix caching, https://docs.vllm.ai/en/latest/design/prefix_caching.html).

    Args:
        kv_tokens: Capacity of the cache in tokens, from `kv_cache_tokens` or the server's log.
        tokens_per_sequence: Tokens of a prompt, including the shared prefix, and its completion.
        shared_prefix: Tokens at the beginning of all prompts, such as the instructions.
        block_size: Tokens per block; vLLM's default on CUDA is 16.

    Raises:
        ConfigurationError: If a number is not whole or out of bounds.
    """
    check_whole("kv_tokens", kv_tokens, 0)
    check_whole("tokens_per_sequence", tokens_per_sequence, 1)
    check_whole("shared_prefix", shared_prefix, 0)
    check_whole("block_size", block_size, 1)
    if shared_prefix >= tokens_per_sequence:
        raise ConfigurationError(
            f"shared_prefix={shared_prefix} must be less than tokens_per_sequence={tokens_per_sequence}, "
            "which counts the prefix too"
        )
    shared = shared_prefix // block_size
    per_sequence = -(-tokens_per_sequence // block_size) - shared
    return max(kv_tokens // block_size - shared, 0) // per_sequence


def _numbers_per_token(model_config: Mapping[str, Any]) -> int:
    """Return the number of values that a model's cache holds per token."""
    inner = model_config.get("text_config")
    config = inner if "num_hidden_layers" not in model_config and isinstance(inner, Mapping) else model_config

    def read(*names: str) -> int:
        for name in names:
            value = config.get(name)
            if is_whole(value, 1):
                return value
        needed = " or ".join(f'"{name}"' for name in names)
        raise ConfigurationError(
            f"model_config has no usable {needed}; pass the whole config.json of the model, for example "
            "json.load(file)"
        )

    explicit = config.get("head_dim") is not None
    head = read("head_dim") if explicit else read("hidden_size") // read("num_attention_heads")
    return 2 * read("num_hidden_layers") * read("num_key_value_heads", "num_attention_heads") * head


def _check_number(name: str, value: object, in_bounds: Callable[[float], bool], bounds: str) -> None:
    if not is_number(value) or not in_bounds(value):
        raise ConfigurationError(f"{name} must be {bounds}, got {value!r}")

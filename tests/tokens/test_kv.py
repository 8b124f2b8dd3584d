"""How much a GPU holds: the published table, to the last figure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import errors
from restaurant_llm_batch.tokens.kv import kv_cache_tokens, max_concurrent_sequences

QWEN = {
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "hidden_size": 5120,
    "num_attention_heads": 40,
    "vocab_size": 152064,
}
"""Qwen2.5-14B-Instruct-AWQ's config.json, as far as it matters."""
WEIGHTS = (3.99 + 3.97 + 2.02) * 1e9 / 2**30
"""Its three files, in GiB: 9.29."""
SIZES = (2000, 2500, 3000, 4000)
TABLE: list[tuple[float, tuple[int, int], list[tuple[int, int]]]] = [
    # The GPU's memory in GiB; thousands of tokens; sequences of each size. At 3 and at 1.5 GiB of overhead.
    (22.5, (46, 54), [(22, 27), (18, 21), (15, 18), (11, 13)]),
    (24.0, (53, 62), [(26, 30), (21, 24), (17, 20), (13, 15)]),
    (39.5, (131, 140), [(65, 69), (52, 55), (43, 46), (32, 34)]),
    (79.2, (331, 339), [(165, 169), (132, 135), (110, 112), (82, 84)]),
]
OVERHEADS = (3.0, 1.5)


@pytest.mark.parametrize(("gpu", "thousands", "sequences"), TABLE)
def test_the_published_table_is_reproduced(
    gpu: float, thousands: tuple[int, int], sequences: list[tuple[int, int]]
) -> None:
    tokens = [kv_cache_tokens(QWEN, gpu, weights_gib=WEIGHTS, overhead_gib=over) for over in OVERHEADS]
    # The table divides; the server gives whole blocks.
    divided = [tuple(max_concurrent_sequences(t, size, block_size=1) for t in tokens) for size in SIZES]
    in_blocks = [tuple(max_concurrent_sequences(t, size) for t in tokens) for size in SIZES]

    assert tuple(round(count / 1000) for count in tokens) == thousands
    assert divided == sequences
    fewer = [a - b for pair in zip(divided, in_blocks, strict=True) for a, b in zip(*pair, strict=True)]
    assert set(fewer) <= {0, 1}


def test_a_token_of_the_model_takes_192_kib() -> None:
    assert kv_cache_tokens(QWEN, 2, weights_gib=1, utilization=1, overhead_gib=0) == 2**30 // (192 * 1024)


def test_half_the_bytes_hold_twice_the_tokens() -> None:
    fp16, fp8 = (kv_cache_tokens(QWEN, 24, weights_gib=WEIGHTS, kv_dtype_bytes=size) for size in (2, 1))

    assert fp8 - 2 * fp16 in (0, 1)


def test_the_cautious_end_of_the_overhead_is_the_default() -> None:
    assert kv_cache_tokens(QWEN, 24, weights_gib=WEIGHTS) == kv_cache_tokens(
        QWEN, 24, weights_gib=WEIGHTS, utilization=0.92, overhead_gib=3.0, kv_dtype_bytes=2
    )


def test_a_configuration_is_read_in_each_of_its_forms() -> None:
    forms: list[dict[str, Any]] = [
        QWEN,
        {**QWEN, "head_dim": 128, "hidden_size": 1},
        {**QWEN, "head_dim": None},
        {"model_type": "vision", "text_config": QWEN},
        {**QWEN, "num_key_value_heads": None, "num_attention_heads": 8, "hidden_size": 1024},
    ]

    assert len({kv_cache_tokens(form, 24, weights_gib=WEIGHTS) for form in forms}) == 1


def test_a_prefix_that_all_share_is_kept_once() -> None:
    # 3,375 blocks: 157 each, or 31 once and 126 each.
    assert max_concurrent_sequences(54_000, 2500) == 21
    assert max_concurrent_sequences(54_000, 2500, shared_prefix=500) == (3375 - 31) // (157 - 31) == 26
    assert max_concurrent_sequences(54_000, 2500, shared_prefix=15) == 21  # it fills no block


@given(st.integers(0, 10**6), st.integers(1, 10**5), st.data())
def test_what_is_said_to_fit_fits_and_one_more_would_not(tokens: int, size: int, data: st.DataObject) -> None:
    prefix = data.draw(st.integers(0, size - 1))
    count = max_concurrent_sequences(tokens, size, shared_prefix=prefix)
    blocks, shared, each = tokens // 16, prefix // 16, -(-size // 16)

    assert count == 0 or shared + count * (each - shared) <= blocks
    assert shared + (count + 1) * (each - shared) > blocks


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({**QWEN, "num_hidden_layers": None}, 'no usable "num_hidden_layers"; .* json.load'),
        ({**QWEN, "num_attention_heads": 0}, 'no usable "num_attention_heads"'),
        ({**QWEN, "head_dim": "128"}, 'no usable "head_dim"'),
        ({"num_hidden_layers": 1, "head_dim": 8}, '"num_key_value_heads" or "num_attention_heads"'),
        ({}, "model_config has no usable"),
    ],
)
def test_a_configuration_that_lacks_a_number_is_refused_and_the_number_named(
    config: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(errors.ConfigurationError, match=complaint):
        kv_cache_tokens(config, 24, weights_gib=WEIGHTS)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"gpu_gib": 0}, "gpu_gib must be a number of more than 0, got 0"),
        ({"gpu_gib": "24GB"}, "gpu_gib must be a number of more than 0, got '24GB'"),
        ({"gpu_gib": float("nan")}, "gpu_gib must be"),
        ({"weights_gib": -1}, "weights_gib must be"),
        ({"utilization": 92}, "utilization must be a number of more than 0 and at most 1"),
        ({"overhead_gib": -0.1}, "overhead_gib must be a number of at least 0"),
        ({"kv_dtype_bytes": None}, "kv_dtype_bytes must be"),
        ({"gpu_gib": 12}, r"weights_gib=9\.29.* and overhead_gib=3.0 leave no room"),
    ],
)
def test_a_useless_number_is_refused_and_named(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=complaint):
        kv_cache_tokens(QWEN, **{"gpu_gib": 24, "weights_gib": WEIGHTS, **arguments})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"kv_tokens": -1}, "kv_tokens must be a whole number of at least 0"),
        ({"kv_tokens": 1.5}, "kv_tokens must be"),
        ({"tokens_per_sequence": 0}, "tokens_per_sequence must be a whole number of at least 1"),
        ({"shared_prefix": True}, "shared_prefix must be"),
        ({"block_size": 0}, "block_size must be"),
        ({"shared_prefix": 2000}, "shared_prefix=2000 must be less than tokens_per_sequence=2000"),
    ],
)
def test_useless_sequences_are_refused_and_the_argument_named(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(errors.ConfigurationError, match=complaint):
        max_concurrent_sequences(**{"kv_tokens": 50_000, "tokens_per_sequence": 2000, **arguments})

"""
Server metrics: running and waiting requests, KV cache usage and preemptions, parsed from ``/metrics``.

The names are those of vLLM (https://docs.vllm.ai/en/latest/usage/metrics.html), SGLang
(https://docs.sglang.io/references/production_metrics.html, started with ``--enable-metrics``) and TGI
(https://huggingface.co/docs/text-generation-inference/reference/metrics).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...errors import PermanentBackendError

_LINE = re.compile(
    r"^(?P<name>(?:vllm:|sglang:|tgi_)\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: \d+)?$", re.MULTILINE
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
MOST_CHARACTERS = 8 * 2**20
"""Characters of a page that are read: that of a large server has some 200,000."""
_MOST = 10.0**15
"""Largest figure that is believed."""


@dataclass(frozen=True, slots=True)
class VLLMMetrics:
    """
    Load of a vLLM server, summed over its engines; or of a server of SGLang or TGI.

    Attributes:
        running: Requests being generated (``num_requests_running``).
        waiting: Queued requests (``num_requests_waiting``). If it stays above 0, more concurrency gains nothing.
        kv_usage: Fraction of the KV cache in use, 0 to 1, of the fullest engine (``kv_cache_usage_perc``); 0 if the
            server does not report it, as TGI does not.
        kv_tokens: Capacity of the KV cache in tokens, or None if the server does not report it.
        preemptions: Number of times a running request was preempted since the server started.
        rejections: Number of requests rejected because the queue was full since the server started.
        kv_block: Tokens of a block of the KV cache, of which each request takes whole ones; None if the server does not
            report it.
    """

    running: int
    waiting: int
    kv_usage: float
    kv_tokens: int | None
    preemptions: int
    rejections: int
    kv_block: int | None = None


@dataclass(frozen=True, slots=True)
class _Names:
    """How a server names its metrics; of several names, the first that it has counts."""

    running: str
    waiting: str
    kv_usage: Sequence[str] = ()
    kv_tokens: str = ""
    preemptions: str = ""
    rejections: str = ""


_SERVERS = (
    _Names(
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        # Named gpu_cache_usage_perc until vLLM 0.10.
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        preemptions="vllm:num_preemptions_total",
        rejections="vllm:admission_rejections_total",
    ),
    _Names(
        "sglang:num_running_reqs",
        "sglang:num_queue_reqs",
        ("sglang:token_usage",),
        "sglang:max_total_num_tokens",
        # A counter, unlike num_retracted_reqs, which is of the latest batch.
        "sglang:num_retracted_requests_total",
    ),
    _Names("tgi_batch_current_size", "tgi_queue_size"),
)


def read_metrics(text: str) -> VLLMMetrics:
    """
    Parse the text of ``/metrics`` (Prometheus exposition format).

    Figures below 0, or that are none, are left out.

    Raises:
        PermanentBackendError: If it holds no metrics of vLLM, SGLang or TGI, or is much longer than these.
    """
    if len(text) > MOST_CHARACTERS:
        raise PermanentBackendError(
            f"/metrics has {len(text):,} characters, more than the metrics of a server", backend="vllm"
        )
    samples: dict[str, list[float]] = {}
    tokens = block = 0
    for name, labels, value in _samples(text):
        samples.setdefault(name, []).append(value)
        if name == "vllm:cache_config_info":
            size, blocks = _kv_cache(labels)
            tokens, block = tokens + size * blocks, max(block, size)
    names = next((one for one in _SERVERS if one.running in samples), None)
    if names is None:
        raise PermanentBackendError("/metrics holds no metrics of vLLM, SGLang or TGI", backend="vllm")
    usages = next((samples[name] for name in names.kv_usage if name in samples), [0.0])
    return VLLMMetrics(
        running=_total(samples, names.running),
        waiting=_total(samples, names.waiting),
        kv_usage=max(usages),
        kv_tokens=tokens or _total(samples, names.kv_tokens) or None,
        preemptions=_total(samples, names.preemptions),
        rejections=_total(samples, names.rejections),
        kv_block=block or None,
    )


def _total(samples: Mapping[str, Sequence[float]], name: str) -> int:
    return int(sum(samples.get(name, ())))


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in _LINE.finditer(text):
        try:
            value = float(line["value"])
        except ValueError:
            continue
        if 0 <= value <= _MOST:
            yield line["name"], dict(_LABEL.findall(line["labels"] or "")), value


def _kv_cache(labels: Mapping[str, str]) -> tuple[int, int]:
    """Return the tokens of a block, and the blocks; 0 and 0 if they are unknown, or cannot be."""
    try:
        size, blocks = int(labels["block_size"]), int(labels["num_gpu_blocks"])
    except (KeyError, ValueError):  # num_gpu_blocks is "None" until the engine has profiled its memory
        return 0, 0
    return (size, blocks) if size > 0 and blocks > 0 and size * blocks <= _MOST else (0, 0)

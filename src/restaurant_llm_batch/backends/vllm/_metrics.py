"""vLLM server metrics: running and waiting requests, KV cache usage and preemptions, parsed from ``/metrics``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import PermanentBackendError

_LINE = re.compile(r"^vllm:(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class VLLMMetrics:
    """
    Load of a vLLM server, summed over its engines.

    Source: https://docs.vllm.ai/en/latest/usage/metrics.html

    Attributes:
        running: Requests being generated (``num_requests_running``).
        waiting: Queued requests (``num_requests_waiting``). If it stays above 0, more concurrency gains nothing.
        kv_usage: Fraction of the KV cache in use, 0 to 1, of the fullest engine (``kv_cache_usage_perc``).
        kv_tokens: Capacity of the KV cache in tokens, or None if the server does not report it.
        preemptions: Number of times a running request was preempted since the server started.
        rejections: Number of requests rejected because the queue was full since the server started.
    """

    running: int
    waiting: int
    kv_usage: float
    kv_tokens: int | None
    preemptions: int
    rejections: int


def read_metrics(text: str) -> VLLMMetrics:
    """
    Parse the text of ``/metrics`` (Prometheus exposition format).

    Raises:
        PermanentBackendError: If it holds no metrics of vLLM.
    """
    samples: dict[str, list[float]] = {}
    tokens = 0
    for name, labels, value in _samples(text):
        samples.setdefault(name, []).append(value)
        if name == "cache_config_info":
            tokens += _kv_cache_tokens(labels)
    if "num_requests_running" not in samples:
        raise PermanentBackendError("/metrics holds no metrics of vLLM", backend="vllm")

    def total(name: str) -> int:
        return int(sum(samples.get(name, ())))

    return VLLMMetrics(
        running=total("num_requests_running"),
        waiting=total("num_requests_waiting"),
        # Named gpu_cache_usage_perc until vLLM 0.10.
        kv_usage=max(samples.get("kv_cache_usage_perc") or samples.get("gpu_cache_usage_perc") or [0.0]),
        kv_tokens=tokens or None,
        preemptions=total("num_preemptions_total"),
        rejections=total("admission_rejections_total"),
    )


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in _LINE.finditer(text):
        try:
            value = float(line["value"])
        except ValueError:
            continue
        yield line["name"], dict(_LABEL.findall(line["labels"] or "")), value


def _kv_cache_tokens(labels: dict[str, str]) -> int:
    try:
        return int(labels["block_size"]) * int(labels["num_gpu_blocks"])
    except (KeyError, ValueError):  # num_gpu_blocks is "None" until the engine has profiled its memory
        return 0

"""Reading the part of vLLM's ``/metrics`` that says how full the server is."""

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
    How full a vLLM server is; sums over its engines where it runs several.

    Attributes:
        running: Requests being worked on.
        waiting: Requests that wait to be worked on; above 0 for long, more concurrency brings nothing.
        kv_usage: Share of the KV cache in use, 0 to 1; of the fullest engine.
        kv_tokens: Tokens that the KV cache holds, or None where the server does not tell.
        preemptions: Times that a running request had to make room, since the server's start.
        rejections: Requests that were turned away because the queue was full, likewise.
    """

    running: int
    waiting: int
    kv_usage: float
    kv_tokens: int | None
    preemptions: int
    rejections: int


def read_metrics(text: str) -> VLLMMetrics:
    """
    Read the text of ``/metrics``.

    Raises:
        PermanentBackendError: When there is nothing of vLLM's in it.
    """
    samples: dict[str, list[float]] = {}
    tokens = 0
    for name, labels, value in _samples(text):
        samples.setdefault(name, []).append(value)
        if name == "cache_config_info":
            tokens += _tokens(labels)
    if "num_requests_running" not in samples:
        raise PermanentBackendError("/metrics holds no metrics of vLLM's", backend="vllm")

    def total(name: str) -> int:
        return int(sum(samples.get(name, ())))

    return VLLMMetrics(
        running=total("num_requests_running"),
        waiting=total("num_requests_waiting"),
        # Its name until vLLM 0.10 was another.
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


def _tokens(labels: dict[str, str]) -> int:
    try:
        return int(labels["block_size"]) * int(labels["num_gpu_blocks"])
    except (KeyError, ValueError):  # "None" until the engine has measured itself
        return 0

"""Prometheus's text format of a `MetricsSnapshot`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeAlias, get_args

from .._shortage import OutOfMemory
from ..outcomes import Stage
from ._counts import CallOutcome, Histogram, MetricsSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "restaurant_llm_batch_"
_STAGES: tuple[Stage, ...] = ("input", "search", "tokens", "llm", "task", "run")
_OUTCOMES: tuple[CallOutcome, ...] = ("answered", "rate_limited", "failed", "cancelled")

Labels: TypeAlias = Mapping[str, str]


def render(counts: MetricsSnapshot) -> str:
    """
    Return a snapshot in Prometheus's text format.

    Every label value that is known in advance is exported from the start, as 0: `rate()` misses the first increase of a
    series that appears with it.
    """
    return "".join(f"{line}\n" for line in _lines(counts))


def _lines(counts: MetricsSnapshot) -> Iterator[str]:
    stages = tuple(counts.latency)
    yield from _samples("runs_started_total", "counter", "Runs started.", [((), counts.runs_started)])
    yield from _samples("runs_ended_total", "counter", "Runs ended.", [((), counts.runs_ended)])
    items = {("ok", ""): counts.succeeded}
    items |= {("failed", stage): counts.failed.get(stage, 0) for stage in _STAGES}
    yield from _samples("items_total", "counter", "Items ended.", items.items(), ("outcome", "stage"))
    yield from _samples("items_open", "gauge", "Items in progress.", [((), counts.open_items)])
    calls = {(s, outcome): counts.calls.get((s, outcome), 0) for s in stages for outcome in _OUTCOMES}
    yield from _samples("calls_total", "counter", "Calls ended.", calls.items(), ("stage", "outcome"))
    for name, kind, help_, by_stage in (
        ("retries_total", "counter", "Retries made or scheduled.", counts.retries),
        ("rate_limited_total", "counter", "Calls that the service refused (429).", counts.rate_limited),
        ("calls_in_flight", "gauge", "Calls in flight.", counts.in_flight),
        ("calls_waiting", "gauge", "Scheduled retries not yet made.", counts.waiting),
    ):
        yield from _samples(name, kind, help_, [((s,), by_stage.get(s, 0)) for s in stages], ("stage",))
    if counts.endpoint_in_flight:
        yield from _endpoints(counts)
    yield from _servers(counts)
    yield from _limits(counts)
    tokens = {(model, "prompt"): number for model, number in counts.prompt_tokens.items()}
    tokens |= {(model, "completion"): number for model, number in counts.completion_tokens.items()}
    yield from _samples(
        "tokens_total", "counter", "Tokens read and written by models.", tokens.items(), ("model", "kind")
    )
    cached = {(model,): number for model, number in counts.cached_tokens.items()}
    yield from _samples(
        "cached_tokens_total", "counter", "Prompt tokens from a prompt cache.", cached.items(), ("model",)
    )
    yield from _histogram("call_seconds", "Duration of calls.", counts.latency)
    yield from _histogram("queue_seconds", "Time calls waited for their limits.", counts.queue_seconds)


def _endpoints(counts: MetricsSnapshot) -> Iterator[str]:
    ended = {
        (name, outcome): counts.endpoint_calls.get((name, outcome), 0)
        for name in counts.endpoint_in_flight
        for outcome in _OUTCOMES
    }
    labels = ("endpoint", "outcome")
    yield from _samples("endpoint_calls_total", "counter", "Calls ended, by endpoint.", ended.items(), labels)
    flying = [((name,), number) for name, number in counts.endpoint_in_flight.items()]
    yield from _samples(
        "endpoint_calls_in_flight", "gauge", "Calls in flight, by endpoint.", flying, ("endpoint",)
    )


def _servers(counts: MetricsSnapshot) -> Iterator[str]:
    for name, kind, help_, by_server in (
        ("server_requests_running", "gauge", "Requests that the server works on.", counts.server_running),
        ("server_requests_waiting", "gauge", "Requests that wait there.", counts.server_waiting),
        ("server_kv_cache_usage_ratio", "gauge", "Share of its KV cache in use.", counts.server_kv_usage),
        ("server_kv_cache_tokens", "gauge", "Capacity of its KV cache.", counts.server_kv_tokens),
        ("server_preemptions_total", "counter", "Requests that it stopped.", counts.server_preemptions),
        ("server_rejections_total", "counter", "Requests that it refused.", counts.server_rejections),
    ):
        if by_server:
            yield from _samples(
                name, kind, help_, [((s,), value) for s, value in by_server.items()], ("server",)
            )
    if counts.server_readings:
        servers = dict.fromkeys(server for server, _ in counts.server_readings)
        read = {(s, o): counts.server_readings.get((s, o), 0) for s in servers for o in ("read", "failed")}
        names = ("server", "outcome")
        yield from _samples("server_readings_total", "counter", "Readings of its load.", read.items(), names)
    full = [((kind,), counts.out_of_memory.get(kind, 0)) for kind in get_args(OutOfMemory)]
    yield from _samples(
        "out_of_memory_total", "counter", "Calls that failed for lack of memory.", full, ("kind",)
    )
    if counts.peak_memory_mib is not None:
        peak = round(counts.peak_memory_mib * 2**20)
        yield from _samples(
            "run_peak_memory_bytes", "gauge", "Peak memory of the process in the latest run.", [((), peak)]
        )


def _limits(counts: MetricsSnapshot) -> Iterator[str]:
    if counts.limits:
        limits = [((name,), limit) for name, limit in counts.limits.items()]
        yield from _samples("limit", "gauge", "Limits that change.", limits, ("limiter",))
    if counts.limit_changes:
        names = ("limiter", "reason")
        yield from _samples(
            "limit_changes_total", "counter", "Their changes.", counts.limit_changes.items(), names
        )


def _samples(
    name: str,
    kind: str,
    help_: str,
    values: Iterable[tuple[tuple[str, ...], float]],
    label_names: tuple[str, ...] = (),
) -> Iterator[str]:
    yield from _header(name, kind, help_)
    for label_values, value in values:
        labels = dict(zip(label_names, label_values, strict=True))
        yield f"{_PREFIX}{name}{_label_text(labels)} {value}"


def _histogram(name: str, help_: str, by_stage: Mapping[Stage, Histogram]) -> Iterator[str]:
    yield from _header(name, "histogram", help_)
    for stage, histogram in by_stage.items():
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        # Prometheus's buckets are cumulative.
        for bound, number in zip(bounds, accumulate(histogram.counts), strict=True):
            yield f"{_PREFIX}{name}_bucket{_label_text({'stage': stage, 'le': bound})} {number}"
        yield f"{_PREFIX}{name}_sum{_label_text({'stage': stage})} {histogram.sum!r}"
        yield f"{_PREFIX}{name}_count{_label_text({'stage': stage})} {histogram.count}"


def _header(name: str, kind: str, help_: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {help_}"
    yield f"# TYPE {_PREFIX}{name} {kind}"


def _label_text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

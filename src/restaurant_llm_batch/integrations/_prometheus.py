"""Prometheus's text format, version 0.0.4, for the counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeAlias

from ..outcomes import Stage
from ._counted import CallOutcome, CountersSnapshot, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "restaurant_llm_batch_"
_FAILS_AT: tuple[Stage, ...] = ("input", "search", "tokens", "llm", "task", "run")
_OUTCOMES: tuple[CallOutcome, ...] = ("answered", "refused", "failed", "cancelled")

Labels: TypeAlias = Mapping[str, str]


def render(counts: CountersSnapshot) -> str:
    """Return a snapshot as text. Every label that is known beforehand is there from the start, with 0."""
    return "".join(f"{line}\n" for line in _lines(counts))


def _lines(counts: CountersSnapshot) -> Iterator[str]:
    stages = tuple(counts.latency)
    yield from _plain("runs_started_total", "counter", "Runs that began.", [((), counts.runs_started)])
    yield from _plain("runs_ended_total", "counter", "Runs that are over.", [((), counts.runs_ended)])
    items = {("ok", ""): counts.succeeded}
    items |= {("failed", stage): counts.failed.get(stage, 0) for stage in _FAILS_AT}
    yield from _plain("items_total", "counter", "Items that are over.", items.items(), ("outcome", "stage"))
    yield from _plain("items_open", "gauge", "Items under way.", [((), counts.open_items)])
    calls = {(s, outcome): counts.calls.get((s, outcome), 0) for s in stages for outcome in _OUTCOMES}
    yield from _plain("calls_total", "counter", "Calls that are over.", calls.items(), ("stage", "outcome"))
    for name, kind, help_, of_stage in (
        ("retries_total", "counter", "Calls made again, or to be made again.", counts.retries),
        ("refusals_total", "counter", "Calls that the service refused.", counts.refusals),
        ("calls_in_flight", "gauge", "Calls in flight.", counts.in_flight),
        ("calls_waiting", "gauge", "Calls to be made again that have not been yet.", counts.waiting),
    ):
        yield from _plain(name, kind, help_, [((s,), of_stage.get(s, 0)) for s in stages], ("stage",))
    tokens = {(model, "prompt"): number for model, number in counts.prompt_tokens.items()}
    tokens |= {(model, "completion"): number for model, number in counts.completion_tokens.items()}
    yield from _plain(
        "tokens_total", "counter", "Tokens read and written.", tokens.items(), ("model", "kind")
    )
    cached = {(model,): number for model, number in counts.cached_tokens.items()}
    yield from _plain(
        "cached_tokens_total", "counter", "Prompt tokens from a cache.", cached.items(), ("model",)
    )
    yield from _histogram("call_seconds", "How long calls took.", counts.latency)
    yield from _histogram("slot_wait_seconds", "How long calls waited for a slot.", counts.slot_waits)


def _plain(
    name: str,
    kind: str,
    help_: str,
    values: Iterable[tuple[tuple[str, ...], int]],
    labels: tuple[str, ...] = (),
) -> Iterator[str]:
    yield from _head(name, kind, help_)
    for which, value in values:
        yield f"{_PREFIX}{name}{_shown(dict(zip(labels, which, strict=True)))} {value}"


def _histogram(name: str, help_: str, of_stage: Mapping[Stage, Histogram]) -> Iterator[str]:
    yield from _head(name, "histogram", help_)
    for stage, times in of_stage.items():
        bounds = [*(f"{bound:g}" for bound in times.bounds), "+Inf"]
        for bound, number in zip(bounds, accumulate(times.counts), strict=True):
            yield f"{_PREFIX}{name}_bucket{_shown({'stage': stage, 'le': bound})} {number}"
        yield f"{_PREFIX}{name}_sum{_shown({'stage': stage})} {times.sum!r}"
        yield f"{_PREFIX}{name}_count{_shown({'stage': stage})} {times.count}"


def _head(name: str, kind: str, help_: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {help_}"
    yield f"# TYPE {_PREFIX}{name} {kind}"


def _shown(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

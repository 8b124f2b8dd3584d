"""What a notebook shows of a report and its statistics: small tables, a bar of the time, and the first rows."""

from __future__ import annotations

from typing import Any

from .._shown import MAX_ROWS, bar, members_table, pairs_table, table

_MAX_CAUSES = 5


def report_html(report: Any) -> str:
    """Return a report: its statistics, where the time went, its first results, and its failures by their cause."""
    results = report.results
    shown = members_table(results, f"{len(results):,} results") if results else ""
    causes = report.failures_by_cause()
    failed = ""
    if causes:
        rows = [
            [len(failures), cause, [failure.item_id for failure in failures[:MAX_ROWS]]]
            for cause, failures in list(causes.items())[:_MAX_CAUSES]
        ]
        more = (
            f"; the {_MAX_CAUSES} most frequent of {len(causes):,} causes"
            if len(causes) > _MAX_CAUSES
            else ""
        )
        failed = table(["failures", "cause", "items"], rows, f"{len(report.failures):,} failures{more}")
    waited = sum(outcome.spent.waited for outcome in report.outcomes)
    return f"<div>{stats_html(report.stats, waited)}{shown}{failed}</div>"


def stats_html(stats: Any, waited: float = 0.0) -> str:
    """
    Return statistics as a table, with a bar of the time of the calls if it is known.

    Args:
        stats: The statistics.
        waited: Seconds that calls waited, added up.
    """
    calls = ", ".join(f"{number:,} {stage}" for stage, number in stats.calls.items()) or "none"
    pairs: dict[str, object] = {
        "items": f"{stats.succeeded:,} succeeded, {stats.failed:,} failed",
        "seconds": stats.wall_seconds,
        "calls": f"{calls}; {stats.retries:,} retries, {stats.rate_limited:,} refused",
        "tokens": f"{stats.prompt_tokens:,} read ({stats.cached_tokens:,} cached), {stats.completion_tokens:,} written",
    }
    if stats.cache_hits:
        pairs["replies from the store"] = stats.cache_hits
    if stats.cost is not None:
        pairs["cost"] = stats.cost
    elif stats.estimated_cost is not None:
        pairs["cost, estimated"] = stats.estimated_cost
    for stage, latency in stats.latency.items():
        if latency.count:
            pairs[f"{stage}, seconds"] = (
                f"{latency.p50:.3g} median, {latency.p95:.3g} for 95 of 100, {latency.max:.3g} at most"
            )
    for name, endpoint in stats.endpoints.items():
        pairs[f"endpoint {name}"] = (
            f"{endpoint.calls:,} calls: {endpoint.answered:,} answered, {endpoint.rate_limited:,} refused, "
            f"{endpoint.failed:,} failed"
        )
    for name, server in stats.servers.items():
        cache = "" if server.peak_kv_usage is None else f", KV cache {server.peak_kv_usage:.0%} full"
        pairs["server" if name == "llm" else f"server of {name.removeprefix('llm:')}"] = (
            f"at most {server.peak_running:,} running, {server.peak_waiting:,} waiting{cache}; "
            f"{server.preemptions:,} preempted; {server.readings:,} readings, {server.failed_readings:,} failed"
        )
    if stats.out_of_memory:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in stats.out_of_memory_by_kind.items())
        pairs["out of memory"] = f"{stats.out_of_memory:,} calls ({kinds})"
    if stats.peak_memory_mib is not None:
        pairs["memory of the process, MiB"] = round(stats.peak_memory_mib)
    if stats.stopped_because is not None:
        pairs["stopped"] = stats.stopped_because
    parts = {stage: latency.mean * latency.count for stage, latency in stats.latency.items()}
    return pairs_table(pairs) + bar({**parts, "waiting": waited})

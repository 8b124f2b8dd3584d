"""Counts of what servers say of their load, of limits that change, and of memory that was full."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .._shortage import out_of_memory
from ..events import LimitChanged, ServerRead
from ..models import ServerLoad
from ..outcomes import Reason, RunStats


class ServerCounts:
    """The part of a `MetricsSnapshot` that is about servers and limits."""

    def __init__(self) -> None:
        self._loads: dict[str, ServerLoad] = {}
        self._preemptions: Counter[str] = Counter()
        self._rejections: Counter[str] = Counter()
        self._readings: Counter[tuple[str, str]] = Counter()
        self._out_of_memory: Counter[str] = Counter()
        self._limits: dict[str, int] = {}
        self._limit_changes: Counter[tuple[str, Reason]] = Counter()
        self._peak_memory: float | None = None

    def read(self, event: ServerRead) -> None:
        """Count a reading. The load of a server that cannot be read is not known any more."""
        server = event.server
        if event.load is None:
            self._loads.pop(server, None)
        else:
            self._loads[server] = event.load
        self._readings[server, "failed" if event.load is None else "read"] += 1
        self._preemptions[server] += event.preemptions
        self._rejections[server] += event.rejections

    def limit_changed(self, event: LimitChanged) -> None:
        """Count a change of a limit; at the start of a run, it is only named."""
        self._limits[event.limiter] = event.limit
        if event.reason != "start":
            self._limit_changes[event.limiter, event.reason] += 1

    def call_failed(self, error: BaseException) -> None:
        """Count a call that failed, if the memory of its server was full."""
        full = out_of_memory(error)
        if full is not None:
            self._out_of_memory[full] += 1

    def run_ended(self, stats: RunStats) -> None:
        """Take the memory of a run."""
        self._peak_memory = stats.peak_memory_mib

    def snapshot(self) -> dict[str, Any]:
        """Return the fields of a `MetricsSnapshot`."""
        loads = self._loads
        return {
            "server_running": {server: load.running for server, load in loads.items()},
            "server_waiting": {server: load.waiting for server, load in loads.items()},
            "server_kv_usage": {s: load.kv_usage for s, load in loads.items() if load.kv_usage is not None},
            "server_kv_tokens": {
                s: load.kv_tokens for s, load in loads.items() if load.kv_tokens is not None
            },
            "server_preemptions": dict(self._preemptions),
            "server_rejections": dict(self._rejections),
            "server_readings": dict(self._readings),
            "out_of_memory": dict(self._out_of_memory),
            "limits": dict(self._limits),
            "limit_changes": dict(self._limit_changes),
            "peak_memory_mib": self._peak_memory,
        }

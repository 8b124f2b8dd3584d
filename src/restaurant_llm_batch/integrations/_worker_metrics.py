"""
Metrics of several processes that serve together: each writes its counts into a file, and any adds them up.

Theory of operation. A process writes its file whenever somebody asks it, and now and then besides. Whoever is asked
adds up the files, its own included: so what it says is never less than what another has said before, as Prometheus
expects of counters. The counts of a process that has ended stay; what it had in flight does not. A process holds a lock
(`flock`) on its file as long as it lives, so that the others know.

Each process that begins puts the counts of those that have ended into one file, so that a process that ends again and
again does not leave more and more of them. Who reads or does this holds the lock of that file.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from threading import Lock
from typing import Any

from ._counts import Histogram, MetricsSnapshot
from ._prometheus import CONTENT_TYPE, render
from .metrics import RunMetrics

LARGEST = ("server_running", "server_waiting", "server_kv_usage", "server_kv_tokens", "peak_memory_mib")
"""Figures that do not add up: of several processes, the largest is taken."""
GAUGES = ("open_items", "in_flight", "waiting", "endpoint_in_flight", "limits", *LARGEST)
"""Counts of what is going on now; all others only grow."""
_PREFIX = "counts-"
_ENDED = f"{_PREFIX}ended.json"
_WORKERS = """# HELP restaurant_llm_batch_workers Processes that serve.
# TYPE restaurant_llm_batch_workers gauge
restaurant_llm_batch_workers {}
"""


class WorkerMetrics:
    """
    Counts of this process, and of the others with the same folder.

    Args:
        metrics: Counts the runs of this process.
        folder: The folder; None if this process serves alone.
    """

    content_type = CONTENT_TYPE

    def __init__(self, metrics: RunMetrics, folder: Path | None) -> None:
        self._metrics = metrics
        self._folder = folder
        self._name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = Lock()
        self._written: MetricsSnapshot | None = None
        self._held: int | None = None
        if folder is not None:
            self._held = _hold(folder / f"{self._name}.lock")
            with _turn(folder):
                self._gather_ended(folder)

    def write(self) -> None:
        """Write the counts of this process, if they have changed."""
        if self._folder is None:
            return
        with self._lock:
            snapshot = self._metrics.snapshot()
            if snapshot != self._written:
                with suppress(OSError):  # a full disk, or a folder that is gone with the service
                    _write(self._folder / f"{self._name}.json", snapshot)
                    self._written = snapshot

    def release(self) -> None:
        """Leave the counts to the others, as those of a process that has ended."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def prometheus(self) -> str:
        """Return the counts of all processes in Prometheus's text format."""
        if self._folder is None:
            return render(self._metrics.snapshot()) + _WORKERS.format(1)
        self.write()
        with _turn(self._folder):
            alive = [_read(path) for path in self._files(self._folder, alive=True)]
            ended = [_read(path) for path in self._files(self._folder, alive=False)]
        return render(total(alive, ended)) + _WORKERS.format(len(alive))

    def _files(self, folder: Path, *, alive: bool) -> list[Path]:
        """Return the files of the processes that live, or of those that have ended."""
        found = sorted(folder.glob(f"{_PREFIX}*.json"))
        return [
            path
            for path in found
            if (path.stem == self._name or _is_held(path.with_suffix(".lock"))) == alive
        ]

    def _gather_ended(self, folder: Path) -> None:
        """Put the counts of processes that have ended into one file."""
        files = self._files(folder, alive=False)
        if len(files) < 2:
            return
        with suppress(OSError):  # a full disk: they stay as they are
            _write(folder / _ENDED, total([], map(_read, files)))
            for path in files:
                if path.name != _ENDED:
                    path.unlink()
                    path.with_suffix(".lock").unlink(missing_ok=True)


def _read(path: Path) -> MetricsSnapshot:
    return decoded(json.loads(path.read_text(encoding="utf-8")))


def _write(path: Path, snapshot: MetricsSnapshot) -> None:
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(encoded(snapshot)), encoding="utf-8")
    partial.replace(path)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process reads or gathers counts, and keep others from it during the block."""
    try:
        import fcntl
    except ImportError:  # Windows, where a service is one process
        yield
        return
    descriptor = os.open(folder / "turn", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _hold(path: Path) -> int | None:
    """Hold the lock of a file until this process ends."""
    try:
        import fcntl
    except ImportError:  # Windows, where a service is one process
        return None
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def leave(folder: Path) -> bool:
    """Note that this process ends, and return whether it is the last one that serves with a folder."""
    # First, so that of two that end at the same time one finds the other gone.
    for path in folder.glob(f"{_PREFIX}{os.getpid()}-*.lock"):
        path.unlink()
    return not any(map(_is_held, folder.glob(f"{_PREFIX}*.lock")))


def _is_held(path: Path) -> bool:
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def encoded(snapshot: MetricsSnapshot) -> dict[str, Any]:
    """Return a snapshot as JSON can hold it: mappings as lists of pairs, since their keys may be tuples."""
    return {field.name: _encoded(getattr(snapshot, field.name)) for field in fields(snapshot)}


def _encoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [[key, _encoded(one)] for key, one in value.items()]
    if isinstance(value, Histogram):
        return {"bounds": value.bounds, "counts": value.counts, "sum": value.sum}
    return value


def decoded(content: Mapping[str, Any]) -> MetricsSnapshot:
    """Return the snapshot that `encoded` was given."""
    return MetricsSnapshot(**{name: _decoded(value) for name, value in content.items()})


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return {tuple(key) if isinstance(key, list) else key: _decoded(one) for key, one in value}
    if isinstance(value, dict):
        return Histogram(tuple(value["bounds"]), tuple(value["counts"]), value["sum"])
    return value


def total(alive: Iterable[MetricsSnapshot], ended: Iterable[MetricsSnapshot]) -> MetricsSnapshot:
    """Return the counts of all processes; of those that have ended, without what they had in flight."""
    both = [(snapshot, True) for snapshot in alive] + [(snapshot, False) for snapshot in ended]
    found: dict[str, Any] = {}
    for field in fields(MetricsSnapshot):
        parts = [getattr(one, field.name) for one, lives in both if lives or field.name not in GAUGES]
        if field.name == "peak_memory_mib":
            found[field.name] = max((part for part in parts if part is not None), default=None)
        elif field.name in ("runs_started", "runs_ended", "open_items", "succeeded"):
            found[field.name] = sum(parts)
        else:
            found[field.name] = _sum_of(parts, max if field.name in LARGEST else _sum)
    return MetricsSnapshot(**found)


def _sum_of(mappings: Iterable[Mapping[Any, Any]], add: Callable[[Any, Any], Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            found[key] = add(found[key], value) if key in found else value
    return found


def _sum(one: Any, other: Any) -> Any:
    if not isinstance(one, Histogram):
        return one + other
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    return Histogram(one.bounds, counts, one.sum + other.sum)

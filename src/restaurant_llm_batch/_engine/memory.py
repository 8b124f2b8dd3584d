"""Memory watch: the peak resident memory of the process during a run, as far as the system says it."""

from __future__ import annotations

import os
import sys


class MemoryWatch:
    """
    Watches the process's resident memory from now on.

    The system keeps the peak of the process's whole life. If that has risen since the start, it is that of the run.
    Otherwise the run's own peak is not above it, and the most of what was seen stands for it.
    """

    __slots__ = ("_before", "_seen")

    def __init__(self) -> None:
        self._before = life_peak_mib()
        self._seen = resident_mib()

    def look(self) -> None:
        """Look at the memory that the process has now."""
        now = resident_mib()
        if now is not None and (self._seen is None or now > self._seen):
            self._seen = now

    def peak(self) -> float | None:
        """Return the peak so far, in MiB; None if the system does not report it."""
        self.look()
        life = life_peak_mib()
        if self._seen is None or life is None or self._before is None or life > self._before:
            return life
        return min(life, self._seen)


def life_peak_mib() -> float | None:
    """Return the process's peak resident memory so far, in MiB, or None if the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS (getrusage(2) of each).
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def resident_mib() -> float | None:
    """Return the process's resident memory now, in MiB, or None if the system has no /proc."""
    try:
        # Not `Path.read_bytes`: it counts as a call that blocks an event loop, which this file of the kernel does not.
        file = os.open("/proc/self/statm", os.O_RDONLY)
        try:
            pages = int(os.pread(file, 128, 0).split()[1])
        finally:
            os.close(file)
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / (1024 * 1024)

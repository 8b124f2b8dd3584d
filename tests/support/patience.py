"""Patience: how long tests wait for what must happen, which only a hang or a bug prevents."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds; a machine on which others keep all cores busy is ten times as slow as one that is idle."""


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what another thread, a child process or a server is about to do."""
    late = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < late, "it did not happen"
        time.sleep(0.002)

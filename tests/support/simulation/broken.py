"""A promise that was not kept."""

from __future__ import annotations

EPSILON = 1e-6
"""Seconds by which moments may differ, because sums of seconds are rounded."""


class Broken(AssertionError):
    """
    A promise was not kept.

    Args:
        promise: Name of the check.
        detail: What was found.

    Attributes:
        promise: Name of the check.
    """

    def __init__(self, promise: str, detail: object = "") -> None:
        super().__init__(f"{promise}: {detail}")
        self.promise = promise


class Breach(KeyboardInterrupt):
    """Carries `Broken` out of the engine, which takes any other exception for one of a task or of a backend."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(str(broken))
        self.broken = broken


def keep(promise: str, is_kept: bool, *detail: object) -> None:
    """Raise `Breach` unless a promise is kept."""
    if not is_kept:
        raise Breach(Broken(promise, " ".join(map(str, detail))))

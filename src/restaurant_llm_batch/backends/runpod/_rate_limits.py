"""RunPod rate limits: documented request limits per operation, kept by a sliding window and concurrency slots."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, fields
from time import monotonic

from ..._threads import SignalSafeSemaphore
from ..._validation import check_whole
from ...errors import ConfigurationError

WINDOW = 10.0
"""Seconds over which RunPod counts requests; https://docs.runpod.io/serverless/endpoints/send-requests."""


@dataclass(frozen=True, slots=True)
class OperationLimit:
    """
    Limits of an operation.

    Attributes:
        requests: Maximum requests in any 10 seconds.
        max_concurrent: Maximum requests in flight.

    Raises:
        ConfigurationError: If one of them is not a whole number of at least 1.
    """

    requests: int
    max_concurrent: int

    def __post_init__(self) -> None:
        for field in fields(self):
            check_whole(
                f"OperationLimit.{field.name}", getattr(self, field.name), 1, "OperationLimit(1000, 200)"
            )


@dataclass(frozen=True, slots=True)
class RunPodLimits:
    """
    RunPod's limits per account, endpoint and operation.

    The defaults are RunPod's minimum; it grants more to endpoints with many running workers. Source:
    https://docs.runpod.io/serverless/endpoints/send-requests. A poll that is rate limited all the same is
    repeated, which costs nothing but time.

    Attributes:
        run: Limits of submissions.
        status: Limits of polls.
        cancel: Limits of cancellations.

    Raises:
        ConfigurationError: If one of them is not an `OperationLimit`.
    """

    run: OperationLimit = OperationLimit(1000, 200)
    status: OperationLimit = OperationLimit(2000, 400)
    cancel: OperationLimit = OperationLimit(100, 20)

    def __post_init__(self) -> None:
        for field in fields(self):
            value: object = getattr(self, field.name)
            if not isinstance(value, OperationLimit):
                raise ConfigurationError(
                    f"RunPodLimits.{field.name} must be an OperationLimit, got {value!r}; for example "
                    f"{field.name}=OperationLimit(1000, 200)"
                )


class SlidingWindowLimiter:
    """
    Sliding-window rate limiter (sliding log): at most `calls` reservations in any `window` seconds.

    Args:
        calls: Maximum reservations in a window.
        window: Length of the window in seconds.
    """

    def __init__(self, calls: int, window: float = WINDOW) -> None:
        self._window = window
        self._reserved: deque[float] = deque(maxlen=calls)

    def reserve(self, now: float) -> float:
        """Reserve the next free time and return the seconds until then; first come, first served."""
        reserved = self._reserved
        time = max(now, reserved[-1]) if reserved else now
        if len(reserved) == reserved.maxlen:
            time = max(time, reserved[0] + self._window)
        reserved.append(time)
        return time - now


class OperationLimiter:
    """
    Applies an operation's limits in one process. Thread-safe.

    All callers share the sliding window. Threads share `slots`; each event loop has `max_concurrent` slots of its
    own.
    """

    def __init__(self, limit: OperationLimit) -> None:
        self.max_concurrent = limit.max_concurrent
        self.slots = SignalSafeSemaphore(limit.max_concurrent)
        self._window = SlidingWindowLimiter(limit.requests, WINDOW)
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Reserve a request, and return the seconds to wait before sending it."""
        with self._lock:
            return self._window.reserve(monotonic())


def make_operation_limiters(limits: RunPodLimits) -> dict[str, OperationLimiter]:
    """Return a limiter for each operation that has limits."""
    return {field.name: OperationLimiter(getattr(limits, field.name)) for field in fields(limits)}

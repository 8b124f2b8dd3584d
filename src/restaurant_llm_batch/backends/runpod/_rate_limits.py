"""How often RunPod may be asked: its documented limits, and a pace that keeps to them."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, fields
from time import monotonic

from ...errors import ConfigurationError

WINDOW = 10.0
"""Seconds over which RunPod counts requests; docs.runpod.io/serverless/endpoints/send-requests."""


@dataclass(frozen=True, slots=True)
class OperationLimit:
    """
    How often an operation may be asked for.

    Attributes:
        requests: Requests in any 10 seconds.
        max_concurrent: Requests in flight at once.

    Raises:
        ConfigurationError: When one of them is not a whole number of at least 1.
    """

    requests: int
    max_concurrent: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ConfigurationError(
                    f"OperationLimit.{field.name} must be a whole number of at least 1, got {value!r}; "
                    "for example Rate(1000, 200)"
                )


@dataclass(frozen=True, slots=True)
class RunPodLimits:
    """
    RunPod's limits per account, endpoint and operation.

    The defaults are the least that RunPod grants; an endpoint with many running workers is granted more.
    Polls of a job that are refused all the same are made again, at no cost but time.

    Attributes:
        run: Submissions.
        status: Looks at jobs.
        cancel: Cancellations.
    """

    run: OperationLimit = OperationLimit(1000, 200)
    status: OperationLimit = OperationLimit(2000, 400)
    cancel: OperationLimit = OperationLimit(100, 20)

    def __post_init__(self) -> None:
        for field in fields(self):
            value: object = getattr(self, field.name)
            if not isinstance(value, OperationLimit):
                raise ConfigurationError(
                    f"RunPodLimits.{field.name} must be a Rate, got {value!r}; "
                    f"write {field.name}=Rate(1000, 200)"
                )


class SlidingWindowLimiter:
    """
    A sliding window of reservations: at most so many in any stretch of so long.

    Args:
        calls: Most reservations in a window.
        window: Its length in seconds.
    """

    def __init__(self, calls: int, window: float = WINDOW) -> None:
        self._window = window
        self._reserved: deque[float] = deque(maxlen=calls)

    def reserve(self, now: float) -> float:
        """Reserve the next free moment and return the seconds until then; first come, first served."""
        booked = self._reserved
        moment = max(now, booked[-1]) if booked else now
        if len(booked) == booked.maxlen:
            moment = max(moment, booked[0] + self._window)
        booked.append(moment)
        return moment - now


class OperationLimiter:
    """
    An operation's limits in one process.

    The pace is everybody's; the slots are those of the threads, and each event loop has as many of its own.
    """

    def __init__(self, rate: OperationLimit) -> None:
        self.concurrent = rate.max_concurrent
        self.slots = threading.BoundedSemaphore(rate.max_concurrent)
        self._window = SlidingWindowLimiter(rate.requests, WINDOW)
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Return the seconds to wait before asking."""
        with self._lock:
            return self._window.reserve(monotonic())


def make_operation_limiters(limits: RunPodLimits) -> dict[str, OperationLimiter]:
    """Return a lane for each operation that has limits."""
    return {field.name: OperationLimiter(getattr(limits, field.name)) for field in fields(limits)}

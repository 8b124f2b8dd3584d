"""
Waiting in a blocking backend, so that a run which gives the call up can end the wait.

A worker thread cannot be cancelled. A backend that waits for long, as `RunPodLLM` does between two looks at a
job, therefore waits with `wait`, and tidies up when that raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from time import sleep
from typing import TypeVar

from .errors import RunStopped

T = TypeVar("T")

_GIVEN_UP: ContextVar[threading.Event | None] = ContextVar("given_up", default=None)


def wait(seconds: float) -> None:
    """
    Wait in a blocking backend.

    Raises:
        RunStopped: At once when the run that made this call has given it up; nobody hears its answer.
    """
    event = _GIVEN_UP.get()
    if event is None:
        sleep(seconds)
    elif event.wait(seconds):
        raise RunStopped("the run gave this call up")


def is_given_up() -> bool:
    """Tell whether the run that made this call has given it up."""
    event = _GIVEN_UP.get()
    return event is not None and event.is_set()


def until(given_up: threading.Event, work: Callable[[], T]) -> T:
    """Do work that is given up when the event is set."""
    token = _GIVEN_UP.set(given_up)
    try:
        return work()
    finally:
        _GIVEN_UP.reset(token)

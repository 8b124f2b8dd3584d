"""
How a blocking backend learns that a run gives its call up, and ends it.

A worker thread cannot be cancelled. A backend that waits for long, as `RunPodLLM` does between two looks at a
job, therefore waits with `wait`, and tidies up when that raises. One that blocks in something which another
thread can end, as a connection is, names what ends it with `on_cancel`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from .errors import RunStopped

T = TypeVar("T")

log: logging.Logger = logging.getLogger("restaurant_llm_batch")


class CancelToken:
    """Whether calls were given up: set once, by any thread; may be waited for, or answered with callbacks."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], object]] = {}

    def set(self) -> None:
        """Give the calls up, and call what waits for that in this thread. What a callback raises is logged."""
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            _call(callback)

    def is_set(self) -> bool:
        """Tell whether the calls were given up."""
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the calls are given up, for so many seconds at most; return whether they were."""
        return self._event.wait(seconds)

    def add_callback(self, callback: Callable[[], object]) -> Callable[[], None]:
        """
        Have something called once when the calls are given up; at once if they were already.

        Returns:
            What takes it back. It does not wait for a callback that another thread is in the middle of.
        """
        mark = object()
        with self._lock:
            due = self._event.is_set()
            if not due:
                self._callbacks[mark] = callback
        if due:
            _call(callback)

        def remove_callback() -> None:
            with self._lock:
                self._callbacks.pop(mark, None)

        return remove_callback


_CANCEL_TOKEN: ContextVar[CancelToken | None] = ContextVar("cancel_token", default=None)


def sleep(seconds: float) -> None:
    """
    Wait in a blocking backend.

    Raises:
        RunStopped: At once when the run that made this call has given it up; nobody hears its answer.
    """
    token = _CANCEL_TOKEN.get()
    if token is None:
        time.sleep(seconds)
    elif token.wait(seconds):
        raise cancelled_error()


def cancel_requested() -> bool:
    """Tell whether the run that made this call has given it up."""
    token = _CANCEL_TOKEN.get()
    return token is not None and token.is_set()


def cancelled_error() -> RunStopped:
    """Return the error of a call that was given up."""
    return RunStopped("the run gave this call up")


@contextmanager
def on_cancel(abort: Callable[[], object]) -> Iterator[None]:
    """
    Have the call of this thread ended when the run gives it up.

    Outside a run, and in a call of one that cannot give it up, this does nothing.

    Args:
        abort: Ends what the ``with`` block does, and comes from another thread, or from this one before the
            block begins when the call is given up already. It may still come when the block has just ended.
    """
    token = _CANCEL_TOKEN.get()
    if token is None:
        yield
        return
    remove_callback = token.add_callback(abort)
    try:
        yield
    finally:
        remove_callback()


@contextmanager
def shielded() -> Iterator[None]:
    """
    Let a part of a call, such as its tidying up, go on although the run gives the call up.

    Inside, `wait` only waits, `cancel_requested` tells no, and exchanges are not ended.
    """
    previous = _CANCEL_TOKEN.set(None)
    try:
        yield
    finally:
        _CANCEL_TOKEN.reset(previous)


def run_with_token(token: CancelToken, work: Callable[[], T]) -> T:
    """Do work that is given up when the event is set."""
    previous = _CANCEL_TOKEN.set(token)
    try:
        return work()
    finally:
        _CANCEL_TOKEN.reset(previous)


def _call(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        log.exception("ending a call that was given up failed")

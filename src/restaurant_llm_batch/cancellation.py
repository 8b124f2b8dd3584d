"""
Cancellation of blocking calls: the cancel token, and how a backend waits so that a cancelled run can end its call.

Theory of operation. An async call is cancelled by its event loop. A worker thread cannot be cancelled, so a
blocking backend has to cooperate:

1. For each blocking call the driver makes a `CancelToken` and runs the backend inside `run_with_token`.
2. A backend that only waits, as `RunPodLLM` does between two polls, waits with `sleep`, which raises `RunStopped`
   as soon as the token is set. It then cleans up (cancels its job) inside `shielded`.
3. A backend that blocks in I/O registers with `on_cancel` a function that aborts the I/O from another thread, as
   the HTTP transports do by closing the connection.
4. When the run is stopped or cancelled, the engine sets the token from its own thread.

Two context variables reach from the engine into the backends, because the backend protocols have no parameter for
them. They are the only such couplings:

- the cancel token, set here by `run_with_token`, for the length of one blocking call;
- the job journal, `CURRENT_JOURNAL` of `_store/journal.py`, for the length of one call, sync or async, that a
  store answers for; a backend whose replies are jobs reads it with `current_job_journal`, to find the job of an
  earlier run instead of paying for a second one.

They are context variables and not thread locals, because async calls of many items share one thread. Outside a run,
and without a store, they are None; a backend that ignores them works, but cannot be cancelled or re-attached.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from ._threads import SignalSafeEvent
from .errors import RunStopped

T = TypeVar("T")

log: logging.Logger = logging.getLogger("restaurant_llm_batch")


class CancelToken:
    """Cancellation flag of one or more calls. Any thread may set it, once; others wait for it or add callbacks."""

    def __init__(self) -> None:
        self._event = SignalSafeEvent()
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], object]] = {}

    def set(self) -> None:
        """Cancel the calls, and run the callbacks in this thread. An exception of a callback is logged."""
        # The flag is set under the lock, so that a callback added at the same time either is in the
        # dictionary or sees the flag: it runs exactly once. The callbacks run outside, as they may block.
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            _call(callback)

    def is_set(self) -> bool:
        """Return whether the calls are cancelled."""
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the calls are cancelled, at most `seconds` (None: without limit); return whether they are."""
        return self._event.wait(seconds)

    def add_callback(self, callback: Callable[[], object]) -> Callable[[], None]:
        """
        Call `callback` once when the calls are cancelled; at once, in this thread, if they already are.

        Returns:
            A function that removes the callback. It does not wait for a callback that another thread is running.
        """
        key = object()
        with self._lock:
            already_set = self._event.is_set()
            if not already_set:
                self._callbacks[key] = callback
        if already_set:
            _call(callback)

        def remove_callback() -> None:
            with self._lock:
                self._callbacks.pop(key, None)

        return remove_callback


_CANCEL_TOKEN: ContextVar[CancelToken | None] = ContextVar("cancel_token", default=None)


def sleep(seconds: float) -> None:
    """
    Sleep in a blocking backend for `seconds`, or until the run cancels the call.

    Raises:
        RunStopped: The run cancelled this call; nothing waits for its reply any more.
    """
    token = _CANCEL_TOKEN.get()
    if token is None:
        time.sleep(seconds)
    elif token.wait(seconds):
        raise cancelled_error()


def cancel_requested() -> bool:
    """Return whether the run has cancelled the current call."""
    token = _CANCEL_TOKEN.get()
    return token is not None and token.is_set()


def cancelled_error() -> RunStopped:
    """Return the error of a cancelled call."""
    return RunStopped("the run cancelled this call")


@contextmanager
def on_cancel(abort: Callable[[], object]) -> Iterator[None]:
    """
    Abort the work of the ``with`` block when the run cancels the current call.

    Outside a run, and in a call that its run cannot cancel, this does nothing.

    Args:
        abort: Aborts the work. It is called from another thread; or from this thread before the block starts if
            the call is already cancelled. It may still be called just after the block has ended.
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
    Shield a part of a call, such as its clean-up, from cancellation.

    Inside the block, cancellation is ignored: `sleep` does not raise, `cancel_requested` returns False, and HTTP
    requests are not aborted.
    """
    previous = _CANCEL_TOKEN.set(None)
    try:
        yield
    finally:
        _CANCEL_TOKEN.reset(previous)


def run_with_token(token: CancelToken, work: Callable[[], T]) -> T:
    """Run `work` in this thread with `token` as its cancel token, and return its result."""
    previous = _CANCEL_TOKEN.set(token)
    try:
        return work()
    finally:
        _CANCEL_TOKEN.reset(previous)


def _call(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        log.exception("a cancellation callback failed")

"""
Start threads, join them, and wait for events, so that a Ctrl-C meanwhile stays a Ctrl-C.

The condition in a `threading.Event` takes its lock again as it is left. An interrupt at that moment keeps it from
that, and what is raised is not the interrupt but ``RuntimeError: release unlocked lock`` (CPython 3.11 to 3.14).
`Thread.start` waits at an event, too.
"""

from __future__ import annotations

import threading
import time

START_SECONDS = 2.0
"""Seconds to wait for a thread whose start was interrupted, until it counts as not started."""
_POLL_SECONDS = 0.001


def start_thread(thread: threading.Thread) -> None:
    """
    Start a thread.

    Raises:
        KeyboardInterrupt: On Ctrl-C. Whether the thread runs is open then.
        RuntimeError: There is no thread: the system starts no more of them.
    """
    try:
        thread.start()
    except RuntimeError as error:
        _raise_interrupt(error)
        raise


def join_thread(thread: threading.Thread) -> None:
    """Wait until another thread has ended; return if it has not begun, as after an interrupt while it was started."""
    deadline = time.monotonic() + START_SECONDS
    joined = thread.ident is None
    while not joined and time.monotonic() < deadline:
        try:
            thread.join()
            joined = True
        except RuntimeError:  # it runs, and is about to say so
            time.sleep(_POLL_SECONDS)


def wait_for(event: threading.Event, seconds: float | None = None) -> bool:
    """Wait until an event is set, at most `seconds` (None: without limit); return whether it is."""
    try:
        return event.wait(seconds)
    except RuntimeError as error:
        _raise_interrupt(error)
        raise


def _raise_interrupt(error: RuntimeError) -> None:
    """Raise the interrupt that an error of a lock hides, if it does."""
    hidden = error.__context__
    if hidden is not None and not isinstance(hidden, Exception):
        raise hidden from None

"""Waits and starts of threads: an interrupt is raised as itself, not as an error of the lock that it came upon."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from tests.support.patience import PATIENCE

from restaurant_llm_batch._threads import join_thread, start_thread, wait_for
from restaurant_llm_batch.cancellation import CancelToken


@contextmanager
def interrupted_at(*functions: str) -> Iterator[None]:
    """Raise KeyboardInterrupt once, at the first line of one of these functions of `threading` in this thread."""
    done = False

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        return line if frame.f_code.co_filename == threading.__file__ else None

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal done
        if event == "line" and not done and frame.f_code.co_qualname in functions:
            done = True
            raise KeyboardInterrupt
        return line

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
    assert done


LOCK_LEFT = ("Condition._acquire_restore",)
"""Where a condition takes its lock again: after an interrupt there it gives back a lock that it has not."""


@pytest.mark.parametrize(
    "wait",
    [
        lambda: wait_for(threading.Event(), 0.001),
        lambda: CancelToken().wait(0.001),
    ],
    ids=["event", "cancel token"],
)
def test_an_interrupted_wait_raises_the_interrupt(wait: Callable[[], object]) -> None:
    with pytest.raises(KeyboardInterrupt), interrupted_at(*LOCK_LEFT):
        wait()


def test_python_itself_hides_the_interrupt() -> None:
    with pytest.raises(RuntimeError, match="release unlocked lock"), interrupted_at(*LOCK_LEFT):
        threading.Event().wait(0.001)


def test_an_interrupted_start_raises_the_interrupt_and_the_thread_can_be_joined() -> None:
    gate = threading.Lock()
    gate.acquire()
    thread = threading.Thread(target=gate.acquire, kwargs={"timeout": PATIENCE}, daemon=True)
    hold = threading.Lock()
    hold.acquire()
    set_started = thread._started.set  # type: ignore[attr-defined]

    def set_later() -> None:
        hold.acquire(timeout=PATIENCE)
        set_started()

    thread._started.set = set_later  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt), interrupted_at(*LOCK_LEFT, "Condition.wait"):
        start_thread(thread)
    while thread.ident is None:
        pass  # it begins
    threading.Timer(0.01, hold.release).start()
    gate.release()
    join_thread(thread)  # as it is not marked as started yet, `Thread.join` would raise
    assert not thread.is_alive()


def test_a_thread_that_never_began_is_not_waited_for() -> None:
    join_thread(threading.Thread(target=print))


def test_errors_that_hide_no_interrupt_stay() -> None:
    thread = threading.Thread(target=int, daemon=True)
    start_thread(thread)
    with pytest.raises(RuntimeError, match="only be started once"):
        start_thread(thread)
    join_thread(thread)

"""
An interleaver: steps threads through the lines of some files, and draws from a seed which of them goes on.

A thread that is about to execute a line of the files may park there and let another one go on. One that blocks outside
of the files, in a lock or on an event loop, cannot be stepped; so a thread that has parked goes on by itself after
`PATIENCE` seconds. That is a bound on a wait, not on what is tested: no assertion depends on it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import FrameType
from typing import Any

PATIENCE = 0.002


class Interleaver:
    """
    Interleaves the threads that run lines of some files.

    Args:
        seed: Which interleaving.
        files: Ends of the names of the files whose lines are steps.
    """

    def __init__(self, seed: int, files: tuple[str, ...]) -> None:
        self.random = Random(seed)
        self.steps = 0
        self._files = files
        self._share = self.random.choice((0.03, 0.1, 0.3))  # of the steps at which a thread parks
        self._lock = threading.Lock()
        self._parked: list[threading.Event] = []
        self._stepping = (
            threading.local()
        )  # a garbage collection in the middle of a step may run lines of the files

    def step(self) -> None:
        """Perhaps let another thread go on, and wait for a turn."""
        self.steps += 1
        if self.random.random() >= self._share or getattr(self._stepping, "here", False):
            return
        self._stepping.here = True
        self._park()
        self._stepping.here = False

    def _park(self) -> None:
        mine = threading.Event()
        with self._lock:
            if self._parked:
                self._parked.pop(self.random.randrange(len(self._parked))).set()
            self._parked.append(mine)
        mine.wait(PATIENCE)
        with self._lock:
            if mine in self._parked:
                self._parked.remove(mine)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.endswith(self._files):
            return None
        frame.f_trace_lines = True
        return self._step_line

    def _step_line(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "line":
            self.step()
        return self._step_line

    @contextmanager
    def threads(self, *works: Callable[[], object]) -> Iterator[list[threading.Thread]]:
        """Run each work in a thread of its own, and wait for all of them."""
        before, before_threads = sys.gettrace(), threading.gettrace()
        threading.settrace(self._trace)
        threads = [threading.Thread(target=work) for work in works]
        try:
            for thread in threads:
                thread.start()
            yield threads
            for thread in threads:
                thread.join()
        finally:
            threading.settrace(before_threads)
            sys.settrace(before)

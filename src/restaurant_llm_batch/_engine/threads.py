"""
Worker threads for blocking backends.

Not `concurrent.futures` and not anyio's: both join their threads when the interpreter exits, so that a
Ctrl-C would wait for every blocked call. These are daemons; how many there are is decided by the gates, which
admit a call before it gets a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], object]


class DaemonThreadPool:
    """A pool that grows with what it is given and keeps idle threads until it is closed, once and for all."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0
        self._closed = False

    def submit(self, job: Work) -> None:
        """
        Run `job`, which must not raise, in a thread of its own as far as it can tell.

        Raises:
            RuntimeError: When the pool is closed, or the system has no more threads.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the runner's worker threads are closed")
            if self._idle:
                self._idle -= 1
            else:
                self._start_thread()
            self._jobs.put(job)

    def _start_thread(self) -> None:
        name = f"restaurant-llm-batch-{self._threads + 1}"
        threading.Thread(target=self._run_worker, name=name, daemon=True).start()
        self._threads += 1

    def close(self) -> None:
        """Let idle threads end now, and busy ones after their job."""
        with self._lock:
            self._closed = True
            threads = self._threads
        for _ in range(threads):
            self._jobs.put(None)

    def _run_worker(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._idle += 1

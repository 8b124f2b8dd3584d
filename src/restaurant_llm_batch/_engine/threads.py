"""
Daemon thread pool: worker threads for blocking backends.

Not the thread pools of `concurrent.futures` or anyio: both join their threads when the interpreter exits, so a Ctrl-C
would wait for every blocked call. These threads are daemons. The pool has no size limit, because the limiters admit a
call before it gets a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], object]


class DaemonThreadPool:
    """A pool that starts a thread if none is idle, and keeps idle threads until it is closed for good."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0
        self._closed = False

    def submit(self, work: Work) -> None:
        """
        Run `work`, which must not raise, in an idle or a new thread, without waiting for another one.

        Raises:
            RuntimeError: If the pool is closed, or the system cannot start another thread.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the runner's worker threads are closed")
            if self._idle:
                self._idle -= 1
            else:
                self._start_thread()
            self._queue.put(work)

    def _start_thread(self) -> None:
        name = f"restaurant-llm-batch-{self._threads + 1}"
        threading.Thread(target=self._run_worker, name=name, daemon=True).start()
        self._threads += 1

    def close(self) -> None:
        """End idle threads now, and busy ones after their work."""
        with self._lock:
            self._closed = True
            threads = self._threads
        for _ in range(threads):
            self._queue.put(None)

    def _run_worker(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            with self._lock:
                self._idle += 1

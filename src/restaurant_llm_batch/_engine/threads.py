"""
Daemon thread pool: worker threads for blocking backends.

Not the thread pools of `concurrent.futures` or anyio: both join their threads when the interpreter exits, so a Ctrl-C
would wait for every blocked call. These threads are daemons. The pool has no size limit, because the limiters admit a
call before it gets a thread. If the system starts no more threads, calls wait for those that there are.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from .._shortage import NoThread, is_thread_shortage
from .._threads import SignalSafeThread

log = logging.getLogger("restaurant_llm_batch")

Work = Callable[[], object]

_ADVICE = "lower the limits, or allow this process more threads (ulimit -u)"


class DaemonThreadPool:
    """A pool that starts a thread if none is idle, and keeps idle threads until it is closed for good."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._idle = 0
        self._threads = 0
        self._hosts = 0  # threads that work until a run ends
        self._closed = False
        self._waiting: deque[Callable[[], bool]] = deque()
        self._short = False

    def start(self, work: Work) -> None:
        """
        Run `work`, which must not raise, in an idle or a new thread, for as long as it takes.

        Raises:
            NoThread: If the system starts no thread, and none is idle.
            RuntimeError: If the pool is closed.
        """
        with self._lock:
            if not self._take_or_start():
                raise NoThread(f"the system starts no more threads than {self._threads}; {_ADVICE}")
            self._hosts += 1

        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._hosts -= 1

        self._queue.put(run)

    def reserve(self, on_reserved: Callable[[], bool]) -> bool:
        """
        Reserve a thread for one `submit` or `cancel_reservation`: an idle one, or a new one.

        Args:
            on_reserved: Called in a worker thread as soon as one is reserved, if none is now; it returns False if the
                reservation is not wanted any more.

        Returns:
            Whether a thread is reserved; if not, `on_reserved` will be called.

        Raises:
            NoThread: If the system starts no thread, and there is none to wait for.
            RuntimeError: If the pool is closed.
        """
        with self._lock:
            if self._take_or_start():
                return True
            workers = self._threads - self._hosts
            if workers < 1:
                raise NoThread(f"the system starts no more threads; {_ADVICE}")
            self._waiting.append(on_reserved)
            if not self._short:
                self._short = True
                log.warning(
                    "the system starts no more than %d worker threads, so blocking calls wait for them; %s",
                    workers,
                    _ADVICE,
                )
            return False

    def _take_or_start(self) -> bool:
        if self._closed:
            raise RuntimeError("the runner's worker threads are closed")
        if self._idle:
            self._idle -= 1
            return True
        try:
            self._start_thread()
        except RuntimeError as error:
            if not is_thread_shortage(error):
                raise
            return False
        return True

    def submit(self, work: Work) -> bool:
        """Run `work`, which must not raise, in the reserved thread; return True."""
        self._queue.put(work)
        return True

    def cancel_reservation(self) -> None:
        """Give a reserved thread back."""
        self._release()

    def _start_thread(self) -> None:
        self._threads += 1  # first: after an interrupt, `close` rather ends one thread too many
        try:
            SignalSafeThread(self._run_worker, f"restaurant-llm-batch-{self._threads}").start()
        except Exception:
            self._threads -= 1
            raise

    def close(self) -> None:
        """End idle threads now, and busy ones after their work."""
        with self._lock:
            self._closed = True
            threads = self._threads
            self._waiting.clear()
        for _ in range(threads):
            self._queue.put(None)

    def _release(self) -> None:
        while True:
            with self._lock:
                on_reserved = self._waiting.popleft() if self._waiting else None
                if on_reserved is None:
                    self._idle += 1
                    return
            if on_reserved():
                return

    def _run_worker(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            work = None  # an idle thread would keep all that its latest call had in hand
            self._release()

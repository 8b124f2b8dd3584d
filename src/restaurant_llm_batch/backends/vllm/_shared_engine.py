"""
Shared vLLM engine: many threads use an engine that is safe for one thread only (leader/followers pattern).

Theory of operation
-------------------
`vllm.LLM` must be driven: a thread has to call ``step()`` until a request is finished, and only one thread at a
time may call anything of the engine. A dedicated thread would do, but it would have to be started, stopped and
survive forks. Instead the calling threads take turns, as in the leader/followers pattern (Schmidt et al.,
"Leader/Followers", PLoP 2000, https://www.dre.vanderbilt.edu/~schmidt/PDF/lf.pdf):

1. A caller enqueues a `PendingRequest`. If there is no leader, it becomes the leader; otherwise it is a follower
   and sleeps on its `PendingRequest.promoted` event.
2. The leader repeats: abort the cancelled requests, add the waiting ones to the engine, step the engine once,
   settle the requests that have finished. So requests that arrive during a step join the next one (continuous
   batching).
3. Settling a follower's request wakes the follower, which returns its answer.
4. When its own request is settled, the leader promotes another caller: the oldest running one, else the oldest
   waiting one. The promoted caller wakes with `PendingRequest.settled` False and goes on at 2.
5. A caller that is interrupted (Ctrl-C) leaves its request to be aborted. If it was the leader, it aborts its
   request by itself and promotes the next one.

Who may touch what
------------------
- `Engine`: the leader only, never under the lock, since a step takes tens of milliseconds.
- `_State`: any thread, under `SharedEngine._lock`.
- `PendingRequest`: written by the leader until `settled`, read by its caller after `promoted` is set.
- Invariant: there is a leader as long as any request is waiting or running.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar
from uuid import uuid4

from ..._threads import SignalSafeEvent

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Request_contra = TypeVar("Request_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)


class Engine(Protocol[Request_contra, Answer_co]):
    """An engine that works on many requests at once; called by one thread at a time."""

    def add(self, name: str, request: Request_contra, /) -> None:
        """Accept a request under a unique name, or raise."""
        ...

    def step(self) -> Sequence[tuple[str, Answer_co]]:
        """Advance all requests by one step; return the names and answers of those that have finished."""
        ...

    def abort(self, names: list[str], /) -> None:
        """Abort requests; unknown names are ignored."""
        ...


class PendingRequest(Generic[Request, Answer]):
    """
    A caller's request, and then its answer or error.

    Attributes:
        name: The request's unique name in the engine.
        request: The request.
        promoted: Set when the caller must wake: its request is settled, or it has become the leader.
        settled: Whether the answer or error is there.
    """

    __slots__ = ("_answer", "_error", "name", "promoted", "request", "settled")

    def __init__(self, request: Request) -> None:
        self.name = uuid4().hex
        self.request = request
        self.promoted = SignalSafeEvent()
        self.settled = False
        self._answer: Answer | None = None
        self._error: Exception | None = None

    def settle(self, answer: Answer | None, error: Exception | None = None) -> None:
        """Set the answer or the error, and wake the caller."""
        self._answer, self._error = answer, error
        self.settled = True
        self.promoted.set()

    def result(self) -> Answer:
        """Return the answer, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._answer  # type: ignore[return-value]


class _State(Generic[Request, Answer]):
    """
    Waiting and running requests, and the leader: a pure state machine without threads, locks or engine.

    Attributes:
        leader: The request whose caller drives the engine; None only if no request is waiting or running.
        waiting: Requests that have not been added to the engine, in order of arrival.
        running: Requests that the engine works on, by name.
        cancelled: Names of requests to abort, since their callers have returned.
    """

    def __init__(self) -> None:
        self.leader: PendingRequest[Request, Answer] | None = None
        self.waiting: deque[PendingRequest[Request, Answer]] = deque()
        self.running: dict[str, PendingRequest[Request, Answer]] = {}
        self.cancelled: list[str] = []

    def enqueue(self, pending: PendingRequest[Request, Answer]) -> bool:
        """Add a request to the queue; return whether its caller is the leader."""
        self.waiting.append(pending)
        if self.leader is None:
            self.leader = pending
        return self.leader is pending

    def mark_running(self, pending: PendingRequest[Request, Answer]) -> None:
        """Record that a waiting request was added to the engine."""
        if pending in self.waiting:
            self.waiting.remove(pending)
            self.running[pending.name] = pending
        else:  # its caller was interrupted while the leader was adding it
            self.cancelled.append(pending.name)

    def remove(self, pending: PendingRequest[Request, Answer]) -> None:
        """Remove a request that has finished, or that the engine did not accept."""
        self.running.pop(pending.name, None)
        with suppress(ValueError):
            self.waiting.remove(pending)

    def detach(self, pending: PendingRequest[Request, Answer]) -> PendingRequest[Request, Answer] | None:
        """
        Remove the request of a caller that returns, settled or not.

        Returns:
            The next leader, if the caller was the leader and any request is left.
        """
        if pending.name in self.running:
            self.cancelled.append(pending.name)
        self.remove(pending)
        if self.leader is not pending:
            return None
        self.leader = next(iter(self.running.values()), None) or next(iter(self.waiting), None)
        return self.leader


class SharedEngine(Generic[Request, Answer]):
    """
    Runs requests of any number of threads on an engine that is safe for one thread.

    Args:
        engine: The engine; nothing else may call it.
    """

    def __init__(self, engine: Engine[Request, Answer]) -> None:
        self._engine = engine
        self._state: _State[Request, Answer] = _State()
        self._lock = threading.Lock()

    def run(self, request: Request) -> Answer:
        """
        Run a request to its end, blocking the thread; drive the engine for all callers if no other thread does.

        Raises:
            Exception: An error that the engine raised for this request, or for all of its requests.
        """
        pending: PendingRequest[Request, Answer] = PendingRequest(request)
        try:
            with self._lock:
                is_leader = self._state.enqueue(pending)
            if not is_leader:
                pending.promoted.wait()
            if not pending.settled:
                self._drive(pending)
        finally:
            with self._lock:
                successor = self._state.detach(pending)
            if successor is not None:
                successor.promoted.set()
        return pending.result()

    def _drive(self, own: PendingRequest[Request, Answer]) -> None:
        try:
            while not own.settled:
                self._start_waiting()
                if not own.settled:
                    self._step()
        except BaseException:  # Ctrl-C: the next leader must not compute an answer that no caller waits for
            with suppress(Exception):
                self._engine.abort([own.name])
            raise

    def _start_waiting(self) -> None:
        with self._lock:
            cancelled, self._state.cancelled = self._state.cancelled, []
        if cancelled:
            self._engine.abort(cancelled)
        while (pending := self._first_waiting()) is not None:
            try:
                self._engine.add(pending.name, pending.request)
            except Exception as error:
                self._settle(pending, None, error)
            else:
                with self._lock:
                    self._state.mark_running(pending)

    def _first_waiting(self) -> PendingRequest[Request, Answer] | None:
        with self._lock:
            return self._state.waiting[0] if self._state.waiting else None

    def _step(self) -> None:
        with self._lock:
            running = dict(self._state.running)
        try:
            finished = self._engine.step()
        except Exception as error:
            for pending in running.values():
                self._settle(pending, None, error)
            return
        for name, answer in finished:
            if name in running:  # not aborted, nor a request of the user's own on the same engine
                self._settle(running[name], answer)

    def _settle(
        self, pending: PendingRequest[Request, Answer], answer: Answer | None, error: Exception | None = None
    ) -> None:
        with self._lock:
            self._state.remove(pending)
        pending.settle(answer, error)

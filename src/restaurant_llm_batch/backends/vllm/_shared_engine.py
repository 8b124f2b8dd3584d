"""
Many threads share an engine that only one of them may drive.

There is no thread of its own: whoever asks first takes the helm and drives until its own answer is there.
What others ask meanwhile is taken aboard between two steps of the engine, so that everything that arrives
together is worked on together. Then the helm passes on to one who still waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar
from uuid import uuid4

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Request_contra = TypeVar("Request_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)


class Engine(Protocol[Request_contra, Answer_co]):
    """What is driven; only ever called by one thread at a time."""

    def add(self, name: str, job: Request_contra, /) -> None:
        """Take a job on, or raise."""
        ...

    def step(self) -> Sequence[tuple[str, Answer_co]]:
        """Work on all jobs for a moment and return the answers that are finished, with their jobs' names."""
        ...

    def abort(self, names: list[str], /) -> None:
        """Give jobs up; names that are not known are ignored."""
        ...


class PendingRequest(Generic[Request, Answer]):
    """A caller's place: its job, and then its answer or its error."""

    __slots__ = ("_answer", "_error", "name", "promoted", "request", "settled")

    def __init__(self, job: Request) -> None:
        self.name = uuid4().hex
        self.request = job
        self.promoted = threading.Event()  # to its answer, or to the helm
        self.settled = False
        self._answer: Answer | None = None
        self._error: Exception | None = None

    def settle(self, answer: Answer | None, error: Exception | None = None) -> None:
        """Note how the job ended, and wake the caller."""
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
    Who waits, who is aboard, and who is at the helm; it knows no thread and no engine.

    Attributes:
        leader: The seat whose caller drives; None only while nobody has anything to ask.
        waiting: Seats whose jobs the engine has not been given yet, in order of arrival.
        running: Seats whose jobs it works on, by name.
        cancelled: Names of jobs to be aborted, because their callers have left.
    """

    def __init__(self) -> None:
        self.leader: PendingRequest[Request, Answer] | None = None
        self.waiting: deque[PendingRequest[Request, Answer]] = deque()
        self.running: dict[str, PendingRequest[Request, Answer]] = {}
        self.cancelled: list[str] = []

    def enqueue(self, seat: PendingRequest[Request, Answer]) -> bool:
        """Let a seat wait; tell whether it has the helm."""
        self.waiting.append(seat)
        if self.leader is None:
            self.leader = seat
        return self.leader is seat

    def mark_running(self, seat: PendingRequest[Request, Answer]) -> None:
        """Note that the engine was given a seat's job."""
        if seat in self.waiting:
            self.waiting.remove(seat)
            self.running[seat.name] = seat
        else:  # its caller left meanwhile
            self.cancelled.append(seat.name)

    def remove(self, seat: PendingRequest[Request, Answer]) -> None:
        """Note that a seat's job has ended, or was not accepted."""
        self.running.pop(seat.name, None)
        with suppress(ValueError):
            self.waiting.remove(seat)

    def cancel(self, seat: PendingRequest[Request, Answer]) -> PendingRequest[Request, Answer] | None:
        """Let a seat go, answered or not; return the one that has the helm after it, if it had it."""
        if seat.name in self.running:
            self.cancelled.append(seat.name)
        self.remove(seat)
        if self.leader is not seat:
            return None
        self.leader = next(iter(self.running.values()), None) or next(iter(self.waiting), None)
        return self.leader


class SharedEngine(Generic[Request, Answer]):
    """
    The way for any number of threads to an engine that is safe for one.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine[Request, Answer]) -> None:
        self._engine = engine
        self._state: _State[Request, Answer] = _State()
        self._lock = threading.Lock()

    def run(self, request: Request) -> Answer:
        """
        Have a job done, driving the engine for everybody if nobody else does.

        Raises:
            Exception: What the engine raised about this job, or about all of them.
        """
        seat: PendingRequest[Request, Answer] = PendingRequest(request)
        try:
            with self._lock:
                steers = self._state.enqueue(seat)
            if not steers:
                seat.promoted.wait()
            if not seat.settled:
                self._drive(seat)
        finally:
            with self._lock:
                successor = self._state.cancel(seat)
            if successor is not None:
                successor.promoted.set()
        return seat.result()

    def _drive(self, mine: PendingRequest[Request, Answer]) -> None:
        try:
            while not mine.settled:
                self._start_waiting()
                if not mine.settled:
                    self._step()
        except BaseException:  # Ctrl-C: whoever drives next must not work for nobody
            with suppress(Exception):
                self._engine.abort([mine.name])
            raise

    def _start_waiting(self) -> None:
        with self._lock:
            gone, self._state.cancelled = self._state.cancelled, []
        if gone:
            self._engine.abort(gone)
        while (seat := self._first_waiting()) is not None:
            try:
                self._engine.add(seat.name, seat.request)
            except Exception as error:
                self._settle(seat, None, error)
            else:
                with self._lock:
                    self._state.mark_running(seat)

    def _first_waiting(self) -> PendingRequest[Request, Answer] | None:
        with self._lock:
            return self._state.waiting[0] if self._state.waiting else None

    def _step(self) -> None:
        with self._lock:
            aboard = dict(self._state.running)
        try:
            finished = self._engine.step()
        except Exception as error:
            for seat in aboard.values():
                self._settle(seat, None, error)
            return
        for name, answer in finished:
            if name in aboard:  # else it was aborted, or belongs to somebody else who uses the engine
                self._settle(aboard[name], answer)

    def _settle(
        self, seat: PendingRequest[Request, Answer], answer: Answer | None, error: Exception | None = None
    ) -> None:
        with self._lock:
            self._state.remove(seat)
        seat.settle(answer, error)

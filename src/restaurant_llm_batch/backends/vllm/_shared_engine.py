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

Job = TypeVar("Job")
Answer = TypeVar("Answer")
Job_contra = TypeVar("Job_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)


class Engine(Protocol[Job_contra, Answer_co]):
    """What is driven; only ever called by one thread at a time."""

    def add(self, name: str, job: Job_contra, /) -> None:
        """Take a job on, or raise."""
        ...

    def step(self) -> Sequence[tuple[str, Answer_co]]:
        """Work on all jobs for a moment and return the answers that are finished, with their jobs' names."""
        ...

    def abort(self, names: list[str], /) -> None:
        """Give jobs up; names that are not known are ignored."""
        ...


class Seat(Generic[Job, Answer]):
    """A caller's place: its job, and then its answer or its error."""

    __slots__ = ("_answer", "_error", "called", "job", "name", "settled")

    def __init__(self, job: Job) -> None:
        self.name = uuid4().hex
        self.job = job
        self.called = threading.Event()  # to its answer, or to the helm
        self.settled = False
        self._answer: Answer | None = None
        self._error: Exception | None = None

    def settle(self, answer: Answer | None, error: Exception | None = None) -> None:
        """Note how the job ended, and wake the caller."""
        self._answer, self._error = answer, error
        self.settled = True
        self.called.set()

    def result(self) -> Answer:
        """Return the answer, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._answer  # type: ignore[return-value]


class Crew(Generic[Job, Answer]):
    """
    Who waits, who is aboard, and who is at the helm; it knows no thread and no engine.

    Attributes:
        helmsman: The seat whose caller drives; None only while nobody has anything to ask.
        waiting: Seats whose jobs the engine has not been given yet, in order of arrival.
        aboard: Seats whose jobs it works on, by name.
        gone: Names of jobs to be aborted, because their callers have left.
    """

    def __init__(self) -> None:
        self.helmsman: Seat[Job, Answer] | None = None
        self.waiting: deque[Seat[Job, Answer]] = deque()
        self.aboard: dict[str, Seat[Job, Answer]] = {}
        self.gone: list[str] = []

    def enter(self, seat: Seat[Job, Answer]) -> bool:
        """Let a seat wait; tell whether it has the helm."""
        self.waiting.append(seat)
        if self.helmsman is None:
            self.helmsman = seat
        return self.helmsman is seat

    def board(self, seat: Seat[Job, Answer]) -> None:
        """Note that the engine was given a seat's job."""
        if seat in self.waiting:
            self.waiting.remove(seat)
            self.aboard[seat.name] = seat
        else:  # its caller left meanwhile
            self.gone.append(seat.name)

    def disembark(self, seat: Seat[Job, Answer]) -> None:
        """Note that a seat's job has ended, or was not accepted."""
        self.aboard.pop(seat.name, None)
        with suppress(ValueError):
            self.waiting.remove(seat)

    def leave(self, seat: Seat[Job, Answer]) -> Seat[Job, Answer] | None:
        """Let a seat go, answered or not; return the one that has the helm after it, if it had it."""
        if seat.name in self.aboard:
            self.gone.append(seat.name)
        self.disembark(seat)
        if self.helmsman is not seat:
            return None
        self.helmsman = next(iter(self.aboard.values()), None) or next(iter(self.waiting), None)
        return self.helmsman


class Helm(Generic[Job, Answer]):
    """
    The way for any number of threads to an engine that is safe for one.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine[Job, Answer]) -> None:
        self._engine = engine
        self._crew: Crew[Job, Answer] = Crew()
        self._lock = threading.Lock()

    def ask(self, job: Job) -> Answer:
        """
        Have a job done, driving the engine for everybody if nobody else does.

        Raises:
            Exception: What the engine raised about this job, or about all of them.
        """
        seat: Seat[Job, Answer] = Seat(job)
        try:
            with self._lock:
                steers = self._crew.enter(seat)
            if not steers:
                seat.called.wait()
            if not seat.settled:
                self._steer(seat)
        finally:
            with self._lock:
                successor = self._crew.leave(seat)
            if successor is not None:
                successor.called.set()
        return seat.result()

    def _steer(self, mine: Seat[Job, Answer]) -> None:
        try:
            while not mine.settled:
                self._take_aboard()
                if not mine.settled:
                    self._advance()
        except BaseException:  # Ctrl-C: whoever drives next must not work for nobody
            with suppress(Exception):
                self._engine.abort([mine.name])
            raise

    def _take_aboard(self) -> None:
        with self._lock:
            gone, self._crew.gone = self._crew.gone, []
        if gone:
            self._engine.abort(gone)
        while (seat := self._first_waiting()) is not None:
            try:
                self._engine.add(seat.name, seat.job)
            except Exception as error:
                self._settle(seat, None, error)
            else:
                with self._lock:
                    self._crew.board(seat)

    def _first_waiting(self) -> Seat[Job, Answer] | None:
        with self._lock:
            return self._crew.waiting[0] if self._crew.waiting else None

    def _advance(self) -> None:
        with self._lock:
            aboard = dict(self._crew.aboard)
        try:
            finished = self._engine.step()
        except Exception as error:
            for seat in aboard.values():
                self._settle(seat, None, error)
            return
        for name, answer in finished:
            if name in aboard:  # else it was aborted, or belongs to somebody else who uses the engine
                self._settle(aboard[name], answer)

    def _settle(self, seat: Seat[Job, Answer], answer: Answer | None, error: Exception | None = None) -> None:
        with self._lock:
            self._crew.disembark(seat)
        seat.settle(answer, error)

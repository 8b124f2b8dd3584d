"""
Events of all actors in the process of the driver: sent in groups to a mailbox actor, taken from there, and replayed.

Theory of operation. `EventSender` is an observer in each actor. Its thread sends what has gathered four times a second;
nothing waits for it. `EventMailbox` is an actor that keeps what was sent until it is taken. `Gathering` has a thread in
the driver that takes it, gives each run of each actor a number of its own, and calls the driver's observers, the record
among them. An actor that is killed has sent all but the latest moment; its run has no end then.
"""

from __future__ import annotations

import atexit
import logging
import pickle  # nosec B403 (events between actors of one job)
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from ..._runner.runner import BatchRunner
from ..._text import error_text
from ...errors import BackendError, BatchError
from ...events import Event, RunEnded
from ...protocols import Observer
from ...records._recording import Recording, describe_runner
from ...records._run_row import RunnerFacts

log = logging.getLogger("restaurant_llm_batch")

SEND_SECONDS = 0.25
TAKE_SECONDS = 0.25
ANSWER_SECONDS = 5.0
"""Seconds to wait for the mailbox, or for actors that are ending."""


class EventMailbox:
    """The actor that keeps what was sent until it is taken."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, list[bytes]]] = []

    def put(self, source: str, events: list[bytes]) -> None:
        """Keep events of an actor, each pickled."""
        self._kept.append((source, events))

    def take(self) -> list[tuple[str, list[bytes]]]:
        """Return what is kept, and keep it no longer."""
        kept, self._kept = self._kept, []
        return kept


class EventSender:
    """
    An observer that sends events to a mailbox. It is pickled to each actor, where it is used.

    Args:
        mailbox: The handle of the mailbox actor.
        wants_requests: Whether prompts and hits are sent.
    """

    def __init__(self, mailbox: Any, wants_requests: bool) -> None:
        self.wants_requests: bool = wants_requests
        self._mailbox = mailbox
        self._source = secrets.token_hex(8)
        self._unsent: list[object] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="restaurant-llm-batch-events", daemon=True)

    def begin(self, runner: BatchRunner) -> None:
        """Say what the runner is, and begin to send."""
        parts = runner.parts
        self._unsent.append(describe_runner(parts.llm, parts.strategy, parts.limits, parts.config))
        if self._thread.ident is None:  # otherwise the runner before could not be opened
            self._thread.start()

    def __call__(self, event: Event, /) -> None:
        """Queue an event."""
        self._unsent.append(event)

    def close(self) -> None:
        """Send what is left."""
        if self._thread.is_alive():
            self._closing.set()
            self._thread.join(ANSWER_SECONDS)

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(SEND_SECONDS)
            number = len(self._unsent)
            unsent, self._unsent[:number] = self._unsent[:number], []
            if unsent:
                sent = self._mailbox.put.remote(self._source, [packed(event) for event in unsent])
                if closing:
                    _wait_for(sent)

    def __reduce__(self) -> tuple[Any, ...]:
        return EventSender, (self._mailbox, self.wants_requests)


def _wait_for(sent: Any) -> None:
    import ray

    try:
        ray.get(sent, timeout=ANSWER_SECONDS)
    except Exception as error:  # the mailbox or the cluster is gone
        log.debug("the last events of an actor were not sent: %s", error)


def packed(event: object) -> bytes:
    """Return an event pickled, with errors that other processes can read."""
    error = getattr(event, "error", None)
    outcome = getattr(event, "outcome", None)
    if error is not None:
        event = event._replace(error=_portable(error))  # type: ignore[attr-defined]
    elif outcome is not None and not outcome.ok:
        event = event._replace(outcome=replace(outcome, error=_portable(outcome.error)))  # type: ignore[attr-defined]
    try:
        return pickle.dumps(event)
    except Exception:  # a result of a user's own task: its text is enough to look at
        if outcome is None or not outcome.ok:
            return b""
        return pickle.dumps(event._replace(outcome=replace(outcome, value=repr(outcome.value))))  # type: ignore[attr-defined]


def _portable(error: BaseException) -> BaseException:
    """Return an error that unpickles anywhere: a library's error may need arguments that it does not keep."""
    if isinstance(error, BatchError):
        return error
    return BackendError(error_text(error))


class Gathering:
    """
    Takes the events of all actors from a mailbox, and calls observers in this process.

    Args:
        mailbox: Returns what was sent since it was called before.
        observers: Called with every event, each run with a number of its own.
        recording: The record, or None.
    """

    def __init__(
        self,
        mailbox: Callable[[], list[tuple[str, list[bytes]]]],
        observers: Iterable[Observer],
        recording: Recording | None,
    ) -> None:
        self._take = mailbox
        self._observers = tuple(observers)
        self._recording = recording
        self._recorders: dict[str, Observer] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self._next = count(1).__next__
        self._open: set[int] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="restaurant-llm-batch-gathering", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # before Ray's own end

    @property
    def open_runs(self) -> int:
        """Number of runs that have begun and not ended."""
        return len(self._open)

    def close(self) -> None:
        """Take what is left, and close the record. It waits for actors that are ending."""
        if not self._closing.is_set():
            self._closing.set()
            atexit.unregister(self.close)
            self._thread.join()
            if self._recording is not None:
                self._recording.close()

    def _run(self) -> None:
        left = ANSWER_SECONDS
        while True:
            closing = self._closing.wait(TAKE_SECONDS)
            try:
                taken = self._take()
            except Exception as error:
                if closing:
                    log.debug("the events of actors cannot be taken any more: %s", error)
                    return
                continue  # the mailbox is being made again, or the cluster is busy
            for source, events in taken:
                self._replay(source, events)
            if closing:
                left -= TAKE_SECONDS
                if (not taken and not self._open) or left < 0:
                    return
                self._pause()

    def _pause(self) -> None:
        threading.Event().wait(TAKE_SECONDS)

    def _replay(self, source: str, events: Sequence[bytes]) -> None:
        for written in events:
            try:
                event = pickle.loads(written)  # nosec B301 (of our own actors)
            except Exception as error:  # of a class that only the actor has
                log.debug("an event of an actor cannot be read: %s", error)
                continue
            if isinstance(event, RunnerFacts):
                if self._recording is not None:
                    self._recorders[source] = self._recording.observer(event)
                continue
            self._notify(source, self._numbered(source, event))

    def _numbered(self, source: str, event: Any) -> Event:
        known = source, event.run
        number = self._numbers.get(known)
        if number is None:
            number = self._numbers[known] = self._next()
            self._open.add(number)
        if isinstance(event, RunEnded):
            self._open.discard(number)
        numbered: Event = event._replace(run=number)
        return numbered

    def _notify(self, source: str, event: Event) -> None:
        recorder = self._recorders.get(source)
        for observer in (*self._observers, *(() if recorder is None else (recorder,))):
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed; the actors go on without it having seen the event")

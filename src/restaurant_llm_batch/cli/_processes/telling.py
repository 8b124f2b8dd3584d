"""
What a process tells its command: the events of its run, the outcomes of its items, and what stop conditions count.

Told things are gathered for a moment and sent together. An outcome is sent at once, and so is what a stop condition may
act on. Every message has the time up to which it tells everything, so that the command can put the events of all
processes in order.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeAlias

from ...events import CallEnded, Event, ItemEnded, ItemStarted, LimitChanged, RunEnded, RunStarted
from ...models import ItemId
from .link import Link, LinkClosed
from .portable import pack_outcome, portable_error
from .stopping import Note

GATHER_SECONDS = 0.2
"""Most seconds from an event to its message."""


class ToldOutcome(NamedTuple):
    """
    An item has ended.

    Attributes:
        item_id: Its id.
        place: Its position in the whole input.
        packed: Its outcome, see `unpack_outcome`.
        time: When it ended.
    """

    item_id: ItemId | None
    place: int
    packed: bytes
    time: float


class ToldNote(NamedTuple):
    """A note for the stop conditions."""

    note: Note


Told: TypeAlias = Event | ToldOutcome | ToldNote


class Teller:
    """
    An observer of the run of a process, which tells the command of it.

    Args:
        link: The link to the command.
        places: The positions in the whole input of the items that the run has read, in the order in which it read them.
        texts: Whether the command records prompts and answers.

    Attributes:
        wants_requests: Whether events have prompts.
    """

    def __init__(self, link: Link, places: Sequence[int], *, texts: bool) -> None:
        self.wants_requests: bool = texts
        self._link = link
        self._places = places
        self._told: list[Told] = []
        self._lock = Lock()

    def __call__(self, event: Event, /) -> None:
        """Tell of an event."""
        if isinstance(event, ItemEnded):
            outcome = event.outcome
            place = self._places[outcome.index]
            self._tell(ToldOutcome(outcome.item_id, place, pack_outcome(outcome, place), event.time))
            self.send()
        elif not isinstance(event, (RunStarted, RunEnded, LimitChanged)):  # the command's run has its own
            self._tell(self._portable(event))

    def note(self, note: Note) -> None:
        """Tell what stop conditions count."""
        self._tell(ToldNote(note))
        self.send()

    def _portable(self, event: Any) -> Event:
        if isinstance(event, ItemStarted):
            return event._replace(position=self._places[event.position])
        if isinstance(event, CallEnded) and event.reply is not None and not self.wants_requests:
            return event._replace(reply=replace(event.reply, text="", rate_limit=None))
        if getattr(event, "error", None) is not None:
            return event._replace(error=portable_error(event.error))  # type: ignore[no-any-return]
        return event  # type: ignore[no-any-return]

    def _tell(self, told: Told) -> None:
        with self._lock:
            self._told.append(told)

    def send(self) -> None:
        """Send what has gathered, and until when it is all."""
        with self._lock:  # also while sending, so that messages are in order
            now, told, self._told = monotonic(), self._told, []
            with suppress(LinkClosed):  # the thread that receives ends the process
                try:
                    self._link.send("told", told, now)
                except LinkClosed:
                    raise
                except Exception:  # of a user's own value in one of them
                    self._link.send("told", [one for one in told if _can_be_sent(one)], now)

    def send_regularly(self) -> None:
        """Send what has gathered from time to time, in a thread of its own."""

        def work() -> None:
            while True:
                sleep(GATHER_SECONDS)
                self.send()

        Thread(target=work, name="teller", daemon=True).start()


def _can_be_sent(told: Told) -> bool:
    import pickle  # nosec B403

    try:
        pickle.dumps(told)
    except Exception:
        return False
    return True


class LogTeller(logging.Handler):
    """
    Sends log records to the command, which logs them.

    Args:
        link: The link to the command.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(logging.WARNING)
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        with suppress(Exception):
            self._link.send("log", record.levelno, self.format(record))

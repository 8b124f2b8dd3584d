"""
Wishes: limits that a person changes in the record's file, while the run goes on in another process.

Theory of operation. Who may write to the file, which is its owner alone, adds a row to the table `wishes`: run, name of
the limit, number. The thread that writes the record of that run looks for such rows whenever it has committed, and at
least every `LOOK_SECONDS` while a run goes on. It sets the limit through the runner's `LimitControl`, and writes the
answer into the row, in one transaction: so a wish is either withdrawn by its author, or set and answered.

A wish names its run by an id that no other run of the file has. At the end of a run, the wishes that are left are
refused; when a run begins, there are none for its id.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from time import monotonic, sleep, time
from typing import Any, Protocol

from .. import _fork
from .._limits.limiters import LimiterStanding
from .._store.database import StoreFile
from .._store.writer import in_transaction
from ..errors import ConfigurationError
from ._schema import ID_BITS
from ._values import iso, sql_text

log = logging.getLogger("restaurant_llm_batch")

LOOK_SECONDS = 0.25
"""Longest time between two looks for wishes, while a run goes on."""
_POLL_SECONDS = 0.05
_NO_CONTROL = "this run is a simulation, whose limits are those that it began with"

_OPEN = "SELECT id, run, name, value FROM wishes WHERE answered IS NULL ORDER BY id"
_ANSWER = "UPDATE wishes SET answered = ?, done = ?, answer = ? WHERE id = ? AND answered IS NULL"
_MAKE = f"""INSERT INTO wishes (id, run, name, value, made)
SELECT coalesce(max(id), ?1 << {ID_BITS}) + 1, ?1, ?2, ?3, ?4 FROM wishes
WHERE id >= ?1 << {ID_BITS} AND id < (?1 + 1) << {ID_BITS}"""  # nosec B608 (constants)


class RunControl(Protocol):
    """The limits of a runner, as a record knows them."""

    def set(self, name: object, limit: object) -> str:
        """Set a limit, and return a sentence that says so; raise `ConfigurationError` if it cannot be set."""
        ...

    def standings(self) -> Sequence[LimiterStanding]:
        """Return how the limiters stand now."""
        ...


class LiveRun(Protocol):
    """The part of a run in a record that wishes are for."""

    id: int
    forks: int
    control: RunControl | None


class Wishes:
    """The wishes for the runs of one `Recording` that go on. All of it happens in the writing thread."""

    def __init__(self) -> None:
        self._runs: list[LiveRun] = []
        self._answers: dict[
            int, tuple[bool, str]
        ] = {}  # of wishes that are set, but not answered in the file yet

    @property
    def seconds(self) -> float | None:
        """Seconds until the next look; None while no run goes on."""
        return LOOK_SECONDS if self._runs else None

    def begin(self, run: LiveRun) -> None:
        """Look for wishes for a run from now on."""
        if run not in self._runs:
            self._runs.append(run)

    def end(self, run: LiveRun) -> None:
        """Look for none any more."""
        if run in self._runs:
            self._runs.remove(run)

    def __call__(self, connection: sqlite3.Connection) -> None:
        """Look for wishes, set what they ask for, and write the answers."""
        if self._find(connection):
            in_transaction(connection, self._grant)

    def _find(self, connection: sqlite3.Connection) -> list[tuple[int, LiveRun, str, str]]:
        live = {run.id: run for run in self._runs if run.id and run.forks == _fork.count}
        if not live:
            return []
        rows = connection.execute(_OPEN).fetchall()
        return [
            (number, live[run], _decoded(name), _decoded(value))
            for number, run, name, value in rows
            if run in live
        ]

    def _grant(self, connection: sqlite3.Connection) -> None:
        answers: dict[int, tuple[bool, str]] = {}
        for number, run, name, value in self._find(connection):
            # If the last transaction failed, the limit is set already, and may have been set again by another thread.
            answers[number] = self._answers.get(number) or _set(run.control, name, value)
            self._answers = {**answers, **self._answers}
        for number, (done, answer) in answers.items():
            connection.execute(_ANSWER, (iso(time()), done, sql_text(answer), number))
        self._answers = answers


def _set(control: RunControl | None, name: str, value: str) -> tuple[bool, str]:
    if control is None:
        return False, _NO_CONTROL
    try:
        return True, control.set(name, as_number(value))
    except ConfigurationError as error:
        return False, str(error)
    except Exception as error:
        log.exception("a limit could not be set")
        return False, f"{type(error).__name__}: {error}"


def as_number(value: str) -> int | str:
    """Return a whole number, or the text if it is none."""
    try:
        return int(value)
    except ValueError:
        return value


def forget(run: int, connection: sqlite3.Connection) -> None:
    """Remove wishes for a run that begins: they are left from another one, whose row was deleted."""
    connection.execute("DELETE FROM wishes WHERE id >= ? AND id < ?", (run << ID_BITS, (run + 1) << ID_BITS))


def refuse_rest(run: int, connection: sqlite3.Connection) -> None:
    """Refuse the wishes that are left at the end of a run."""
    connection.execute(
        "UPDATE wishes SET answered = ?, done = 0, answer = ? WHERE run = ? AND answered IS NULL",
        (iso(time()), "the run has ended", run),
    )


def ask(file: StoreFile, run: int, name: str, value: str, wait: float) -> str:
    """
    Make a wish, wait for the answer, and return it.

    Args:
        file: The record.
        run: Number of the run.
        name: Name of the limit.
        value: The number.
        wait: Seconds to wait for the answer.

    Raises:
        ConfigurationError: The file cannot be written, the run refuses, or it does not answer; then the wish is
            withdrawn.
        sqlite3.Error: The file cannot be read or written.
    """
    connection = file.connect(file.lock_timeout)
    try:
        row = (run, sql_text(name), sql_text(value), iso(time()))
        number = connection.execute(_MAKE, row).lastrowid
        late = monotonic() + wait
        while (answer := _answer(connection, number)) is None and monotonic() < late:
            sleep(_POLL_SECONDS)
        if answer is None:
            connection.execute(_ANSWER, (iso(time()), 0, "withdrawn", number))
            answer = _answer(connection, number)  # it may have been answered in the last moment
            if answer is None or answer == (0, "withdrawn"):
                raise ConfigurationError(
                    f"run {run} did not answer within {wait:g} s, so nothing was changed: "
                    "its process has ended or hangs"
                )
    finally:
        connection.close()
    done, text = answer
    if not done:
        raise ConfigurationError(text)
    return text


def _answer(connection: sqlite3.Connection, number: int | None) -> tuple[int, str] | None:
    row = connection.execute(
        "SELECT done, answer FROM wishes WHERE id = ? AND answered IS NOT NULL", (number,)
    ).fetchone()
    return None if row is None else (row[0], _decoded(row[1]))


def _decoded(text: Any) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)

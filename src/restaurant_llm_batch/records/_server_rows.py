"""Rows of a record that say what the model's servers said of their load in one run."""

from __future__ import annotations

from itertools import count

from .._text import error_text
from ..events import ServerRead
from ._statements import Row
from ._values import sql_name, sql_text


class ServerRows:
    """The readings of one run."""

    def __init__(self) -> None:
        self._next = count(1).__next__
        self._known: set[str] = set()  # those that were read in this run before

    def row(self, seconds: float, event: ServerRead) -> Row:
        """
        Return the row of a reading, for the table `server_loads`.

        Args:
            seconds: When it was read, in seconds since the run began.
            event: The reading.
        """
        server, load, error = event.server, event.load, event.error
        row = self._next(), sql_name(server), seconds
        if load is None:
            return (*row, *[None] * 6, None if error is None else sql_text(error_text(error)))
        # What it has counted before its first reading in this run is of another time.
        counted = (event.preemptions, event.rejections) if server in self._known else (0, 0)
        self._known.add(server)
        return (*row, load.running, load.waiting, load.kv_usage, load.kv_tokens, *counted, None)

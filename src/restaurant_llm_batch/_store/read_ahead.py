"""
Read-ahead: rows that are likely to be asked for next, read from the store many at a time.

A run that is made again asks for its replies in about the order in which they were stored. A lookup by key takes
SQLite's locks, and two searches; the rows behind a row that was found cost a tenth of that each. So when lookups follow
each other through the file, the next rows are read in one query and kept, as long as most of them are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic as now

_ROWS = 64
"""Rows to read at once."""

_MAX_KEPT = 4 * _ROWS
"""Rows to keep; some are asked for later than those behind them."""

_MAX_BYTES = 2**18
"""Most bytes of replies to read ahead, judged by the last one."""

_NEAR = 64
"""Calls that are in flight at once are stored in another order than they were asked in."""

_MAX_AGE = 1.0
"""Seconds for which rows are kept. Another process may have deleted or replaced them meanwhile."""

_PATIENCE = 64
"""Lookups to make one by one after rows were read in vain."""

StoredRow = tuple[object, object]
"""A reply and its proof."""


class ReadAhead:
    """
    Rows read ahead of their lookups. `take` and `forget` may be called by any thread, the others by one at a time.

    Attributes:
        rows: Rows by key.
    """

    def __init__(self) -> None:
        self.rows: dict[object, StoredRow] = {}
        self._read = 0  # rows in the last query
        self._taken = 0  # of them
        self._read_at = 0.0
        self._last_id = 0
        self._streak = 0  # lookups that followed each other

    def take(self, key: bytes) -> StoredRow | None:
        """Return the row of a key, once, if it was read ahead a moment ago."""
        row = self.rows.pop(key, None)
        if row is not None:
            self._taken += 1
            if now() - self._read_at > _MAX_AGE:
                self.rows.clear()
                return None
        return row

    def forget(self, keys: Iterable[bytes]) -> None:
        """Drop the rows of keys that were written to."""
        for key in keys:
            self.rows.pop(key, None)

    def after(self, row_id: int, reply: object) -> tuple[int, int]:
        """Return behind which id to read, and how many rows, when a lookup has found a row; 0 rows for none."""
        last, distance = self._last_id, row_id - self._last_id
        if -2 * _NEAR < distance <= 0:
            return last, 0  # one that was left out
        self._last_id = row_id
        if not 0 < distance <= _NEAR:
            self._streak = min(self._streak, 0)
            return last, 0
        self._streak += 1
        if self._streak < 2:
            return last, 0
        if 2 * self._taken < self._read:
            self._read, self._streak = 0, -_PATIENCE
            self.rows.clear()
            return last, 0
        size = len(reply) if isinstance(reply, bytes) else _MAX_BYTES
        return last, min(_ROWS, _MAX_BYTES // (size + 1))

    def add(self, found: bytes, rows: list[tuple[int, object, object, object]]) -> None:
        """Keep rows that were read: id, key, reply and proof of each; not that of the key that was just `found`."""
        if len(self.rows) > _MAX_KEPT - _ROWS:
            self.rows.clear()
        self._read, self._taken, self._read_at = len(rows), 0, now()
        if rows:
            ids, keys, replies, proofs = zip(*rows, strict=True)
            self._last_id = max(self._last_id, *ids)
            self.rows.update(zip(keys, zip(replies, proofs, strict=True), strict=True))
        self.rows.pop(found, None)

"""The rows of a run: in every table they have the ids of one range, so no statement reads those of other runs."""

from __future__ import annotations


def in_run(column: str) -> str:
    """Return the SQL condition that an id is one of the run ``?1``."""
    return f"{column} >= ?1 << 32 AND {column} < (?1 + 1) << 32"

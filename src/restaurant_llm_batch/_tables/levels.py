"""Levels of tables: what a row is."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from ..errors import ConfigurationError

Level: TypeAlias = Literal["results", "aspects", "labels", "words", "failures", "calls"]
"""What a row of a table is; see `BatchReport`."""

_LEVELS: tuple[Level, ...] = get_args(Level)


def check_level(level: object) -> Level:
    """
    Return a level of tables.

    Raises:
        ConfigurationError: It is unknown, or "calls".
    """
    for known in _LEVELS:
        if level == known and known != "calls":
            return known
    if level == "calls":
        raise ConfigurationError(
            "a report keeps no calls, and has only their number for each item (level='results', the columns spent.*); "
            "to see every call, record the run: BatchRunner(record='night.db', ...), then "
            "open_record('night.db').calls(run)"
        )
    known_levels = ", ".join(map(repr, _LEVELS))
    raise ConfigurationError(
        f"level must be one of {known_levels}, got {level!r}; for example level='results'"
    )

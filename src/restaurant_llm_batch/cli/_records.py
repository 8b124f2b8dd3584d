"""Records of a command's output: what it writes for each outcome, by the output's format and level."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from .._tables.levels import Level
from .._tables.rows import Row, failure_row, level_columns, success_rows
from ..errors import ConfigurationError
from ..outcomes import Failure, Outcome
from ._output import output_format
from ._views import R, ResultView

MakeRecords: TypeAlias = Callable[[Outcome[Any]], Iterable[Mapping[str, Any]]]


def record_maker(
    view: ResultView[R], output: str | None, level: Level | None, names: Mapping[str, str]
) -> MakeRecords:
    """
    Return the function that makes the records of an outcome.

    JSON holds a result as it is, unless a level is chosen; a table holds rows of one level.

    Args:
        view: Makes the record of a result.
        output: The output.
        level: What a row is; None for a record of each outcome.
        names: Names of the items by id as a string.
    """
    if level is None and output_format(output) in ("jsonl", "json"):
        return lambda outcome: (_with_name(view.as_record(outcome), outcome, names),)
    chosen: Level = level or "results"
    # Names are a column if the input has any.
    return lambda outcome: _rows(outcome, f"{view.what}_id", chosen, names or None)


def record_columns(level: Level | None, names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the columns that a table of records has without one, too; arguments as for `record_maker`."""
    return () if level is None else level_columns(level, names or None)


def check_level(level: Level | None, view: ResultView[Any]) -> None:
    """
    Check that the results of a command have a level.

    Raises:
        ConfigurationError: They have not.
    """
    known = ("results", "failures", *view.parts)
    if level is not None and level not in known:
        raise ConfigurationError(
            f"--level {level}: the results of this command have none; it has {', '.join(known)}"
        )


def _with_name(
    record: Mapping[str, Any], outcome: Outcome[Any], names: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return a record with the name of its item after the id, if it has one."""
    name = names.get(str(outcome.item_id))
    if name is None or "name" in record:
        return record
    (first, item_id), *others = record.items()
    return {first: item_id, "name": name, **dict(others)}


def _rows(outcome: Outcome[Any], id_name: str, level: Level, names: Mapping[str, str] | None) -> list[Row]:
    if level == "failures":
        return [] if outcome.ok else [failure_row(outcome, names)]
    if isinstance(outcome, Failure):
        if level != "results":
            return []
        # A row of its own, so that no item is missing from a table.
        row = failure_row(outcome, names)
        named = {"name": row["name"]} if "name" in row else {}
        failed = {f"failure.{field}": row[field] for field in ("stage", "error", "message", "attempts")}
        spent = {field: cell for field, cell in row.items() if field.startswith("spent.")}
        return [{id_name: outcome.item_id, **named, **failed, **spent}]
    return success_rows(outcome, level, names)


def refuse_table(output: str | None) -> None:
    """
    Refuse an output of a plan that is a table.

    Raises:
        ConfigurationError: The output is one.
    """
    if output_format(output) not in ("jsonl", "json"):
        raise ConfigurationError(
            f"--output {output!r}: a plan is written as JSON, not as a table; for example --output plan.json"
        )

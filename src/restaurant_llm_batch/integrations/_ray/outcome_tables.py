"""Outcomes of a batch as an Arrow table with a row for each: what goes back to Ray Data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..._rows.cells import plain
from ..._rows.frames import column_names
from ..._tables.columns import Columns, Kind, as_text, merged
from ..._tables.data_frames import arrow, arrow_rows, arrow_schema
from ..._tables.rows import OUTCOME_KINDS, Row, known_kind, outcome_row
from ..._text import error_text
from ...errors import ConfigurationError
from ...models import ID_FIELDS
from ...outcomes import Failure, Outcome


def check_keep(keep: object) -> tuple[str, ...]:
    """
    Return the names of the columns to keep, each once.

    Raises:
        ConfigurationError: They are no names, or one is that of a column of the outcome.
    """
    if (
        isinstance(keep, str)
        or not isinstance(keep, Sequence)
        or not all(isinstance(one, str) for one in keep)
    ):
        raise ConfigurationError(f'keep must be names of columns, got {keep!r}; for example keep=["name"]')
    taken = [name for name in keep if name in OUTCOME_KINDS]
    if taken:
        raise ConfigurationError(
            f"keep names the column {taken[0]!r}, and each row out has one of that name that says what became of it; "
            f"rename yours first, for example with dataset.rename_columns({{{taken[0]!r}: 'my_{taken[0]}'}})"
        )
    return tuple(dict.fromkeys(keep))


@dataclass(slots=True)
class OutcomeTables:
    """
    Makes a table of each batch of outcomes, with columns of equal types in all of them, as far as that can be known.

    Attributes:
        keep: Names of columns of the rows that the tables have too.
        is_builtin: Whether the results are those of a built-in task, whose columns are known.
        kinds: The kinds of the columns so far.
    """

    keep: Sequence[str] = ()
    is_builtin: bool = False
    kinds: dict[str, Kind] = field(default_factory=dict)

    def table(
        self,
        batch: Any,
        rows: Sequence[Mapping[str, Any]],
        items: Sequence[Row],
        outcomes: Sequence[Outcome[Any]],
    ) -> Any:
        """
        Return an Arrow table with a row for each outcome.

        Args:
            batch: The batch as it came.
            rows: Its rows.
            items: The rows as items.
            outcomes: Their outcomes, in the same order.

        Raises:
            ConfigurationError: A column to keep is not there.
        """
        if rows:
            missing = [name for name in self.keep if name not in rows[0]]
            if missing:
                raise ConfigurationError(
                    f"keep names the column {missing[0]!r}, which is not there; its columns: "
                    f"{', '.join(map(repr, rows[0]))}"
                )
        id_column = next((name for item in items for name in ID_FIELDS if name in item), "item_id")
        made = [self._row(id_column, *each) for each in zip(items, outcomes, strict=True)]
        columns = Columns(made, self.kinds)
        for name, kind in columns.kinds.items():
            so_far = merged(self.kinds.get(name, "empty"), kind)
            columns.kinds[name] = known_kind(name, is_builtin=self.is_builtin) or so_far
        self.kinds.update(columns.kinds)
        table = arrow_rows(made, columns, arrow_schema(columns))
        for name in self.keep if rows else ():
            if name != id_column:
                table = table.append_column(name, _kept(batch, rows, name))
        return table

    def _row(self, id_column: str, item: Row, outcome: Outcome[Any]) -> Row:
        made = self._cells(id_column, outcome)
        if made[id_column] is None:
            made[id_column] = plain(item.get(id_column))
        return made

    def _cells(self, id_column: str, outcome: Outcome[Any]) -> Row:
        try:
            made = outcome_row(outcome, id_column, self.keep)
        except Exception as error:  # of a result of any class
            failed = ConfigurationError(
                f"a result of the type {type(outcome.value).__name__} cannot be a row of a table: {error_text(error)}"
            )
            spent = outcome.spent
            failure = Failure(outcome.item_id, failed, "task", spent.tries, outcome.index, spent)
            made = outcome_row(failure, id_column, self.keep)
        # A result of a user's own task may have names that a model has written.
        return made if self.is_builtin else {as_text(name): cell for name, cell in made.items()}


def _kept(batch: Any, rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return a column of a batch as it is."""
    if hasattr(batch, "itercolumns"):
        return batch.column(column_names(batch.column_names).index(name))
    cells = [row[name] for row in rows]
    try:
        return arrow().array(cells, from_pandas=True)
    except Exception:  # of several types, or of a class of Python
        found = [{name: plain(cell)} for cell in cells]
        columns = Columns(found)
        return arrow_rows(found, columns, arrow_schema(columns)).column(0)

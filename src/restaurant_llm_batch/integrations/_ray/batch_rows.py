"""Rows of a batch as items, and outcomes as the rows of a table: what comes from Ray Data, and what goes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..._engine.items import as_task
from ..._rows.cells import plain
from ..._rows.columns import TableForm, check_columns
from ..._rows.frames import column_names, frame_rows
from ..._rows.table import FileError, ItemTable, RowSource
from ..._tables.columns import Columns, Kind, merged
from ..._tables.data_frames import arrow_rows, arrow_schema
from ..._tables.rows import Row, known_kind, outcome_row
from ...errors import ConfigurationError
from ...models import ID_FIELDS, ItemId
from ...outcomes import Outcome
from ...protocols import Task
from ...steps import Flow


class BatchRows(RowSource):
    """Rows of which each stands for itself; of a table, but its columns are not looked at row by row."""

    unit = "row"
    is_table = True
    is_foreign = True

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        super().__init__("the batch")
        self._rows = rows

    def read(self) -> Iterator[tuple[int, Any]]:
        """Yield the rows, numbered from 0."""
        for number, row in enumerate(self._rows):
            yield number, dict(row)


def raw_rows(batch: Any) -> list[dict[str, Any]]:
    """
    Return the rows of a batch: a mapping of columns, a data frame or an Arrow table.

    Raises:
        ConfigurationError: Two columns have one name.
    """
    if not isinstance(batch, Mapping):
        rows = list(frame_rows(batch))
        names = column_names(rows[0]) if rows else []
        return [dict(zip(names, row.values(), strict=True)) for row in rows]
    names = column_names(batch)
    return [dict(zip(names, cells, strict=True)) for cells in zip(*map(list, batch.values()), strict=True)]


def items_of(rows: Sequence[Mapping[str, Any]], form: TableForm) -> list[dict[str, Any]]:
    """
    Return the rows as `read_items` would: columns under their names here, cells as they are meant.

    Raises:
        ConfigurationError: A column that `form` names is not there.
    """
    if rows:
        check_columns(form.columns, [*rows[0]], form.advice)
    items: Iterable[Any] = ItemTable(BatchRows(rows), form).rows_and_errors()  # no row is an error here
    return list(items)


class RowTask:
    """
    A task that takes the rows of a batch for its items, each row one item.

    Columns that the task does not know are ignored. A row that is no item fails alone.

    Args:
        task: A task, or a generator function.

    Attributes:
        name: The task's name.
        requires_search: Whether it needs a search backend.
    """

    def __init__(self, task: Task[Any] | Callable[[Any], Flow[Any]]) -> None:
        self._task = as_task(task)
        self.name: str = self._task.name
        self.requires_search: bool = self._task.requires_search
        self._items_of_table: Callable[[ItemTable], Iterable[Any]] | None = getattr(
            self._task, "items_of_table", None
        )

    def parse_item(self, raw: Any, /) -> Any:
        """
        Return the item of a row.

        Raises:
            ConfigurationError: It is none.
        """
        if self._items_of_table is None:
            return self._task.parse_item(raw)
        try:
            items = list(self._items_of_table(ItemTable(BatchRows([raw]), TableForm())))
        except FileError as error:  # which names a row of the table that was made here
            if isinstance(error.__cause__, ConfigurationError):
                raise error.__cause__ from None
            raise
        if not items:
            raise ConfigurationError("the row holds no item")
        return self._task.parse_item(items[0])

    def item_key(self, item: Any, /) -> tuple[ItemId, int]:
        """Return the item's id and priority."""
        return self._task.item_key(item)

    def flow(self, item: Any, /) -> Flow[Any]:
        """Return the flow of an item."""
        return self._task.flow(item)


def is_builtin(task: object) -> bool:
    """Return whether a task is one of this library."""
    return type(task).__module__.startswith(f"{__name__.partition('.')[0]}.tasks.")


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
        self, rows: Sequence[Mapping[str, Any]], items: Sequence[Row], outcomes: Sequence[Outcome[Any]]
    ) -> Any:
        """
        Return an Arrow table with a row for each outcome.

        Args:
            rows: The rows as they came.
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
        made = [self._row(*each) for each in zip(rows, items, outcomes, strict=True)]
        columns = Columns(made, self.kinds)
        for name, kind in columns.kinds.items():
            so_far = merged(self.kinds.get(name, "empty"), kind)
            known = None if name in self.keep else known_kind(name, is_builtin=self.is_builtin)
            columns.kinds[name] = known or so_far
        self.kinds.update(columns.kinds)
        return arrow_rows(made, columns, arrow_schema(columns))

    def _row(self, row: Mapping[str, Any], item: Row, outcome: Outcome[Any]) -> Row:
        id_column = next((name for name in ID_FIELDS if name in item), "item_id")
        made = outcome_row(outcome, id_column)
        if made[id_column] is None:
            made[id_column] = plain(item.get(id_column))
        return {**made, **{name: plain(row[name]) for name in self.keep if name not in made}}

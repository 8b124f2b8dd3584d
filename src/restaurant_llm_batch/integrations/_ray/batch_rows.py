"""Rows of a batch as items: what comes from Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..._engine.items import as_task
from ..._rows.columns import TableForm, check_columns
from ..._rows.frames import column_names, frame_rows
from ..._rows.table import FileError, ItemTable, RowSource
from ..._text import error_text
from ..._values import short
from ...errors import ConfigurationError
from ...models import ItemId
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


class UnreadableCell:
    """
    Stands for a cell that Python cannot hold: a text that is not UTF-8, a date of the year 10000.

    Args:
        error: Why.
    """

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __repr__(self) -> str:
        return f"<a cell that cannot be read: {short(error_text(self._error))}>"


class UnreadableRow(dict[str, Any]):
    """
    Stands for a row that cannot be read.

    Args:
        error: Why.

    Attributes:
        error: Why.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception = error


def raw_rows(batch: Any) -> list[dict[str, Any]]:
    """
    Return the rows of a batch: a mapping of columns, a data frame or an Arrow table.

    Raises:
        ConfigurationError: Two columns have one name.
    """
    if isinstance(batch, Mapping):
        return _by_rows(column_names(batch), map(list, batch.values()))
    try:
        rows = list(frame_rows(batch))
    except ConfigurationError:
        raise
    except Exception:  # of one cell, perhaps
        if not hasattr(batch, "itercolumns"):
            raise
        return _by_rows(column_names(batch.column_names), map(_cells, batch.itercolumns()))
    names = column_names(rows[0]) if rows else []
    return [dict(zip(names, row.values(), strict=True)) for row in rows]


def _by_rows(names: Sequence[str], columns: Iterable[list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _cells(column: Any) -> list[Any]:
    """Return the cells of an Arrow column, with an `UnreadableCell` for each that Python cannot hold."""
    cells: list[Any] = []
    for scalar in column:
        try:
            cells.append(scalar.as_py())
        except Exception as error:
            cells.append(UnreadableCell(error))
    return cells


def items_of(rows: Sequence[Mapping[str, Any]], form: TableForm) -> list[dict[str, Any]]:
    """
    Return the rows as `read_items` would: columns under their names here, cells as they are meant.

    Raises:
        ConfigurationError: A column that `form` names is not there.
    """
    if not rows:
        return []
    check_columns(form.columns, [*rows[0]], form.advice)
    return [_item(row, form) for row in rows]


def _item(row: Mapping[str, Any], form: TableForm) -> dict[str, Any]:
    try:
        item: Any
        (item,) = ItemTable(BatchRows([row]), form).rows_and_errors()
    except Exception as error:  # of a cell of any class
        return UnreadableRow(error)
    return UnreadableRow(item) if isinstance(item, ConfigurationError) else item


class RowTask:
    """
    A task that takes the rows of a batch for its items, each row one item.

    Columns that the task does not know are ignored. A row that is no item fails alone. Two rows of one id are two
    items.

    Args:
        task: A task, or a generator function.

    Attributes:
        name: The task's name.
        requires_search: Whether it needs a search backend.
        ids_may_repeat: Always true; see `ItemReader`.
    """

    ids_may_repeat = True

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
            Exception: It could not be read.
        """
        if isinstance(raw, UnreadableRow):
            raise raw.error
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

"""Tables row by row: where rows come from, what becomes of bad ones, and rows as items of a run."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

from ..errors import ConfigurationError
from .cells import clean, is_blank, plain, whole
from .columns import TableForm, check_columns, listed, renamed
from .frames import column_names, frame_name, frame_rows, is_frame

T = TypeVar("T")
log = logging.getLogger("restaurant_llm_batch.tables")

MAX_NAMED = 20
"""Most bad rows that a table keeps by name."""
_MAX_LOGGED = 5


class FileError(ConfigurationError):
    """A table is invalid; the message names it, and the line."""


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """
    A row that was left out.

    Attributes:
        line: Its line in a file of text, from 1; its row in a workbook; otherwise its position, from 0.
        reason: Why it was left out.
    """

    line: int
    reason: str


class RowSource(ABC):
    """
    Where the rows of a table come from.

    Args:
        label: Name of the table for messages.

    Attributes:
        label: Name of the table for messages.
        unit: What a row's number counts: "line" or "row".
        is_table: Whether all rows have the same columns.
        of_texts: Whether cells are texts only.
        is_foreign: Whether cells may be values of other libraries than Python's.
        columns: Names of a table's columns; None before its first row.
        wanted: The columns that are read, as far as the source can leave out others; None for all.
        bytes_read: Number of bytes read so far.
        size: Size of the file in bytes; None if it is not known.
    """

    unit = "line"
    is_table = False
    of_texts = False
    is_foreign = False

    def __init__(self, label: str) -> None:
        self.label = label
        self.columns: Sequence[str] | None = None
        self.wanted: Callable[[Sequence[str]], Sequence[str]] | None = None
        self.bytes_read = 0
        self.size: int | None = None
        self._begun: Iterator[tuple[int, Any]] | None = None

    @abstractmethod
    def read(self) -> Iterator[tuple[int, Any]]:
        """Yield the number of each row, and the row: a dict of its own, another value, or why it cannot be read."""

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Yield what `read` yields, with a row that `first` has taken."""
        begun, self._begun = self._begun, None
        return self.read() if begun is None else begun

    def first(self) -> Any:
        """Return the first row that can be read, or None; the next reading begins with it."""
        rows = self.rows()
        head: list[tuple[int, Any]] = []
        found = None
        for one in rows:
            head.append(one)
            if not isinstance(one[1], ConfigurationError):
                found = one[1]
                break
        self._begun = chain(head, rows)
        return dict(found) if isinstance(found, dict) else found


class FrameSource(RowSource):
    """The rows of a data frame."""

    unit = "row"
    is_table = True
    is_foreign = True

    def __init__(self, frame: Any) -> None:
        super().__init__(frame_name(frame))
        self._frame = frame

    def read(self) -> Iterator[tuple[int, Any]]:
        """Yield the rows that are not blank, numbered from 0."""
        self.columns, is_renamed = None, False
        for number, row in enumerate(frame_rows(self._frame)):
            if self.columns is None:
                self.columns = column_names(row)
                is_renamed = self.columns != [*row]
            if len(row) > 1 and is_blank(row.values()):
                continue  # of a single column it is a missing id
            yield number, dict(zip(self.columns, row.values(), strict=True)) if is_renamed else row


class MappingSource(RowSource):
    """Rows that are mappings already, of any iterable."""

    unit = "row"
    is_foreign = True

    def __init__(self, rows: Iterable[Any]) -> None:
        super().__init__("the rows")
        self._rows = rows

    def read(self) -> Iterator[tuple[int, Any]]:
        """Yield the rows, numbered from 0."""
        for number, row in enumerate(self._rows):
            yield number, dict(row) if isinstance(row, Mapping) else row


class Table(ABC, Generic[T]):
    """
    An iterable over a table, row by row.

    Attributes:
        line: Number of the row read last: its line in a file of text, from 1.
        skipped: Number of rows left out so far.
        skipped_rows: The first 20 of them.
    """

    def __init__(self, source: RowSource, form: TableForm) -> None:
        self.source = source
        self.form = form
        self.line: int = 0
        self.skipped: int = 0
        self.skipped_rows: list[SkippedRow] = []
        self._ignored_said = False

    @property
    def label(self) -> str:
        """Name of the table for messages; that of the file that is read, if it is a folder of several."""
        return self.source.label

    @property
    def bytes_read(self) -> int:
        """Number of bytes read so far."""
        return self.source.bytes_read

    @property
    def size(self) -> int | None:
        """Size of the file in bytes; None if it is not known, as that of a pipe."""
        return self.source.size

    def __iter__(self) -> Iterator[T]:
        for one in self.rows_and_errors():
            if isinstance(one, ConfigurationError):
                self.bad_row(one)
            else:
                yield one
        self._end()

    def rows_and_errors(self) -> Iterator[T | ConfigurationError]:
        """Yield the rows, and in place of bad ones the errors, whatever becomes of them."""
        self.skipped, self.skipped_rows = 0, []
        checked = False
        for number, row in self.source.rows():
            self.line = number
            if isinstance(row, ConfigurationError):
                yield row
                continue
            if not checked:
                checked = True
                self._check(row)
            yield from self._converted(row)

    @abstractmethod
    def _converted(self, row: Any) -> Iterator[T | ConfigurationError]:
        """Yield what a row holds."""

    def bad_row(self, error: ConfigurationError) -> None:
        """
        Count and name a bad row, or refuse it.

        Raises:
            FileError: Bad rows are refused.
        """
        if self.form.bad_rows == "refuse":
            raise self.file_error(str(error)) from error
        self.skipped += 1
        if len(self.skipped_rows) < MAX_NAMED:
            self.skipped_rows.append(SkippedRow(self.line, str(error)))
        if self.skipped <= _MAX_LOGGED:
            log.warning("%s, %s %d left out: %s", self.label, self.source.unit, self.line, error)

    def file_error(self, text: str) -> FileError:
        """Return an error about the current row."""
        return FileError(f"{self.label}, {self.source.unit} {self.line}: {text}")

    def _check(self, row: Any) -> None:
        """Check the columns of a table, at its first row."""
        columns = self.source.columns
        if not self.source.is_table or columns is None:
            return
        try:
            check_columns(self.form.columns, columns, self.form.advice)
        except ConfigurationError as error:
            raise FileError(f"{self.label}: {error}") from None

    def say_ignored(self, known: Iterable[str]) -> None:
        """Log the columns of a table that are not read, once."""
        columns = self.source.columns
        if self._ignored_said or not self.source.is_table or columns is None:
            return
        self._ignored_said = True
        read = {*known, *(self.form.columns or {}).values()}
        ignored = [name for name in columns if name and name not in read]
        if ignored:
            log.warning("%s: ignored %s", self.label, listed(ignored).removeprefix("its "))

    def _end(self) -> None:
        if self.skipped > _MAX_LOGGED:
            log.warning("%s: %d rows were left out in all", self.label, self.skipped)


class ItemTable(Table[Any]):
    """
    The rows of a table as items of a run, read one by one: dicts with the cells as they are meant.

    A runner takes it as it takes a list. The built-in tasks ignore columns that they do not know, and take rows that
    are single reviews together by their restaurant where a task needs them.
    """

    def _converted(self, row: Any) -> Iterator[Any]:
        if not isinstance(row, dict):
            yield whole(plain(row))
            return
        row = renamed(row, self.form.columns)
        row.pop("", None)
        yield clean(row, of_texts=self.source.of_texts, deep=self.source.is_foreign)

    def first(self) -> Any:
        """Return the first row, or None; the next reading begins with it."""
        row = self.source.first()
        return None if row is None else next(self._converted(row), None)


def as_table(value: object) -> ItemTable | None:
    """Return a data frame, or a table that was opened, as a table of items; None for anything else."""
    if isinstance(value, ItemTable):
        return value
    return ItemTable(FrameSource(value), TableForm()) if is_frame(value) else None


def as_ids(items: Iterable[Any]) -> Iterable[Any]:
    """Return a column of a data frame, or an array, as a list of ids, 12.0 among them as 12; other items unchanged."""
    kind = type(items)
    has_values = any(hasattr(kind, name) for name in ("tolist", "to_list", "to_pylist"))
    if not (has_values and (hasattr(kind, "dtype") or hasattr(kind, "to_pylist"))):
        return items
    return [whole(plain(value)) for value in items]

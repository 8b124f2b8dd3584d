"""Tables in binary files: Parquet, a row group at a time, and the first sheet of an Excel workbook."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .._rows.frames import arrow_rows, column_names, needs_extra
from .._rows.table import FileError
from ..errors import ConfigurationError
from ._opening import Input

log = logging.getLogger("restaurant_llm_batch.tables")

_BATCH = 1_000
"""Rows of a Parquet file that are read at a time."""
_EXCEL_ERRORS = frozenset(("#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!"))
Wanted = Callable[[Sequence[str]], Sequence[str]]


class ParquetTable:
    """
    A Parquet file.

    Attributes:
        columns: Names of its columns.
        total: Number of its rows.

    Raises:
        ConfigurationError: It is damaged, or pyarrow is missing.
    """

    def __init__(self, source: Input, wanted: Wanted | None) -> None:
        needs_extra("pyarrow", "a Parquet file")
        parquet = needs_extra("pyarrow.parquet", "a Parquet file")
        self._label = source.label
        try:
            self._file = parquet.ParquetFile(source.seekable())
            self.total: int = self._file.metadata.num_rows
            names = self._file.schema_arrow.names
        except (OSError, ValueError) as error:  # those of Arrow are both
            raise self._damaged(error) from error
        self._names = dict(zip(names, column_names(names), strict=True))
        self.columns = [*self._names.values()]
        chosen = self.columns if wanted is None else wanted(self.columns)
        self._read = [name for name in names if self._names[name] in chosen]

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Yield the rows, numbered from 0."""
        number = 0
        try:
            for batch in self._file.iter_batches(_BATCH, columns=self._read):
                for row in arrow_rows([batch]):
                    yield number, {self._names[name]: row[name] for name in row}
                    number += 1
        except (OSError, ValueError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> FileError:
        return FileError(f"{self._label}: the Parquet file is cut off or damaged ({error})")


class ExcelTable:
    """
    The first sheet of a workbook with a row of names.

    Attributes:
        columns: Names of its columns.

    Raises:
        ConfigurationError: It is damaged, or openpyxl is missing.
    """

    def __init__(self, source: Input) -> None:
        openpyxl = needs_extra("openpyxl", "an Excel workbook")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about styles and other things that are not read
                book = openpyxl.load_workbook(source.seekable(), read_only=True, data_only=True)
            sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
            self._sheet = sheets[0]
            self._sheet.reset_dimensions()  # what a workbook says of its size may be wrong
        except Exception as error:  # of zipfile, of the XML parser, of openpyxl
            raise FileError(f"{source.label}: the workbook cannot be read ({error})") from error
        if len(sheets) > 1:
            others = ", ".join(repr(sheet.title) for sheet in sheets[1:6])
            log.warning("%s: read the sheet %r, and not %s", source.label, self._sheet.title, others)
        self._rows = enumerate(self._sheet.iter_rows(values_only=True), 1)
        names: Sequence[Any] = next(
            (cells for _, cells in self._rows if any(_is_given(cell) for cell in cells)), ()
        )
        try:
            self.columns = column_names("" if name is None else name for name in names)
        except ConfigurationError as error:
            raise FileError(f"{source.label}: {error}") from error

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Yield the rows that are not blank, by their numbers in the sheet."""
        for number, cells in self._rows:
            if any(_is_given(cell) for cell in cells):
                row = dict(zip(self.columns, map(_meant, cells), strict=False))
                yield number, {name: row.get(name) for name in self.columns}


def _is_given(cell: Any) -> bool:
    return cell is not None and cell != ""


def _meant(cell: Any) -> Any:
    return None if cell in _EXCEL_ERRORS or cell == "" else cell

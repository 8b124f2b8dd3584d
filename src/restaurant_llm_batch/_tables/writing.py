"""Tables as files: JSON Lines, JSON, CSV, TSV, Parquet and Excel; rows are read once, and no table is held whole."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from .._text import json_line
from ..errors import ConfigurationError
from .columns import Columns, as_text, json_text
from .data_frames import arrow, arrow_rows, arrow_schema, library
from .files import OutputFileError, cannot_write, open_output
from .rows import Row

Format: TypeAlias = Literal["jsonl", "json", "csv", "tsv", "parquet", "xlsx"]

_ENDINGS: dict[str, Format] = {
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
_REFUSED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".xls", ".ods", ".arrow", ".feather", ".orc", ".avro"}
_ROWS_AT_ONCE = 5_000
"""Rows of a row group of Parquet."""

_UNSEEN = r"[\s\x00-\x1f'\"\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]*"
_FORMULA = re.compile(_UNSEEN + r"[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""
What a spreadsheet takes for a formula, or for the way to one: a sign at the start, also after blanks, quotes and
invisible signs, and in the full width of East Asian keyboards; a tab and a line end
(https://owasp.org/www-community/attacks/CSV_Injection).
"""

_MOST_ROWS, _MOST_TEXT, _MOST_DIGITS = 1_048_575, 32_767, 10**15
"""Limits of Excel: rows below the names, characters in a cell, and integers that it keeps to the last digit."""


def format_of(path: str | os.PathLike[str], name: str) -> Format:
    """
    Return the format of a file by its ending; JSON Lines without a known one.

    Args:
        path: The file.
        name: Its name in the message of an error.

    Raises:
        ConfigurationError: The ending is that of a format that cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending in _REFUSED:
        known = f".jsonl, {', '.join(_ENDINGS)}"
        raise ConfigurationError(
            f"{name} must end with one of {known}, since {ending} cannot be written; for example results.jsonl"
        )
    return _ENDINGS.get(ending, "jsonl")


def write_table(
    rows: Sequence[Row],
    path: str | os.PathLike[str],
    kind: Format,
    encoding: str = "utf-8-sig",
    *,
    names: Sequence[str] = (),
) -> None:
    """
    Write rows to a file, which appears under its name when it is whole.

    Args:
        rows: The rows.
        path: The file.
        kind: Its format.
        encoding: Its encoding, if it is a text with cells.
        names: Columns that it has without a row, too.

    Raises:
        ConfigurationError: The file cannot be opened, or there is no such encoding.
        OutputFileError: It cannot be written to its end: the disk is full, for example.
        ImportError: The library of the format is not installed.
    """
    if kind == "csv" and Path(path).suffix.lower() == ".tsv":
        kind = "tsv"
    name, encode_rows = repr(os.fspath(path)), encoder(kind, Columns(rows, names), encoding)
    try:
        with open_output(path, name) as file:
            encode_rows(rows, file)
    except OSError as error:
        raise OutputFileError(cannot_write(name, error)) from error


def encoder(
    kind: Format, columns: Columns, encoding: str = "utf-8-sig"
) -> Callable[[Iterable[Row], IO[bytes]], None]:
    """
    Return the function that writes rows to a file in a format.

    Raises:
        ConfigurationError: There is no such encoding.
        ImportError: The library of the format is not installed.
    """
    if kind == "jsonl":
        return _write_jsonl
    if kind == "json":
        return _write_json
    if kind == "parquet":
        return partial(_write_parquet, arrow("pyarrow.parquet"), columns)
    if kind == "xlsx":
        return partial(
            _write_xlsx, library("openpyxl", "pip install 'restaurant-llm-batch[tables]'"), columns
        )
    try:
        codecs.lookup(encoding)
    except (LookupError, TypeError):
        raise ConfigurationError(
            f"encoding must be the name of an encoding, got {encoding!r}; for example encoding='utf-8'"
        ) from None
    return partial(_write_csv, columns, "\t" if kind == "tsv" else ",", encoding)


def _write_jsonl(rows: Iterable[Row], file: IO[bytes]) -> None:
    for row in rows:
        file.write(json_line(row))


def _write_json(rows: Iterable[Row], file: IO[bytes]) -> None:
    before = b"[\n"
    for row in rows:
        file.write(before + json_line(row)[:-1])
        before = b",\n"
    file.write(b"\n]\n" if before == b",\n" else b"[]\n")


def _write_csv(columns: Columns, separator: str, encoding: str, rows: Iterable[Row], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, encoding=encoding, errors="replace", newline="", write_through=True)
    try:
        writer = csv.writer(
            text, delimiter=separator, lineterminator="\r\n"
        )  # "\n" leaves "\r" in a cell unquoted
        writer.writerow([unformulated(name) for name in columns.kinds])
        for row in rows:
            writer.writerow([_csv_cell(cell) for cell in columns.cells(row)])
    finally:
        text.detach()  # which flushes, and leaves the file open


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, str):
        return unformulated(cell)
    if isinstance(cell, bool):
        return as_text(cell)
    return unformulated(json_text(cell)) if isinstance(cell, list) else cell


def unformulated(text: str) -> str:
    """
    Return a text that no spreadsheet takes for a formula: with an apostrophe in front if it would be one.

    To have the text back, leave the first apostrophe out if the rest would be a formula.
    """
    text = text.replace("\x00", "")  # which ends a cell, or the file, for some readers
    return f"'{text}" if _FORMULA.match(text) else text


def _write_parquet(parquet: Any, columns: Columns, rows: Iterable[Row], file: IO[bytes]) -> None:
    schema = arrow_schema(columns)
    with parquet.ParquetWriter(file, schema) as writer:
        for some in _in_parts(rows):
            writer.write_table(arrow_rows(some, columns, schema))


def _in_parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while some := list(islice(left, _ROWS_AT_ONCE)):
        yield some


def _write_xlsx(openpyxl: Any, columns: Columns, rows: Iterable[Row], file: IO[bytes]) -> None:
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE as ILLEGAL

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("results")

    def as_cell(value: Any) -> Any:
        if isinstance(value, list):
            value = json_text(value)
        elif isinstance(value, float) and not isfinite(value):
            return None
        elif type(value) is int and abs(value) >= _MOST_DIGITS:
            value = str(value)
        if not isinstance(value, str):
            return value
        cell = WriteOnlyCell(sheet, ILLEGAL.sub("", value)[:_MOST_TEXT])
        cell.data_type = "s"  # a text that begins with "=" is one, and no formula
        return cell

    sheet.append([as_cell(name) for name in columns.kinds])
    for number, row in enumerate(rows):
        if number >= _MOST_ROWS:
            raise ConfigurationError(
                f"a sheet of Excel holds {_MOST_ROWS:,} rows, and there are more; for example use .csv or .parquet"
            )
        sheet.append([as_cell(cell) for cell in columns.cells(row)])
    book.save(file)

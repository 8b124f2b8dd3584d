"""Tables in: `read_items` and `read_reviews`, from files of any kind, pipes, folders and data frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from .._rows.columns import BadRows, TableForm
from .._rows.frames import is_frame
from .._rows.polarity import Polarity, as_scale
from .._rows.review_rows import ReviewTable
from .._rows.table import FileError, FrameSource, ItemTable, MappingSource, RowSource
from .._values import short
from ..errors import ConfigurationError
from ._binaries import ExcelTable, ParquetTable
from ._decoding import Lines, check_encoding, pieces
from ._kinds import ENDINGS, Kind, kind_of
from ._opening import STDIN, Input, check, opened
from ._texts import CSVTable, json_document, json_lines, text_lines


def read_items(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
    bad_rows: BadRows = "refuse",
) -> ItemTable:
    """
    Open a table whose rows are items of a run, and read it row by row.

    A runner takes what this returns in place of a list, and so does ``index_reviews``. Iterating over it yields a dict
    for each row. A missing cell (empty, NaN, pandas' NA) is None, and ids and other whole numbers are integers, also
    where the table has ``12.0``.

    Args:
        source: A file (JSON Lines, JSON, CSV, TSV, Parquet, Excel, a text a line; each also packed with gzip), ``"-"``
            for standard input, a folder of such files, an opened file, a data frame of any library, or an iterable of
            mappings.
        columns: The table's names of columns by those that are wanted, such as ``{"content": "text"}``; a column
            without an entry keeps its name.
        encoding: Encoding of a text file; None to find it: UTF-8, UTF-16 with its mark, CP949.
        bad_rows: "refuse" to raise an error for a row that cannot be read, "skip" to leave it out: it is counted in
            ``skipped``, and named in ``skipped_rows``.

    Raises:
        ConfigurationError: There is no such file, or an argument is invalid. While it is read: the file is not what
            its name says, or a row is bad; the message names the line, and says what to write.
    """
    form = TableForm(columns, encoding, bad_rows)
    return ItemTable(row_source(source, form), form)


def read_reviews(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
    bad_rows: BadRows = "refuse",
    rating_scale: tuple[float, float] | str | None = None,
) -> ReviewTable:
    """
    Open a table of reviews, and read it row by row.

    A row is a review with ``restaurant_id``, ``content``, and optionally ``review_id``, ``name``, ``category``; or a
    restaurant with its ``reviews``. Iterating over what this returns yields a `Review` for each.

    Args:
        source: As in `read_items`.
        columns: As in `read_items`.
        encoding: As in `read_items`.
        bad_rows: As in `read_items`.
        rating_scale: The lowest and the highest rating, such as ``(1, 10)``, to read from the column ``rating``
            whether a review is positive (the upper quarter of the scale) or negative (the lower one), where
            ``is_recommended`` and ``label`` do not say so. None not to read ratings.

    Raises:
        ConfigurationError: As in `read_items`.
    """
    form = TableForm(columns, encoding, bad_rows)
    polarity = None if rating_scale is None else Polarity(as_scale(rating_scale))
    return ReviewTable(row_source(source, form), form, polarity)


def row_source(source: Any, form: TableForm) -> RowSource:
    """
    Return the rows of what `read_items` takes.

    Raises:
        ConfigurationError: There is no such file, or an argument is invalid.
    """
    if isinstance(source, (str, PathLike)):
        path = Path(fspath(source))
        check(path)
        if form.encoding is not None:
            check_encoding(form.encoding, form.advice)
        return FileSource(path, form)
    if hasattr(source, "read") and not is_frame(source):
        return FileSource(source, form)
    if is_frame(source):
        return FrameSource(source)
    if isinstance(source, (bytes, dict)) or not isinstance(source, Iterable):
        raise ConfigurationError(
            f"source must be a path, an opened file, a data frame or a list of mappings, got {short(source)}; "
            'for example read_items("reviews.csv")'
        )
    return MappingSource(source)


class FileSource(RowSource):
    """
    The rows of a file, of standard input, or of the files of a folder one after the other.

    Args:
        source: A path, "-", or an opened file.
        form: How to read it.
    """

    def __init__(self, source: Any, form: TableForm) -> None:
        is_path = isinstance(source, Path) and str(source) != STDIN
        name = str(source) if is_path else "standard input" if isinstance(source, Path) else "the file"
        super().__init__(repr(name) if is_path else name)
        self._source = source
        self._form = form
        if is_path and source.is_file():
            self.size = source.stat().st_size
        self._parts = _parts(source) if is_path and source.is_dir() else None

    def read(self) -> Iterator[tuple[int, Any]]:
        """Yield the rows by their lines."""
        if self._parts is None:
            yield from self._read(self._source, 0)
            return
        label, before = self.label, 0
        for part in self._parts:
            self.label = repr(str(part))
            yield from self._read(part, before)
            before += part.stat().st_size
        self.label = label

    def _read(self, source: Any, before: int) -> Iterator[tuple[int, Any]]:
        with opened(source) as file:
            kind = kind_of(file, self._form.advice)
            for row in self._rows(kind, file, before):
                if kind != "parquet":
                    self.bytes_read = before + file.bytes_read
                yield row

    def _rows(self, kind: Kind, file: Input, before: int) -> Iterator[tuple[int, Any]]:
        self.unit = "row" if kind in ("parquet", "excel") else "line"
        self.is_table = kind in ("csv", "tsv", "parquet", "excel")
        self.of_texts = kind in ("csv", "tsv")
        self.is_foreign = kind == "parquet"
        if kind == "parquet":
            table = ParquetTable(file, self.wanted)
            self.columns = table.columns
            for number, row in table.rows():
                self.bytes_read = before + (file.size or 0) * (number + 1) // table.total
                yield number, row
            return
        if kind == "excel":
            book = ExcelTable(file)
            self.columns = book.columns
            yield from book.rows()
            return
        if kind == "json":
            yield from json_document(pieces(file, self._form.encoding, self._form.advice), self.label)
            return
        lines = Lines(file, self._form.encoding, self._form.advice)
        if kind in ("csv", "tsv"):
            cells = CSVTable(lines, self.label, tabs=kind == "tsv")
            self.columns = cells.columns
            yield from cells.rows()
        else:
            yield from text_lines(lines) if kind == "txt" else json_lines(lines)


def is_folder_of_tables(folder: Path) -> bool:
    """Return whether a folder holds tables of one kind, as programs write that share the work, and nothing else."""
    names = [part.name.removesuffix(".gz") for part in _visible(folder)]
    kinds = {ENDINGS.get(Path(name).suffix.lower()) for name in names}
    return len(kinds) == 1 and not kinds & {None, "txt"}


def _visible(folder: Path) -> list[Path]:
    return [part for part in sorted(folder.iterdir()) if not part.name.startswith((".", "_"))]


def _parts(folder: Path) -> list[Path]:
    if not is_folder_of_tables(folder):
        raise FileError(
            f"{str(folder)!r} is a folder, and not one of tables of one kind only; name a file, for example "
            f"{str(folder / 'reviews.csv')!r}"
        )
    return _visible(folder)

"""The methods of a report that return or write tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .levels import Level

if TYPE_CHECKING:
    from pandas import DataFrame as PandasFrame
    from polars import DataFrame as PolarsFrame
    from pyarrow import Table as ArrowTable


class TableMethods:
    """Tables of the outcomes of a run; `BatchReport` says what they hold."""

    __slots__ = ()

    outcomes: Sequence[Any]

    def to_dicts(
        self, level: Level = "results", *, names: Mapping[Any, str] | None = None
    ) -> list[dict[str, Any]]:
        """
        Return a table as a list of rows.

        Raises:
            ConfigurationError: The level is unknown, is "calls", or the results have none of it; or `names` is no
                mapping.
        """
        from .rows import rows_of

        return list(rows_of(self.outcomes, level, names))

    def to_pandas(self, level: Level = "results", *, names: Mapping[Any, str] | None = None) -> PandasFrame:
        """
        Return a table as a pandas data frame.

        Raises:
            ConfigurationError: As in `to_dicts`.
            ImportError: pandas is not installed.
        """
        from .data_frames import to_pandas
        from .rows import level_columns

        return to_pandas(self.to_dicts(level, names=names), level_columns(level, names))

    def to_polars(self, level: Level = "results", *, names: Mapping[Any, str] | None = None) -> PolarsFrame:
        """
        Return a table as a polars data frame.

        Raises:
            ConfigurationError: As in `to_dicts`.
            ImportError: polars is not installed.
        """
        from .data_frames import to_polars
        from .rows import level_columns

        return to_polars(self.to_dicts(level, names=names), level_columns(level, names))

    def to_arrow(self, level: Level = "results", *, names: Mapping[Any, str] | None = None) -> ArrowTable:
        """
        Return a table as an Arrow table.

        Raises:
            ConfigurationError: As in `to_dicts`.
            ImportError: pyarrow is not installed.
        """
        from .data_frames import to_arrow
        from .rows import level_columns

        return to_arrow(self.to_dicts(level, names=names), level_columns(level, names))

    def to_jsonl(
        self,
        path: str | os.PathLike[str],
        level: Level = "results",
        *,
        names: Mapping[Any, str] | None = None,
    ) -> None:
        """
        Write a table as JSON Lines: a row in each line.

        The file appears under its name when it is whole, in place of one of that name; so do those of `to_csv` and
        `to_parquet`.

        Raises:
            ConfigurationError: As in `to_dicts`; or the file cannot be written, or is a folder or a database.
        """
        from .writing import write_table

        write_table(self.to_dicts(level, names=names), path, "jsonl")

    def to_csv(
        self,
        path: str | os.PathLike[str],
        level: Level = "results",
        *,
        names: Mapping[Any, str] | None = None,
        encoding: str = "utf-8-sig",
    ) -> None:
        """
        Write a table as CSV, or as TSV if the name ends with ``.tsv``.

        Texts that a spreadsheet would take for a formula get an apostrophe in front; numbers stay numbers. Lists are
        written as JSON, None as an empty cell.

        Args:
            path: The file.
            level: What a row is.
            names: Names of the items by id.
            encoding: The default is UTF-8 with a byte order mark, by which Excel knows that it is no other encoding;
                "utf-8" leaves the mark out. A character that the encoding lacks becomes a question mark.

        Raises:
            ConfigurationError: As in `to_jsonl`; or there is no such encoding.
        """
        from .rows import level_columns
        from .writing import write_table

        rows = self.to_dicts(level, names=names)
        write_table(rows, path, "csv", encoding, names=level_columns(level, names))

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        level: Level = "results",
        *,
        names: Mapping[Any, str] | None = None,
    ) -> None:
        """
        Write a table as Parquet.

        Raises:
            ConfigurationError: As in `to_jsonl`.
            ImportError: pyarrow is not installed.
        """
        from .rows import level_columns
        from .writing import write_table

        rows = self.to_dicts(level, names=names)
        write_table(rows, path, "parquet", names=level_columns(level, names))

"""Data frames of rows: pandas, polars and Arrow. None of the three is needed for the others."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .columns import Columns, Kind
from .rows import Row

if TYPE_CHECKING:
    from pandas import DataFrame as PandasFrame
    from polars import DataFrame as PolarsFrame
    from pyarrow import Table as ArrowTable

_PANDAS_DTYPES: dict[Kind, tuple[str, str]] = {
    "boolean": ("bool", "boolean"),
    "integer": ("int64", "Int64"),
    "number": ("float64", "float64"),
}
"""Types of pandas: without and with missing cells. An id stays an integer: plain columns would make it a float."""


def library(name: str, install: str) -> Any:
    """
    Import a library of data frames or files.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"{package} is not installed; install it with: {install}", name=package) from error


def arrow(module: str = "pyarrow") -> Any:
    """Import pyarrow, or a module of it."""
    return library(module, "pip install 'restaurant-llm-batch[tables]'")


def to_pandas(rows: Sequence[Row], names: Sequence[str] = ()) -> PandasFrame:
    """Return rows as a pandas data frame, which has the columns of some names in any case."""
    found = library("pandas", "pip install pandas")
    series = {}
    for name, (kind, cells) in _by_column(rows, names).items():
        dtypes = _PANDAS_DTYPES.get(kind)
        if dtypes is not None:
            series[name] = found.Series(cells, dtype=dtypes[None in cells])
        elif kind in ("text", "json"):
            series[name] = found.Series(cells)
        else:
            series[name] = found.Series(cells, dtype="object")
    frame: PandasFrame = found.DataFrame(series)
    return frame


def to_polars(rows: Sequence[Row], names: Sequence[str] = ()) -> PolarsFrame:
    """Return rows as a polars data frame; see `to_pandas`."""
    found = library("polars", "pip install polars")
    types = {
        "empty": found.Null,
        "boolean": found.Boolean,
        "integer": found.Int64,
        "number": found.Float64,
        "empty list": found.List(found.String),
        "integers": found.List(found.Int64),
        "numbers": found.List(found.Float64),
        "texts": found.List(found.String),
    }
    frame: PolarsFrame = found.DataFrame(
        [
            found.Series(name, cells, dtype=types.get(kind, found.String))
            for name, (kind, cells) in _by_column(rows, names).items()
        ]
    )
    return frame


def to_arrow(rows: Sequence[Row], names: Sequence[str] = ()) -> ArrowTable:
    """Return rows as an Arrow table; see `to_pandas`."""
    columns = Columns(rows, names)
    return arrow_rows(rows, columns, arrow_schema(columns))


def arrow_schema(columns: Columns) -> Any:
    """Return the Arrow schema of columns."""
    found = arrow()
    types = {
        "empty": found.null(),
        "boolean": found.bool_(),
        "integer": found.int64(),
        "number": found.float64(),
        "empty list": found.list_(found.string()),
        "integers": found.list_(found.int64()),
        "numbers": found.list_(found.float64()),
        "texts": found.list_(found.string()),
    }
    return found.schema([(name, types.get(kind, found.string())) for name, kind in columns.kinds.items()])


def arrow_rows(rows: Sequence[Row], columns: Columns, schema: Any) -> Any:
    """Return some rows of a table of known columns."""
    cells = [columns.cells(row) for row in rows]
    arrays = [
        arrow().array([row[place] for row in cells], type=field.type) for place, field in enumerate(schema)
    ]
    return arrow().Table.from_arrays(arrays, schema=schema)


def _by_column(rows: Sequence[Row], names: Sequence[str]) -> dict[str, tuple[Kind, list[Any]]]:
    columns = Columns(rows, names)
    cells = [columns.cells(row) for row in rows]
    return {
        name: (kind, [row[place] for row in cells])
        for place, (name, kind) in enumerate(columns.kinds.items())
    }

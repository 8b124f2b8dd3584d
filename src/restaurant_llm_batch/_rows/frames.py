"""Data frames of any library as rows: pandas, polars, Arrow; others by Arrow's interface or narwhals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from .._values import composed
from ..errors import ConfigurationError

_SLICE = 1_000
"""Rows of an Arrow batch that are Python objects at the same time."""


def needs_extra(name: str, what: str) -> Any:
    """
    Import a package of the extra `tables`.

    Args:
        name: The module.
        what: What it is needed for, such as "an Excel workbook".

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ConfigurationError(
            f"{what} needs the package {package}: pip install 'restaurant-llm-batch[tables]'"
        ) from error


def is_frame(value: object) -> bool:
    """Return whether a value is a data frame or an Arrow table: its rows are what is meant, and not its columns."""
    kind = type(value)  # of the class: a property of a lazy frame may be slow, or warn
    if isinstance(value, (type, list, tuple, dict)):
        return False
    if hasattr(kind, "read_next_batch") or hasattr(kind, "to_batches"):
        return True
    return any(hasattr(kind, name) for name in _COLUMNS) and any(hasattr(kind, name) for name in _FORMS)


_COLUMNS = ("columns", "column_names")
_FORMS = ("shape", "collect", "__arrow_c_stream__", "__dataframe__", "toLocalIterator")


def frame_name(frame: object) -> str:
    """Return the name of a data frame for messages."""
    return f"the data frame ({type(frame).__module__.partition('.')[0]} {type(frame).__name__})"


def frame_rows(frame: Any) -> Iterator[dict[str, Any]]:
    """
    Return the rows of a data frame; a named index of pandas is a column.

    Raises:
        ConfigurationError: Two columns have one name, or the package that reads it is missing.
    """
    return _rows(_with_index(frame))


def _rows(frame: Any) -> Iterator[dict[str, Any]]:
    kind = type(frame)
    if hasattr(kind, "to_batches") or hasattr(kind, "read_next_batch") or hasattr(kind, "to_struct_array"):
        yield from arrow_rows(_batches(frame))
    elif hasattr(kind, "iter_rows"):
        yield from frame.iter_rows(named=True)
    elif hasattr(kind, "toLocalIterator"):  # of Spark
        for row in frame.toLocalIterator():
            yield row.asDict(recursive=True)
    elif hasattr(kind, "itertuples") and not kind.__module__.startswith("cudf"):  # cudf's raises
        names = column_names(frame.columns)
        for cells in frame.itertuples(index=False, name=None):
            yield dict(zip(names, cells, strict=True))
    elif hasattr(kind, "collect_batches"):
        for part in frame.collect_batches():
            yield from part.iter_rows(named=True)
    elif hasattr(kind, "collect"):
        yield from _rows(frame.collect())
    elif hasattr(kind, "__arrow_c_stream__"):
        arrow = needs_extra("pyarrow", frame_name(frame))
        yield from arrow_rows(arrow.RecordBatchReader.from_stream(frame))
    elif hasattr(kind, "column_names"):
        yield from _mappings(frame)
    else:
        narwhals = needs_extra("narwhals", frame_name(frame))
        found = narwhals.from_native(frame)
        found = found.collect() if hasattr(found, "collect") else found
        yield from found.iter_rows(named=True)


def _batches(frame: Any) -> Iterable[Any]:
    if hasattr(frame, "to_batches"):
        column_names(getattr(frame, "column_names", ()))
        batches: Iterable[Any] = frame.to_batches()
        return batches
    return frame if hasattr(frame, "read_next_batch") else [frame]


def arrow_rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of Arrow's record batches."""
    for batch in batches:
        batch = _readable(batch)
        for start in range(0, batch.num_rows, _SLICE):
            yield from batch.slice(start, _SLICE).to_pylist()


def _readable(batch: Any) -> Any:
    """Return a batch whose times are of microseconds: Python has no time of nanoseconds."""
    for position, field in enumerate(batch.schema):
        if getattr(field.type, "unit", None) == "ns" and str(field.type).startswith("timestamp"):
            arrow = needs_extra("pyarrow", "Arrow data")
            cast = batch.column(position).cast(arrow.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(position, field.name, cast)
    return batch


def _mappings(frame: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for row in frame:
        if not isinstance(row, Mapping):
            raise ConfigurationError(f"{frame_name(frame)} has rows that are no mappings")
        yield dict(row)


def _with_index(frame: Any) -> Any:
    """Return a frame of pandas with the named levels of its index as columns: ids are often there."""
    if not hasattr(type(frame), "reset_index"):
        return frame
    columns, names = frame.columns, getattr(frame.index, "names", ())
    if getattr(columns, "nlevels", 1) > 1:
        raise ConfigurationError(
            f"{frame_name(frame)} has columns of several levels; give each one name, for example "
            'frame.columns = frame.columns.map("_".join)'
        )
    levels = [name for name in names if name is not None and name not in columns]
    return frame.reset_index(level=levels) if levels else frame


def column_names(names: Iterable[Any]) -> list[str]:
    """
    Return the names of columns as texts, in composed form and without blanks around them.

    Raises:
        ConfigurationError: Two have one name.
    """
    found = [composed(str(name).strip()) for name in names]
    twice = [name for name, count in Counter(found).items() if count > 1 and name]
    if twice:
        raise ConfigurationError(f"two columns are called {twice[0]!r}; give each a name of its own")
    return found

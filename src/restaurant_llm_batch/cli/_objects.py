"""Objects of the user's own code, named as ``module:name``, and rows of a file as items of a task."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from .._values import place_of
from ..errors import BatchError, ConfigurationError
from ._reading import FileError

_TABLES = {".csv": ",", ".tsv": "\t"}


def is_object_name(text: str) -> bool:
    """Return whether a text is of the form ``module:name``."""
    module, colon, name = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def import_object(text: str, what: str) -> Any:
    """
    Import an object of the user's code; modules of the working folder are found.

    Args:
        text: The object, as ``module:name``.
        what: The option or argument, for messages.

    Raises:
        ConfigurationError: There is no such module or object, or the module cannot be imported.
    """
    if not is_object_name(text):
        raise ConfigurationError(f"{what} must be module:name, got {text!r}; for example my_tasks:Complaints")
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"{what} {text}: {module} needs {error.name}, which is not installed"
            ) from error
        raise ConfigurationError(
            f"{what} {text}: there is no module {module!r} here; run the command in the folder of {module}.py"
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"{what} {text}: {module} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{what} {text}: {module} has no {name}")
        found = getattr(found, part)
    return found


def make_object(text: str, what: str) -> Any:
    """Import an object, and call it if it is a class."""
    found = import_object(text, what)
    if not isinstance(found, type):
        return found
    if issubclass(found, BaseModel):
        raise ConfigurationError(
            f"{what} {text}: {found.__name__} is a pydantic model, the form of an answer; name what asks for it, such "
            f"as a generator function with `yield from ask({found.__name__}, ...)`"
        )
    try:
        return found()
    except TypeError as error:
        raise ConfigurationError(
            f"{what} {text}: {found.__name__} needs arguments ({error}); name an object that has them, such as "
            f"my_object = {found.__name__}(...) in its module"
        ) from error
    except Exception as error:
        raise not_made(text, what, error) from error


def not_made(text: str, what: str, error: Exception) -> Exception:
    """Return the error of a class or a function of the user's that raised one; that of the library unchanged."""
    if isinstance(error, BatchError):
        return error
    place = place_of(error)
    at = f" (at {place})" if place else ""
    return ConfigurationError(f"{what} {text} failed: {type(error).__name__}: {error}{at}")


def read_rows(path: Path) -> list[Any]:
    """
    Read the items of a task: rows of a table, or a value a line.

    Args:
        path: A file: .csv and .tsv with a line of names, .json with a list, .txt with a text a line, otherwise JSON
            Lines; ``-`` for JSON Lines of standard input.

    Raises:
        ConfigurationError: The file cannot be read or is invalid; the message names the line.
    """
    if str(path) == "-":
        return [*_json_lines(path, sys.stdin)]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [*_rows(path, file)]
    except UnicodeDecodeError as error:
        raise FileError(f"{str(path)!r}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    except OSError as error:
        raise FileError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _rows(path: Path, file: IO[str]) -> Iterator[Any]:
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        yield from _table_rows(path, file, _TABLES[suffix])
    elif suffix == ".json":
        yield from _json_list(path, file)
    elif suffix == ".txt":
        yield from (line.strip() for line in file if line.strip())
    else:
        yield from _json_lines(path, file)


def _table_rows(path: Path, file: IO[str], delimiter: str) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(file, delimiter=delimiter)
    try:
        names: Sequence[str] = reader.fieldnames or ()
        for row in reader:
            if None in row or any(value is None for value in row.values()):
                raise FileError(
                    f"{str(path)!r}, line {reader.line_num}: not {len(names)} cells as in the line of names"
                )
            yield row
    except csv.Error as error:
        raise FileError(f"{str(path)!r}, line {reader.line_num}: {error}") from error


def _json_list(path: Path, file: IO[str]) -> list[Any]:
    try:
        found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{str(path)!r}: not JSON ({error})") from error
    if not isinstance(found, list):
        raise FileError(f"{str(path)!r}: not a list of items")
    return found


def _json_lines(path: Path, file: IO[str]) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FileError(f"{str(path)!r}, line {number}: not JSON ({error})") from error

"""
Output of a command: a file in the format of its ending, which appears under its name whole or not at all.

Records are written as JSON Lines as the outcomes finish, to ``NAME.partial`` beside the output. At the end of the run,
and a Ctrl-C is such an end, that file is renamed, or, for another format than JSON Lines, made into the output. So a
file that is there stays as it is until the new one is complete, what a killed run had finished can still be read, and
no table is held in memory.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .._tables.columns import Columns
from .._tables.files import (
    OutputFileError,
    cannot_write,
    check_file,
    is_device,
    open_output,
    real_path,
)
from .._tables.writing import Format, encoder, format_of
from .._text import json_line
from ..errors import ConfigurationError

__all__ = ["STDOUT", "JSONLWriter", "OutputFileError", "check_output", "open_writer", "output_format"]

STDOUT = "-"

_STORE_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""SQLite keeps up to three files beside its own (sqlite.org/tempfiles.html)."""


class JSONLWriter:
    """
    Writes records as JSON Lines and flushes each; without a file it writes nothing.

    Args:
        file: The file.
        name: Its name, for errors.
        columns: Columns that there are without a record, too.

    Attributes:
        columns: The columns of the records.
    """

    def __init__(self, file: IO[bytes] | None, name: str = "", columns: Sequence[str] = ()) -> None:
        self.columns: Columns = Columns(names=columns)
        self._file = file
        self._name = name

    def write(self, record: Mapping[str, Any]) -> None:
        """
        Write a record.

        Raises:
            OutputFileError: If it cannot be written.
        """
        if self._file is None:
            return
        line = json_line(record)
        self.columns.add(record)
        try:
            self._file.write(line)  # one write per line, so that no partial line is left behind
            self._file.flush()
        except BrokenPipeError:
            raise  # the reader of standard output has seen enough
        except OSError as error:
            raise OutputFileError(cannot_write(self._name, error)) from error


@contextmanager
def open_writer(
    target: str | None,
    sources: Sequence[Path],
    store: Path | None = None,
    record: Path | None = None,
    kind: Format | None = None,
    columns: Sequence[str] = (),
) -> Iterator[JSONLWriter]:
    """
    Open the output of a command. The file appears under its name when the block ends without an exception.

    Args:
        target: Name of a file, "-" for standard output, or None for no output.
        sources: The input files, which must not be overwritten.
        store: The store, which must not be overwritten either.
        record: The record, likewise.
        kind: The format; None for that of the file's ending.
        columns: Columns that a table has without a record, too.

    Raises:
        ConfigurationError: If the file cannot be written, or is the input, the store or the record, or the library of
            its format is not installed. Nothing has been opened for writing then.
        OutputFileError: If it cannot be written to its end, or not be renamed.
    """
    check_output(target, sources, store, record)
    if target is None:
        yield JSONLWriter(None)
    elif target == STDOUT:
        yield JSONLWriter(sys.stdout.buffer, "standard output")
    else:
        name, written_as = f"--output {target!r}", kind or output_format(target)

        def convert(lines: IO[bytes], output: IO[bytes]) -> None:
            encoder(written_as, writer.columns)(map(json.loads, lines), output)

        with open_output(
            target, name, keeps_partial=True, convert=None if written_as == "jsonl" else convert
        ) as file:
            writer = JSONLWriter(file, name, columns)
            yield writer


def output_format(target: str | None) -> Format:
    """
    Return the format of an output, by its ending; JSON Lines for standard output, and for an ending that is not known.

    Raises:
        ConfigurationError: The ending is that of a format that cannot be written.
    """
    return "jsonl" if target is None or target == STDOUT else format_of(target, f"--output {target!r}")


def check_output(
    target: str | None, sources: Sequence[Path], store: Path | None = None, record: Path | None = None
) -> None:
    """
    Check the output of a command, without opening or creating anything.

    Args:
        target: As in `open_writer`.
        sources: The input files, which must not be overwritten.
        store: The store, which must not be overwritten either.
        record: The record, likewise.

    Raises:
        ConfigurationError: If the file cannot be written, or is the input, the store or the record, or the library of
            its format is not installed.
    """
    if target is None:
        return
    if target == STDOUT:
        stdout: object = sys.stdout
        if stdout is None:  # closed by the program that started this one
            raise ConfigurationError("--output -: standard output is closed; name a file")
        return
    try:
        encoder(output_format(target), Columns())
    except ImportError as error:
        raise ConfigurationError(f"--output {target!r}: {error}") from error
    path = real_path(target)
    if not is_device(path):
        if any(_is_same(path, source) for source in sources):
            raise ConfigurationError(f"--output {target!r} is the input file; name another file")
        if _is_database(path, store):
            raise ConfigurationError(
                f"--output {target!r} is the store, whose replies were paid for; name another file"
            )
        if _is_database(path, record):
            raise ConfigurationError(f"--output {target!r} is the record of the runs; name another file")
    check_file(target, f"--output {target!r}")


def _is_database(path: Path, database: Path | None) -> bool:
    return database is not None and any(
        _is_same(path, Path(f"{database}{suffix}")) for suffix in _STORE_SUFFIXES
    )


def _is_same(path: Path, other: Path) -> bool:
    with suppress(OSError):
        if path.samefile(other):
            return True
    return os.path.realpath(other) == str(path)

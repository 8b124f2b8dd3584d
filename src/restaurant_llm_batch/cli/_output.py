"""
Output file: JSON Lines that appear under their name when the run has ended, whole or not at all.

Outcomes are written as they finish, to ``NAME.partial`` beside the output, which is renamed at the end of the run; a
Ctrl-C is such an end. So a file that is there stays as it is until the new one is complete, and what a killed run had
finished can still be read.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import ENOSPC
from pathlib import Path
from typing import IO, Any

from .._text import json_line
from ..errors import BatchError, ConfigurationError

STDOUT = "-"

_STORE_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""SQLite keeps up to three files beside its own (sqlite.org/tempfiles.html)."""


class OutputFileError(BatchError):
    """The output cannot be written: the disk is full, for example."""


class JSONLWriter:
    """
    Writes records as JSON Lines and flushes each; without a file it writes nothing.

    Args:
        file: The file.
        name: Its name, for errors.
    """

    def __init__(self, file: IO[bytes] | None, name: str = "") -> None:
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
        try:
            self._file.write(line)  # one write per line, so that no partial line is left behind
            self._file.flush()
        except BrokenPipeError:
            raise  # the reader of standard output has seen enough
        except OSError as error:
            raise OutputFileError(_cannot_write(self._name, error)) from error


@contextmanager
def open_writer(
    target: str | None, sources: Sequence[Path], store: Path | None = None, record: Path | None = None
) -> Iterator[JSONLWriter]:
    """
    Open the output of a command. The file appears under its name when the block ends without an exception.

    Args:
        target: Name of a file, "-" for standard output, or None for no output.
        sources: The input files, which must not be overwritten.
        store: The store, which must not be overwritten either.
        record: The record, likewise.

    Raises:
        ConfigurationError: If the file cannot be written, or is the input, the store or the record. Nothing has been
            opened for writing then.
        OutputFileError: If it cannot be written to its end, or not be renamed.
    """
    check_output(target, sources, store, record)
    if target is None:
        yield JSONLWriter(None)
        return
    if target == STDOUT:
        yield JSONLWriter(sys.stdout.buffer, "standard output")
        return
    if _is_device(target):
        with _opened(Path(target), target, "wb") as file:
            yield JSONLWriter(file, f"--output {target!r}")
        return
    path = _real(target)
    partial = _free_name(path)
    with _opened(partial, target, "xb") as file:
        try:
            yield JSONLWriter(file, f"--output {target!r}")
            file.flush()
            os.fsync(file.fileno())
        except BaseException as error:
            _leave(partial, path, error)
            raise
    try:
        with suppress(OSError):
            partial.chmod(stat.S_IMODE(path.stat().st_mode))
        partial.replace(path)
    except OSError as error:
        raise OutputFileError(
            f"{_cannot_write(f'--output {target!r}', error)}; the results are in {partial}"
        ) from error


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
        ConfigurationError: If the file cannot be written, or is the input, the store or the record.
    """
    if target is None:
        return
    if target == STDOUT:
        stdout: object = sys.stdout
        if stdout is None:  # closed by the program that started this one
            raise ConfigurationError("--output -: standard output is closed; name a file")
        return
    if not _is_device(target):
        _check_file(_real(target), target, sources, store, record)


def _is_device(target: str) -> bool:
    """Return whether the output is a pipe, a device or a socket, which has no partial file beside it."""
    given = Path(target)
    return given.exists() and not given.is_file() and not given.is_dir()


def _real(target: str) -> Path:
    """Return the file itself: a link stays a link, to the new file."""
    return Path(os.path.realpath(target))


def _check_file(
    path: Path, target: str, sources: Sequence[Path], store: Path | None, record: Path | None
) -> None:
    if any(_is_same(path, source) for source in sources):
        raise ConfigurationError(f"--output {target!r} is the input file; name another file")
    if _is_database(path, store):
        raise ConfigurationError(
            f"--output {target!r} is the store, whose replies were paid for; name another file"
        )
    if _is_database(path, record):
        raise ConfigurationError(f"--output {target!r} is the record of the runs; name another file")
    if path.is_dir():
        raise ConfigurationError(
            f"--output {target!r} is a folder; name a file, for example {target}/results.jsonl"
        )
    if not path.parent.is_dir():
        raise ConfigurationError(
            f"cannot write --output {target!r}: its folder does not exist; create it first"
        )
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ConfigurationError(f"cannot write --output {target!r}: no permission")
    with suppress(OSError), path.open("rb") as file:
        if file.read(16) == b"SQLite format 3\0":
            raise ConfigurationError(f"--output {target!r} is a database, perhaps a store; name another file")


def _is_database(path: Path, database: Path | None) -> bool:
    return database is not None and any(
        _is_same(path, Path(f"{database}{suffix}")) for suffix in _STORE_SUFFIXES
    )


def _is_same(path: Path, other: Path) -> bool:
    with suppress(OSError):
        if path.samefile(other):
            return True
    return os.path.realpath(other) == str(path)


def _free_name(path: Path) -> Path:
    """Return the name to write to: one that no file has, perhaps of a run that was killed."""
    number = 1
    while True:
        partial = path.with_name(f"{path.name}{'' if number == 1 else f'.{number}'}.partial")
        if not os.path.lexists(partial):
            return partial
        number += 1


@contextmanager
def _opened(path: Path, target: str, mode: str) -> Iterator[IO[bytes]]:
    try:
        # The answers are for the owner only, unless a file that is replaced has another mode.
        flags = os.O_WRONLY | (os.O_CREAT | os.O_EXCL if mode == "xb" else 0)
        file: IO[bytes] = os.fdopen(os.open(path, flags, 0o600), "wb")
    except OSError as error:
        raise ConfigurationError(_cannot_write(f"--output {target!r}", error)) from error
    try:
        yield file
    finally:
        with suppress(OSError):  # a full disk again: what was lost has been reported
            file.close()


def _leave(partial: Path, path: Path, error: BaseException) -> None:
    """Keep what was written by a run that failed, and say where it is; remove an empty file."""
    with suppress(OSError):
        if partial.stat().st_size:
            if isinstance(error, Exception):
                error.add_note(f"What is finished is in {partial}; {path.name} was not touched.")
        else:
            partial.unlink()


def _cannot_write(name: str, error: OSError) -> str:
    if error.errno == ENOSPC:
        return f"cannot write {name}: the disk is full; free some space and run again"
    return f"cannot write {name}: {error.strerror or error}"

"""
Output files that appear under their name when they are whole, or not at all.

What is written goes to ``NAME.partial`` beside the file, which is renamed at the end. So a file that is there stays as
it is until the new one is complete.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import ENOSPC
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TypeAlias

from ..errors import BatchError, ConfigurationError


class OutputFileError(BatchError):
    """The output cannot be written: the disk is full, for example."""


Convert: TypeAlias = Callable[[IO[bytes], IO[bytes]], object]
"""Reads what was written, and writes the output."""


@contextmanager
def open_output(
    target: str | os.PathLike[str], name: str, *, keeps_partial: bool = False, convert: Convert | None = None
) -> Iterator[IO[bytes]]:
    """
    Open a file for writing. It appears under its name when the block ends without an exception.

    Args:
        target: The file; a pipe or a device is written at once.
        name: Its name in messages.
        keeps_partial: Whether to keep what was written when the block raises, and to say where it is.
        convert: Makes the output at the end from what was written; None if that is the output.

    Raises:
        ConfigurationError: The file cannot be opened, or is a folder or a database.
        OutputFileError: It cannot be renamed.
    """
    check_file(target, name)
    path = real_path(target)
    if is_device(path):
        with _opened(path, name, os.O_WRONLY) as file:
            if convert is None:
                yield file
                return
            with TemporaryFile() as collected:
                yield collected
                collected.seek(0)
                convert(collected, file)
        return
    partial = _free_name(path)
    try:
        with _opened(partial, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if convert is not None:
            with partial.open("rb") as lines, open_output(target, name) as output:
                convert(lines, output)
    except BaseException as error:
        _leave(partial, path, error, keeps_partial)
        raise
    if convert is not None:
        partial.unlink()
        return
    try:
        with suppress(OSError):
            partial.chmod(stat.S_IMODE(path.stat().st_mode))
        partial.replace(path)
    except OSError as error:
        raise OutputFileError(f"{cannot_write(name, error)}; the results are in {partial}") from error


def check_file(target: str | os.PathLike[str], name: str) -> None:
    """
    Check that a file can be written, without opening or creating anything.

    Raises:
        ConfigurationError: It cannot be written, or is a folder or a database.
    """
    path = real_path(target)
    if is_device(path):
        return
    if path.is_dir():
        raise ConfigurationError(
            f"{name} is a folder; name a file, for example {os.fspath(target)}/results.jsonl"
        )
    if not path.parent.is_dir():
        raise ConfigurationError(f"cannot write {name}: its folder does not exist; create it first")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ConfigurationError(f"cannot write {name}: no permission")
    with suppress(OSError), path.open("rb") as file:
        if file.read(16) == b"SQLite format 3\0":
            raise ConfigurationError(f"{name} is a database, perhaps a store; name another file")


def is_device(path: Path) -> bool:
    """Return whether a file is a pipe, a device or a socket, which has no partial file beside it."""
    return path.exists() and not path.is_file() and not path.is_dir()


def real_path(target: str | os.PathLike[str]) -> Path:
    """Return the file itself: a link stays a link, to the new file."""
    return Path(os.path.realpath(target))


def _free_name(path: Path) -> Path:
    """Return the name to write to: one that no file has, perhaps of a run that was killed."""
    number = 1
    while True:
        partial = path.with_name(f"{path.name}{'' if number == 1 else f'.{number}'}.partial")
        if not os.path.lexists(partial):
            return partial
        number += 1


@contextmanager
def _opened(path: Path, name: str, flags: int) -> Iterator[IO[bytes]]:
    try:
        # The answers are for the owner only, unless a file that is replaced has another mode.
        file: IO[bytes] = os.fdopen(os.open(path, flags, 0o600), "wb")
    except OSError as error:
        raise ConfigurationError(cannot_write(name, error)) from error
    try:
        yield file
    finally:
        with suppress(OSError):  # a full disk again: what was lost has been reported
            file.close()


def _leave(partial: Path, path: Path, error: BaseException, keeps: bool) -> None:
    """Keep what was written by a run that failed, and say where it is; remove an empty file."""
    with suppress(OSError):
        if keeps and partial.stat().st_size:
            if isinstance(error, Exception | KeyboardInterrupt):
                error.add_note(f"What is finished is in {partial}; {path.name} was not touched.")
        else:
            partial.unlink()


def cannot_write(name: str, error: OSError) -> str:
    """Return the sentence for an error of the operating system."""
    if error.errno == ENOSPC:
        return f"cannot write {name}: the disk is full; free some space and run again"
    return f"cannot write {name}: {error.strerror or error}"

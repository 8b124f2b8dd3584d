"""Writing outcomes as JSON Lines, each as soon as it is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import ConfigurationError

STDOUT = "-"


class Writer:
    """Writes one line per record and flushes it; without a file it writes nothing."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a record."""
        if self._file is not None:
            line = json.dumps(record, ensure_ascii=False)
            # One call, so that a line is there whole or not at all; half an emoji is no valid UTF-8.
            self._file.write(line.encode("utf-8", "replace") + b"\n")
            self._file.flush()


@contextmanager
def open_writer(target: str | None, sources: Sequence[Path]) -> Iterator[Writer]:
    """
    Open where outcomes are written.

    Args:
        target: A file's name, "-" for standard output, or None for nowhere.
        sources: What is being read, which must not be overwritten.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    if target is None:
        yield Writer(None)
        return
    if target == STDOUT:
        yield Writer(sys.stdout.buffer)
        return
    path = Path(target)
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        raise ConfigurationError(f"--output {target!r} is the file that is read; name another one")
    try:
        file = path.open("wb")
    except OSError as error:
        raise ConfigurationError(f"cannot write --output {target!r}: {error.strerror}") from error
    with file:
        yield Writer(file)

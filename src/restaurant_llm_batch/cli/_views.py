"""Result views and the JSON Lines writer: how a command shows and writes its outcomes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeAlias, TypeVar

from rich.table import Table

from ..errors import ConfigurationError
from ..outcomes import Failure, Outcome, Success
from ._sources import NamedItems
from ._tables import counted

STDOUT = "-"


class JSONLWriter:
    """Writes records as JSON Lines and flushes each; without a file it writes nothing."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a record."""
        if self._file is not None:
            line = json.dumps(record, ensure_ascii=False)
            # One write per line, so that no partial line is left behind. "replace": a model may write a lone surrogate.
            self._file.write(line.encode("utf-8", "replace") + b"\n")
            self._file.flush()


@contextmanager
def open_writer(target: str | None, sources: Sequence[Path]) -> Iterator[JSONLWriter]:
    """
    Open the output of a command.

    Args:
        target: Name of a file, "-" for standard output, or None for no output.
        sources: The input files, which must not be overwritten.

    Raises:
        ConfigurationError: The file cannot be written, or is an input file.
    """
    if target is None:
        yield JSONLWriter(None)
        return
    if target == STDOUT:
        yield JSONLWriter(sys.stdout.buffer)
        return
    path = Path(target)
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        raise ConfigurationError(f"--output {target!r} is the input file; name another file")
    try:
        file = path.open("wb")
    except OSError as error:
        raise ConfigurationError(f"cannot write --output {target!r}: {error.strerror}") from error
    with file:
        yield JSONLWriter(file)


class Result(Protocol):
    """The result of a task."""

    @property
    def model(self) -> str:
        """Name of the model that answered; empty if no call was made."""
        ...


R = TypeVar("R", bound=Result)

MakeTable: TypeAlias = Callable[[Sequence[R], NamedItems], Table]
"""Returns a table of results; the second argument has the names of their restaurants or documents."""


@dataclass(frozen=True, kw_only=True)
class ResultView(Generic[R]):
    """
    How to show, write and describe the results of a task.

    Attributes:
        table: Returns a table of results.
        record: Returns the JSON record of a result.
        done: Participle for a finished item: "summarised".
        count_failed_parts: Returns the number of failed parts of a result.
        failed_part_phrases: Phrases for one failed part, and for several.
        offline: Clause that describes the replies of `OfflineLLM`.
        what: Singular noun for an item.
    """

    table: MakeTable[R]
    record: Callable[[R], Mapping[str, Any]]
    done: str
    count_failed_parts: Callable[[R], int]
    failed_part_phrases: tuple[str, str]
    offline: str
    what: str = "restaurant"

    def as_record(self, outcome: Outcome[R]) -> Mapping[str, Any]:
        """Return the JSON record of an outcome."""
        if isinstance(outcome, Success):
            return self.record(outcome.value)
        return {f"{self.what}_id": outcome.item_id, "failure": _failure(outcome)}

    def several(self, number: int) -> str:
        """Return a number of items with their noun."""
        return counted(number, self.what, f"{self.what}s")


def _failure(failure: Failure) -> Mapping[str, Any]:
    error = f"{type(failure.error).__name__}: {failure.error}"
    return {"stage": failure.stage, "error": error, "attempts": failure.attempts}

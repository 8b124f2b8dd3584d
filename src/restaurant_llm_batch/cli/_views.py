"""Writing outcomes as JSON Lines, each as soon as it is there."""

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
def open_writer(target: str | None, sources: Sequence[Path]) -> Iterator[JSONLWriter]:
    """
    Open where outcomes are written.

    Args:
        target: A file's name, "-" for standard output, or None for nowhere.
        sources: What is being read, which must not be overwritten.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    if target is None:
        yield JSONLWriter(None)
        return
    if target == STDOUT:
        yield JSONLWriter(sys.stdout.buffer)
        return
    path = Path(target)
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        raise ConfigurationError(f"--output {target!r} is the file that is read; name another one")
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
        """The model that answered; empty when none was asked."""
        ...


R = TypeVar("R", bound=Result)

MakeTable: TypeAlias = Callable[[Sequence[R], NamedItems], Table]
"""Shows results, given what their restaurants or documents are called."""


@dataclass(frozen=True, kw_only=True)
class ResultView(Generic[R]):
    """
    How a task's results are shown, written and spoken of.

    Attributes:
        table: Shows some.
        record: Returns one as it is written.
        done: What was done to it: "summarised".
        lost: How many parts of a result are missing because they failed.
        lost_as: What is said of one such part, and of several.
        offline: What the offline model's answers are.
        what: What an item is called.
    """

    table: MakeTable[R]
    record: Callable[[R], Mapping[str, Any]]
    done: str
    lost: Callable[[R], int]
    lost_as: tuple[str, str]
    offline: str
    what: str = "restaurant"

    def as_record(self, outcome: Outcome[R]) -> Mapping[str, Any]:
        """Return an outcome as it is written."""
        if isinstance(outcome, Success):
            return self.record(outcome.value)
        return {f"{self.what}_id": outcome.item_id, "failure": _failure(outcome)}

    def several(self, number: int) -> str:
        """Return a number of items in words."""
        return counted(number, self.what, f"{self.what}s")


def _failure(failure: Failure) -> Mapping[str, Any]:
    error = f"{type(failure.error).__name__}: {failure.error}"
    return {"stage": failure.stage, "error": error, "attempts": failure.attempts}

"""Writing outcomes as JSON Lines, each as soon as it is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ..errors import ConfigurationError
from ..models import RestaurantSummary
from ..report import Failure, Outcome

STDOUT = "-"


class Writer:
    """Writes one line per outcome and flushes it; without a file it writes nothing."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file

    def write(self, outcome: Outcome[RestaurantSummary]) -> None:
        """Write an outcome."""
        if self._file is not None:
            line = json.dumps(as_record(outcome), ensure_ascii=False)
            # One call, so that a line is there whole or not at all; half an emoji is no valid UTF-8.
            self._file.write(line.encode("utf-8", "replace") + b"\n")
            self._file.flush()


@contextmanager
def open_writer(target: str | None, source: Path | None) -> Iterator[Writer]:
    """
    Open where outcomes are written.

    Args:
        target: A file's name, "-" for standard output, or None for nowhere.
        source: What is being read, which must not be overwritten.

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
    if source is not None and path.exists() and path.samefile(source):
        raise ConfigurationError(f"--output {target!r} is the file that is read; name another one")
    try:
        file = path.open("wb")
    except OSError as error:
        raise ConfigurationError(f"cannot write --output {target!r}: {error.strerror}") from error
    with file:
        yield Writer(file)


def as_record(outcome: Outcome[RestaurantSummary]) -> Mapping[str, Any]:
    """Return an outcome as it is written."""
    if isinstance(outcome, Failure):
        error = f"{type(outcome.error).__name__}: {outcome.error}"
        failure = {"stage": outcome.stage, "error": error, "attempts": outcome.attempts}
        return {"restaurant_id": outcome.item_id, "failure": failure}
    summary = outcome.value
    return {
        "restaurant_id": summary.restaurant_id,
        "overall_summary": summary.overall_summary,
        "model": summary.model,
        "categories": {name: asdict(aspect) for name, aspect in summary.categories.items()},
    }

"""What a record has seen of a run's calls and items, in few bytes each, for simulations and plans."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .._store.database import StoreFile
from ..models import ItemId
from ._recorded import read_id
from ._schema import RECORD
from ._snapshot import read_snapshot

T = TypeVar("T")

_OF_RUN = "id >= ?1 << 32 AND id < (?1 + 1) << 32"


class ObservedCall(NamedTuple):
    """
    One attempt of a call to the model, or a reply that was found in the store.

    Attributes:
        item: Row of its item; None if that is not recorded.
        call: Number of the call, which its attempts share.
        attempt: Number of the attempt, from 1; 0 for a reply from the store.
        kind: The request's task.
        began: When it was made, in seconds since the run began.
        ended: When it ended.
        waited: Seconds from the end of the attempt before.
        outcome: "ok", "refused", "failed", "late", "cancelled" or "stored".
        prompt: Tokens of the prompt; 0 if they are not known.
        completion: Tokens of the answer, likewise.
        cached: How many of `prompt` came from the service's cache.
        finish_reason: Why the answer ended.
        error_type: Type of the error.
        status: HTTP status of the error.
        error: Message of the error.
    """

    item: int | None
    call: int
    attempt: int
    kind: str
    began: float
    ended: float
    waited: float
    outcome: str
    prompt: int
    completion: int
    cached: int
    finish_reason: str | None
    error_type: str | None
    status: int | None
    error: str | None


def observed_calls(path: Path, run: int, most: int) -> list[ObservedCall]:
    """Return the calls of a run to the model that have ended, as they were made; of more than `most`, the first."""
    return _read(
        path,
        f"SELECT item, prompt, attempt, label, started, ended, retry_seconds, outcome, coalesce(prompt_tokens, 0), "
        f"coalesce(completion_tokens, 0), coalesce(cached_tokens, 0), finish_reason, error_type, status, error "
        f"FROM calls WHERE {_OF_RUN} AND stage = 'llm' AND ended IS NOT NULL ORDER BY id LIMIT ?2",  # nosec B608 (constants)
        (run, most),
        ObservedCall._make,
    )


def observed_searches(path: Path, run: int, most: int) -> list[float]:
    """Return the seconds of the searches of a run that were answered, round trips counting once."""
    return _read(
        path,
        f"SELECT ended - started FROM calls WHERE {_OF_RUN} AND stage = 'search' AND outcome = 'ok' LIMIT ?2",  # nosec B608
        (run, most),
        lambda row: float(row[0]),
    )


def observed_items(path: Path, run: int) -> dict[int, ItemId | None]:
    """Return the ids of the items of a run that started and ended, by their rows."""
    return dict(
        _read(
            path,
            f"SELECT id, item_json FROM items WHERE {_OF_RUN} AND started IS NOT NULL AND ended IS NOT NULL",  # nosec B608
            (run,),
            lambda row: (row[0], read_id(row[1])),
        )
    )


def _read(path: Path, statement: str, values: tuple[int, ...], make: Callable[[Any], T]) -> list[T]:
    def query(connection: sqlite3.Connection) -> list[T]:
        return [make(row) for row in connection.execute(statement, values)]

    return read_snapshot(StoreFile(path, 10.0, RECORD), query)

"""Portable outcomes: results and errors in a form that another process can read."""

from __future__ import annotations

import pickle  # nosec B403  # both ends are this program
from dataclasses import replace
from typing import Any

from pydantic_core import to_jsonable_python

from ..._text import error_text
from ...errors import BatchError
from ...models import ItemId
from ...outcomes import Failure, Outcome, Success


def pack_outcome(outcome: Outcome[Any], index: int) -> bytes:
    """
    Return an outcome for another process, with the item's position in the whole input.

    A result that cannot be pickled, such as one of a class that a function has defined, goes as JSON can hold it.
    """
    if isinstance(outcome, Failure):
        return pickle.dumps(replace(outcome, error=portable_error(outcome.error), index=index))
    placed = replace(outcome, index=index)
    try:
        return pickle.dumps(placed)
    except Exception:  # a user's own class may raise anything
        plain = to_jsonable_python(outcome.value, serialize_unknown=True)
        return pickle.dumps(replace(placed, value=plain))


def unpack_outcome(packed: bytes, item_id: ItemId | None, index: int) -> Outcome[Any]:
    """Return the outcome that `pack_outcome` has packed, or a failure that says why it cannot be read here."""
    try:
        outcome = pickle.loads(packed)  # nosec B301
    except Exception as error:
        text = f"the outcome cannot be handed from one process to another: {error_text(error)}"
        return Failure(item_id, BatchError(text), "task", index=index)
    assert isinstance(outcome, (Success, Failure))
    return outcome


def portable_error(error: Any) -> Any:
    """Return an error if another process can read it, or otherwise one with the same name and message."""
    try:
        again = pickle.loads(pickle.dumps(error))  # nosec B301
    except Exception:  # a user's own exception may need other arguments than it keeps
        again = None
    if type(again) is type(error) and str(again) == str(error):
        return error
    name = type(error).__name__
    return stand_in(name, error_text(error).removeprefix(f"{name}: "))


def stand_in(name: str, text: str) -> Exception:
    """Return an exception of a class with a name and nothing else."""

    def reduce(_: Exception) -> tuple[Any, ...]:
        return stand_in, (name, text)

    made: Exception = type(name, (Exception,), {"__reduce__": reduce})(text)
    return made

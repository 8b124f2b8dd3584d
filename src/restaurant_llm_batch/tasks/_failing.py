"""What becomes of parts that fail, while others stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ..errors import STOPS_THE_RUN, RunStopped
from ..steps import Maybe

T = TypeVar("T")


def value_or_failure(result: Maybe[T]) -> Maybe[T]:
    """
    Return what a part came to.

    Raises:
        RunStopped: When the run was stopped: then the item is not done, whatever its other parts came to.
        PermanentBackendError: When it is one that stops the run, likewise.
    """
    if isinstance(result, (RunStopped, *STOPS_THE_RUN)):
        raise result
    return result


def raise_first(errors: Iterable[Exception]) -> None:
    """Raise the first error, if there is one."""
    for error in errors:
        raise error


def told(error: Exception) -> str:
    """Return an error as a result tells it."""
    return f"{type(error).__name__}: {error}"

"""What a conductor needs of others: where entries come from, and what does the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..outcomes import Failure, Outcome
from .call import Call
from .items import Entry


class Pending:
    """What a source answers when it will have more, but not now."""


PENDING = Pending()


class Source(Protocol):
    """Where entries come from, one at a time."""

    def take(self, room: int) -> Entry | Failure | Pending | None:
        """Return the next entry, None after the last, or `PENDING`; `room` is how many could be taken."""
        ...


@dataclass(frozen=True, slots=True)
class Hands:
    """
    What a conductor has done for it.

    Attributes:
        start: Start an admitted call; `Conductor.ended` is to be called at home when it is over.
        after: Call something at home after so many seconds.
        deliver: Take an outcome; return whether it needs no room any more.
        finished: Told once, when everything is done.
    """

    start: Callable[[Call], object]
    after: Callable[[float, Callable[[], object]], object]
    deliver: Callable[[Outcome[Any]], bool]
    finished: Callable[[], object]

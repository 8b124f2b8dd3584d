"""Memory broker: limits in the memory of one process, for runs on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._broker import Broker, perform
from ._lender import Lender
from ._messages import Command


class MemoryBroker(Broker):
    """
    A broker for members in this process.

    Args:
        now: Its clock, in seconds.

    Attributes:
        lenders: The state of each limit.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.lenders: dict[str, Lender] = {}
        self._now = now

    @property
    def place(self) -> str:
        """Where the limits are."""
        return f"memory:{id(self):x}"

    def perform(self, name: str, command: Command) -> Any:
        """Perform a command on a limit."""
        self.lenders[name], answer = perform(self.lenders.get(name), name, command, self._now())
        return answer

    def names(self) -> list[str]:
        """Return the names of the limits."""
        return sorted(self.lenders)

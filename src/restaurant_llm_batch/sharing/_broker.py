"""Broker: what keeps shared limits where several processes can reach it, and performs commands on them in steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, overload

from ..errors import ConfigurationError
from ._lender import Lender
from ._messages import Answer, Ask, Command, LimitView, SetLimit, View

INTERVAL = 0.27
"""Least seconds between two messages of a member, on average."""


class Broker(ABC):
    """
    Where processes share limits. Use `FileBroker`, `RedisBroker` or `RayBroker`.

    One broker may be used for several limits, threads and runners. It can be pickled: the copy reaches the same limits.

    Attributes:
        interval: Least seconds between two messages of one member, on average.
    """

    interval: float = INTERVAL

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the limits are, without a secret: equal for brokers that reach the same limits."""

    @overload
    def perform(self, name: str, command: Ask) -> Answer: ...
    @overload
    def perform(self, name: str, command: SetLimit) -> None: ...
    @overload
    def perform(self, name: str, command: View) -> LimitView: ...
    @abstractmethod
    def perform(self, name: str, command: Command) -> Answer | LimitView | None:
        """
        Perform a command on a limit in one step, alone.

        Raises:
            BrokerUnavailable: The broker does not answer now.
            ConfigurationError: It never will: what is asked for cannot be, or something is missing here.
        """

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the limits. Exceptions are those of `perform`."""

    def close(self) -> None:  # noqa: B027  # not every broker has something open
        """Close what is open. A later use opens it again."""

    def limits(self) -> Mapping[str, LimitView]:
        """
        Return who holds what, by the names of the limits.

        Raises:
            BrokerUnavailable: The broker does not answer.
            ConfigurationError: The broker cannot be used at all.
        """
        return {name: self.perform(name, View()) for name in self.names()}

    def set_limit(self, name: str, limit: int) -> None:
        """
        Set a limit for all of its members. It goes down as loans end, within seconds.

        Raises:
            BrokerUnavailable: The broker does not answer.
            ConfigurationError: There is no such limit, or it is not a whole number of at least 1.
        """
        self.perform(name, SetLimit(limit))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place}>"


def perform(
    lender: Lender | None, name: str, command: Command, now: float, *, may_be_lost: bool = False
) -> tuple[Lender, Any]:
    """
    Perform a command on the state of a limit, and return the state afterwards, and the answer.

    Args:
        lender: The state; None if there is none.
        name: The limit's name.
        command: The command.
        now: The time on a clock of the broker, in seconds.
        may_be_lost: Whether there may have been loans that the state does not have.

    Raises:
        ConfigurationError: There is no such limit.
    """
    if lender is None:
        if not isinstance(command, Ask):
            raise ConfigurationError(f"there is no limit {name!r}: no process has declared it yet")
        lender = Lender(command.terms)
        # Who holds slots was lent them: then the state was lost, and with it what others hold.
        may_be_lost = may_be_lost or command.held > 0
    if may_be_lost:
        lender.forget_loans()
    if isinstance(command, Ask):
        return lender, lender.ask(command, now)
    if isinstance(command, View):
        return lender, lender.view(now)
    limit: object = command.limit
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigurationError(
            f"the limit {name} must be a whole number of at least 1, got {limit!r}; for example 8"
        )
    lender.set_limit(limit)
    return lender, None


def restored(state: str | bytes | None) -> Lender | None:
    """Return the lender of a state that was kept as text; None if there is none, or if it makes no sense."""
    if not state:
        return None
    try:
        return Lender.from_json(state)
    except ValueError:
        return None

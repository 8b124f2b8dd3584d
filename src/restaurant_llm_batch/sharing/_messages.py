"""Messages between a member of a shared limit and its broker, and the times that both keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from .._limits.aimd import AdaptiveLimit, CallResult
from ..outcomes import Reason

MOST_ADVANCE = 0.6
"""Most seconds that pass for the lender between two messages, whatever its clock shows."""
TRUSTED_SECONDS = 1.6
"""Seconds on its own clock for which a member uses a loan, counted from before it asked."""
LOAN_SECONDS = 2.4
"""
Seconds on the lender's clock for which slots are lent.

So a loan ends at the member first, even if the clocks run at speeds that differ by a tenth, and that of the broker is
set meanwhile.
"""
STARTS_SECONDS = 0.6
"""Seconds for which starts that were lent ahead, under a limit per minute, may be used."""


class BrokerUnavailable(Exception):
    """The broker did not answer. The message says why, without a secret."""


@dataclass(frozen=True, slots=True)
class Terms:
    """
    What a member declares of a limit; the same for all of its members.

    Attributes:
        limit: Most slots that are lent at once.
        requests_per_minute: Calls that start in any 60 seconds; None for no limit.
        tokens_per_minute: Their tokens; None for no limit.
    """

    limit: int | AdaptiveLimit
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def to_json(self) -> list[Any]:
        """Return the terms in values that JSON has."""
        limit = self.limit if isinstance(self.limit, int) else self.limit.declared()
        return [limit, self.requests_per_minute, self.tokens_per_minute]

    @classmethod
    def from_json(cls, values: list[Any]) -> Terms:
        """Return the terms that `to_json` has written."""
        limit, requests, tokens = values
        return cls(AdaptiveLimit(**limit) if isinstance(limit, dict) else int(limit), requests, tokens)

    def __str__(self) -> str:
        rates = {"requests_per_minute": self.requests_per_minute, "tokens_per_minute": self.tokens_per_minute}
        return ", ".join(
            [f"limit={self.limit}", *(f"{name}={rate}" for name, rate in rates.items() if rate is not None)]
        )


class Result(NamedTuple):
    """
    Results of calls that an adaptive limit learns from.

    Attributes:
        outcome: The result.
        depth: Slots that the member had taken when the calls were admitted, their own included.
        epoch: The epoch in which they were admitted.
        number: How many calls had this result.
    """

    outcome: CallResult
    depth: int
    epoch: int
    number: int


class StartsAsk(NamedTuple):
    """
    What a member says of a limit per minute.

    Attributes:
        wanted: The tokens of each call that could start soon, in order: those that wait, then those expected.
        waiting: How many of them wait.
        unused: Starts that were lent and not used, and will not be.
        unused_tokens: Their tokens, and those that finished calls did not use; below 0 for tokens used in excess.
    """

    wanted: tuple[int, ...] = ()
    waiting: int = 0
    unused: int = 0
    unused_tokens: int = 0


class ClientAsk(NamedTuple):
    """
    What a member says of one of its clients.

    Attributes:
        name: Its name.
        share: Its share, relative to those of the other clients.
        demand: Slots that its calls have here, and those for which they wait.
    """

    name: str
    share: float
    demand: int


class Ask(NamedTuple):
    """
    What a member says to the broker.

    Attributes:
        member: Its random name.
        turn: Number of the message. An older one that arrives late is ignored.
        terms: The limit that it declares.
        label: Host and process, for people.
        held: Slots that it may have taken until it hears the answer. The broker gets back what it held beyond them.
        in_use: Slots that are taken.
        waiting: Slots for which its calls wait.
        need: Slots that the first of them needs; 0 if none waits.
        active: Whether it has admitted a call since its last message.
        leaves: Whether it is done: it gets nothing more, and is forgotten if it holds nothing.
        results: Results of calls, for an adaptive limit.
        starts: What it says of the limits per minute; None without such limits.
        set_limit: A limit for all members, set by the user; None to leave it.
        clients: What its clients have and wait for; empty if no call has a client.
    """

    member: str
    turn: int
    terms: Terms
    label: str = ""
    held: int = 0
    in_use: int = 0
    waiting: int = 0
    need: int = 0
    active: bool = False
    leaves: bool = False
    results: tuple[Result, ...] = ()
    starts: StartsAsk | None = None
    set_limit: int | None = None
    clients: tuple[ClientAsk, ...] = ()


class Answer(NamedTuple):
    """
    What the broker answers.

    Attributes:
        turn: Number of the message that is answered.
        lent: Slots that are lent to the member.
        keep: Slots that it should go down to, as its calls end: others wait for the rest.
        total: The whole limit.
        reason: Why the whole limit changed last.
        epoch: The epoch of an adaptive limit.
        others_wait: Whether another member waits for slots.
        starts: Calls that it may start under the limits per minute, of those that it wanted, in order.
        refused: Why it gets nothing: it declares another limit than the others; "" if it is not refused.
        weights: How its clients should divide its slots, so that each has its share over all members; empty if it has
            one client at most.
    """

    turn: int
    lent: int = 0
    keep: int = 0
    total: int = 0
    reason: Reason = "share"
    epoch: int = 0
    others_wait: bool = False
    starts: int = 0
    refused: str = ""
    weights: Mapping[str, float] = MappingProxyType({})


class SetLimit(NamedTuple):
    """
    A command that sets the whole limit.

    Attributes:
        limit: The new limit.
    """

    limit: int


class View(NamedTuple):
    """A command that asks who holds what."""


class MemberView(NamedTuple):
    """
    A member of a limit, at one moment.

    Attributes:
        label: Its host and process.
        lent: Slots lent to it.
        in_use: Slots that it had taken when it last asked.
        waiting: Slots for which its calls waited then.
        seconds_left: Seconds until its loan ends, unless it renews it.
    """

    label: str
    lent: int
    in_use: int
    waiting: int
    seconds_left: float


class LimitView(NamedTuple):
    """
    A shared limit, at one moment.

    Attributes:
        limit: Most slots that are lent at once.
        declared: What the members declare.
        members: Who holds slots, or waits for some.
    """

    limit: int
    declared: Terms
    members: tuple[MemberView, ...]


Command: TypeAlias = Ask | SetLimit | View
"""What a broker performs, on one limit, in one step."""

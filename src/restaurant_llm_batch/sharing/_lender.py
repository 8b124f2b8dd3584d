"""
Lender: the state machine of one shared limit, at its broker.

Theory of operation. A member asks every few tenths of a second, with the slots that it holds, uses and waits for. The
lender answers with the slots that are lent to it until its next message, for at most `LOAN_SECONDS`. The lender never
takes slots: it asks a member to go down to fewer (`keep`), and counts them as lent until a later message says that the
member holds fewer, or until the loan ends. So the sum of what is lent never grows above the limit, whatever is lost,
late or repeated on the way. After the limit was lowered, it falls as loans end.

A member that holds more than was lent to it is believed. That is so when its loan had ended while its calls went on
(it was paused), or when the lender has lost its state. Then nothing more is lent until the sum is below the limit, and
the calls that it has in flight beyond its loan are not followed by others.

| event | what is lent to the member |
|---|---|
| a message | what it says that it holds, and what `allot` and the free slots add |
| no message for `LOAN_SECONDS` | nothing: it is forgotten |
| a message that it leaves | nothing |
| the lender has lost its state | what it says that it holds; nothing more, for the time of a loan |

Time. `now` may be any clock of the broker, even one that is set: the lender sums up how far it moves between two
messages, each time at most `MOST_ADVANCE` and at least nothing. While there are members, there are messages more often
than that. So a clock that jumps by an hour, or a computer that is started anew, ends no loan early.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from typing import Any

from .._limits.aimd import AIMDController
from ..outcomes import Reason
from ._allotment import Claim, allot, weights_of
from ._messages import LOAN_SECONDS, MOST_ADVANCE, Answer, Ask, LimitView, MemberView, Terms
from ._starts import StartsLender


@dataclass(slots=True)
class Member:
    """
    A member, as it was when it last asked.

    Attributes:
        claim: What it has and could use.
        label: Its host and process.
        turn: Number of its latest message.
        in_use: Slots that it had taken.
        expires_at: When its loan ends.
        overruns: Whether it holds slots that were not lent to it, so that more is held than the limit.
    """

    claim: Claim = field(default_factory=Claim)
    label: str = ""
    turn: int = 0
    in_use: int = 0
    expires_at: float = 0.0
    overruns: bool = False


class Lender:
    """
    The state of one shared limit.

    Args:
        terms: The limit as its first member declares it.

    Attributes:
        terms: The limit as its members declare it.
        members: The members whose loans go on.
    """

    def __init__(self, terms: Terms) -> None:
        self.members: dict[str, Member] = {}
        self._time = 0.0
        self._seen: float | None = None  # the broker's clock at the latest message
        self._quiet_until = 0.0
        self._declare(terms)

    def _declare(self, terms: Terms) -> None:
        self.terms = terms
        self._limit = terms.limit if isinstance(terms.limit, int) else terms.limit.start
        self._reason: Reason = "share"
        self._controller = None if isinstance(terms.limit, int) else AIMDController(terms.limit, self._time)
        self._starts = StartsLender(terms, self._time)

    @property
    def limit(self) -> int:
        """Most slots that are lent at once."""
        return self._limit if self._controller is None else self._controller.limit

    @property
    def lent(self) -> int:
        """Slots that are lent now."""
        return sum(member.claim.lent for member in self.members.values())

    def forget_loans(self) -> None:
        """Lend nothing more until every loan has ended that may have been granted and was lost with the state."""
        self.members.clear()
        self._quiet_until = self._time + LOAN_SECONDS

    def set_limit(self, limit: int) -> None:
        """Set the whole limit; an adaptive one goes on from there, within its bounds. Loans go down to it."""
        if self._controller is None:
            self._limit = limit
        else:
            self._controller.set(limit, self._time)
        self._reason = "manual"

    def ask(self, ask: Ask, now: float) -> Answer:
        """
        Take a member's message, and answer it.

        Args:
            ask: The message.
            now: The time on any clock of the broker, in seconds.
        """
        self._advance(now)
        member = self.members.get(ask.member)
        if member is not None and ask.turn < member.turn:
            return Answer(ask.turn)  # its answer is not waited for any more
        if ask.terms != self.terms:
            if self.members and set(self.members) != {ask.member}:
                return Answer(ask.turn, refused=self._refusal(ask.terms))
            self._declare(ask.terms)
        repeated = member is not None and member.turn == ask.turn
        if not repeated:
            self._learn(ask)
        if ask.leaves and not ask.held:
            self.members.pop(ask.member, None)
            return Answer(ask.turn)
        if member is None:
            member = self.members[ask.member] = Member(Claim(fed_at=self._time))
        self._enter(member, ask)
        return self._lend(member, ask)

    def view(self, now: float) -> LimitView:
        """Return who holds what."""
        self._advance(now)
        members = sorted(self.members.values(), key=lambda member: member.label)
        return LimitView(
            self.limit,
            self.terms,
            tuple(
                MemberView(
                    member.label,
                    member.claim.lent,
                    member.in_use,
                    max(0, member.claim.demand - member.in_use),
                    member.expires_at - self._time,
                )
                for member in members
            ),
        )

    def _advance(self, now: float) -> None:
        if self._seen is not None:
            self._time += max(0.0, min(now - self._seen, MOST_ADVANCE))
        self._seen = now
        for name in [name for name, member in self.members.items() if member.expires_at <= self._time]:
            del self.members[name]

    def _enter(self, member: Member, ask: Ask) -> None:
        """Record a message."""
        claim = member.claim
        member.overruns = member.overruns or ask.held > claim.lent
        claim.lent = ask.held
        member.overruns = member.overruns and self.lent > self.limit
        # A member that makes one call after another has none in flight at some moments.
        claim.demand = max(ask.in_use, 1 if ask.active else 0) + ask.waiting
        claim.need = min(max(1, ask.need), self.limit)
        claim.clients = {client.name: (client.share, client.demand) for client in ask.clients}
        member.label, member.turn, member.in_use = ask.label, ask.turn, ask.in_use
        member.expires_at = self._time + LOAN_SECONDS

    def _learn(self, ask: Ask) -> None:
        """Apply what it says of calls that have ended, and what the user has set."""
        if ask.set_limit is not None:
            self.set_limit(ask.set_limit)
        if ask.starts is not None:
            self._starts.give_back(ask.starts, self._time)
        controller = self._controller
        if controller is None or not ask.results:
            return
        before = controller.limit
        others = sum(member.in_use for name, member in self.members.items() if name != ask.member)
        # Refusals first: after one, successes of the same epoch say nothing. Of these, no more than a round of the
        # member's slots counts in one message, so that the limit at most doubles between two messages.
        left = max(1, ask.held)
        for result in sorted(ask.results, key=lambda result: result.outcome != "rate_limited"):
            number = min(result.number, left)
            left -= number
            for _ in range(number):
                controller.record(result.outcome, others + result.depth, result.epoch, self._time)
        if controller.limit != before:
            self._reason = controller.history[-1].reason

    def _lend(self, member: Member, ask: Ask) -> Answer:
        claims = {name: each.claim for name, each in self.members.items()}
        shares = allot(self.limit, claims, self._time)
        claim = member.claim
        share = shares.get(ask.member, 0)
        free = self.limit - self.lent
        if self._time < self._quiet_until:
            free = 0
        others = {name: each for name, each in claims.items() if each is not claim}
        granted = 0 if ask.leaves else self._grant(claim, share, others, shares, free)
        if granted > 0:
            if not claim.lent:
                claim.began_at = self._time
            claim.lent += granted
            free -= granted
        if claim.lent and not claim.starves:
            claim.fed_at = self._time
        starts = 0
        if ask.starts is not None:
            starts = self._starts.lend(ask.member, ask.starts, set(self.members), self._time)
        return Answer(
            ask.turn,
            claim.lent,
            0 if member.overruns else min(claim.lent, self._kept(claim, share, others, shares, free)),
            self.limit,
            self._reason,
            0 if self._controller is None else self._controller.epoch,
            any(each.demand > each.lent for each in others.values()),
            starts,
            weights=weights_of(ask.member, claims),
        )

    def _grant(
        self, claim: Claim, share: int, others: dict[str, Claim], shares: dict[str, int], free: int
    ) -> int:
        """Return the free slots that a member gets."""
        starving = [
            other for name, other in others.items() if other.starves and shares.get(name, 0) >= other.need
        ]
        if share > claim.lent:
            # Calls that need several slots are gathered for, in the order of turns.
            earlier = (each for each in starving if each.need > 1 and each.fed_at < claim.fed_at)
            return min(share - claim.lent, free - sum(each.need - each.lent for each in earlier))
        if claim.starves and free >= claim.need - claim.lent + sum(
            each.need - each.lent for each in starving
        ):
            return claim.need - claim.lent  # it is not its turn, but nobody whose turn it is can use them
        return 0

    def _kept(
        self, claim: Claim, share: int, others: dict[str, Claim], shares: dict[str, int], free: int
    ) -> int:
        """Return to how many slots a member should go down."""
        if free < 0 and self.lent > self.limit:  # the limit was lowered
            return share
        kept = claim.lent
        if self._time < self._quiet_until:
            return kept
        for name, other in others.items():
            lacking = min(shares.get(name, 0), other.demand) - other.lent
            if lacking <= max(0, free):
                continue
            if other.starves or lacking > max(1, self.limit // 8):
                return share
            # It is not worth an idle moment to move one slot of many, unless the slot is idle anyway.
            kept = min(kept, max(share, claim.demand))
        return kept

    def _refusal(self, terms: Terms) -> str:
        return (
            f"its other members declare {self.terms}, not {terms}; declare the same in all processes, or change the "
            "limit for all of them with: restaurant-llm-batch limits BROKER set NAME=LIMIT"
        )

    # Where it stands, for brokers that keep it outside of a process.

    def to_json(self) -> str:
        """Return the state as text."""
        return json.dumps(
            {
                "terms": self.terms.to_json(),
                "limit": self._limit,
                "reason": self._reason,
                "time": self._time,
                "seen": self._seen,
                "quiet_until": self._quiet_until,
                "controller": None if self._controller is None else self._controller.state(),
                "starts": self._starts.state(),
                "members": {name: asdict(member) for name, member in self.members.items()},
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Lender:
        """
        Return the lender whose state is in a text that `to_json` has written.

        Raises:
            ValueError: The text is not such a state.
        """
        try:
            return cls._restored(json.loads(text))
        except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"not the state of a shared limit: {error!r}") from error

    @classmethod
    def _restored(cls, state: dict[str, Any]) -> Lender:
        lender = cls(Terms.from_json(state["terms"]))
        lender._limit, lender._reason = state["limit"], state["reason"]
        lender._time, lender._seen = float(state["time"]), state["seen"]
        lender._quiet_until = float(state["quiet_until"])
        if lender._controller is not None:
            lender._controller.restore(state["controller"])
        lender._starts.restore(state["starts"])
        for name, member in state["members"].items():
            lender.members[name] = Member(**{**member, "claim": Claim(**member["claim"])})
        lender._check()
        return lender

    def _check(self) -> None:
        """Raise `ValueError` if the limit is none, or a time cannot be: until one that never comes, nothing is lent."""
        ends = [self._quiet_until, *(member.expires_at for member in self.members.values())]
        is_limit = type(self._limit) is int and self._limit >= 1
        if not is_limit or not isfinite(0.0 if self._seen is None else self._seen) or not self._time < inf:
            raise ValueError("not a limit, or not a time")
        if not all(end <= self._time + LOAN_SECONDS for end in ends):
            raise ValueError("a loan that never ends")

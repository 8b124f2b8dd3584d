"""
Allotment: how a limit's slots are divided among members that have calls, as a pure function.

Each member's share is in proportion to what it has in flight and what waits there, and no member that has a call gets
less than the call needs, if there are slots enough. If there are not (more members than slots, or calls that need many
slots each), members take turns: who has slots keeps some for `TURN_SECONDS`, then goes behind those without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TURN_SECONDS = 4.0
"""Seconds for which a member may keep its last slots while others have none. A change of hands leaves a slot idle."""


@dataclass(slots=True)
class Claim:
    """
    What one member has and could use.

    Attributes:
        lent: Slots lent to it.
        demand: Slots that it could use now: those in use, and those for which calls wait.
        need: Slots without which none of its calls goes on: those of the first call that waits, or 1.
        fed_at: When it last had the slots that it needs.
        began_at: When it last had none and got some.
    """

    lent: int = 0
    demand: int = 0
    need: int = 1
    fed_at: float = 0.0
    began_at: float = 0.0

    @property
    def starves(self) -> bool:
        """Whether none of its calls goes on for want of slots."""
        return self.lent < min(self.need, self.demand)


def allot(limit: int, claims: Mapping[str, Claim], now: float) -> dict[str, int]:
    """
    Return the slots that each member should have; their sum is at most the limit.

    Args:
        limit: The slots that there are.
        claims: The members' claims. The result has those that have calls.
        now: The time, in seconds.
    """
    demands = {name: claim.demand for name, claim in claims.items() if claim.demand}
    wanted = sum(demands.values())
    if wanted <= limit:
        # Half of the spare slots is lent ahead, so that a new call need not wait; half is there for new members.
        ahead = in_proportion((limit - wanted) // 2, demands, claims)
        return {name: demand + ahead[name] for name, demand in demands.items()}
    shares = _least_shares(limit, demands, claims, now)
    rest = {name: demands[name] - share for name, share in shares.items() if share}
    for name, more in in_proportion(limit - sum(shares.values()), rest, claims).items():
        shares[name] += min(more, rest[name])
    return shares


def _least_shares(
    limit: int, demands: Mapping[str, int], claims: Mapping[str, Claim], now: float
) -> dict[str, int]:
    """Return what each member needs, in the order of their turns, as far as the limit goes."""

    def turn(name: str) -> tuple[bool, float, str]:
        claim = claims[name]
        protected = claim.lent > 0 and now - claim.began_at < TURN_SECONDS
        return not protected, claim.fed_at, name

    left = limit
    shares = dict.fromkeys(demands, 0)
    for name in sorted(demands, key=turn):
        least = min(max(1, claims[name].need), limit)
        if least <= left:
            shares[name] = least
            left -= least
    return shares


def in_proportion(
    slots: int, weights: Mapping[str, int], claims: Mapping[str, Claim] | None = None
) -> dict[str, int]:
    """
    Divide slots in proportion to weights, by the largest remainder; of equal ones, to the member that has more slots.

    So equal demands leave slots where they are.
    """
    total = sum(weights.values())
    if slots <= 0 or total <= 0:
        return dict.fromkeys(weights, 0)
    shares = {name: slots * weight // total for name, weight in weights.items()}

    def remainder(name: str) -> tuple[int, int, str]:
        lent = claims[name].lent if claims is not None else 0
        return -(slots * weights[name] % total), -lent, name

    for name in sorted(weights, key=remainder)[: slots - sum(shares.values())]:
        shares[name] += 1
    return shares

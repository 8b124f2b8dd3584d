"""
Allotment: how a limit's slots are divided among members that have calls, as a pure function.

Each member's share is in proportion to what it has in flight and what waits there, and no member that has a call gets
less than the call needs, if there are slots enough. If there are not (more members than slots, or calls that need many
slots each), members take turns: who has slots keeps some for `TURN_SECONDS`, then goes behind those without.

If calls have clients, slots are divided among the clients first, by their shares, and those of a client in proportion
to what it has in flight and what waits at each member.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

_PARTS = 10_000
"""Parts of a slot in which fractions of slots are counted."""
_ROUNDS = 12
_LEAST_PART = 0.1
"""How much a client has at least at a member of what it is due there."""
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
        clients: Share and demand of its clients, by name; empty if its calls have none.
    """

    lent: int = 0
    demand: int = 0
    need: int = 1
    fed_at: float = 0.0
    began_at: float = 0.0
    clients: dict[str, tuple[float, int]] = field(default_factory=dict)

    def demands(self) -> Iterator[tuple[str, float, int]]:
        """Yield name, share and demand of each client; what is left of its demand is that of the client ""."""
        left = self.demand
        for name, (share, demand) in self.clients.items():
            left -= demand
            yield name, share, demand
        if left > 0:
            yield "", 1.0, left

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
    weights = _weights(limit, rest, shares, claims)
    for name, more in in_proportion(limit - sum(shares.values()), weights, claims).items():
        shares[name] += min(more, rest[name])
    return shares


def _weights(
    limit: int, rest: Mapping[str, int], shares: Mapping[str, int], claims: Mapping[str, Claim]
) -> Mapping[str, int]:
    """Return what the slots that are left are in proportion to: what members could use, or what their clients may."""
    if not any(claim.clients for claim in claims.values()):
        return rest
    clients = _clients(claims.values())
    slots = divided(limit, clients)
    weights: dict[str, int] = {}
    for name in rest:
        due = sum(
            slots[client] * demand / clients[client][1]
            for client, _, demand in claims[name].demands()
            if demand
        )
        weights[name] = max(0, round(_PARTS * (due - shares[name])))
    return weights if any(weights.values()) else rest


def _clients(claims: Iterable[Claim]) -> dict[str, tuple[float, int]]:
    """Return share and demand of each client, over all members."""
    found: dict[str, tuple[float, int]] = {}
    for claim in claims:
        for name, share, demand in claim.demands():
            found[name] = share, demand + found.get(name, (share, 0))[1]
    return found


def divided(limit: int, clients: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """
    Divide slots among clients in proportion to their shares; what one cannot use goes to the others likewise.

    Args:
        limit: The slots.
        clients: Share and demand of each client.
    """
    # In the order in which they have enough, so that what is left of the limit is divided among the others.
    order = sorted(clients, key=lambda name: clients[name][1] / clients[name][0])
    shares = [clients[name][0] for name in order]
    shares_left = [*accumulate(reversed(shares))][::-1]
    slots: dict[str, float] = {}
    left = float(limit)
    for name, share, rest in zip(order, shares, shares_left, strict=True):
        slots[name] = min(clients[name][1], left * share / rest)
        left -= slots[name]
    return slots


def weights_of(member: str, claims: Mapping[str, Claim]) -> dict[str, float]:
    """
    Return how the clients of a member should divide the slots that it has; empty if it has one client at most.

    Slots are whole, so members do not have exactly what their clients are due. But each client has its share over all
    members if it has more than its part at one, and less at another. How much is found by iterative proportional
    fitting (https://en.wikipedia.org/wiki/Iterative_proportional_fitting): what the clients are due at each member is
    scaled to the slots that the members have, and to those that the clients are due, in turn.
    """
    demands = {name: {who: want for who, _, want in each.demands() if want} for name, each in claims.items()}
    own = demands[member]
    if not claims[member].clients or len(own) < 2:
        return {}
    has = {name: min(each.lent, each.demand) for name, each in claims.items()}
    has[member] = max(1, has[member])
    clients = _clients(claims.values())
    due = divided(sum(has.values()), clients)
    found = {
        name: {who: due[who] * want / clients[who][1] for who, want in wanted.items()}
        for name, wanted in demands.items()
    }
    least = {who: _LEAST_PART * slots for who, slots in found[member].items()}
    for _ in range(_ROUNDS):
        for name, slots in found.items():
            _scale([slots], list(slots), has[name])
        for who, its_due in due.items():
            _scale(found.values(), [who], its_due)
    return {who: max(least[who], slots) for who, slots in found[member].items()}


def _scale(tables: Collection[dict[str, float]], names: Sequence[str], total: float) -> None:
    """Scale what tables have under some names so that it comes to a total."""
    sum_of_them = sum(table.get(name, 0.0) for table in tables for name in names)
    if sum_of_them:
        for table in tables:
            for name in names:
                if name in table:
                    table[name] *= total / sum_of_them


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

"""Plans of simulation tests: what runs are made of and what they meet. Plain data, whose repr can be pasted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from restaurant_llm_batch import AdaptiveLimit, Limits, RetryPolicy, StopConditions, Strategy, TimeLimits
from restaurant_llm_batch.simulation import SimulatedServer

Node: TypeAlias = tuple[Any, ...]
"""
A part of a flow: its kind first, then its arguments.

``("complete", limiter, max_tokens, shared)``, a question of the item's own, or one that half of the items ask too;
``("ask", max_tokens)``; ``("search", queries)``; ``("pack", texts, tokens each)``; ``("sleep", seconds)``;
``("raise", every)``, an error of the task for each item whose number it divides; ``("seq", *nodes)``;
``("gather", *nodes)``; ``("once", name, node)``; ``("catch", node)``; ``("spoil close", node)``, a flow that raises
when it is closed; or the name of a built-in task, ``("task", name)``.
"""

Way: TypeAlias = Literal["1", "2", "3", "4", "threaded"]
WAYS: tuple[Way, ...] = ("1", "2", "3", "4", "threaded")


NO_TIME_LIMITS = TimeLimits(stall_warning_after=None)


class Item(NamedTuple):
    """An item of the input. A bad one cannot be read."""

    id: int
    priority: int = 0
    bad: bool = False


class Happening(NamedTuple):
    """
    What happens to the first run.

    Attributes:
        what: "stop", "cancel", "kill" (the process dies, and a new one goes on from the store), "disk full", "resize"
            (a user sets a limit), each at a virtual moment; "interrupt", a Ctrl-C while an event is observed.
        at: The moment in virtual seconds; of an interrupt, the number of the event.
        number: The new limit of a resize.
        limit: Which limit it is; if the runner has none of this name, nothing happens.
    """

    what: Literal["stop", "cancel", "kill", "disk full", "resize", "interrupt"]
    at: float
    number: int = 0
    limit: str = "llm"


class Joiner(NamedTuple):
    """
    A run that joins the first one.

    Attributes:
        at: When, in virtual seconds.
        way: Its strategy, if its runner is another one; only the first run may have "1".
        shares: "runner", it is another run of the same runner; "limit", its runner has the same limiter of LLM calls.
            All runs share the store, if there is one.
        items: Its items.
    """

    at: float
    way: Way
    shares: Literal["runner", "limit"]
    items: tuple[Item, ...]


class PoolPlan(NamedTuple):
    """
    The endpoints of a pool.

    Attributes:
        servers: The server of each, in place of that of the plan.
        limits: The limit of each.
        fallback: Whether each is used only if those before it have no room.
        errors_in_a_row: Errors after which one is left out.
        pool_timeout: Seconds for which calls wait if all are left out.
        alone: Whether the runner has no further limit on calls in flight.
    """

    servers: tuple[SimulatedServer, ...]
    limits: tuple[int | AdaptiveLimit, ...]
    fallback: bool = False
    errors_in_a_row: int = 5
    pool_timeout: float = 30.0
    alone: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """
    One case.

    Attributes:
        seed: Seed of all that is random while it is played.
        flow: What is done for each item.
        items: The items.
        lazy: Whether they are read one by one, from an iterator.
        fails_at: Number of items after which the iterator raises; None for never.
        way: The strategy.
        limits: The limits.
        server: The server.
        llm_retry: Retries of LLM calls.
        search_retry: Retries of searches.
        search_faults: How often each query fails before it is answered; -1 if the key is refused, which stops the run.
        time_limits: Time limits.
        stop: Stop conditions.
        commit_seconds: Seconds until a reply is durable in the store; None for no store.
        happenings: What happens.
        joiner: A second run, or None.
        counter: "plain", or "service": a token counter that calls a service.
        pool: The endpoints of a pool of models, or None.
    """

    seed: int
    flow: Node
    items: tuple[Item, ...]
    lazy: bool = False
    fails_at: int | None = None
    way: Way = "4"
    limits: Limits = field(default_factory=Limits)
    server: SimulatedServer = field(default_factory=SimulatedServer)
    llm_retry: RetryPolicy = field(default_factory=RetryPolicy)
    search_retry: RetryPolicy = field(default_factory=RetryPolicy)
    search_faults: int = 0
    time_limits: TimeLimits = NO_TIME_LIMITS
    stop: StopConditions = field(default_factory=StopConditions)
    commit_seconds: float | None = None
    happenings: tuple[Happening, ...] = ()
    joiner: Joiner | None = None
    counter: Literal["plain", "service"] = "plain"
    pool: PoolPlan | None = None

    @property
    def is_calm(self) -> bool:
        """Whether every item that can be read, and whose flow does not raise, has to succeed."""
        servers = (self.server,) if self.pool is None else self.pool.servers
        return (
            not any(server.faults or server.outages for server in servers)
            and not self.happenings
            and self.fails_at is None
            and self.stop == StopConditions()
            and self.time_limits in (TimeLimits(), NO_TIME_LIMITS)
            and 0 <= self.search_faults < self.search_retry.attempts
            and self.llm_retry.max_rate_limit_attempts >= PATIENT
        )

    @property
    def endpoints(self) -> int:
        """Number of endpoints of the pool; 0 without one."""
        return 0 if self.pool is None else len(self.pool.servers)

    def happens(self, what: str) -> bool:
        """Return whether something of a kind is to happen."""
        return any(happening.what == what for happening in self.happenings)


PATIENT = 10_000
"""Refusals that a calm plan allows, so that none of them fails an item."""


def strategy_of(way: Way) -> Strategy:
    """Return a strategy by its name."""
    return Strategy.threaded() if way == "threaded" else Strategy.stage(int(way))

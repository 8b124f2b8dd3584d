"""What a run returns: one outcome for every item taken, and what it took to get there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from .models import ItemId

T_co = TypeVar("T_co", covariant=True)

Stage: TypeAlias = Literal["input", "search", "tokens", "llm", "task", "run"]
"""Where an item failed: being read, searching, counting tokens, asking the model, in the task, or stopped."""


@dataclass(frozen=True, slots=True)
class Success(Generic[T_co]):
    """An item that was done; `index` is its place in the input, from 0."""

    item_id: ItemId
    value: T_co
    index: int = 0

    @property
    def ok(self) -> Literal[True]:
        """Always true."""
        return True


@dataclass(frozen=True, slots=True)
class Failure:
    """
    An item that was not done.

    Attributes:
        item_id: The item; None when the item was too broken to have a name.
        error: What went wrong.
        stage: Where: "input", "search", "tokens" (counting them), "llm", "task" (the task's own code) or "run"
            (stopped before).
        attempts: How often the failing call was tried; 0 when no call was made.
        index: The item's place in the input, from 0.
    """

    item_id: ItemId | None
    error: Exception
    stage: Stage
    attempts: int = 0
    index: int = 0

    @property
    def ok(self) -> Literal[False]:
        """Always false."""
        return False

    def __str__(self) -> str:
        tries = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{self.item_id!r} failed at {self.stage}{tries}: {type(self.error).__name__}: {self.error}"


Outcome: TypeAlias = Success[T_co] | Failure


@dataclass(frozen=True, slots=True)
class LimitChange:
    """
    What an adaptive limit was, from a moment of a run on.

    Attributes:
        limiter: The field of `Limits`: "search", "llm", "batches" or "llm_total".
        seconds: Since the run began.
        limit: Calls in flight at most, from then on.
        reason: "start" for what it was when the run began; "slow_start" while it doubled; "probe" for asking more;
            "rate_limited" for a cut; "manual" by hand.
    """

    limiter: str
    seconds: float
    limit: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class RunStats:
    """
    What a run took.

    Attributes:
        wall_seconds: From the first item to the last outcome.
        succeeded: Items done.
        failed: Items not done.
        calls: Backend calls that were made, by stage ("search", "llm"; "tokens" where a service counts them),
            retries included; a search that answers several queries in one round trip counts once for each
            query.
        retries: Calls that were made again after a transient error.
        rate_limited: Calls that the service refused (429).
        cache_hits: Answers that were in the store already, and were not asked or paid for again.
        prompt_tokens: Tokens read by the model, as far as the service reports them.
        completion_tokens: Tokens written by it, likewise; answers that could not be used count too.
        cached_tokens: Those of `prompt_tokens` that came from the service's prompt cache.
        peak_in_flight: Most calls of this run in flight at once, by stage.
        peak_memory_mib: The process's peak resident memory so far, in MiB; None where it cannot be read.
        stopped_because: Why the run ended early, or None.
        limit_history: What the adaptive limits were, in the order of time; empty without any.
        cost: What the tokens cost, in the currency of the runner's prices; None without prices.
    """

    wall_seconds: float = 0.0
    succeeded: int = 0
    failed: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)
    retries: int = 0
    rate_limited: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    peak_in_flight: Mapping[str, int] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    stopped_because: str | None = None
    limit_history: tuple[LimitChange, ...] = field(default=(), repr=False)
    cost: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class BatchReport(Generic[T_co]):
    """
    Everything a run returns.

    Attributes:
        outcomes: A `Success` or a `Failure` for every item taken, in input order.
        stats: What it took.
    """

    outcomes: Sequence[Success[T_co] | Failure]
    stats: RunStats

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[Success[T_co] | Failure]:
        return iter(self.outcomes)

    @property
    def results(self) -> list[T_co]:
        """The values of the successes, in input order."""
        return [outcome.value for outcome in self.outcomes if isinstance(outcome, Success)]

    @property
    def failures(self) -> list[Failure]:
        """The failures, in input order."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failure)]

    def raise_for_failures(self) -> None:
        """
        Do nothing if every item was done.

        Raises:
            ExceptionGroup: of every failure's error, each with a note that says which item it was.
        """
        failures = self.failures
        if not failures:
            return
        for failure in failures:
            _note_once(failure.error, str(failure))
        raise ExceptionGroup(
            f"{len(failures)} of {len(self.outcomes)} items failed",
            [failure.error for failure in failures],
        )

    def __repr__(self) -> str:
        stats = self.stats
        stop = f", stopped because {stats.stopped_because}" if stats.stopped_because else ""
        return (
            f"<BatchReport: {stats.succeeded} succeeded, {stats.failed} failed, "
            f"{stats.wall_seconds:.2f} s{stop}>"
        )


def _note_once(error: Exception, note: str) -> None:
    notes: list[Any] = getattr(error, "__notes__", [])
    if note not in notes:
        error.add_note(note)


Reason: TypeAlias = Literal["start", "slow_start", "probe", "rate_limited", "manual"]

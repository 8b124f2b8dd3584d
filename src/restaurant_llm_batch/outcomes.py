"""Batch report and outcomes: what a run returns, one outcome per item taken, with the run's statistics."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Never, TypeAlias, TypeVar

from ._shown import Shown, ShownList
from ._spent import NOTHING_SPENT, Spent, spent_field
from ._tables.methods import TableMethods
from ._text import error_text
from ._values import place_of
from .errors import BatchError
from .models import ItemId

T_co = TypeVar("T_co", covariant=True)

Stage: TypeAlias = Literal["input", "search", "tokens", "llm", "task", "run"]
"""Stage at which an item failed; see `Failure.stage`."""


@dataclass(frozen=True, slots=True, repr=False)
class Success(Shown, Generic[T_co]):
    """
    The result of an item that succeeded.

    Attributes:
        item_id: Id of the item.
        value: The result.
        index: The item's position in the input, from 0.
        spent: What the item has taken. Not compared: equal results take different times.
    """

    item_id: ItemId
    value: T_co
    index: int = 0
    spent: Spent = field(default=NOTHING_SPENT, compare=False, repr=False)

    @property
    def ok(self) -> Literal[True]:
        """Always true."""
        return True

    # The attributes of a failure, for type checkers that do not narrow a union by `if outcome.ok:`, as pyright does
    # not: a type of Never adds nothing to that of the other class.

    @property
    def error(self) -> Never:
        """A success has none."""
        raise _absent(self, "error", "Success")

    @property
    def stage(self) -> Never:
        """A success has none."""
        raise _absent(self, "stage", "Success")

    @property
    def attempts(self) -> Never:
        """A success has none."""
        raise _absent(self, "attempts", "Success")


@dataclass(frozen=True, slots=True, repr=False)
class Failure(Shown):
    """
    The error of an item that failed.

    Attributes:
        item_id: Id of the item; None if the input item had no valid id.
        error: The error. Failures with equal errors may share one, so copy it before you change it.
        stage: Where the item failed: "input" (reading it), "search", "tokens" (counting them), "llm", "task" (the
            task's own code) or "run" (the run stopped first).
        attempts: How often the failing call was attempted; 0 if no call was made.
        index: The item's position in the input, from 0.
        spent: What the item has taken. Not compared.
    """

    item_id: ItemId | None
    error: Exception
    stage: Stage
    attempts: int = 0
    index: int = 0
    spent: Spent = field(default=NOTHING_SPENT, compare=False, repr=False)

    @property
    def ok(self) -> Literal[False]:
        """Always false."""
        return False

    @property
    def value(self) -> Never:
        """A failure has none."""
        raise _absent(self, "value", "Failure")

    def __str__(self) -> str:
        attempts = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        place = None if isinstance(self.error, BatchError) else place_of(self.error)
        at = f" (at {place})" if place else ""
        return f"{self.item_id!r} failed at {self.stage}{attempts}: {error_text(self.error)}{at}"


for _kind in (Success, Failure):
    setattr(_kind, "spent", spent_field(vars(_kind)["spent"]))  # noqa: B010  # no type checker takes it for a field then


Outcome: TypeAlias = Success[T_co] | Failure


def _absent(outcome: Outcome[Any], name: str, kind: str) -> AttributeError:
    return AttributeError(
        f"item {outcome.item_id!r} is a {kind} and has no {name}; check `if outcome.ok:` first",
        name=name,
        obj=outcome,
    )


@dataclass(frozen=True, slots=True)
class LimitChange:
    """
    A change of a limit during a run: of an adaptive or a shared one, or of any that a user has set meanwhile.

    Attributes:
        limiter: Field of `Limits`: "search", "llm", "batches" or "llm_total"; and, if a user has set it,
            "tokens_in_flight", "requests_per_minute" or "tokens_per_minute". "max_tokens_per_batch", if it adapts. Or
            "llm:" and the name of an endpoint of an `LLMPool`.
        seconds: Seconds since the start of the run.
        limit: The limit from then on: of calls in flight, unless its name says otherwise.
        reason: "start" for the limit when the run began; "slow_start" for doubling; "probe" for a slow increase;
            "rate_limited" for a decrease after a refusal; "latency" for one because calls took too long, and
            "latency_probe" for a moment in which their latency without a queue is measured, and its end; "server" for a
            change after what the server says of its load; "prompt_too_long" and "out_of_memory" for smaller batches,
            because a prompt was too long or the server's memory full; "manual" for a limit set by the user; "share"
            for another share of a `SharedLimiter`; "no_broker" for the end of its loan while its broker cannot be
            reached.
    """

    limiter: str
    seconds: float
    limit: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Latency:
    """
    How long the calls of one stage took that were answered, in seconds; refused and failed calls do not count.

    A round trip for several queries is one call. `p50` and `p95` are exact to 0.4 %.

    Attributes:
        count: Number of calls.
        mean: Mean duration.
        p50: Median: half of the calls took no longer.
        p95: 95 of 100 calls took no longer.
        max: Longest duration.
    """

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """
    What an endpoint of an `LLMPool` did in a run.

    Attributes:
        calls: Number of calls that were sent there, retries included.
        answered: Number of them that it answered.
        rate_limited: Number of them that it refused.
        failed: Number of them that failed otherwise.
        prompt_tokens: Tokens read there, as far as the service reports them.
        completion_tokens: Tokens written there, likewise.
        cached_tokens: How many of `prompt_tokens` came from its prompt cache.
        peak_in_flight: Maximum number of calls of this run at once.
        latency: How long the calls took that it answered.
    """

    calls: int = 0
    answered: int = 0
    rate_limited: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    peak_in_flight: int = 0
    latency: Latency = Latency()


@dataclass(frozen=True, slots=True)
class ServerStats:
    """
    What a model's server said of its load during a run with `watch_server`.

    Attributes:
        readings: How often it was read.
        failed_readings: How often that failed.
        peak_running: Most requests that it worked on at once, as read.
        peak_waiting: Most requests that waited at once, as read.
        peak_kv_usage: Largest share of its KV cache in use, 0 to 1, as read; None if it does not say.
        kv_tokens: Capacity of its KV cache in tokens; None if it does not say.
        preemptions: How often it stopped a request to make room, from the first reading to the last, whoever asked it.
        rejections: Requests that it refused in that time.
    """

    readings: int = 0
    failed_readings: int = 0
    peak_running: int = 0
    peak_waiting: int = 0
    peak_kv_usage: float | None = None
    kv_tokens: int | None = None
    preemptions: int = 0
    rejections: int = 0


@dataclass(frozen=True, slots=True)
class RunStats:
    """
    Statistics of a run.

    Attributes:
        wall_seconds: Seconds from the first item to the last outcome.
        succeeded: Number of items that succeeded.
        failed: Number of items that failed.
        calls: Number of backend calls by stage ("search", "llm"; "tokens" if a service counts them), retries
            included; a search that answers several queries in one round trip counts once for each query.
        retries: Number of calls made again after a transient error.
        rate_limited: Number of calls that the service refused (HTTP 429, "busy", "overloaded").
        cache_hits: Number of replies taken from the store, without a call.
        prompt_tokens: Tokens read by the model, as far as the service reports them.
        completion_tokens: Tokens written by the model, as far as the service reports them; unusable replies included.
        cached_tokens: How many of `prompt_tokens` came from the service's prompt cache.
        peak_in_flight: Maximum number of calls of this run in flight at once, by stage.
        peak_memory_mib: Peak resident memory of the process during the run, in MiB; None if it cannot be read. It is
            exact if the process never had more before; otherwise the most that was seen when its figures were read:
            at the start and the end, and now and then between.
        out_of_memory: Number of calls that failed because the model's server had no memory left.
        out_of_memory_by_kind: The same by the memory that was full: "gpu"; "kv_cache"; "host", which also ends worker
            processes; "unknown" if the error does not say.
        stopped_because: Why the run ended early, or None.
        limit_history: Changes of the limits, oldest first: of the adaptive and shared ones, and of those that a user
            has set.
        cost: Cost of the tokens, in the currency of the runner's prices; None without prices, and if the tokens or the
            price of some call are unknown.
        estimated_cost: The same, with estimates for the calls whose tokens the service did not report; None without
            prices, and if a price is unknown. `StopConditions.max_cost` compares this.
        latency: How long the calls took that were answered, by stage, as in ``stats.latency["llm"].p95``.
        endpoints: What each endpoint of an `LLMPool` did, by its name; empty without a pool.
        servers: What the model's server said of its load, under "llm"; with an `LLMPool`, that of each endpoint, under
            "llm:" and its name. Empty without `watch_server`.
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
    estimated_cost: float | None = None
    latency: Mapping[str, Latency] = field(default_factory=dict)
    endpoints: Mapping[str, EndpointStats] = field(default_factory=dict)
    servers: Mapping[str, ServerStats] = field(default_factory=dict)
    out_of_memory: int = 0
    out_of_memory_by_kind: Mapping[str, int] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        from ._tables.notebook import stats_html

        return stats_html(self)


@dataclass(frozen=True, slots=True, repr=False)
class BatchReport(TableMethods, Generic[T_co]):
    """
    Outcomes and statistics of a run.

    Attributes:
        outcomes: A `Success` or a `Failure` for every item taken from the input, in input order.
        stats: Statistics of the run.

    The methods that return or write a table take its `level`: what a row is.

    - "results": a row for each success, with the fields of its result; those of its aspects as ``service.summary``, and
      what it took as ``spent.seconds``.
    - "aspects": a row for each aspect of each result; of summaries by aspect, and of comparisons.
    - "labels": a row for each review that was labelled.
    - "words": a row for each word and phrase of each vocabulary.
    - "failures": a row for each failure.
    - "calls" is refused: a report keeps no calls, a record of the run does.

    `names` are names of the items by id, as in ``names={12: "을지면옥"}``: they become the column ``name``. Cells hold
    numbers, texts, true or false, lists of them, or None.
    """

    outcomes: Sequence[Success[T_co] | Failure]
    stats: RunStats
    _by_id: dict[ItemId, Success[T_co] | Failure] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if type(self.outcomes) is list:
            object.__setattr__(self, "outcomes", ShownList(self.outcomes))

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[Success[T_co] | Failure]:
        return iter(self.outcomes)

    @property
    def results(self) -> list[T_co]:
        """The values of the successes, in input order."""
        return ShownList(outcome.value for outcome in self.outcomes if isinstance(outcome, Success))

    @property
    def failures(self) -> list[Failure]:
        """The failures, in input order."""
        return ShownList(outcome for outcome in self.outcomes if isinstance(outcome, Failure))

    @property
    def by_id(self) -> Mapping[ItemId, Success[T_co] | Failure]:
        """The outcomes by the id of their item; of two with one id, the later one. Those without an id are left out."""
        if not self._by_id:
            self._by_id.update((one.item_id, one) for one in self.outcomes if one.item_id is not None)
        return self._by_id

    def failures_by_cause(self) -> dict[str, list[Failure]]:
        """
        Return the failures in groups of one cause, the largest group first.

        Failures have one cause if they failed at the same stage with the same type of error, and their messages differ
        in numbers and quoted texts only. The key says all three: ``"llm: RateLimited: slow down"``.
        """
        from ._tables.rows import cause_of

        groups: dict[str, list[Failure]] = {}
        for failure in self.failures:
            groups.setdefault(cause_of(failure), ShownList()).append(failure)
        return dict(sorted(groups.items(), key=lambda group: -len(group[1])))

    def to_dict(self) -> dict[str, Any]:
        """
        Return the whole report as JSON can hold it: ``{"outcomes": [...], "stats": {...}}``.

        An outcome has "item_id", "index", "ok", "spent", and "value", or "error" with "stage" and "attempts". A Celery
        task may return it, for example.
        """
        from ._tables.plain import plain_report

        return plain_report(self)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """
        Write the page of the report as one HTML file, which a browser shows without this package and without a network.

        It holds results with what they cite, failures by cause, and what each item has taken; a record of the run has
        the calls too: `Record.to_html`.

        Args:
            path: The file, in place of one of that name.

        Raises:
            ConfigurationError: The file cannot be written, or is a folder or a database.
        """
        from ._page.report import write_report

        write_report(self, path)

    def raise_for_failures(self) -> None:
        """
        Raise if any item failed.

        Raises:
            ExceptionGroup: The errors of all failures, each with a note that names its item.
        """
        failures = self.failures
        if not failures:
            return
        uses = Counter(id(failure.error) for failure in failures)
        errors = [
            failure.error if uses[id(failure.error)] == 1 else _separate(failure.error)
            for failure in failures
        ]
        for failure, error in zip(failures, errors, strict=True):
            _note_once(error, str(failure))
        raise ExceptionGroup(f"{len(failures)} of {len(self.outcomes)} items failed", errors)

    def __repr__(self) -> str:
        stats = self.stats
        stop = f", stopped because {stats.stopped_because}" if stats.stopped_because else ""
        return (
            f"<BatchReport: {stats.succeeded} succeeded, {stats.failed} failed, "
            f"{stats.wall_seconds:.2f} s{stop}>"
        )

    def _repr_html_(self) -> str:
        from ._tables.notebook import report_html

        return report_html(self)


def _separate(error: Exception) -> Exception:
    """Return a copy of an error that several failures share; the error itself if it cannot be copied."""
    try:
        own = copy(error)
    except Exception:  # a user's own exception may need other arguments than it keeps
        return error
    if type(own) is not type(error) or own.args != error.args:
        return error
    if hasattr(own, "__notes__"):
        own.__notes__ = list(own.__notes__)
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__suppress_context__ = error.__suppress_context__
    return own.with_traceback(error.__traceback__)


def _note_once(error: Exception, note: str) -> None:
    notes: list[Any] = getattr(error, "__notes__", [])
    if note not in notes:
        error.add_note(note)


Reason: TypeAlias = Literal[
    "start",
    "slow_start",
    "probe",
    "rate_limited",
    "latency",
    "latency_probe",
    "server",
    "prompt_too_long",
    "out_of_memory",
    "manual",
    "share",
    "no_broker",
]

"""Specification of a simulated server, and `ServerUsage`: what it saw. A `SimulatedServer` can be measured, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias, get_args

from .._validation import is_whole
from ..errors import ConfigurationError
from .latency import Latency, LogNormal, SampledLatency, SampledNumbers, TokenSpeed, check_number

Overload: TypeAlias = Literal["queue", "refuse"]
SimulatedFault: TypeAlias = Literal[
    "rate_limited",
    "overloaded",
    "server_error",
    "reset",
    "no_response",
    "bad_request",
    "content_filter",
    "truncated",
    "malformed",
    "empty",
]
"""Faults of a simulated server, by their names at `testing.server.FaultServer`."""

_WHOLE_NUMBERS = ("slots", "requests_per_minute", "tokens_per_minute", "kv_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpecification:
    """The fields of a `SimulatedServer`, and their checks; see there."""

    latency: Latency = 0.8
    slots: int | None = None
    overload: Overload = "queue"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    kv_tokens: int | None = None
    refusal_seconds: float = 0.002
    retry_after: float | None = None
    faults: Mapping[SimulatedFault, float] = field(default_factory=dict)
    search_seconds: float = 0.02
    answer_tokens: int | Mapping[str, SampledNumbers] | None = None
    prefix_cache: bool = False
    outages: Sequence[tuple[float, float]] = ()
    slowdowns: Sequence[tuple[float, float, float]] = ()
    slot_changes: Sequence[tuple[float, int]] = ()
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        latency: object = self.latency
        if not isinstance(latency, (LogNormal, TokenSpeed, SampledLatency)):
            example = "latency=0.5, or latency=LogNormal(median=0.8, sigma=0.5)"
            check_number("SimulatedServer.latency", latency, example=example)
        for name in ("search_seconds", "refusal_seconds", "timeout_seconds"):
            check_number(f"SimulatedServer.{name}", getattr(self, name))
        if self.retry_after is not None:
            check_number("SimulatedServer.retry_after", self.retry_after)
        overload: object = self.overload
        if overload not in get_args(Overload):
            raise ConfigurationError(
                f"SimulatedServer.overload must be 'queue' or 'refuse', got {overload!r}; "
                "for example SimulatedServer(slots=24, overload='refuse')"
            )
        if overload == "refuse" and self.slots is None:
            raise ConfigurationError(
                "SimulatedServer.overload='refuse' needs slots: a server without a limit refuses nothing; "
                "for example SimulatedServer(slots=24, overload='refuse')"
            )
        by_kind: object = self.answer_tokens
        if isinstance(by_kind, Mapping):
            if not all(isinstance(one, SampledNumbers) for one in by_kind.values()):
                raise ConfigurationError(
                    f"SimulatedServer.answer_tokens must be a number, or SampledNumbers by task name, got {by_kind!r}; "
                    'for example answer_tokens={"rating": SampledNumbers(20)}'
                )
            names: tuple[str, ...] = _WHOLE_NUMBERS
        else:
            names = (*_WHOLE_NUMBERS, "answer_tokens")
        for name in names:
            value: object = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigurationError(
                    f"SimulatedServer.{name} must be a whole number of at least 1 or None, got {value!r}; "
                    f"for example SimulatedServer({name}=1000)"
                )
        _check_faults(self.faults)
        _check_spans("outages", self.outages, 2, "outages=[(60, 90)]")
        _check_slot_changes(self.slot_changes)
        _check_spans("slowdowns", self.slowdowns, 3, "slowdowns=[(60, 90, 4.0)]")


def _check_slot_changes(changes: object) -> None:
    is_sound = isinstance(changes, Sequence) and not isinstance(changes, str)
    for change in changes if isinstance(changes, Sequence) else ():
        pair = isinstance(change, Sequence) and len(change) == 2 and _is_moment(change[0])
        is_sound = is_sound and pair and is_whole(change[1], 1)
    if not is_sound:
        raise ConfigurationError(
            f"SimulatedServer.slot_changes must be a list of (second, slots), got {changes!r}; "
            "for example slot_changes=[(60, 12)]"
        )


def _check_spans(field: str, spans: object, length: int, example: str) -> None:
    """Check that spans of time have a beginning before their end, and a factor above 0 if they have one."""
    is_sound = isinstance(spans, Sequence) and not isinstance(spans, str)
    for span in spans if isinstance(spans, Sequence) else ():
        numbers = isinstance(span, Sequence) and len(span) == length and all(map(_is_moment, span))
        is_sound = is_sound and numbers and span[0] < span[1] and span[-1] > 0
    if not is_sound:
        parts = "(begin, end)" if length == 2 else "(begin, end, factor)"
        raise ConfigurationError(
            f"SimulatedServer.{field} must be a list of {parts}, in seconds, got {spans!r}; for example {example}"
        )


def _is_moment(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _check_faults(faults: object) -> None:
    example = 'for example faults={"server_error": 0.01}'
    if not isinstance(faults, Mapping):
        raise ConfigurationError(
            f"SimulatedServer.faults must map kinds to shares, got {faults!r}; {example}"
        )
    for kind, share in faults.items():
        if kind not in get_args(SimulatedFault):
            known = ", ".join(get_args(SimulatedFault))
            raise ConfigurationError(
                f"SimulatedServer.faults: {kind!r} is no kind of fault; choose of {known}"
            )
        check_number(f"SimulatedServer.faults[{kind!r}]", share, example=f"faults={{{kind!r}: 0.5}}")
    if sum(faults.values()) > 1:
        raise ConfigurationError(
            f"SimulatedServer.faults must add up to 1 at most, got {faults!r}; {example}"
        )


@dataclass(slots=True)
class ServerUsage:
    """
    What a simulated server saw.

    Attributes:
        calls: Calls that arrived, refused ones included.
        answered: Calls that it answered.
        refused: Calls that it refused: 429, or 503 "overloaded".
        faults: Calls that met a fault, by its kind.
        cancelled: Calls that their run cancelled before the answer.
        peak: Most calls that it worked on at once.
        peak_queue: Most calls that waited at once for a slot, or for memory.
        busy_share: Mean of the calls that it worked on, by `slots`; by `peak` if it has any number. From 0 to 1.
        preemptions: Calls that were stopped, because the memory was full, and computed again.
        prompt_tokens: Tokens of the prompts of answered calls.
        completion_tokens: Tokens of the answers.
        searches: Searches that were answered.
        lost: Calls that failed because it was down, or went down.
    """

    calls: int = 0
    answered: int = 0
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    peak: int = 0
    peak_queue: int = 0
    busy_share: float = 0.0
    preemptions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    searches: int = 0
    lost: int = 0

    @classmethod
    def together(cls, usages: Sequence[ServerUsage], places: Sequence[float]) -> ServerUsage:
        """Return what several servers saw together; the peaks are added up. `places` are their slots."""
        total = cls()
        for field_ in fields(cls):
            if field_.name == "faults":
                for usage in usages:
                    total.faults.update(usage.faults)
            elif field_.name != "busy_share":
                setattr(total, field_.name, sum(getattr(usage, field_.name) for usage in usages))
        if any(places):
            shares = (usage.busy_share * number for usage, number in zip(usages, places, strict=True))
            total.busy_share = sum(shares) / sum(places)
        return total

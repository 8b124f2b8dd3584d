"""What goes wrong, as one frozen value, and which question meets which fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf, isfinite
from random import Random
from typing import Any, Literal, TypeAlias, get_args

from ...errors import ConfigurationError
from ._requests import ChatRequest

Refusal: TypeAlias = Literal[
    "rate_limited",
    "unavailable",
    "insufficient_quota",
    "unauthorized",
    "forbidden",
    "bad_request",
    "context_length_exceeded",
]
Breakdown: TypeAlias = Literal[
    "server_error",
    "bad_gateway",
    "not_json",
    "error_as_success",
    "disconnect",
    "reset",
    "slow_body",
    "no_response",
]
BadAnswer: TypeAlias = Literal[
    "truncated",
    "malformed",
    "prose",
    "missing_ids",
    "control_characters",
    "empty",
    "refusal",
    "content_filter",
]
JobFault: TypeAlias = Literal[
    "submission_lost",
    "job_stays_queued",
    "job_never_ends",
    "job_vanishes",
    "job_fails",
    "job_fails_for_now",
    "job_times_out",
    "job_is_cancelled",
    "poll_fails",
    "cancel_fails",
]
FaultKind: TypeAlias = Refusal | Breakdown | BadAnswer | JobFault
"""Every kind of fault; `JobFault`s happen to RunPod jobs alone, all others to chat completions and jobs alike."""

REFUSALS: tuple[str, ...] = get_args(Refusal)
BREAKDOWNS: tuple[str, ...] = get_args(Breakdown)
BAD_ANSWERS: tuple[str, ...] = get_args(BadAnswer)
JOB_FAULTS: tuple[str, ...] = get_args(JobFault)
FAULT_KINDS: tuple[str, ...] = REFUSALS + BREAKDOWNS + BAD_ANSWERS + JOB_FAULTS

FaultPlan: TypeAlias = Callable[[ChatRequest], FaultKind | None]
"""Says which fault a question meets, by what it asks and its attempt."""
Latency: TypeAlias = float | Callable[[Random], float]
"""Seconds; a function draws them from a generator of random numbers that is seeded for each try of a question."""

_WHOLE = (
    "tries",
    "limit",
    "burst",
    "tokens_per_minute",
    "token_burst",
    "max_running",
    "kv_tokens",
    "context",
)
_ABOVE_0 = ("requests_per_second",)
_FROM_0 = ("latency", "retry_after", "slow_body_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """
    How a `FaultServer` misbehaves, and how strong it is; by default it is well and without limits.

    Attributes:
        probabilities: Of all questions, the share that meets each kind of fault, such as ``{"reset": 0.05}``. Which
            ones is decided by the server's seed and what they ask, so it is the same in every run, however the
            calls are timed.
        tries: How many tries of such a question meet its fault; None for all of them.
        plan: Decides instead of `probabilities`.
        limit: Most chat completions in flight, and most RunPod jobs alive; those above are refused.
        refusal: The status of those refusals: 429, or 503 as vLLM's ``--max-num-queued-reqs`` gives.
        requests_per_second: Rate of a bucket that each chat completion and each job takes one from; those that
            find it empty are refused with 429.
        burst: What the bucket holds; None for a second's worth.
        tokens_per_minute: Likewise of tokens; a question takes its prompt's and its ``max_tokens``, as
            OpenAI charges them. One that takes more than the bucket holds is "Request too large".
        token_burst: What that bucket holds; None for a minute's worth.
        retry_after: Seconds that refusals ask to wait; "exact" for the time until the bucket has enough;
            None for no ``Retry-After``.
        rate_headers: Whether answers carry OpenAI's ``x-ratelimit-*`` headers where there are buckets.
        latency: Seconds that an answer takes, and a RunPod job; see `Latency`.
        slow_body_seconds: Seconds over which a slow body comes.
        max_running: Most questions worked on at once; others wait, lower priority numbers first.
        kv_tokens: What the KV cache holds: questions wait too while prompts and answers do not fit into it.
        context: The model's context in tokens; a prompt that is as long is refused.

    Raises:
        ConfigurationError: When a field cannot be used.
    """

    probabilities: Mapping[FaultKind, float] = field(default_factory=dict)
    tries: int | None = 1
    plan: FaultPlan | None = None
    limit: int | None = None
    refusal: Literal[429, 503] = 429
    requests_per_second: float | None = None
    burst: int | None = None
    tokens_per_minute: int | None = None
    token_burst: int | None = None
    retry_after: float | Literal["exact"] | None = None
    rate_headers: bool = True
    latency: Latency = 0.0
    slow_body_seconds: float = 1.0
    max_running: int | None = None
    kv_tokens: int | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "probabilities", dict(self.probabilities))
        _check_shares(self.probabilities)
        if self.refusal not in (429, 503):
            raise ConfigurationError(f"Faults.refusal must be 429 or 503, got {self.refusal!r}")
        for name in _WHOLE + _ABOVE_0 + _FROM_0:
            value = getattr(self, name)
            if value is None or (name == "latency" and callable(value)):
                continue
            if name != "retry_after" or value != "exact":
                _check_number(name, value)

    def kind(self, asked: ChatRequest, seed: int) -> FaultKind | None:
        """Return the fault that a question meets."""
        if self.plan is not None:
            kind = self.plan(asked)
            return kind if kind is None else _known(kind)
        if not self.probabilities or (self.tries is not None and asked.attempt > self.tries):
            return None
        mark = _share_of("fault", seed, asked.digest)
        for kind, share in self.probabilities.items():
            mark -= share
            if mark < 0:
                return kind
        return None

    def seconds(self, asked: ChatRequest, seed: int) -> float:
        """Return how long the answer to a question takes."""
        if not callable(self.latency):
            return self.latency
        return max(0.0, self.latency(Random(f"latency {seed} {asked.digest} {asked.attempt}")))

    @property
    def request_burst(self) -> float:
        """What the bucket of requests holds."""
        return self.burst or max(1.0, self.requests_per_second or 0.0)

    @property
    def tokens_held(self) -> float:
        """What the bucket of tokens holds."""
        return self.token_burst or self.tokens_per_minute or 0.0


def _share_of(what: str, seed: int, digest: str) -> float:
    """Return a number from 0 to 1 that looks random, and is the same in every process and Python."""
    drawn = blake2b(f"{what} {seed} {digest}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn) / 2**64


def _known(kind: Any) -> Any:
    if kind not in FAULT_KINDS:
        raise ConfigurationError(f"{kind!r} is no kind of fault; write one of {', '.join(FAULT_KINDS)}")
    return kind


def _check_shares(shares: Mapping[FaultKind, float]) -> None:
    for kind, share in shares.items():
        _known(kind)
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise ConfigurationError(f"Faults.probabilities[{kind!r}] must be from 0 to 1, got {share!r}")
    if sum(shares.values()) > 1 + 1e-9:
        raise ConfigurationError(
            f"Faults.probabilities must be at most 1 together, got {sum(shares.values()):g}; a question meets one fault"
        )


def _check_number(name: str, value: Any) -> None:
    fits = isinstance(value, int if name in _WHOLE else (int, float)) and not isinstance(value, bool)
    if fits and isfinite(value) and (value > 0 or (value == 0 and name in _FROM_0)):
        return
    wanted = "a whole number of at least 1" if name in _WHOLE else "a number above 0"
    wanted = "a number of seconds, 0 or more" if name in _FROM_0 else wanted
    raise ConfigurationError(f"Faults.{name} must be {wanted}, got {value!r}")


class TokenBucket:
    """
    Fills at a rate up to what it holds; full at first.

    Rate and size come with each call, so that both may change while the server runs.
    """

    def __init__(self) -> None:
        self._level: float | None = None
        self._at = 0.0

    def wait(self, amount: float, rate: float, holds: float, now: float) -> float:
        """Return the seconds until so much is in it; 0.0 when it is, infinite when it never will be."""
        if self._level is None:
            self._level = holds
        else:
            self._level = min(holds, self._level + max(0.0, now - self._at) * rate)
        self._at = now
        if amount > holds:
            return inf
        # A wait that was waited out exactly must do, so rounding is forgiven.
        return 0.0 if self._level >= amount - 1e-6 else (amount - self._level) / rate

    def take(self, amount: float) -> None:
        """Take so much, after `wait` said 0."""
        if self._level is not None:
            self._level -= amount

    def left(self) -> int:
        """Return how much was in it when it was last asked."""
        return max(0, int(self._level or 0))

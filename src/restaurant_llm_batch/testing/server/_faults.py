"""Fault configuration of the fault server (`Faults`), the choice of a fault per request, and token buckets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf, isfinite
from random import Random
from typing import Any, Literal, TypeAlias, get_args

from ...errors import ConfigurationError
from ._batches import BATCH_FAULTS, BatchFault
from ._requests import ChatRequest

Refusal: TypeAlias = Literal[
    "rate_limited",
    "unavailable",
    "overloaded",
    "slow_down",
    "moderated",
    "field_refused",
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
    "error_finish",
    "no_usage",
    "usage_as_text",
    "thinking",
    "thinking_cut_off",
    "half_emoji",
    "single_quotes",
    "other_labels",
    "shifted_ids",
    "loop",
]
OddForm: TypeAlias = Literal["event_stream", "byte_order_mark", "long_header"]
JobFault: TypeAlias = Literal[
    "submission_lost",
    "job_stays_queued",
    "job_never_ends",
    "job_vanishes",
    "job_fails",
    "job_fails_for_now",
    "job_completes_with_error",
    "job_out_of_memory",
    "job_times_out",
    "job_is_cancelled",
    "poll_fails",
    "cancel_fails",
]
FaultKind: TypeAlias = Refusal | Breakdown | BadAnswer | OddForm | JobFault
"""Every kind of fault; `JobFault`s apply to RunPod jobs only, all others to chat completions and to jobs."""

REFUSALS: tuple[str, ...] = get_args(Refusal)
BREAKDOWNS: tuple[str, ...] = get_args(Breakdown)
BAD_ANSWERS: tuple[str, ...] = get_args(BadAnswer)
ODD_FORMS: tuple[str, ...] = get_args(OddForm)
JOB_FAULTS: tuple[str, ...] = get_args(JobFault)
FAULT_KINDS: tuple[str, ...] = REFUSALS + BREAKDOWNS + BAD_ANSWERS + ODD_FORMS + JOB_FAULTS
BUSY: tuple[str, ...] = ("rate_limited", "unavailable", "overloaded", "slow_down")
"""Faults that say, each in its own way, that the service has no room for now."""

FaultPlan: TypeAlias = Callable[[ChatRequest], FaultKind | None]
"""Returns the fault of a request, from its content and attempt."""
Latency: TypeAlias = float | Callable[[Random], float]
"""Seconds, or a function that draws them from a random generator, which is seeded for each attempt of a request."""

_WHOLE_NUMBERS = (
    "tries",
    "limit",
    "burst",
    "tokens_per_minute",
    "token_burst",
    "max_running",
    "kv_tokens",
    "context",
    "enqueued_tokens",
)
_POSITIVE = ("requests_per_second",)
_NOT_NEGATIVE = ("latency", "retry_after", "slow_body_seconds", "batch_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """
    Faults and capacity of a `FaultServer`; by default it has no faults and no limits.

    Attributes:
        probabilities: Probability of each kind of fault, for example ``{"reset": 0.05}``. Whether a request meets a
            fault depends on the server's seed and the request's messages only, so it is the same in every run,
            however the calls are timed.
        tries: How many attempts of such a request meet its fault; None for all of them.
        plan: Chooses the fault of each request, instead of `probabilities`.
        limit: Maximum number of chat completions in flight, and of live RunPod jobs; more are refused.
        refusal: Status of these refusals: 429, or 503 like vLLM's ``--max-num-queued-reqs``.
        requests_per_second: Rate of a token bucket from which each chat completion and each job takes 1; a request
            that finds it empty is refused with 429.
        burst: Capacity of that bucket; None for one second's requests.
        tokens_per_minute: Rate of a token bucket from which a request takes its prompt tokens and its
            ``max_tokens``, as OpenAI counts them. A request above its capacity is "Request too large".
        token_burst: Capacity of that bucket; None for one minute's tokens.
        retry_after: Seconds in the ``Retry-After`` header of refusals; "exact" for the time until the bucket has
            enough; None for no header.
        rate_headers: Whether responses have OpenAI's ``x-ratelimit-*`` headers, if there are buckets.
        latency: Seconds of a reply, and of a RunPod job; see `Latency`.
        slow_body_seconds: Seconds over which a slow body is sent.
        max_running: Maximum number of requests processed at once; others wait, lowest priority number first. Without
            `limit`, the server queues any number and refuses none, as vLLM does by default.
        kv_tokens: Capacity of the KV cache in tokens; requests wait until their prompt and reply fit.
        context: Context length of the model in tokens; a prompt of this length or more is refused.
        metrics: Whose names ``/metrics`` uses for the load: those of "vllm", "sglang" or "tgi".
        batch_seconds: Seconds that a batch takes.
        batch_faults: What happens to the first batch, the second, and so on; None, or no entry, for nothing. Their
            lines meet the faults of chat completions: an error stands in the error file of the batch.
        enqueued_tokens: Prompt tokens that all batches that have not ended may have together; a batch that exceeds it
            fails.

    Raises:
        ConfigurationError: A field is invalid.
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
    metrics: Literal["vllm", "sglang", "tgi"] = "vllm"
    batch_seconds: float = 0.0
    batch_faults: Sequence[BatchFault | None] = ()
    enqueued_tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "probabilities", dict(self.probabilities))
        _check_probabilities(self.probabilities)
        object.__setattr__(self, "batch_faults", tuple(self.batch_faults))
        wrong = [kind for kind in self.batch_faults if kind is not None and kind not in BATCH_FAULTS]
        if wrong:
            raise ConfigurationError(
                f"Faults.batch_faults: {wrong[0]!r} is no fault of a batch; choose among {', '.join(BATCH_FAULTS)}"
            )
        if self.refusal not in (429, 503):
            raise ConfigurationError(f"Faults.refusal must be 429 or 503, got {self.refusal!r}")
        if self.metrics not in ("vllm", "sglang", "tgi"):
            raise ConfigurationError(
                f'Faults.metrics must be "vllm", "sglang" or "tgi", got {self.metrics!r}'
            )
        for name in _WHOLE_NUMBERS + _POSITIVE + _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is None or (name == "latency" and callable(value)):
                continue
            if name != "retry_after" or value != "exact":
                _check_number(name, value)

    def kind(self, request: ChatRequest, seed: int) -> FaultKind | None:
        """Return the fault that a request meets, or None."""
        if self.plan is not None:
            kind = self.plan(request)
            return kind if kind is None else _check_kind(kind)
        if not self.probabilities or (self.tries is not None and request.attempt > self.tries):
            return None
        # Inverse transform sampling, with a hash in place of a random number.
        point = _hash_to_unit("fault", seed, request.digest)
        for kind, probability in self.probabilities.items():
            point -= probability
            if point < 0:
                return kind
        return None

    def seconds(self, request: ChatRequest, seed: int) -> float:
        """Return the latency of a request."""
        if not callable(self.latency):
            return self.latency
        return max(0.0, self.latency(Random(f"latency {seed} {request.digest} {request.attempt}")))

    @property
    def request_burst(self) -> float:
        """Capacity of the request bucket."""
        return self.burst or max(1.0, self.requests_per_second or 0.0)

    @property
    def token_capacity(self) -> float:
        """Capacity of the token bucket."""
        return self.token_burst or self.tokens_per_minute or 0.0


def _hash_to_unit(purpose: str, seed: int, digest: str) -> float:
    """Return a pseudo-random number from 0 to 1, the same in every process and Python version."""
    digest_bytes = blake2b(f"{purpose} {seed} {digest}".encode(), digest_size=8).digest()
    return int.from_bytes(digest_bytes) / 2**64


def _check_kind(kind: Any) -> Any:
    if kind not in FAULT_KINDS:
        raise ConfigurationError(f"{kind!r} is not a kind of fault; choose one of {', '.join(FAULT_KINDS)}")
    return kind


def _check_probabilities(probabilities: Mapping[FaultKind, float]) -> None:
    for kind, probability in probabilities.items():
        _check_kind(kind)
        if type(probability) not in (int, float) or not 0 <= probability <= 1:
            raise ConfigurationError(
                f"Faults.probabilities[{kind!r}] must be from 0 to 1, got {probability!r}"
            )
    total = sum(probabilities.values())
    if total > 1 + 1e-9:
        raise ConfigurationError(
            f"Faults.probabilities must be at most 1 together, got {total:g}; a request meets one fault"
        )


def _check_number(name: str, value: Any) -> None:
    has_type = isinstance(value, int if name in _WHOLE_NUMBERS else (int, float)) and not isinstance(
        value, bool
    )
    if has_type and isfinite(value) and (value > 0 or (value == 0 and name in _NOT_NEGATIVE)):
        return
    expected = "a whole number of at least 1" if name in _WHOLE_NUMBERS else "a number above 0"
    expected = "a number of seconds, 0 or more" if name in _NOT_NEGATIVE else expected
    raise ConfigurationError(f"Faults.{name} must be {expected}, got {value!r}")


class TokenBucket:
    """
    A token bucket: it refills at a rate up to its capacity, and starts full.

    Rate and capacity are arguments of each call, so that both may change while the server runs.
    """

    def __init__(self) -> None:
        self._level: float | None = None
        self._updated_at = 0.0

    def wait(self, amount: float, rate: float, capacity: float, now: float) -> float:
        """Refill; return the seconds until `amount` is available: 0.0 if it is, infinity if it never will be."""
        if self._level is None:
            self._level = capacity
        else:
            self._level = min(capacity, self._level + max(0.0, now - self._updated_at) * rate)
        self._updated_at = now
        if amount > capacity:
            return inf
        # With a tolerance for rounding, so that a client that waits exactly as long is admitted.
        return 0.0 if self._level >= amount - 1e-6 else (amount - self._level) / rate

    def take(self, amount: float) -> None:
        """Take `amount`, after `wait` has returned 0.0."""
        if self._level is not None:
            self._level -= amount

    def left(self) -> int:
        """Return the level at the last call of `wait` or `take`, rounded down."""
        return max(0, int(self._level or 0))

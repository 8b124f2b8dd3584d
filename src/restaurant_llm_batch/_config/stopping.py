"""Stop conditions, time limits and prices, and the monitor that applies the conditions to a run."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import inf, isfinite

from .._llm_response import LLMResponse
from .._patterns import lazy_pattern
from ..errors import ConfigurationError, PermanentBackendError

log = logging.getLogger("restaurant_llm_batch")

_EXAMPLES = {
    "error_rate": 0.5,
    "error_rate_window": 50,
    "max_rate_limited_seconds": 600,
    "max_tokens": 5_000_000,
    "max_cost": 10.0,
    "same_error_in_a_row": 20,
}

_DATED = lazy_pattern(r"[-@:]v?\d")
"""Matches the start of a version suffix of a model's name, such as "-2025-08-07" or "@v2"."""


@dataclass(frozen=True, slots=True)
class StopConditions:
    """
    When a run stops by itself. Finished items are returned, and `RunStats.stopped_because` gives the reason.

    Calls in flight are allowed to finish, so totals may exceed a limit by their cost.

    Attributes:
        error_rate: Stop when this share (0 to 1) of the latest `error_rate_window` attempts of LLM calls failed. 429
            responses do not count.
        error_rate_window: Number of latest attempts that `error_rate` is computed over; with fewer, it is not applied.
        max_rate_limited_seconds: Stop after this many seconds of nothing but 429 responses from the model.
        max_tokens: Stop when this many prompt and completion tokens were used, those of unusable replies included.
        max_cost: Stop when this much was spent, in the currency of the prices. Where a service does not report what a
            call used, its tokens are estimated, here and for `max_tokens`; `RunStats.estimated_cost` is what was
            compared.
        same_error_in_a_row: Stop when this many items in a row ended with the same permanent error and the model
            answered no call between them: an endpoint without access, a model that does not exist. None for never.

    Raises:
        ConfigurationError: If a number is out of its bounds.
    """

    error_rate: float | None = None
    error_rate_window: int = 50
    max_rate_limited_seconds: float | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    same_error_in_a_row: int | None = 20

    def __post_init__(self) -> None:
        bounds = {
            "error_rate": "above 0 and at most 1",
            "error_rate_window": "a whole number of at least 1",
            "max_rate_limited_seconds": "a number of seconds above 0",
            "max_tokens": "a whole number of at least 1",
            "max_cost": "a number above 0",
            "same_error_in_a_row": "a whole number of at least 1, or None",
        }
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.name in ("error_rate_window", "max_tokens", "same_error_in_a_row")
            if value is None and field.name != "error_rate_window":
                continue
            kinds = (int,) if whole else (int, float)
            fine = isinstance(value, kinds) and not isinstance(value, bool) and value > 0 and isfinite(value)
            if not fine or (field.name == "error_rate" and value > 1):
                raise ConfigurationError(
                    f"StopConditions.{field.name} must be {bounds[field.name]}, got {value!r}; "
                    f"for example StopConditions({field.name}={_EXAMPLES[field.name]})"
                )

    def monitor(self, prices: Mapping[str, Price], estimates: bool) -> StopMonitor:
        """Return what applies the conditions to one run; the arguments are those of `StopMonitor`."""
        return StopMonitor(self, prices, estimates)


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """
    How long calls, items and runs may take, in seconds; None for no limit.

    An overdue awaited call is cancelled, at the service too if possible, and counts as a transient failure. An overdue
    blocking call is abandoned: its item goes on without it, and it is not retried. Its slot is free when its thread
    returns; that is soon if the backend can abort the call, as this library's HTTP backends can. In stage 1 nothing
    interrupts a blocking call; there, set the backend's own timeout. A call that returns too late for its item or its
    run fails there too, and all other waits, such as `sleep`, end in time.

    Attributes:
        call: Limit of one backend call, from its admission: time in the queue does not count.
        item: Limit of one item, from when it enters the window, whatever it does then: it calls, waits or sleeps. An
            overdue item fails with `DeadlineExceeded`.
        run: Limit of a run. Then finished items are returned, calls in flight are cancelled, and open items fail with
            `RunStopped`.
        stall_warning_after: Seconds without a call that starts or ends, after which a `Stalled` event and a log warning
            list the pending waits. It ends nothing, and has no effect in stage 1.

    Raises:
        ConfigurationError: If a limit is neither None nor a number above 0.
    """

    call: float | None = None
    item: float | None = None
    run: float | None = None
    stall_warning_after: float | None = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < inf:
                raise ConfigurationError(
                    f"TimeLimits.{field.name} must be a number of seconds above 0, or None, got {value!r}; "
                    f"for example TimeLimits({field.name}=120)"
                )


@dataclass(frozen=True, slots=True)
class Price:
    """
    The price of a model, per million tokens, in any currency.

    Attributes:
        prompt: Price of prompt tokens.
        completion: Price of completion tokens.
        cached: Price of prompt tokens that the service read from its cache; None if they cost the same as others.
        batch: Factor of all prices for calls that a provider's batch has answered, such as 0.5; None if it is not
            known, and they cost the same.

    Raises:
        ConfigurationError: If a price is not a number of at least 0.
    """

    prompt: float
    completion: float
    cached: float | None = None
    batch: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value: object = getattr(self, field.name)
            if value is None and field.name in ("cached", "batch"):
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < inf:
                raise ConfigurationError(
                    f"Price.{field.name} must be a number of at least 0, per million tokens, got {value!r}; "
                    "for example Price(prompt=0.25, completion=2.0)"
                )

    def of(self, reply: LLMResponse) -> float:
        """Return the cost of a reply."""
        cost = self.of_tokens(reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens)
        return cost * self.batch if reply.batched and self.batch is not None else cost

    def of_tokens(self, prompt: int, completion: int, cached: int = 0) -> float:
        """Return the cost of so many prompt tokens, `cached` of them from the cache, and completion tokens."""
        cached = cached if self.cached is not None else 0
        cost = (prompt - cached) * self.prompt + completion * self.completion
        return (cost + cached * (self.cached or 0.0)) / 1_000_000

    def batched(self) -> Price:
        """Return the price of calls that a provider's batch answers."""
        factor = 1.0 if self.batch is None else self.batch
        cached = None if self.cached is None else self.cached * factor
        return Price(self.prompt * factor, self.completion * factor, cached)


def find_price(prices: Mapping[str, Price], model: str) -> Price | None:
    """Return the price of a model, by its name with or without its date; that of "" if there is no other."""
    price = prices.get(model)
    if price is not None:
        return price
    # A request for "gpt-5-mini" returns the name "gpt-5-mini-2025-08-07".
    dated = [name for name in prices if name and _DATED.match(model.removeprefix(name))]
    named = max((name for name in dated if model.startswith(name)), key=len, default="")
    return prices.get(named)


TokenEstimate = Callable[[], tuple[int, int]]
"""Returns the estimated prompt tokens and completion tokens of a call; called only if the service reports none."""


class StopMonitor:
    """
    Applies the stop conditions to one run. The methods that record something return a reason to stop, or None.

    Args:
        conditions: The conditions.
        prices: Prices by the model name in the replies, with or without its date; "" prices all other models.
        estimates: Whether a call without reported tokens used some; false for a backend that calls no model.

    Attributes:
        needed: Whether there is a condition or a price that calls are counted for.
        has_prices: Whether there are prices.
        cost: The cost of the reported tokens so far; None without prices, and from the first call on whose price or
            tokens are unknown.
        estimated_cost: The cost with the tokens estimated that the service did not report; None without prices, and
            if a price is unknown.
    """

    def __init__(
        self, conditions: StopConditions, prices: Mapping[str, Price], estimates: bool = True
    ) -> None:
        self.needed: bool = bool(prices) or any(
            value is not None
            for value in (
                conditions.error_rate,
                conditions.max_rate_limited_seconds,
                conditions.max_tokens,
                conditions.max_cost,
            )
        )
        self.has_prices: bool = bool(prices)
        self.cost: float | None = 0.0 if prices else None
        self.estimated_cost: float | None = self.cost
        self._conditions = conditions
        self._prices = dict(prices)
        self._unpriced: set[str] = set()
        self._estimates = estimates
        self._estimated = False
        self._tokens = self._prompt_tokens = 0
        self._failed: deque[bool] = deque(maxlen=conditions.error_rate_window)
        self._rate_limited_since: float | None = None
        self._same_error: tuple[object, ...] | None = None
        self._same_error_items = 0
        self._replies_before = 0
        self._latest_model = ""

    def record_reply(self, reply: LLMResponse, estimate: TokenEstimate) -> str | None:
        """Record a reply; `estimate` returns its tokens if the service does not report them."""
        self._rate_limited_since = None
        self._failed.append(False)
        return self.record_usage(reply, estimate)

    def record_usage(self, reply: LLMResponse, estimate: TokenEstimate) -> str | None:
        """Record the tokens of a reply, of a late one or of one that came with an error."""
        prompt, completion = reply.prompt_tokens, reply.completion_tokens
        known = self._is_reported(reply)
        if not known:
            estimated = estimate()
            prompt, completion = prompt or estimated[0], completion or estimated[1]
            self._log_estimate(reply.model)
        return self._record(reply.model, prompt, completion, reply.cached_tokens, known, reply.batched)

    def cost_of(self, reply: LLMResponse) -> float | None:
        """Return the cost of a reply; None if its tokens are not reported, or there is no price for its model."""
        price = self._price(reply.model) if self._is_reported(reply) else None
        return None if price is None else price.of(reply)

    def _is_reported(self, reply: LLMResponse) -> bool:
        """Return whether the service reported a reply's tokens; a backend that calls no model uses none."""
        return (
            bool(reply.prompt_tokens and (reply.completion_tokens or not reply.text)) or not self._estimates
        )

    def record_cancelled(self, estimate: TokenEstimate) -> str | None:
        """Record a call that was cancelled at the model when its time was up: it has read the prompt."""
        if not self._estimates:
            return None
        # The price is that of the latest model that answered, which is the one asked in all but odd cases.
        return self._record(self._latest_model, estimate()[0], 0, 0, known=False)

    def _record(
        self, model: str, prompt: int, completion: int, cached: int, known: bool, batched: bool = False
    ) -> str | None:
        self._tokens += prompt + completion
        self._prompt_tokens += prompt
        self._latest_model = model
        conditions = self._conditions
        if not known:
            self.cost = None
        if self._prices:
            price = self._price(model)
            if price is None:
                missing = (
                    f'there is no price for the model {model!r}, and none for "", which prices all others'
                )
                if conditions.max_cost is not None:
                    return f"{missing}; so max_cost={conditions.max_cost} cannot hold"
                if model not in self._unpriced:
                    log.warning("%s: the run's cost is unknown", missing)
                    self._unpriced.add(model)
                self.cost = self.estimated_cost = None
            else:
                cost = price.of_tokens(prompt, completion, cached)
                if batched and price.batch is not None:
                    cost *= price.batch
                if self.cost is not None:
                    self.cost += cost
                if self.estimated_cost is not None:
                    self.estimated_cost += cost
        about = "about " if self._estimated else ""
        if conditions.max_tokens is not None and self._tokens >= conditions.max_tokens:
            return f"max_tokens={conditions.max_tokens} is used up ({about}{self._tokens} tokens)"
        spent = self.estimated_cost
        if conditions.max_cost is not None and spent is not None and spent >= conditions.max_cost:
            return f"max_cost={conditions.max_cost} is spent ({about}{spent:.4f})"
        return None

    def prompt_tokens_left(self) -> tuple[float, str]:
        """
        Return how many prompt tokens may be sent before a budget is used up, and the name of that budget.

        Answers are expected to cost what they have cost so far; before the first, nothing.
        """
        conditions, sent = self._conditions, self._prompt_tokens
        left, name = inf, ""
        if conditions.max_tokens is not None:
            left = (conditions.max_tokens - self._tokens) / (self._tokens / sent if sent else 1.0)
            name = f"max_tokens={conditions.max_tokens}"
        if conditions.max_cost is not None and self.estimated_cost is not None:
            spent = self.estimated_cost
            each = (
                spent / sent
                if sent
                else min(one.batched().prompt for one in self._prices.values()) / 1_000_000
            )
            by_cost = (conditions.max_cost - spent) / each if each else inf
            if by_cost < left:
                left, name = by_cost, f"max_cost={conditions.max_cost}"
        return left, name

    def _log_estimate(self, model: str) -> None:
        if not self._estimated:
            self._estimated = True
            log.warning(
                "the service of model %r does not report how many tokens its replies used: they are estimated, "
                "and the run's exact cost is unknown",
                model,
            )

    def _price(self, model: str) -> Price | None:
        price = self._prices.get(model)
        if price is None:
            price = find_price(self._prices, model)
            if price is not None:
                self._prices[model] = price
        return price

    def record_failure(self) -> str | None:
        """Record a failed attempt."""
        self._failed.append(True)
        rate, window = self._conditions.error_rate, self._conditions.error_rate_window
        if rate is None or len(self._failed) < window or sum(self._failed) < rate * window:
            return None
        return f"{sum(self._failed)} of the latest {window} tries failed (error_rate={rate})"

    def record_failed_item(self, error: Exception, stage: str, replies: int) -> str | None:
        """
        Record an item that failed.

        Args:
            error: Its error.
            stage: The stage at which it failed.
            replies: The model's replies in this run so far.
        """
        limit = self._conditions.same_error_in_a_row
        if limit is None:
            return None
        if not isinstance(error, PermanentBackendError):
            self._same_error = None
            return None
        kind = (*error.signature, stage)
        if kind != self._same_error or replies != self._replies_before:
            self._same_error, self._same_error_items, self._replies_before = kind, 0, replies
        self._same_error_items += 1
        if self._same_error_items < limit:
            return None
        return f"{limit} items in a row ended with the same error, and none was answered between: {error}"

    def record_rate_limited(self, now: float) -> str | None:
        """Record a refusal."""
        if self._rate_limited_since is None:
            self._rate_limited_since = now
        return self.rate_limit_stop(now)

    def rate_limit_stop(self, now: float) -> str | None:
        """Return a reason to stop if there were only refusals for too long."""
        limit, since = self._conditions.max_rate_limited_seconds, self._rate_limited_since
        if limit is None or since is None or now - since < limit:
            return None
        return f"the model refused everything for {limit:g} s"

    def next_check_in(self, now: float) -> float | None:
        """Return the seconds until `rate_limit_stop` has to be called again; None if it does not."""
        limit, since = self._conditions.max_rate_limited_seconds, self._rate_limited_since
        return None if limit is None or since is None else max(0.0, limit - (now - since))

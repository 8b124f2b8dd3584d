"""Stop conditions, time limits and prices, and the monitor that applies the conditions to a run."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf, isfinite

from .._llm_response import LLMResponse
from ..errors import ConfigurationError

log = logging.getLogger("restaurant_llm_batch")

_EXAMPLES = {
    "error_rate": 0.5,
    "error_rate_window": 50,
    "max_rate_limited_seconds": 600,
    "max_tokens": 5_000_000,
    "max_cost": 10.0,
}

_DATED = re.compile(r"[-@:]v?\d")
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
        max_cost: Stop when this much was spent, in the currency of the prices.

    Raises:
        ConfigurationError: If a number is out of its bounds.
    """

    error_rate: float | None = None
    error_rate_window: int = 50
    max_rate_limited_seconds: float | None = None
    max_tokens: int | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        bounds = {
            "error_rate": "above 0 and at most 1",
            "error_rate_window": "a whole number of at least 1",
            "max_rate_limited_seconds": "a number of seconds above 0",
            "max_tokens": "a whole number of at least 1",
            "max_cost": "a number above 0",
        }
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.name in ("error_rate_window", "max_tokens")
            if value is None and field.name != "error_rate_window":
                continue
            kinds = (int,) if whole else (int, float)
            fine = isinstance(value, kinds) and not isinstance(value, bool) and value > 0 and isfinite(value)
            if not fine or (field.name == "error_rate" and value > 1):
                raise ConfigurationError(
                    f"StopConditions.{field.name} must be {bounds[field.name]}, got {value!r}; "
                    f"for example StopConditions({field.name}={_EXAMPLES[field.name]})"
                )


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """
    How long calls, items and runs may take, in seconds; None for no limit.

    An overdue awaited call is cancelled, at the service too if possible, and counts as a transient failure. An overdue
    blocking call is abandoned: its item goes on without it, and it is not retried. Its slot is free when its thread
    returns; that is soon if the backend can abort the call, as this library's HTTP backends can. In stage 1 nothing
    interrupts a blocking call; there, set the backend's own timeout.

    Attributes:
        call: Limit of one backend call, from its admission: time in the queue does not count.
        item: Limit of one item, from when it enters the window. An overdue item fails with `DeadlineExceeded`.
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

    Raises:
        ConfigurationError: If a price is not a number of at least 0.
    """

    prompt: float
    completion: float
    cached: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value: object = getattr(self, field.name)
            if value is None and field.name == "cached":
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < inf:
                raise ConfigurationError(
                    f"Price.{field.name} must be a number of at least 0, per million tokens, got {value!r}; "
                    "for example Price(prompt=0.25, completion=2.0)"
                )

    def of(self, reply: LLMResponse) -> float:
        """Return the cost of a reply."""
        cached = reply.cached_tokens if self.cached is not None else 0
        cost = (reply.prompt_tokens - cached) * self.prompt + reply.completion_tokens * self.completion
        return (cost + cached * (self.cached or 0.0)) / 1_000_000


class StopMonitor:
    """
    Applies the stop conditions to one run. The methods that record a call's result return a reason to stop, or None.

    Args:
        conditions: The conditions.
        prices: Prices by the model name in the replies, with or without its date; "" prices all other models.

    Attributes:
        needed: Whether there is a condition or a price.
        cost: The cost so far; None without prices.
    """

    def __init__(self, conditions: StopConditions, prices: Mapping[str, Price]) -> None:
        self.needed: bool = bool(prices) or conditions != StopConditions(
            error_rate_window=conditions.error_rate_window
        )
        self.cost: float | None = 0.0 if prices else None
        self._conditions = conditions
        self._prices = dict(prices)
        self._tokens = 0
        self._failed: deque[bool] = deque(maxlen=conditions.error_rate_window)
        self._rate_limited_since: float | None = None

    def record_reply(self, reply: LLMResponse) -> str | None:
        """Record a reply."""
        self._rate_limited_since = None
        self._failed.append(False)
        self._tokens += reply.prompt_tokens + reply.completion_tokens
        conditions = self._conditions
        if self.cost is not None:
            price = self._price(reply.model)
            if price is None:
                missing = f'there is no price for the model {reply.model!r}, and none for "", which prices all others'
                if conditions.max_cost is not None:
                    return f"{missing}; so max_cost={conditions.max_cost} cannot hold"
                log.warning("%s: it counts as free", missing)
                price = self._prices[reply.model] = Price(0.0, 0.0)
            self.cost += price.of(reply)
        if conditions.max_tokens is not None and self._tokens >= conditions.max_tokens:
            return f"max_tokens={conditions.max_tokens} is used up ({self._tokens} tokens)"
        if conditions.max_cost is not None and self.cost is not None and self.cost >= conditions.max_cost:
            return f"max_cost={conditions.max_cost} is spent ({self.cost:.4f})"
        return None

    def _price(self, model: str) -> Price | None:
        price = self._prices.get(model)
        if price is None:
            # A request for "gpt-5-mini" returns the name "gpt-5-mini-2025-08-07".
            dated = [name for name in self._prices if name and _DATED.match(model.removeprefix(name))]
            named = max((name for name in dated if model.startswith(name)), key=len, default="")
            price = self._prices.get(named)
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

    def record_rate_limited(self, now: float) -> str | None:
        """Record a 429 response."""
        if self._rate_limited_since is None:
            self._rate_limited_since = now
        return self.rate_limit_stop(now)

    def rate_limit_stop(self, now: float) -> str | None:
        """Return a reason to stop if there were only 429 responses for too long."""
        limit, since = self._conditions.max_rate_limited_seconds, self._rate_limited_since
        if limit is None or since is None or now - since < limit:
            return None
        return f"the model refused everything for {limit:g} s"

    def next_check_in(self, now: float) -> float | None:
        """Return the seconds until `rate_limit_stop` has to be called again; None if it does not."""
        limit, since = self._conditions.max_rate_limited_seconds, self._rate_limited_since
        return None if limit is None or since is None else max(0.0, limit - (now - since))

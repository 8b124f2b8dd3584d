"""When a run should stop by itself: rules, deadlines, prices, and the pure bookkeeping that applies the rules."""

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
"""How what follows a model's name begins, where it is a version of it."""


@dataclass(frozen=True, slots=True)
class StopConditions:
    """
    When a run stops by itself; what is finished is returned, and `RunStats.stopped_because` says why.

    Calls that are in flight when a rule is met are left to end, so a bound is passed by what they come to.

    Attributes:
        error_rate: Stop when this share of the latest `error_rate_window` tries of LLM calls failed, refusals aside.
        error_rate_window: How many tries that is about; before so many there were, the rule is not applied.
        max_rate_limited_seconds: Stop when the model has refused everything, and answered nothing, for so many seconds.
        max_tokens: Stop when so many tokens were read and written, those of answers that could not be used too.
        max_cost: Stop when so much was spent, in the currency of the prices.

    Raises:
        ConfigurationError: When a number is out of its bounds.
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
                    f"write for example StopConditions({field.name}={_EXAMPLES[field.name]})"
                )


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """
    How long things may take, in seconds; None for no bound.

    An awaited call that is late is cancelled, at the service too where that is possible, and counts as a transient
    failure. A blocking one is given up: its item goes on without it, its slot stays taken until its thread returns
    (soon, where the backend can end it; those over HTTP here do), and it is not made again. One by one (stage 1)
    nothing interrupts a blocking call; there the backend's own timeout is the bound.

    Attributes:
        call: Of a call to a backend, from its admission: time in the queue does not count.
        item: Of an item, from its entry into the window; what is late then fails as `DeadlineExceeded`.
        run: Of a run. Then what is finished is returned, calls in flight are cancelled, and what is open fails as
            not run to its end.
        stall_warning_after: Seconds without a call that starts or ends, after which a `Stalled` event and a log warning
            list what the run waits for. It ends nothing. (Not in stage 1.)

    Raises:
        ConfigurationError: When one is not a number above 0.
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
                    f"write for example TimeLimits({field.name}=120)"
                )


@dataclass(frozen=True, slots=True)
class Price:
    """
    What a model costs, for a million tokens.

    Attributes:
        prompt: Tokens read.
        completion: Tokens written.
        cached: Tokens read that the service had in its cache; None for the price of any others.

    Raises:
        ConfigurationError: When one is not a number from 0.
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
                    f"Price.{field.name} must be a number from 0, for a million tokens, got {value!r}; "
                    "write for example Price(prompt=0.25, completion=2.0)"
                )

    def of(self, reply: LLMResponse) -> float:
        """Return what a reply costs."""
        cached = reply.cached_tokens if self.cached is not None else 0
        cost = (reply.prompt_tokens - cached) * self.prompt + reply.completion_tokens * self.completion
        return (cost + cached * (self.cached or 0.0)) / 1_000_000


class StopMonitor:
    """
    Applies the rules to one run: told what calls come to, it says when to stop.

    Args:
        conditions: The rules.
        prices: What models cost, by the name that their replies give, with or without a date; "" for all others.

    Attributes:
        needed: Whether there is anything to watch.
        cost: What was spent so far; None without prices.
    """

    def __init__(self, conditions: StopConditions, prices: Mapping[str, Price]) -> None:
        self.needed = bool(prices) or conditions != StopConditions(
            error_rate_window=conditions.error_rate_window
        )
        self.cost: float | None = 0.0 if prices else None
        self._conditions = conditions
        self._prices = dict(prices)
        self._tokens = 0
        self._failed: deque[bool] = deque(maxlen=conditions.error_rate_window)
        self._rate_limited_since: float | None = None

    def record_reply(self, reply: LLMResponse) -> str | None:
        """Take note of a reply and return why to stop, if there is a reason."""
        self._rate_limited_since = None
        self._failed.append(False)
        self._tokens += reply.prompt_tokens + reply.completion_tokens
        rules = self._conditions
        if self.cost is not None:
            price = self._price(reply.model)
            if price is None:
                missing = f'there is no price for the model {reply.model!r}, and none for "", which prices all others'
                if rules.max_cost is not None:
                    return f"{missing}; so max_cost={rules.max_cost} cannot hold"
                log.warning("%s: it counts as free", missing)
                price = self._prices[reply.model] = Price(0.0, 0.0)
            self.cost += price.of(reply)
        if rules.max_tokens is not None and self._tokens >= rules.max_tokens:
            return f"max_tokens={rules.max_tokens} is used up ({self._tokens} tokens)"
        if rules.max_cost is not None and self.cost is not None and self.cost >= rules.max_cost:
            return f"max_cost={rules.max_cost} is spent ({self.cost:.4f})"
        return None

    def _price(self, model: str) -> Price | None:
        price = self._prices.get(model)
        if price is None:
            # Asked for "gpt-5-mini", a service answers "gpt-5-mini-2025-08-07".
            dated = [name for name in self._prices if name and _DATED.match(model.removeprefix(name))]
            named = max((name for name in dated if model.startswith(name)), key=len, default="")
            price = self._prices.get(named)
            if price is not None:
                self._prices[model] = price
        return price

    def record_failure(self) -> str | None:
        """Take note of a try that failed and return why to stop, if there is a reason."""
        self._failed.append(True)
        rate, window = self._conditions.error_rate, self._conditions.error_rate_window
        if rate is None or len(self._failed) < window or sum(self._failed) < rate * window:
            return None
        return f"{sum(self._failed)} of the latest {window} tries failed (error_rate={rate})"

    def record_rate_limited(self, now: float) -> str | None:
        """Take note of a refusal and return why to stop, if there is a reason."""
        if self._rate_limited_since is None:
            self._rate_limited_since = now
        return self.rate_limit_stop(now)

    def rate_limit_stop(self, now: float) -> str | None:
        """Return why to stop, if nothing but refusals came for too long."""
        patience, since = self._conditions.max_rate_limited_seconds, self._rate_limited_since
        if patience is None or since is None or now - since < patience:
            return None
        return f"the model refused everything for {patience:g} s"

    def next_check_in(self, now: float) -> float | None:
        """Return in how many seconds `overdue` has to be looked at again; None while it need not be."""
        patience, since = self._conditions.max_rate_limited_seconds, self._rate_limited_since
        return None if patience is None or since is None else max(0.0, patience - (now - since))

"""Latencies of a simulated server: lognormal, or by tokens as a continuous-batching server takes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf, log
from random import Random
from statistics import median
from typing import Self, TypeAlias

from ..errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class LogNormal:
    """
    Seconds of a call, drawn from a lognormal distribution.

    Attributes:
        median: Its median, in seconds.
        sigma: Standard deviation of the logarithm: 0 for a constant; 0.5 has 1 call of 20 above 2.3 medians.

    Raises:
        ConfigurationError: Unless median > 0 and sigma >= 0.
    """

    median: float
    sigma: float = 0.5

    def __post_init__(self) -> None:
        check_number("LogNormal.median", self.median, above=0)
        check_number("LogNormal.sigma", self.sigma)

    @classmethod
    def fitted(cls, seconds: Iterable[float]) -> Self:
        """
        Return the distribution of calls that took these seconds, which a few slow ones do not change.

        Args:
            seconds: Seconds of each call, such as `CallEnded.seconds`; at least 3 above 0.

        Raises:
            ConfigurationError: There are fewer.
        """
        logs = [log(one) for one in seconds if one > 0]
        if len(logs) < 3:
            raise ConfigurationError(
                f"LogNormal.fitted needs the seconds of at least 3 calls, got {len(logs)}; "
                "for example LogNormal.fitted([0.7, 0.8, 1.1])"
            )
        middle = median(logs)
        # The median distance from the median, which is 0.6745 standard deviations of a normal distribution.
        return cls(exp(middle), median(abs(one - middle) for one in logs) / 0.6745)

    def draw(self, random: Random) -> float:
        """Return the seconds of one call."""
        return random.lognormvariate(log(self.median), self.sigma) if self.sigma else self.median


@dataclass(frozen=True, slots=True)
class TokenSpeed:
    """
    Speed of a server that decodes many sequences side by side (continuous batching, as vLLM does).

    Prompts are read one after the other, and meanwhile no answer is written: the server computes one or the other.
    Every running sequence then gets one token of each step, and a step takes longer the more sequences it has: with n
    of them, each writes ``decode / (1 + batch_slowdown * (n - 1))`` tokens a second.

    Attributes:
        prefill: Tokens of prompts read in a second.
        decode: Tokens of an answer written in a second, by a sequence that runs alone.
        batch_slowdown: What each further sequence adds to the time of a step, as a share of the time of a step with
            one: 0 for a server that batches for nothing, 1 for one that does not batch.
        overhead: Seconds of a call that depend on no tokens.

    Raises:
        ConfigurationError: Unless prefill > 0, decode > 0, batch_slowdown >= 0 and overhead >= 0.
    """

    prefill: float
    decode: float
    batch_slowdown: float = 0.02
    overhead: float = 0.0

    def __post_init__(self) -> None:
        check_number("TokenSpeed.prefill", self.prefill, above=0)
        check_number("TokenSpeed.decode", self.decode, above=0)
        check_number("TokenSpeed.batch_slowdown", self.batch_slowdown)
        check_number("TokenSpeed.overhead", self.overhead)

    def decode_rate(self, running: int) -> float:
        """Return the tokens a second of each of `running` sequences."""
        return self.decode / (1 + self.batch_slowdown * (running - 1))


Latency: TypeAlias = float | LogNormal | TokenSpeed
"""Seconds of each call, a distribution of them, or the speed of a server in tokens."""


def check_number(name: str, value: object, *, above: float | None = None) -> None:
    """
    Check a number that is finite and at least 0.

    Raises:
        ConfigurationError: It is not; or, with `above`, not above that.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < inf or (above is not None and value <= above):  # type: ignore[operator]
        least = "of at least 0" if above is None else f"above {above:g}"
        raise ConfigurationError(f"{name} must be a number {least}, got {value!r}; for example {name}=0.5")

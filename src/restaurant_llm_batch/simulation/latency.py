"""Latencies of a simulated server: lognormal, by tokens as a continuous-batching server takes them, or as seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class SampledNumbers:
    """
    Numbers as they were seen, seconds or tokens: what a call of this size has in the mean, times a factor.

    The mean is ``fixed + per_prompt_token * prompt + per_answer_token * answer``. The factors are those of the calls
    that were seen, by that mean, so a slow call of a hundred stays one of a hundred.

    Attributes:
        fixed: The part that depends on no tokens.
        per_prompt_token: What each token of the prompt adds.
        per_answer_token: What each token of the answer adds.
        factors: Factors, of which each is as likely as another; their mean is 1.

    Raises:
        ConfigurationError: A number is below 0, or there are no factors.
    """

    fixed: float
    per_prompt_token: float = 0.0
    per_answer_token: float = 0.0
    factors: tuple[float, ...] = field(default=(1.0,), repr=False)

    def __post_init__(self) -> None:
        for name in ("fixed", "per_prompt_token", "per_answer_token"):
            check_number(f"SampledNumbers.{name}", getattr(self, name))
        given: object = self.factors
        if not isinstance(given, tuple) or not given:
            raise ConfigurationError(
                f"SampledNumbers.factors must be a tuple of numbers, got {given!r}; for example factors=(0.8, 1.2)"
            )
        for factor in self.factors:
            check_number("SampledNumbers.factors", factor)

    def mean(self, prompt: float, answer: float = 0) -> float:
        """Return the mean for a prompt and an answer of so many tokens."""
        return self.fixed + self.per_prompt_token * prompt + self.per_answer_token * answer

    def draw(self, random: Random, prompt: int, answer: int = 0) -> float:
        """Return the number of one call."""
        factors = self.factors
        mean = self.fixed + self.per_prompt_token * prompt + self.per_answer_token * answer
        return mean * factors[int(random.random() * len(factors))]


@dataclass(frozen=True, slots=True)
class SampledLatency:
    """
    Seconds of a call as they were seen; `SimulatedServer.from_record` finds them.

    Attributes:
        kinds: Seconds of a call that the server works on alone, by the task name of its request.
        others: The same for requests of other names.
        slowdown: What each further call at once adds to the time of a call, as a share of its time alone.

    Raises:
        ConfigurationError: `slowdown` is below 0, or the others have the wrong type.
    """

    kinds: Mapping[str, SampledNumbers]
    others: SampledNumbers
    slowdown: float = 0.0

    def __post_init__(self) -> None:
        kinds: object = self.kinds
        found = kinds.values() if isinstance(kinds, Mapping) else [kinds]
        if not all(isinstance(one, SampledNumbers) for one in (*found, self.others)):
            raise ConfigurationError(
                "SampledLatency needs SampledNumbers by task name, and for all others; for example "
                'SampledLatency({"rating": SampledNumbers(0.4)}, SampledNumbers(0.8))'
            )
        check_number("SampledLatency.slowdown", self.slowdown)

    def draw(self, random: Random, kind: str, prompt: int, answer: int) -> float:
        """Return the seconds of one call that is alone."""
        return self.kinds.get(kind, self.others).draw(random, prompt, answer)


Latency: TypeAlias = float | LogNormal | TokenSpeed | SampledLatency
"""Seconds of each call, a distribution of them, the speed of a server in tokens, or what was seen."""


def check_number(name: str, value: object, *, above: float | None = None, example: str = "") -> None:
    """
    Check a number that is finite and at least 0.

    Args:
        name: Its name, with that of its class in front, as in "LogNormal.median".
        value: The number.
        above: What it has to be above.
        example: What to write instead; "" for 0.5.

    Raises:
        ConfigurationError: It is not; or, with `above`, not above that.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < inf or (above is not None and value <= above):  # type: ignore[operator]
        least = "of at least 0" if above is None else f"above {above:g}"
        owner, _, argument = name.rpartition(".")
        example = example or (f"{owner}({argument}=0.5)" if owner else f"{argument}=0.5")
        raise ConfigurationError(f"{name} must be a number {least}, got {value!r}; for example {example}")

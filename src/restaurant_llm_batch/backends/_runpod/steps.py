"""What RunPod's flows are made of: their steps, the job they are about, and when they look at it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from math import isfinite
from typing import Literal, NamedTuple

from ...errors import ConfigurationError
from .._http.wire import Exchange

log = logging.getLogger("restaurant_llm_batch")

LONG_IN_QUEUE = 30.0
"""Seconds in the queue after which the endpoint's health is looked at, and between such looks."""

Operation = Literal["run", "status", "cancel", "health"]


@dataclass(frozen=True, slots=True)
class Polling:
    """
    How often a job is looked at; the defaults are those of RunPod's own command line.

    Attributes:
        first: Seconds before the first look.
        growth: How much longer each wait is than the one before.
        longest: The longest wait in seconds.

    Raises:
        ConfigurationError: When they make no series of waits.
    """

    first: float = 0.5
    growth: float = 1.5
    longest: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not isfinite(value) or value <= 0:
                raise ConfigurationError(f"Polling.{field.name} must be a number above 0, got {value!r}")
        if self.growth < 1 or self.longest < self.first:
            raise ConfigurationError(
                "Polling needs growth >= 1 and longest >= first, got "
                f"first={self.first!r}, growth={self.growth!r}, longest={self.longest!r}"
            )

    def after(self, wait: float) -> float:
        """Return the wait that follows a wait."""
        return min(wait * self.growth, self.longest)


class Now(NamedTuple):
    """Ask for the time. Answered with monotonic seconds."""


class Send(NamedTuple):
    """Ask for an exchange. Answered with an `Answer`; the key is added by whoever sends it."""

    operation: Operation
    exchange: Exchange


@dataclass(slots=True, eq=False)
class Job:
    """
    A job, as far as it is known.

    Attributes:
        id: Its id; empty until its submission is answered.
        over: Whether it is known to have ended.
    """

    id: str = ""
    over: bool = False

    @property
    def alive(self) -> bool:
        """Whether it was made and may still cost money."""
        return bool(self.id) and not self.over


class QueueWatch:
    """Says when to look why jobs wait so long, and warns once."""

    def __init__(self, every: float = LONG_IN_QUEUE) -> None:
        self.every = every
        self._next = 0.0
        self._warned = False

    def is_due(self, since: float, now: float) -> bool:
        """Tell whether to look, for a job that has been in the queue since then."""
        if self._warned or now < max(since + self.every, self._next):
            return False
        self._next = now + self.every
        return True

    def warn(self, endpoint: str, trouble: str | None) -> None:
        """Warn of trouble, the first time there is some."""
        if trouble is not None and not self._warned:
            self._warned = True
            log.warning("jobs wait in the queue of RunPod endpoint %s: %s", endpoint, trouble)

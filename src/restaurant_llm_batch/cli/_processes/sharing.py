"""
Limits over all processes of a command: shared limits in a private file, and how they stand.

A limit is shared if there is a service behind it: of the model's calls unless the model is the offline one, and of
searches if they go to a server. What runs inside the processes has nothing to be protected from, so there each process
has the whole limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from ..._config.limits import Limits
from ..._limits.aimd import AdaptiveLimit
from ..._limits.limiters import LimiterStanding
from ...errors import ConfigurationError
from ...outcomes import LimitChange, Reason
from ...sharing import BrokerUnavailable, FileBroker, LimitView, SharedLimiter
from ...sharing._limits import share_limits


class SharedLimits:
    """
    The limits of a run in several processes; the limits of its record too (`RunControl`).

    Args:
        limits: The limits of the whole run.
        folder: A private folder, for the file of the broker.
        model: Whether the calls of the model go to a service.
        search: Whether searches go to a server.

    Attributes:
        for_processes: The limits for each process.
    """

    def __init__(self, limits: Limits, folder: Path, *, model: bool, search: bool) -> None:
        self._broker = FileBroker(folder / "limits.db")
        self.for_processes: Limits = share_limits(limits, self._broker, model=model, search=search)
        named = {field.name: getattr(self.for_processes, field.name) for field in fields(Limits)}
        self._names = tuple(name for name, limit in named.items() if isinstance(limit, SharedLimiter))
        self._adaptive = [name for name in self._names if isinstance(getattr(limits, name), AdaptiveLimit)]
        self._latest: dict[str, int] = {name: getattr(limits, name).start for name in self._adaptive}
        self._peaks: dict[str, int] = {}
        self.history: list[LimitChange] = []

    def declare(self) -> None:
        """Declare the limits at the broker, so that they are there before the first process is."""
        for name in self._names:
            getattr(self.for_processes, name).open()

    def close(self) -> None:
        """Close the file."""
        self._broker.close()

    def set(self, name: object, limit: object) -> str:
        """
        Set a limit for all processes, and return a sentence that says so.

        Raises:
            ConfigurationError: It cannot be set here, or is no whole number of at least 1.
        """
        if not isinstance(name, str) or name not in self._names:
            known = ", ".join(self._names) or "none"
            raise ConfigurationError(
                f"{name} cannot be changed while several processes share the run; what can be changed: {known}"
            )
        try:
            self._broker.set_limit(name, limit)  # type: ignore[arg-type]  # it says what is wrong
        except BrokerUnavailable as error:
            raise ConfigurationError(f"{name} cannot be changed now: {error}") from error
        return f"{name} is {limit:,} now, for all processes"

    def standings(self) -> Sequence[LimiterStanding]:
        """Return how the shared limits stand."""
        found: list[LimiterStanding] = []
        for name, view in self._views().items():
            in_use = sum(member.in_use for member in view.members)
            waiting = sum(member.waiting for member in view.members)
            peak = self._peaks[name] = max(in_use, self._peaks.get(name, 0))
            found.append(LimiterStanding(name, view.limit, in_use, waiting, peak))
        return found

    def changes(self, seconds: float) -> list[LimitChange]:
        """Return how the adaptive limits have changed since the last call, `seconds` after the start of the run."""
        found: list[LimitChange] = []
        views = self._views() if self._adaptive else {}
        for name in self._adaptive:
            if name in views and views[name].limit != self._latest[name]:
                reason: Reason = "rate_limited" if views[name].limit < self._latest[name] else "probe"
                self._latest[name] = views[name].limit
                found.append(LimitChange(name, seconds, views[name].limit, reason))
        self.history += found
        return found

    def _views(self) -> Mapping[str, LimitView]:
        try:
            limits = self._broker.limits()
        except BrokerUnavailable:  # locked for a moment
            return {}
        return {name: limits[name] for name in self._names if name in limits}

"""The gates of a runner: which ones a call must pass, in order."""

from __future__ import annotations

from ..errors import ConfigurationError
from ..outcomes import LimitStep
from ..steps import GateName
from .concurrency import Gate
from .rate import RateGate


class Gates:
    """
    The gates of a runner.

    Attributes:
        search: Those of a search.
        llm: Those of an LLM call.
        batches: Those of an LLM call that carries a packed batch.
        tokens: The one of them that counts tokens instead of calls, or None.
        rate: The one for limits per minute. It comes after all others: whoever has passed it begins at once.
    """

    def __init__(
        self, search: Gate, llm: Gate, batches: Gate, total: Gate | None, tokens: Gate | None, rate: RateGate
    ) -> None:
        self.search = (search,)
        self.tokens = tokens
        self.rate = rate
        self._total = total
        self.llm = self._with_both(llm)
        self.batches = self._with_both(batches)

    def _with_both(self, gate: Gate) -> tuple[Gate, ...]:
        gates = [gate] if self._total is None or self._total is gate else [gate, self._total]
        return tuple(gates if self.tokens is None else [*gates, self.tokens])

    @property
    def count_tokens(self) -> bool:
        """Whether some gate counts tokens."""
        return self.tokens is not None or (self.rate.active and self.rate.counts_tokens)

    def of(self, name: GateName) -> tuple[Gate, ...]:
        """Return the gates of an LLM call."""
        if name == "llm":
            return self.llm
        if name == "batches":
            return self.batches
        raise ConfigurationError(f'there is no gate {name!r} for the model; write "llm" or "batches"')

    def history(self, since: float) -> tuple[LimitStep, ...]:
        """Return what adaptive limits were since a moment, and what they were then."""
        named = {"search": self.search[0], "llm": self.llm[0], "batches": self.batches[0]}
        if self._total is not None:
            named["llm_total"] = self._total
        steps: list[LimitStep] = []
        for name, gate in named.items():
            history = gate.history
            before = [change for change in history if change.at <= since]
            if before:
                steps.append(LimitStep(name, 0.0, before[-1].limit, "start"))
            later = (change for change in history if change.at > since)
            steps += (LimitStep(name, change.at - since, change.limit, change.reason) for change in later)
        return tuple(sorted(steps, key=lambda step: step.seconds))

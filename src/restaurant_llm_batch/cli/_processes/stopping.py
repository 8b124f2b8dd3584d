"""
Stop conditions over several processes: each notes what it counts, and the command applies the conditions to all of it.

`noted` are conditions for a process that never stop it: its monitor notes each reply, failure and refusal, and the
tokens. `WholeConditions` are those of the command, whose monitor takes the notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from ..._config.stopping import Price, StopConditions, StopMonitor, TokenEstimate
from ..._llm_response import LLMResponse
from .portable import portable_error

Note: TypeAlias = tuple[Any, ...]
"""What a process has counted: the kind, and what belongs to it."""


def noted(note: Callable[[Note], object], *, all_calls: bool) -> StopConditions:
    """
    Return conditions that stop nothing.

    Args:
        note: Called with each note.
        all_calls: Whether the command counts calls and tokens, and not only items that fail.
    """

    class Noted(StopConditions):
        def monitor(self, prices: Mapping[str, Price], estimates: bool) -> StopMonitor:
            return _NotingMonitor(self, prices, estimates, note, all_calls)

    return Noted(same_error_in_a_row=None)


class _NotingMonitor(StopMonitor):
    """The monitor of a process."""

    def __init__(
        self,
        conditions: StopConditions,
        prices: Mapping[str, Price],
        estimates: bool,
        note: Callable[[Note], object],
        all_calls: bool,
    ) -> None:
        super().__init__(conditions, prices, estimates)
        self.needed = self.needed or all_calls
        self._note = note

    def record_reply(self, reply: LLMResponse, estimate: TokenEstimate) -> str | None:
        self._note(("reply",))
        return super().record_reply(reply, estimate)

    def _record(self, model: str, prompt: int, completion: int, cached: int, known: bool) -> str | None:
        self._note(("tokens", model, prompt, completion, cached, known))
        return super()._record(model, prompt, completion, cached, known)

    def record_failure(self) -> str | None:
        self._note(("failure",))
        return None

    def record_rate_limited(self, now: float) -> str | None:
        self._note(("refusal", now))
        return None

    def record_failed_item(self, error: Exception, stage: str, replies: int) -> str | None:
        self._note(("item", portable_error(error), stage))
        return None


class WholeConditions(StopConditions):
    """The stop conditions of a run in several processes."""

    def monitor(self, prices: Mapping[str, Price], estimates: bool) -> StopMonitor:
        """Return the monitor of the whole run."""
        return WholeMonitor(self, prices, estimates)

    @classmethod
    def of(cls, stop: StopConditions) -> WholeConditions:
        """Return the same conditions, for several processes."""
        return cls(**{field.name: getattr(stop, field.name) for field in fields(stop)})


class WholeMonitor(StopMonitor):
    """Applies stop conditions to what several processes have noted."""

    def apply(self, note: Note, replies: int) -> str | None:
        """
        Take a note.

        Args:
            note: The note.
            replies: The model's replies so far, in all processes.

        Returns:
            A reason to stop, or None.
        """
        match note:
            case ("reply",):
                self._rate_limited_since = None
                self._failed.append(False)
                return None
            case ("tokens", model, prompt, completion, cached, known):
                self._estimated = self._estimated or not known
                self._unpriced.add(model)  # its process has logged that there is no price
                return self._record(model, prompt, completion, cached, known)
            case ("failure",):
                return self.record_failure()
            case ("refusal", now):
                return self.record_rate_limited(now)
            case ("item", error, stage):
                return self.record_failed_item(error, stage, replies)
        raise ValueError(f"unknown note {note!r}")

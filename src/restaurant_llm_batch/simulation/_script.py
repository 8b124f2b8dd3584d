"""Scripts: what an item was seen to ask for, in order; and sums over its calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ..steps import LimiterName, Once, Search, SearchAll, Sleep
from ._lengths import Length

_NO_LENGTH = Length(1, 1, 1, 1)


@dataclass(slots=True)
class PlannedCall:
    """
    A call of an item.

    Attributes:
        limiter: The limit that it counts against.
        follows_answer: Whether its flow had an answer before.
        kind: Task name of its request.
        prompt: Tokens of its prompt; 0 until it is made, and forever if its reply was in the store.
        length: Tokens of its answer.
    """

    limiter: LimiterName
    follows_answer: bool
    kind: str = ""
    prompt: int = 0
    length: Length = _NO_LENGTH


@dataclass(slots=True)
class Gathered:
    """Flows that run side by side."""

    scripts: list[Script]


ScriptStep: TypeAlias = "PlannedCall | Search | SearchAll | Gathered | Once | Sleep"
Script: TypeAlias = list[ScriptStep]


def calls_of(script: Script) -> Iterator[PlannedCall]:
    """Yield the calls of a script that are made, but for those of flows that are run once."""
    for step in script:
        if isinstance(step, Gathered):
            for part in step.scripts:
                yield from calls_of(part)
        elif isinstance(step, PlannedCall) and step.prompt:
            yield step


@dataclass(slots=True)
class Tally:
    """
    Sums over calls.

    Attributes:
        calls: Their number.
        following: How many of them follow an answer.
        prompt: Tokens of their prompts.
        cached: How many of these stand at the beginning of an earlier prompt, in whole blocks.
        low, likely, high, most: Tokens of their answers.
        largest_prompt: Tokens of the largest prompt.
        largest: Tokens of the largest prompt together with its longest answer.
    """

    calls: int = 0
    following: int = 0
    prompt: int = 0
    cached: int = 0
    low: int = 0
    likely: int = 0
    high: int = 0
    most: int = 0
    largest_prompt: int = 0
    largest: int = 0

    def add(self, call: PlannedCall, cached: int) -> None:
        """Add a call."""
        self.calls += 1
        self.following += call.follows_answer
        self.prompt += call.prompt
        self.cached += cached
        self.low += call.length.low
        self.likely += call.length.likely
        self.high += call.length.high
        self.most += call.length.most
        self.largest_prompt = max(self.largest_prompt, call.prompt)
        self.largest = max(self.largest, call.prompt + call.length.most)

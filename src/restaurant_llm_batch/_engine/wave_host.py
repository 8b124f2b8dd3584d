"""What the waves of a run need of it: its clock, its budget, and a place where their flows run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol

from ..models import LLMRequest
from .mailbox import Clock


class WaveRun(NamedTuple):
    """
    What waves need of their run.

    Attributes:
        now: Its clock.
        estimate: Estimates the tokens of a prompt.
        stop: Stops it, for a reason.
        looked_at: To be called with what the service has said of a batch: its id, its status, and how many lines it
            has, and has done.
        prompt_tokens_left: Returns how many prompt tokens the budget has room for, infinity without one; and its name.
    """

    now: Clock
    estimate: Callable[[LLMRequest], int]
    stop: Callable[[str], object]
    looked_at: Callable[[str, str, int, int], object]
    prompt_tokens_left: Callable[[], tuple[float, str]]


class WaveHost(Protocol):
    """Where a run lives, as its waves use it."""

    def spawn(self, flow: Generator[Any, Any, None], /) -> object:
        """Run a flow of the run's own."""
        ...

    def run_blocking(self, work: Callable[[], object], /) -> object:
        """Run a function that blocks, where it does not block the run."""
        ...

    def later(self, action: Callable[[], object], /) -> object:
        """Run an action after the current one."""
        ...

    def check_stop(self) -> object:
        """Notice that the run was stopped."""
        ...


class InlineHost:
    """The host of a run whose flows are run one after the other: the flow that waits carries its wave itself."""

    def __init__(self) -> None:
        self.flows: deque[Generator[Any, Any, None]] = deque()
        self.spawn = self.flows.append

    def run_blocking(self, work: Callable[[], object], /) -> None:
        """Run it here: there is no other thread."""
        work()

    def later(self, action: Callable[[], object], /) -> None:
        """Run it now."""
        action()

    def check_stop(self) -> None:
        """Do nothing: the flow that waits looks by itself."""

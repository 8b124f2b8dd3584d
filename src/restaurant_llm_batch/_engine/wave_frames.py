"""
Wave frames: the flows of a run that carry its waves, and how the scheduler finds out that a wave is to be sent.

A wave is sent when no other frame of the run can go on by itself: every call has ended, every other frame waits for a
line of a wave, no item can be admitted, and no wave is about to be answered. That is known, not guessed. Only for input
that is awaited there is a bound: a wave waits `INPUT_PATIENCE` for the next item, if nothing else happens meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .call import Call
from .frames import EngineFlow, Frame, SchedulerCallbacks
from .items import RunItem
from .mailbox import Mailbox
from .waves import Waves

ADMITTED_AT_ONCE = 100
"""Items that are admitted before other tasks get a turn: a wave may make the window very wide."""
INPUT_PATIENCE = 60.0
"""Seconds for which a wave that could be sent waits for input that is not there yet."""


class Resume(Protocol):
    """Advances a flow until a step takes time."""

    def __call__(self, frame: Frame, answer: Any, error: BaseException | None, /) -> None: ...


class WaveFrames:
    """
    The frames of one run that carry its waves; it is the host of the waves.

    Args:
        waves: The waves of the run.
        others: The scheduler's queued and running calls, and its suspended frames.
        mailbox: Where the run lives.
        callbacks: The scheduler's callbacks.
        resume: Advances a flow.
        admit: Admits items.

    Attributes:
        awaits_input: Whether the source will have more items, but has none now.
    """

    def __init__(
        self,
        waves: Waves,
        others: tuple[dict[Call, None], dict[Call, None], dict[Frame, tuple[Any, float]]],
        mailbox: Mailbox,
        callbacks: SchedulerCallbacks,
        resume: Resume,
        admit: Callable[[], object],
    ) -> None:
        self.awaits_input = False
        self._waves = waves
        self._queued, self._running, self._suspended = others
        self._mailbox = mailbox
        self._callbacks = callbacks
        self._resume = resume
        self._admit = admit
        self._item = RunItem(-1, "", 0, None)
        self._frames: dict[Frame, None] = {}
        self._admitted = 0
        self._awaits_slice = False
        self._items = 0
        self._awaits_since: tuple[int, int] | None = None
        waves.host = self

    # What the waves ask for

    def spawn(self, flow: EngineFlow[None]) -> None:
        """Run a flow that works for no item."""
        frame = Frame(flow, self._item)
        self._frames[frame] = None
        self._resume(frame, None, None)

    def run_blocking(self, work: Callable[[], object]) -> None:
        """Run a function that blocks where the run does not wait for it."""
        self._callbacks.run_blocking(work)

    def later(self, action: Callable[[], object]) -> None:
        """Run an action after the current one."""
        self._mailbox.post_deferred(action)

    def check_stop(self) -> None:
        """Notice that the run was stopped."""
        self._admit()

    # What the scheduler tells

    def ends(self, frame: Frame) -> bool:
        """Note that a frame has ended; return whether it is one of these."""
        return self._frames.pop(frame, self) is None

    def begin_admission(self) -> None:
        """Note that the scheduler begins to admit items."""
        self.awaits_input = False
        self._admitted = 0

    def is_slice_full(self) -> bool:
        """Note that an item was admitted; return whether the others are admitted later."""
        self._admitted += 1
        self._items += 1
        if self._admitted < ADMITTED_AT_ONCE:
            return False
        self._awaits_slice = True
        self._callbacks.call_later(0.0, self._admit_more)
        return True

    def _admit_more(self) -> None:
        self._awaits_slice = False
        self._admit()

    def send_if_idle(self) -> None:
        """Send the open wave if nothing else can happen in the run before it is answered."""
        if not self._waves.has_lines or not self._is_idle():
            return
        if not self.awaits_input:
            self._waves.flush()
        elif (seen := self._input_seen) != self._awaits_since:
            self._awaits_since = seen
            self._callbacks.call_later(INPUT_PATIENCE, lambda: self._send_without_input(seen))

    @property
    def _input_seen(self) -> tuple[int, int]:
        """What has come of the input: other batches, which are looked at meanwhile, do not change it."""
        return self._items, self._waves.entered

    def _send_without_input(self, seen: tuple[int, int]) -> None:
        if seen != self._awaits_since:
            return
        self._awaits_since = None
        if seen == self._input_seen and self.awaits_input and self._is_idle():
            self._waves.flush()
        else:
            self.send_if_idle()

    def _is_idle(self) -> bool:
        waves = self._waves
        return (
            not waves.busy
            and len(self._suspended) == waves.waiting + len(self._frames)
            and not self._queued
            and not self._running
            and not self._mailbox.posted
            and not self._awaits_slice
        )

    @property
    def is_collecting(self) -> bool:
        """Whether answers are being read: they are paid for, and the run ends after that."""
        return self._waves.collecting > 0

    def close(self, close_flow: Callable[[Frame], object]) -> None:
        """End the flows, and what they carry. Closing again does nothing."""
        self._waves.close()
        while self._frames:
            frame = self._frames.popitem()[0]
            self._suspended.pop(frame, None)
            close_flow(frame)

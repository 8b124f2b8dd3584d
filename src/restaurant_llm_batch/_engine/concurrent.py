"""The driver on an event loop: native calls are awaited in tasks, blocking ones go to threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from ..outcomes import Outcome
from .call import Call, throwable
from .frames import Hands, Source
from .items import Intake
from .mailbox import LoopHome, is_being_cancelled
from .run import Run
from .scheduler import Conductor
from .threaded import start_in_thread
from .threads import WorkerThreads

SLICE = 0.005
"""Seconds that answers which need no waiting may keep the loop before it gets a turn."""


class ConcurrentDriver:
    """
    Runs items side by side on the running loop.

    A native call does not get a task of its own: as many tasks as are needed take admitted calls one after
    the other, which spares the cost of a task per call.

    Args:
        run: The run.
        source: Its entries.
        intake: Told when an entry has ended.
        window: Most items open at once.
        threads: Where blocking calls are made.
        deliver: Takes outcomes at home; returns whether an outcome needs no room any more.
    """

    def __init__(
        self,
        run: Run,
        source: Source,
        intake: Intake,
        window: int,
        threads: WorkerThreads,
        deliver: Callable[[Outcome[Any]], bool],
    ) -> None:
        self.home = LoopHome()
        self._threads = threads
        self._admitted: deque[Call] = deque()
        self._slice = 0
        self._slice_began = monotonic()
        self._coming = 0  # tasks about to look for an admitted call
        self._tasks: TaskGroup | None = None
        hands = Hands(self._start, self._after, deliver, self.home.nudge)
        self.conductor = Conductor(run, source, intake, window, self.home, hands)

    async def run(self) -> None:
        """
        Run to the end.

        Raises:
            BaseException: What the items' iterable raised, after everything open has ended.
        """
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                self.conductor.begin()
                while not self.conductor.finished:
                    await self.home.attend()
            finally:
                self.conductor.abort()  # does nothing after a regular end; from here on nothing is started
                tasks.cancel_scope.cancel()  # calls in flight after an abort, pauses after a stop
        if self.conductor.run.given_up.is_set():
            # One of our calls may have heard of a cancellation before this task has: it is not to return a report.
            await anyio.lowlevel.checkpoint_if_cancelled()
        if self.conductor.failure is not None:
            raise self.conductor.failure

    def _start(self, call: Call) -> None:
        if not call.line.native:
            start_in_thread(call, self.conductor, self.home, self._threads)
        elif self._tasks is not None:
            self._admitted.append(call)
            if len(self._admitted) > self._coming:
                self._coming += 1
                self._tasks.start_soon(self._make_calls)

    async def _make_calls(self) -> None:
        """Make admitted calls one after the other, until there are none."""
        while True:
            if not self._admitted:
                await anyio.lowlevel.checkpoint()  # calls that end together admit others a moment later
            elif monotonic() - self._slice_began > SLICE:
                await self._give_way()
            self._coming -= 1
            if not self._admitted:
                return
            call = self._admitted.popleft()
            if call.withdrawn:
                self._coming += 1
                continue
            self.conductor.started(call)
            answer, error = await self._make(call)
            ended = monotonic()
            if ended - call.began_at > SLICE:
                self._slice_began = ended  # it must have waited, and others had the loop meanwhile
            self._coming += 1  # before the call's end admits others: this task takes one of them
            self.conductor.ended(call, answer, error)

    async def _give_way(self) -> None:
        """Let the rest of the loop have its turn; of all who give way, the first to return begins a slice."""
        number = self._slice
        await anyio.lowlevel.checkpoint()
        if self._slice == number:
            self._slice += 1
            self._slice_began = monotonic()

    async def _make(self, call: Call) -> tuple[Any, BaseException | None]:
        try:
            if call.question is not None:
                with anyio.CancelScope(shield=call.question.wanted) as call.scope:
                    return await self._make_within(call), None
            if call.until is not None:
                return await self._make_within(call), None
            return await call.line.method(call.argument), None
        except Exception as error:
            return None, throwable(error)
        except (KeyboardInterrupt, SystemExit) as error:
            return None, error
        except BaseException as error:  # a cancellation, or the end of a loop that nobody closed in order
            if not isinstance(error, GeneratorExit) and not is_being_cancelled():
                failure = RuntimeError("the backend cancelled itself")
                failure.__cause__ = error
                return None, failure
            self.conductor.abort()  # before the slot is free, so that nothing more is admitted
            call.leave()
            raise
        finally:
            call.scope = None

    async def _make_within(self, call: Call) -> Any:
        if call.until is None:
            return await call.line.method(call.argument)
        with anyio.move_on_after(max(0.0, call.until - monotonic())):
            return await call.line.method(call.argument)
        raise call.late or TimeoutError

    def _after(self, seconds: float, action: Callable[[], object]) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(_later, seconds, action)


async def _later(seconds: float, action: Callable[[], object]) -> None:
    await anyio.sleep(seconds)
    action()

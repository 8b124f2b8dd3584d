"""Concurrent driver: awaits async calls in tasks on the running event loop; blocking calls go to worker threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from .._foreign import first_of
from ..outcomes import Outcome
from .awaited_items import AwaitedSource
from .call import ABANDONED, Call, throwable
from .frames import ItemSource, SchedulerCallbacks
from .items import ItemReader
from .loop_mailbox import EventLoopMailbox, is_being_cancelled, is_cancellation
from .plan import LoadMethod
from .run import RunState
from .scheduler import Scheduler
from .server_reading import MOST_SECONDS, read_in_thread
from .threaded import start_in_thread
from .threads import DaemonThreadPool

SLICE = 0.005
"""Seconds for which calls that return at once may hold the event loop before other tasks get a turn."""


class ConcurrentDriver:
    """
    Runs items concurrently on the running event loop.

    An async call does not get a task of its own: as many tasks as are needed make admitted calls one after the other,
    which saves the cost of a task for each call.

    Args:
        run: The run.
        source: The items.
        reader: Notified when an item has ended.
        window: Most items open at once.
        threads: The worker threads for blocking calls.
        deliver: Takes outcomes on the loop, in one call that nothing interrupts.
        delivered: Called after each.
        collect: Whether outcomes leave the window as soon as they are delivered.
    """

    __slots__ = (
        "_admitted",
        "_idle_tasks",
        "_now",
        "_slice",
        "_slice_started",
        "_source",
        "_tasks",
        "_threads",
        "_work",
        "mailbox",
        "scheduler",
    )

    def __init__(
        self,
        run: RunState,
        source: ItemSource,
        reader: ItemReader,
        window: int,
        threads: DaemonThreadPool,
        deliver: Callable[[Outcome[Any]], object],
        delivered: Callable[[], object] | None = None,
        *,
        collect: bool,
    ) -> None:
        self.mailbox = EventLoopMailbox()
        self._threads = threads
        self._admitted: deque[Call] = deque()
        self._slice = 0
        self._now = run.now
        self._slice_started = run.now()
        self._idle_tasks = 0  # tasks about to look for an admitted call
        self._tasks: TaskGroup | None = None
        self._source = source
        self._work = self._make_calls if run.store is None else self._make_shared_calls
        callbacks = SchedulerCallbacks(
            self._start,
            self._call_later,
            deliver,
            delivered,
            self.mailbox.wake,
            self._read_server,
            threads.start,
        )
        self.scheduler = Scheduler(run, source, reader, window, self.mailbox, callbacks, collect=collect)

    async def run(self) -> None:
        """
        Run to the end.

        Raises:
            BaseException: The exception of the items' iterable, after all open items have ended.
        """
        try:
            await self._run_tasks()
        except (
            BaseExceptionGroup
        ) as group:  # an interrupt in a task, before its `try`, or while tasks were ended
            self.scheduler.cancel(first_of(group))
        self.end()
        if self.scheduler.run.cancel_token.is_set():
            # A call may have been cancelled before this task was: then this must not return a report.
            await anyio.lowlevel.checkpoint_if_cancelled()
        if self.scheduler.failure is not None:
            raise self.scheduler.failure

    async def _run_tasks(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                if isinstance(self._source, AwaitedSource):
                    tasks.start_soon(self._guard, self._source.read, self.scheduler.admit_items)
                self.scheduler.start()
                while not self.scheduler.finished:
                    await self.mailbox.run_pending()
                self._stop_tasks(tasks)
            except BaseException as error:
                if is_cancellation(error):
                    self.scheduler.cancel()
                    self._stop_tasks(tasks)
                    raise
                self.scheduler.cancel(error)
                self._stop_tasks(tasks)

    def _stop_tasks(self, tasks: TaskGroup) -> None:
        """Cancel the tasks: calls in flight after a cancellation, timers after a stop. Nothing is started any more."""
        self.mailbox.close()
        tasks.cancel_scope.cancel()

    def end(self) -> None:
        """Give back what an interrupt has left: outcomes, actions and slots. Only after `run`."""
        self.scheduler.cancel()  # does nothing after a regular end
        self.scheduler.end()
        self.mailbox.close()
        self.scheduler.free_slots()

    def _start(self, call: Call) -> None:
        if not call.is_async:
            start_in_thread(call, self.scheduler, self.mailbox, self._threads)
        elif self._tasks is not None:
            self._admitted.append(call)
            if len(self._admitted) > self._idle_tasks:
                self._idle_tasks += 1
                self._tasks.start_soon(self._guard, self._work)

    async def _guard(self, work: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Do the work of one task of the run; an interrupt in it ends the run."""
        try:
            await work(*args)
        except BaseException as error:
            if is_cancellation(error):
                raise
            self.scheduler.cancel(error)
            self.mailbox.wake()  # the run may have finished, and the interrupt have come before the driver heard of it

    async def _make_shared_calls(self) -> None:
        """Make admitted calls as `_make_calls` does, in a scope that shields those that other runs wait for."""
        with (
            anyio.CancelScope() as scope
        ):  # one for all: entering it costs as much as several other steps of a call
            await self._make_calls(scope)

    async def _make_calls(self, scope: anyio.CancelScope | None = None) -> None:
        """Make admitted calls one after the other, until there are none."""
        admitted, now, scheduler = self._admitted, self._now, self.scheduler
        while True:
            if not admitted:
                await anyio.lowlevel.checkpoint()  # calls that end together admit others a moment later
            elif now() - self._slice_started > SLICE:
                await self._give_way()
            self._idle_tasks -= 1
            if not admitted:
                return
            call = admitted.popleft()
            if call.progress is ABANDONED:  # cancelled between its admission and now
                self._idle_tasks += 1
                continue
            scheduler.on_call_started(call)
            answer: Any = None
            error: BaseException | None = None
            try:
                if call.in_flight is None and call.deadline is None:
                    method = call.method
                    answer = await method(call.argument)
                else:
                    answer = await self._make_shared(call, scope)
            except BaseException as raised:
                error = self._error_of(call, raised)
            ended_at = now()
            if ended_at - call.started_at > SLICE:
                self._slice_started = ended_at  # the call must have waited, so other tasks ran meanwhile
            self._idle_tasks += 1  # before the call's end admits others: this task makes one of them
            scheduler.on_call_finished(call, answer, error)
            # An idle task would keep them; and to this frame leads the traceback of an error, which would be a cycle.
            del call, answer, error

    async def _give_way(self) -> None:
        """Let other tasks run; of all tasks that give way at once, the first to return starts a new slice."""
        number = self._slice
        await anyio.lowlevel.checkpoint()
        if self._slice == number:
            self._slice += 1
            self._slice_started = self._now()

    async def _make_shared(self, call: Call, scope: anyio.CancelScope | None) -> Any:
        """Make a call that has a deadline, or that other runs may wait for."""
        try:
            if call.in_flight is not None and scope is not None:
                call.cancel_scope, scope.shield = scope, call.in_flight.has_other_waiters
            return await self._make_within(call)
        finally:
            if call.cancel_scope is not None:
                call.cancel_scope.shield = False
                call.cancel_scope = None

    def _error_of(self, call: Call, raised: BaseException) -> BaseException:
        """Return what a call has failed with; raise it if it is not the call's, but ends the task."""
        if isinstance(raised, Exception):
            return throwable(raised)
        if isinstance(raised, (KeyboardInterrupt, SystemExit)):
            return raised
        failed = throwable(raised)  # a cancellation, or a loop that is closed while tasks are left
        if isinstance(failed, Exception):
            return failed
        if not isinstance(raised, GeneratorExit) and not is_being_cancelled():
            failure = RuntimeError("the backend cancelled itself")
            failure.__cause__ = raised
            return failure
        self.scheduler.cancel()  # before the slot is free, so that nothing more is admitted
        call.release()
        raise raised

    async def _make_within(self, call: Call) -> Any:
        if call.deadline is None:
            return await call.method(call.argument)
        with anyio.move_on_after(max(0.0, call.deadline - self._now())):
            return await call.method(call.argument)
        raise call.timeout_error or TimeoutError

    def _call_later(self, seconds: float, action: Callable[[], object]) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._guard, _later, seconds, action)

    def _read_server(self, method: LoadMethod, done: Callable[[Any, BaseException | None], object]) -> None:
        if not method.is_async:
            read_in_thread(self.mailbox, method, done)
        elif self._tasks is not None:
            self._tasks.start_soon(self._guard, _read, method, done)


async def _read(method: LoadMethod, done: Callable[[Any, BaseException | None], object]) -> None:
    answer: Any = None
    error: BaseException | None = None
    try:
        with anyio.fail_after(MOST_SECONDS):
            answer = await method.method()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as raised:  # also a panic, an exit, or a backend that cancels itself
        if not isinstance(raised, Exception) and is_being_cancelled():
            raise
        error = raised
    done(answer, error)


async def _later(seconds: float, action: Callable[[], object]) -> None:
    await anyio.sleep(seconds)
    action()

"""Blocks: ``with runner`` and ``async with runner`` keep clients open, and bound the streams on an event loop."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .._config.strategy import Strategy
from .._engine.resources import Lease, RunnerResources
from .._engine.threads import DaemonThreadPool
from .._foreign import first_of
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from anyio.lowlevel import EventLoopToken

    from .._engine.loop_lease import LoopLease


@dataclass(frozen=True, slots=True)
class AsyncBlock:
    """An ``async with runner`` block: its event loop and task, and the task group that its streams run in."""

    loop: EventLoopToken
    task: int
    threads: DaemonThreadPool
    tasks: TaskGroup
    stack: AsyncExitStack
    lease: LoopLease


def current_block(blocks: Iterable[AsyncBlock]) -> AsyncBlock:
    """
    Return the block that a new stream belongs to: this task's innermost, otherwise this loop's first.

    Raises:
        ConfigurationError: There is none on this loop, or no loop.
    """
    from anyio import NoEventLoopError, get_current_task
    from anyio.lowlevel import current_token

    try:
        loop, task = current_token(), get_current_task().id
    except NoEventLoopError:
        raise ConfigurationError(
            "astream() needs a running event loop and `async for`; use stream() here"
        ) from None
    here = [block for block in list(blocks) if block.loop == loop]
    if not here:
        raise ConfigurationError(
            "astream() needs an open runner; put `async with runner:` around the loop over "
            "its outcomes, or use `await runner.arun(...)`"
        )
    own = [block for block in here if block.task == task]
    return own[-1] if own else here[0]


class Openable(ABC):
    """The blocks of `BatchRunner`, and what closes it without one."""

    strategy: Strategy
    _resources: RunnerResources
    _block_leases: list[Lease]
    _async_blocks: list[AsyncBlock]

    @property
    def is_open(self) -> bool:
        """Whether a ``with`` or ``async with`` block of this runner is open."""
        return bool(self._async_blocks or self._block_leases)

    def close(self) -> None:
        """
        Close the backends and the store, as the end of a ``with`` block does, for code that has no such block.

        It does nothing while a block of this runner is open, whose end closes them, or if they are closed already. A
        later run opens them again. It may be called from any thread; a run that another thread makes meanwhile goes
        on. Clients on event loops are closed at the end of each run that is made outside of a block.
        """
        try:
            self._resources.close()
        except BaseException:  # an interrupt: close what it has left
            self._resources.close_backends()
            raise

    async def aclose(self) -> None:
        """Do as `close`, without blocking the running event loop."""
        from .._engine.loop_lease import LoopLease

        lease = LoopLease(self._resources, is_context=True)
        lease.acquire()
        await lease.release()

    def _lease(self, *, is_context: bool = False) -> Lease:
        loop = self.strategy.is_concurrent and not self.strategy.threads
        return self._resources.lease(loop=loop, is_context=is_context)

    def __enter__(self) -> Self:
        lease = self._lease(is_context=True)
        self._block_leases.append(lease)
        try:
            lease.acquire()
            return self  # noqa: TRY300  # an interrupt here has to leave nothing either
        except BaseException:
            self._block_leases.remove(lease)
            lease.release()
            raise

    def __exit__(self, *exc: object) -> None:
        lease = self._block_leases.pop()
        try:
            lease.release()
        except BaseException:  # an interrupt: release what it has left
            lease.release()
            raise

    async def __aenter__(self) -> Self:
        from anyio import create_task_group, get_current_task
        from anyio.lowlevel import current_token

        from .._engine.loop_lease import LoopLease

        stack = AsyncExitStack()
        lease = LoopLease(self._resources, is_context=True)
        try:
            threads = lease.acquire()
            tasks = await stack.enter_async_context(create_task_group())
            here = current_token(), get_current_task().id
            self._async_blocks.append(AsyncBlock(*here, threads, tasks, stack, lease))
            return self  # noqa: TRY300  # an interrupt here has to leave nothing either
        except BaseException:
            self._async_blocks = [block for block in self._async_blocks if block.lease is not lease]
            await stack.aclose()
            await lease.release()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from anyio import get_current_task
        from anyio.lowlevel import current_token

        loop, task = current_token(), get_current_task().id
        own = (block for block in reversed(self._async_blocks) if (block.loop, block.task) == (loop, task))
        block = next(own, None)
        if block is None:
            raise ConfigurationError("leave `async with runner` in the task that entered it")
        self._async_blocks.remove(block)
        try:
            block.tasks.cancel_scope.cancel()
            # Not `__aexit__` with the block's exception: the task group would raise it again inside a group.
            await block.stack.aclose()
        except BaseExceptionGroup as group:  # an interrupt in a task of the block, before its `try`
            raise first_of(group) from None
        finally:
            try:
                await block.lease.release()
            except BaseException:  # an interrupt: release what it has left
                await block.lease.release()
                raise

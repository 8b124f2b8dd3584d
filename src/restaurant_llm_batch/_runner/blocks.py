"""Blocks of a runner on event loops: which one a stream belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from anyio import NoEventLoopError, get_current_task
from anyio.abc import TaskGroup
from anyio.lowlevel import EventLoopToken, current_token

from .._engine.resources import LoopLease
from .._engine.threads import DaemonThreadPool
from ..errors import ConfigurationError


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

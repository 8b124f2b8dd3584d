"""
Awaited items: the source of a run whose items come from an async iterable, read by one task on the run's event loop.

Run and reading task take turns, an item at a time:

    run    `AwaitedSource.take` finds nothing, and notes that an item is wanted
    task   `AwaitedSource.read` awaits the next item, gives it to the item reader, and lets the run admit items
    run    takes the item

So nothing is read before the window has room for it. All of an iterable is awaited in one task, from its first item to
`aclose`, because its cancel scopes and context variables belong to a task. If the run ends while an item is awaited,
that is cancelled as the awaits of calls are: to await something in a `finally` block then takes a shielded scope, as
elsewhere in anyio and trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from anyio import CancelScope

from .frames import NOT_READY, ItemSource, NotReady
from .items import ItemReader, RunItem
from .loop_mailbox import is_being_cancelled, is_cancellation
from .run import log


class AwaitedSource:
    """
    Items of an async iterable. To be made on the run's event loop.

    Args:
        reader: Parses the items.
        items: The iterator to await.
    """

    def __init__(self, reader: ItemReader, items: AsyncIterator[Any]) -> None:
        self._reader = reader
        self._items = items
        self._wanted = anyio.Event()
        self._exhausted = False
        self._failure: BaseException | None = None

    def take(self, room: int) -> RunItem | NotReady | None:
        """Return the item that was read. If there is none, request one and return `NOT_READY`."""
        item = self._reader.take()
        if item is not None:
            return item
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._exhausted:
            return None
        self._wanted.set()
        return NOT_READY

    def unfinished(self) -> RunItem | None:
        """Return the item read last if its outcome was not delivered."""
        return self._reader.unfinished()

    async def read(self, admit: Callable[[], object]) -> None:
        """Read each item when it is wanted, and call `admit` after it; at the end, close the iterable."""
        try:
            while not self._exhausted:
                await self._wanted.wait()  # which lets other tasks run, even if it is set
                await self._read_next()
                self._wanted = (
                    anyio.Event()
                )  # after the item is there: only then, `admit` may want another one
                admit()
        finally:
            if self._failure is not None:
                log.error("the items' iterable failed after the run had ended", exc_info=self._failure)
            await self._close()

    async def _read_next(self) -> None:
        try:
            self._reader.unread.append(await anext(self._items))  # in one line, so that nothing is lost
        except StopAsyncIteration:
            self._exhausted = True
        except BaseException as error:
            self._failure = error
            if is_cancellation(error):
                self._failure = None
                if isinstance(error, GeneratorExit) or is_being_cancelled():
                    raise
                self._failure = RuntimeError("the items' iterable cancelled itself")
                self._failure.__cause__ = error
            self._exhausted = True

    async def _close(self) -> None:
        close = getattr(self._items, "aclose", None)
        if close is not None:
            with CancelScope(shield=True):
                try:
                    await close()
                except Exception:
                    log.exception("the items' iterable failed while it was being closed")


def source_on_loop(reader: ItemReader) -> ItemSource:
    """Return the source of a run on the running event loop."""
    return reader if reader.awaited is None else AwaitedSource(reader, reader.awaited)

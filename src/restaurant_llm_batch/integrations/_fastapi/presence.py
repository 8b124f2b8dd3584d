"""Work that goes on only while somebody waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from anyio import CancelScope, create_task_group
from starlette.types import Receive

T = TypeVar("T")

CLIENT_GONE = 499
"""The status that proxies give to an answer that nobody is left to read."""


async def unless_gone(receive: Receive, work: Callable[[], Awaitable[T]]) -> T | None:
    """
    Work, and cancel that when the client goes away; the request must have been read.

    Returns:
        What `work` returns, or None if the client went away before.

    Raises:
        Exception: What `work` raised, and not in a group.
    """
    result: T | None = None
    failure: Exception | None = None
    async with create_task_group() as tasks:
        tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
        try:
            result = await work()
        except Exception as error:
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _cancel_when_gone(receive: Receive, scope: CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()

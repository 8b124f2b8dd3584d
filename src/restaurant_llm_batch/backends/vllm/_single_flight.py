"""
Single flight: of calls that need the same answer at the same time, one asks for it; the others wait for that one.

Theory of operation. A flow cannot wait for another one by itself, so it yields the `Turn` of the one that asks as
a step, and `TurnClient` performs it: in a thread, or on any event loop. A turn ends however the flow that has it ends:
with the answer, with an error, cancelled, or closed. Who waited then looks for the answer, and takes the next turn if
there is none. A call that has waited for `MOST_TURNS` in vain asks beside the others, so that calls to a server that
does not answer do not time out one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar

from ..._engine.loop_mailbox import EventLoopMailbox
from ..._engine.mailbox import ThreadMailbox
from ..._http.exchange import HTTPClient, HTTPFlow, HTTPRequest
from ...cancellation import cancel_requested, cancelled_error, on_cancel

T = TypeVar("T")

MOST_TURNS = 2
"""Turns of others that a call waits for."""


class Turn:
    """
    The turn of a flow that asks; others wait for its end.

    Attributes:
        has_ended: Whether it is over.
    """

    def __init__(self) -> None:
        self.has_ended = False
        self._wakes: list[Callable[[], object]] = []

    def end(self) -> None:
        """End it: all that wait go on."""
        self.has_ended = True
        while self._wakes:
            with suppress(IndexError):  # a signal handler or another thread has taken it
                self._wakes.pop()()

    def wait(self) -> None:
        """
        Wait in this thread until it is over.

        Raises:
            RunStopped: The run cancelled this call.
        """
        mailbox = ThreadMailbox()
        self._wakes.append(mailbox.wake)
        with on_cancel(mailbox.wake):
            while not self.has_ended:
                if cancel_requested():
                    raise cancelled_error()
                mailbox.run_pending()

    async def await_end(self) -> None:
        """Wait on the running event loop until it is over."""
        mailbox = EventLoopMailbox()
        self._wakes.append(lambda: mailbox.post_deferred(_nothing))
        while not self.has_ended:
            await mailbox.run_pending()


def _nothing() -> None:
    """Do nothing: a mailbox wakes when it has something to run."""


class TurnClient(HTTPClient):
    """An HTTP client whose flows may wait for a `Turn`."""

    def send(self, request: HTTPRequest | Turn) -> Any:
        """Send a request, or wait for a turn, blocking the thread."""
        return request.wait() if isinstance(request, Turn) else super().send(request)

    async def asend(self, request: HTTPRequest | Turn) -> Any:
        """Send a request, or wait for a turn, on the running event loop."""
        return await (request.await_end() if isinstance(request, Turn) else super().asend(request))


class SingleFlight:
    """Lets one flow ask at a time. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._turn: Turn | None = None

    def ask(self, known: Callable[[], T | None], flow: Callable[[], HTTPFlow[T]]) -> Generator[Any, Any, T]:
        """
        Return what is known, or ask for it, unless another flow is asking.

        Args:
            known: Returns the answer if there is one.
            flow: Asks for it; what it returns is then known.

        Raises:
            Exception: What `flow` raises, to the one that asks.
        """
        mine = Turn()
        try:
            for waits in range(MOST_TURNS + 1):
                with self._lock:
                    turn = self._turn
                    if turn is None:
                        self._turn = turn = mine
                found = known()
                if found is not None:
                    return found
                if turn is mine or waits == MOST_TURNS:
                    break
                yield turn
            return (yield from flow())
        finally:
            with self._lock:
                if self._turn is mine:
                    self._turn = None
            mine.end()

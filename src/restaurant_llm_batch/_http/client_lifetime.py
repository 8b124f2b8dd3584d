"""Client lifetime: one client per event loop and process, closed after its last call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from anyio.lowlevel import current_token

from .. import _fork

Client = TypeVar("Client")


class EventLoopLocal(Generic[Client]):
    """
    One client per event loop and process, created on first use; compare `threading.local`.

    A pool's sockets and locks belong to the loop they were created on, and a forked child must not write to
    its parent's connections.

    Args:
        make: Creates a client for the running loop.
        drop: Discards a client whose loop is closed or belongs to another process; must not await.
    """

    def __init__(self, make: Callable[[], Client], drop: Callable[[Client], object]) -> None:
        self._make = make
        self._drop = drop
        self._lock = threading.Lock()
        self._forks = _fork.count
        self._clients: dict[Any, Client] = {}

    def get(self) -> Client:
        """Return the running loop's client; create it if there is none."""
        if _fork.count != self._forks:
            self._reset_after_fork()
        loop = current_token().native_token
        client = self._clients.get(loop)
        if client is not None:
            return client
        with self._lock:
            self._drop_closed_loops()
            client = self._clients[loop] = self._make()
        return client

    def take(self) -> Client | None:
        """Remove and return the running loop's client, for the caller to close; None if there is none."""
        with self._lock:
            return self._clients.pop(current_token().native_token, None)

    def _reset_after_fork(self) -> None:
        """Drop the parent's clients in a forked child, and the lock, which a thread of the parent may hold."""
        clients, self._clients = self._clients, {}
        self._lock, self._forks = threading.Lock(), _fork.count
        for client in clients.values():
            self._drop(client)

    def _drop_closed_loops(self) -> None:
        for loop in [loop for loop in self._clients if _is_closed(loop)]:
            self._drop(self._clients.pop(loop))


def _is_closed(loop: Any) -> bool:
    # asyncio's loops have is_closed(); a trio token raises from run_sync_soon() when its run is over.
    is_closed = getattr(loop, "is_closed", None)
    if callable(is_closed):
        return bool(is_closed())
    try:
        loop.run_sync_soon(_noop)
    except Exception:
        return True
    return False


def _noop() -> None:
    pass


def loop_is_trio() -> bool:
    """Return whether the running event loop is trio's."""
    return type(current_token().native_token).__module__.startswith("trio")


class UsageCounter:
    """
    Number of calls that use a client, so that it is closed when the last one ends.

    A runner closes its backends when it has finished, but another runner, or an abandoned thread, may be in
    the middle of a call. Closing the client under that call would have it paid for twice, or leave its outcome
    unknown.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._to_close = False
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Count a call that starts."""
        with self._lock:
            self._calls += 1

    def exit(self) -> bool:
        """Count a call that ends; return whether to close the client now."""
        with self._lock:
            self._calls -= 1
            return self._claim_close()

    def close(self) -> bool:
        """Request closing; return whether to close now, rather than when the last call ends."""
        with self._lock:
            self._to_close = True
            return self._claim_close()

    def _claim_close(self) -> bool:
        close_now = self._to_close and not self._calls
        if close_now:
            self._to_close = False
        return close_now

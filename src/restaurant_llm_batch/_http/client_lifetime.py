"""Clients that belong to an event loop: one for each loop, none of a dead one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from anyio.lowlevel import current_token

Client = TypeVar("Client")


class EventLoopLocal(Generic[Client]):
    """
    One client per event loop and process, made when it is first asked for.

    A pool's sockets and locks belong to the loop they were made on, and a forked child must not write into
    its parent's connections.

    Args:
        make: Makes a client, on the loop it is for.
        drop: Lets go of a client whose loop is closed, or is another process's; it cannot await anything.
    """

    def __init__(self, make: Callable[[], Client], drop: Callable[[Client], object]) -> None:
        self._make = make
        self._drop = drop
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._clients: dict[Any, Client] = {}

    def get(self) -> Client:
        """Return the running loop's client."""
        if os.getpid() != self._pid:
            self._reset_after_fork()
        loop = current_token().native_token
        client = self._clients.get(loop)
        if client is not None:
            return client
        with self._lock:
            self._forget_dead()
            client = self._clients[loop] = self._make()
        return client

    def take(self) -> Client | None:
        """Return the running loop's client, which is then the caller's to close; None when there is none."""
        with self._lock:
            return self._clients.pop(current_token().native_token, None)

    def _reset_after_fork(self) -> None:
        """Forget, in a forked child, the parent's clients, and a lock that one of its threads may hold."""
        clients, self._clients = self._clients, {}
        self._lock, self._pid = threading.Lock(), os.getpid()
        for client in clients.values():
            self._drop(client)

    def _forget_dead(self) -> None:
        for loop in [loop for loop in self._clients if _is_closed(loop)]:
            self._drop(self._clients.pop(loop))


def _is_closed(loop: Any) -> bool:
    # asyncio's loops tell; trio's refuses to be called when its run is over.
    is_closed = getattr(loop, "is_closed", None)
    if callable(is_closed):
        return bool(is_closed())
    try:
        loop.run_sync_soon(_nothing)
    except Exception:
        return True
    return False


def _nothing() -> None:
    pass


def loop_is_trio() -> bool:
    """Tell whether the running loop is trio's."""
    return type(current_token().native_token).__module__.startswith("trio")


class UsageCounter:
    """
    How many calls use something that is to be closed when nobody does.

    A runner closes a backend when its own work is over; another runner, or a thread that was let go, may be
    in the middle of a call. To cut that off would make it be paid for twice, or leave its fate unknown.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._to_close = False
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Note a call."""
        with self._lock:
            self._calls += 1

    def exit(self) -> bool:
        """Note a call's end; return whether to close now."""
        with self._lock:
            self._calls -= 1
            return self._due()

    def close(self) -> bool:
        """Ask to close; return whether to do so now, rather than when the last call has ended."""
        with self._lock:
            self._to_close = True
            return self._due()

    def _due(self) -> bool:
        due = self._to_close and not self._calls
        if due:
            self._to_close = False
        return due

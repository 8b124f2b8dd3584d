"""
The connections: a blocking client per process, an async one per event loop, and who closes them.

A client is made when it is first needed. Closing takes it away at once, so that whoever comes next makes a
new one, and closes it when the calls under way in it have ended: another runner may be using it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio import CancelScope, CapacityLimiter, to_thread

from ..._http.client_lifetime import EventLoopLocal, loop_is_trio
from ...errors import ConfigurationError
from ._errors import translate
from ._location import Location
from ._steps import ClientCall, CPUWork, Perform, PerformAsync

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

T = TypeVar("T")
Client = TypeVar("Client")


class _ClientSlot(Generic[Client]):
    """A client, and how many calls are under way in it."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.users = 0
        self.retired = False
        self.pid = os.getpid()
        self.making = anyio.Lock()

    def leave(self) -> Client | None:
        """End a call; returns the client when it is to be closed now."""
        self.users -= 1
        return self.client if self.retired and not self.users else None

    def retire(self) -> Client | None:
        """Take no more calls; returns the client when it is to be closed now."""
        self.retired = True
        return self.client if not self.users else None


class QdrantClients:
    """
    The clients of one place, and how to perform steps with them.

    Args:
        location: Where to go.
        collection: Which collection the steps are about.
    """

    def __init__(self, location: Location, collection: str) -> None:
        self._location = location
        self._collection = collection
        self._loops: EventLoopLocal[_ClientSlot[AsyncQdrantClient]] = EventLoopLocal(
            _ClientSlot, self._abandon
        )
        self._lost: list[object] = []
        self._reset_after_fork()

    def _reset_after_fork(self) -> None:
        # Not only the clients: a lock may have been copied while another thread held it.
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._held: _ClientSlot[QdrantClient] | None = None

    @contextmanager
    def sync_client(self) -> Iterator[Perform]:
        """Lend what performs steps in the calling thread."""
        held = self._enter()
        try:
            yield partial(self._perform, held.client)
        finally:
            with self._lock:
                client = held.leave()
            if client is not None:
                client.close()

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[PerformAsync]:
        """Lend what performs steps on the running loop."""
        if "qdrant_client" not in sys.modules:
            await _in_thread(partial(import_module, "qdrant_client"))
        if self._blocks():
            yield self._perform_in_thread
            return
        if self._location.async_client is not None:
            yield partial(self._perform_async, self._location.async_client)
            return
        held = self._loops.get()
        held.users += 1
        try:
            async with held.making:
                if held.client is None:
                    held.client = await _in_thread(self._location.make_async)
            yield partial(self._perform_async, held.client)
        finally:
            client = held.leave()
            if client is not None:
                with CancelScope(shield=True):
                    await client.close()

    def close(self) -> None:
        """Close the blocking client, unless it is the user's or its collection would be lost."""
        if os.getpid() != self._pid or self._location.options.get("location"):
            return
        with self._lock:
            held, self._held = self._held, None
            client = held.retire() if held is not None and not self._location.given else None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the running loop's client."""
        held = self._loops.take()
        client = held.retire() if held is not None else None
        if client is not None:
            await client.close()

    def _enter(self) -> _ClientSlot[QdrantClient]:
        if os.getpid() != self._pid:
            self._survive_fork()
        with self._lock:
            if self._held is None:
                held: _ClientSlot[QdrantClient] = _ClientSlot()
                held.client = self._given() if self._location.given else self._location.make()
                self._held = held
            self._held.users += 1
            return self._held

    def _given(self) -> QdrantClient:
        if self._location.client is None:
            raise ConfigurationError(
                "this QdrantSearch has an async_client= only, and blocking calls need another one: "
                "pass client= as well"
            )
        return self._location.client

    def _survive_fork(self) -> None:
        if self._location.local and self._held is not None:
            raise ConfigurationError(
                f"this QdrantSearch was used before the process forked, and {self._location.name} would have "
                "two contents from now on: make one in each worker process, or use a server"
            )
        # Collected, it would be closed, and say good-bye in the parent's connection.
        self._lost.append(self._held)
        self._reset_after_fork()

    def _abandon(self, held: _ClientSlot[AsyncQdrantClient]) -> None:
        if held.pid != os.getpid():
            self._lost.append(held)

    def _blocks(self) -> bool:
        """Tell whether the loop has no client of its own, so that the blocking one serves it from threads."""
        place = self._location
        if place.given:
            return place.async_client is None
        # The async client of gRPC knows asyncio only.
        return place.local or (place.grpc and loop_is_trio())

    def _perform(self, client: Any, step: ClientCall | CPUWork) -> Any:
        if isinstance(step, CPUWork):
            return step.work()
        # The engine of local mode is not made for several threads.
        with self._turn if self._location.local else nullcontext():
            try:
                return getattr(client, step.method)(self._collection, **step.arguments)
            except Exception as error:
                raised = self._translate(error)
        raise raised

    async def _perform_async(self, client: Any, step: ClientCall | CPUWork) -> Any:
        if isinstance(step, CPUWork):
            return await _in_thread(step.work)
        try:
            return await getattr(client, step.method)(self._collection, **step.arguments)
        except Exception as error:
            raised = self._translate(error)
        raise raised

    async def _perform_in_thread(self, step: ClientCall | CPUWork) -> Any:
        return await _in_thread(partial(self._perform_here, step))

    def _perform_here(self, step: ClientCall | CPUWork) -> Any:
        with self.sync_client() as perform:
            return perform(step)

    def _translate(self, error: Exception) -> Exception:
        place = self._location
        return translate(error, place=place.name, collection=self._collection, secret=place.secret)


async def _in_thread(work: Callable[[], T]) -> T:
    # A limiter of its own: how many calls there are is for the runner's gates to say, not for anyio's 40.
    return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=CapacityLimiter(1))

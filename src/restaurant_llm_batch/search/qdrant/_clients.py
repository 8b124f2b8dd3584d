"""
Qdrant clients: one sync client per process, one async client per event loop, and how each performs steps.

Clients are created on first use. Closing removes a client at once, so that the next call creates a new one, but closes
its connections only after its calls in flight, which may be another runner's.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio import CancelScope, CapacityLimiter, to_thread

from ... import _fork
from ..._http.border import leaving
from ..._http.client_lifetime import EventLoopLocal, loop_is_trio
from ...errors import ConfigurationError, RunStopped
from ._errors import translate
from ._location import Location
from ._steps import ClientCall, CPUWork, Perform, PerformAsync

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

T = TypeVar("T")
Client = TypeVar("Client")


class _ClientSlot(Generic[Client]):
    """A client and its number of calls in flight."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.users = 0
        self.retired = False
        self.forks = _fork.count
        self.creation_lock = anyio.Lock()

    def exit(self) -> Client | None:
        """Count a call that ends; return the client if it must be closed now."""
        self.users -= 1
        return self.client if self.retired and not self.users else None

    def retire(self) -> Client | None:
        """Mark the client for closing; return it if it must be closed now."""
        self.retired = True
        return self.client if not self.users else None


class QdrantClients:
    """
    Creates, lends and closes the clients of one location, and performs steps with them. Thread-safe.

    Args:
        location: The location.
        collection: Name of the collection that the steps use.
    """

    def __init__(self, location: Location, collection: str) -> None:
        self._location = location
        self._collection = collection
        self._loops: EventLoopLocal[_ClientSlot[AsyncQdrantClient]] = EventLoopLocal(_ClientSlot, self._drop)
        self._inherited: list[object] = []
        self._reset_after_fork()

    def _reset_after_fork(self) -> None:
        # New locks too: the fork may have copied one while another thread held it.
        self._forks = _fork.count
        self._lock = threading.Lock()
        self._local_mode_lock = threading.Lock()
        self._sync_slot: _ClientSlot[QdrantClient] | None = None

    @contextmanager
    def sync_client(self) -> Iterator[Perform]:
        """Lend a function that performs steps in the calling thread."""
        slot = self._enter()
        try:
            yield partial(self._perform, slot.client)
        finally:
            with self._lock:
                client = slot.exit()
            if client is not None:
                client.close()

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[PerformAsync]:
        """Lend a function that performs steps on the running event loop."""
        if "qdrant_client" not in sys.modules:
            await _in_thread(partial(import_module, "qdrant_client"))
        if self._uses_sync_client():
            yield self._perform_in_thread
            return
        if self._location.async_client is not None:
            yield partial(self._perform_async, self._location.async_client)
            return
        slot = self._loops.get()
        slot.users += 1
        try:
            async with slot.creation_lock:
                if slot.client is None:
                    slot.client = await _in_thread(self._location.make_async)
            yield partial(self._perform_async, slot.client)
        finally:
            client = slot.exit()
            if client is not None:
                with CancelScope(shield=True):
                    await client.close()

    def close(self) -> None:
        """Close the sync client, unless the user owns it or it holds an in-memory collection."""
        if _fork.count != self._forks or self._location.options.get("location"):
            return
        with self._lock:
            slot, self._sync_slot = self._sync_slot, None
            client = slot.retire() if slot is not None and not self._location.has_user_client else None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the running event loop's client."""
        slot = self._loops.take()
        client = slot.retire() if slot is not None else None
        if client is not None:
            await client.close()

    def _enter(self) -> _ClientSlot[QdrantClient]:
        if _fork.count != self._forks:
            self._check_fork()
        with self._lock:
            if self._sync_slot is None:
                slot: _ClientSlot[QdrantClient] = _ClientSlot()
                slot.client = self._user_client() if self._location.has_user_client else self._location.make()
                self._sync_slot = slot
            self._sync_slot.users += 1
            return self._sync_slot

    def _user_client(self) -> QdrantClient:
        if self._location.client is None:
            raise ConfigurationError(
                "this QdrantSearch has an async_client= only, and sync calls need a sync client: "
                "pass client= as well"
            )
        return self._location.client

    def _check_fork(self) -> None:
        if self._location.local and self._sync_slot is not None:
            raise ConfigurationError(
                f"this QdrantSearch was used before the process forked, and parent and child would write to "
                f"{self._location.name} independently: make one in each worker process, or use a server"
            )
        # Keep a reference: collecting the client would close it, and send on the parent's connection.
        self._inherited.append(self._sync_slot)
        self._reset_after_fork()

    def _drop(self, slot: _ClientSlot[AsyncQdrantClient]) -> None:
        if slot.forks != _fork.count:
            self._inherited.append(slot)

    def _uses_sync_client(self) -> bool:
        """Return whether async calls use the sync client in worker threads."""
        location = self._location
        if location.has_user_client:
            return location.async_client is None
        # gRPC's async client supports asyncio only.
        return location.local or (location.grpc and loop_is_trio())

    def _perform(self, client: Any, step: ClientCall | CPUWork) -> Any:
        if isinstance(step, CPUWork):
            return step.work()
        # Local mode is not thread-safe.
        with self._local_mode_lock if self._location.local else nullcontext():
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
        return await _in_thread(partial(self._perform_sync, step))

    def _perform_sync(self, step: ClientCall | CPUWork) -> Any:
        with self.sync_client() as perform:
            return perform(step)

    def _translate(self, error: Exception) -> Exception:
        location = self._location
        source = getattr(error, "source", None)
        if isinstance(source, RunStopped):  # its call was cancelled while it was at the server
            return leaving(source, "qdrant", location.secret, location.proxy_secrets)
        own = translate(error, server=location.name, collection=self._collection, secret=location.secret)
        return leaving(own, "qdrant", location.secret, location.proxy_secrets)


async def _in_thread(work: Callable[[], T]) -> T:
    # An own limiter per call: the runner's concurrency limiters bound the calls, not anyio's default of 40 threads.
    return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=CapacityLimiter(1))

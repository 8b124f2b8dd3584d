"""OpenAI SDK clients: one for all threads and one per event loop, created on first use."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import CancelScope, to_thread

from ... import _fork
from ..._http.client_lifetime import EventLoopLocal, UsageCounter, loop_is_trio
from ..._http.secrets import Secret
from ..._http.transport import HTTPTransport
from ..._http.types import Timeout, Transport, check_transport
from ..._shortage import is_local_shortage
from ...errors import ConfigurationError, TransientBackendError
from ._codec import BACKEND

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

Client = TypeVar("Client")

_SLOW_IMPORTS = ("openai", f"{__package__}._adapter")


class SDKClients:
    """
    Creates, lends and closes the SDK's clients. Thread-safe.

    Args:
        key: The API key.
        account: Further arguments of the SDK's constructors: base URL, organization, project.
        transport: The user's transport, which is never closed here, or None.
        timeout: Timeouts of each request.

    Raises:
        ConfigurationError: If `transport` lacks ``send`` or ``asend``.
    """

    def __init__(
        self, key: Secret, account: Mapping[str, Any], transport: Transport | None, timeout: Timeout
    ) -> None:
        check_transport(transport)
        self._key = key
        self._account = account
        self._timeout = timeout
        self._transport = transport
        self._own = HTTPTransport() if transport is None else None
        self._lock = threading.Lock()
        self._forks = _fork.count
        self._sync: tuple[OpenAI, UsageCounter] | None = None
        self._async = EventLoopLocal(lambda: (_made(self._make_async), UsageCounter()), _drop)
        self._imported = False

    @property
    def proxy_secrets(self) -> tuple[Secret, ...]:
        """The passwords of the proxies, to redact them in errors."""
        transport = self._own if self._transport is None else self._transport
        return getattr(transport, "proxy_secrets", ())

    @contextmanager
    def sync_client(self) -> Iterator[OpenAI]:
        """Lend the sync client; it is not closed inside the block."""
        # A forked child must use neither its parent's connections nor its lock.
        if _fork.count != self._forks:
            self._forks, self._lock, self._sync = _fork.count, threading.Lock(), None
        with self._lock:
            if self._sync is None:
                self._sync = _made(self._make_sync), UsageCounter()
            client, in_use = self._sync
            in_use.enter()
        try:
            yield client
        finally:
            if in_use.exit():
                client.close()

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[AsyncOpenAI]:
        """Lend the running event loop's client; it is not closed inside the block."""
        if not self._imported:
            for module in _SLOW_IMPORTS:  # takes up to a second; do not block the event loop
                await to_thread.run_sync(import_module, module)
            self._imported = True
        client, in_use = self._async.get()
        in_use.enter()
        try:
            yield client
        finally:
            if in_use.exit():
                with CancelScope(shield=True):
                    await client.close()

    def close(self) -> None:
        """Close the connections of blocking calls, after the last call that uses them."""
        with self._lock:
            borrowed, self._sync = self._sync, None
        if borrowed is not None and _fork.count == self._forks and borrowed[1].close():
            borrowed[0].close()

    async def aclose(self) -> None:
        """Close the running event loop's connections, after the last call that uses them."""
        borrowed = self._async.take()
        if borrowed is not None and borrowed[1].close():
            await borrowed[0].close()
        if self._own is not None:
            await self._own.aclose()

    def _make_sync(self) -> OpenAI:
        from openai import OpenAI

        from ._adapter import sync_http

        # httpx2's own pool unless the user passed a transport: HTTPTransport's httpx pool costs several times more.
        http = sync_http(self._transport, self._timeout, self._account["base_url"])
        return OpenAI(api_key=self._key.reveal(), **self._account, max_retries=0, http_client=http)

    def _make_async(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        from ._adapter import async_http

        transport = self._transport if self._own is None or loop_is_trio() else self._own
        http = async_http(transport, self._timeout, self._account["base_url"])
        return AsyncOpenAI(api_key=self._key.reveal(), **self._account, max_retries=0, http_client=http)


def check_client(client: Any, field: str) -> None:
    """
    Check a client that the user passed; None passes.

    Raises:
        ConfigurationError: If it is not a client of the SDK, or sync where async is expected or vice versa.
    """
    if client is None:
        return
    class_name = "AsyncOpenAI" if field == "async_client" else "OpenAI"
    post = getattr(client, "post", None)
    if not callable(post) or inspect.iscoroutinefunction(post) != (field == "async_client"):
        raise ConfigurationError(
            f"{field} must be a client of the OpenAI SDK, got {type(client).__name__}; "
            f"for example {field}=openai.{class_name}(...)"
        )


def _made(make: Callable[[], Client]) -> Client:
    """
    Return a new client.

    Raises:
        TransientBackendError: If no file can be opened, such as that of the certificates.
    """
    try:
        return make()
    except OSError as error:
        if not is_local_shortage(error):
            raise
        raise TransientBackendError(
            f"{BACKEND}: no client can be made: {error}", local_shortage=True, backend=BACKEND
        ) from error


def _drop(client: object) -> None:
    """Drop the client of a closed loop; its sockets are closed with the loop."""

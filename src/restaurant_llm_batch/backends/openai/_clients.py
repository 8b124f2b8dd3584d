"""The OpenAI SDK's clients: one for all threads, one for each event loop, made when they are first needed."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, to_thread

from ..._http.client_lifetime import EventLoopLocal, UsageCounter, loop_is_trio
from ..._http.secrets import Secret
from ..._http.transport import HTTPTransport
from ..._http.types import Timeout, Transport
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_HEAVY = ("openai", f"{__package__}._adapter")


class SDKClients:
    """
    Clients of our own.

    Args:
        key: The key.
        account: What else the SDK's constructors are given: address, organisation, project.
        transport: The user's, which is never closed here, or None.
        timeout: How long an exchange may take.
    """

    def __init__(
        self, key: Secret, account: Mapping[str, Any], transport: Transport | None, timeout: Timeout
    ) -> None:
        if transport is not None and not (hasattr(transport, "send") and hasattr(transport, "asend")):
            raise ConfigurationError(
                f"transport must have send() and asend(), but {type(transport).__name__} has not; "
                "for example transport=HTTPTransport(proxy=...)"
            )
        self._key = key
        self._account = account
        self._timeout = timeout
        self._users_client = transport
        self._own = HTTPTransport() if transport is None else None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._blocking: tuple[OpenAI, UsageCounter] | None = None
        self._async = EventLoopLocal(lambda: (self._make_async(), UsageCounter()), _let_go)
        self._imported = False

    @contextmanager
    def sync_client(self) -> Iterator[OpenAI]:
        """Lend the client for blocking calls; it is not closed meanwhile."""
        if os.getpid() != self._pid:  # a forked child leaves its parent's connections, and locks, alone
            self._pid, self._lock, self._blocking = os.getpid(), threading.Lock(), None
        with self._lock:
            if self._blocking is None:
                self._blocking = self._make_blocking(), UsageCounter()
            client, in_use = self._blocking
            in_use.enter()
        try:
            yield client
        finally:
            if in_use.exit():
                client.close()

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[AsyncOpenAI]:
        """Lend the running loop's client; it is not closed meanwhile."""
        if not self._imported:
            for module in _HEAVY:  # most of a second of reading files, which the loop need not wait for
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
        """Close the connections of blocking calls, or leave it to the last call that is using them."""
        with self._lock:
            lent, self._blocking = self._blocking, None
        if lent is not None and os.getpid() == self._pid and lent[1].close():
            lent[0].close()

    async def aclose(self) -> None:
        """Close the running loop's connections, likewise."""
        lent = self._async.take()
        if lent is not None and lent[1].close():
            await lent[0].close()
        if self._own is not None:
            await self._own.aclose()

    def _make_blocking(self) -> OpenAI:
        from openai import OpenAI

        from ._adapter import sync_http

        # httpx2's own pool: through our seam, threads would pay for httpx's, which costs several times more.
        http = sync_http(self._users_client, self._timeout)
        return OpenAI(api_key=self._key.reveal(), **self._account, max_retries=0, http_client=http)

    def _make_async(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        from ._adapter import async_http

        transport = self._users_client if self._own is None or loop_is_trio() else self._own
        http = async_http(transport, self._timeout)
        return AsyncOpenAI(api_key=self._key.reveal(), **self._account, max_retries=0, http_client=http)


def check_client(client: Any, field: str) -> None:
    """
    Check a client that the user passed.

    Raises:
        ConfigurationError: When it is none, or of the other colour.
    """
    if client is None:
        return
    kind = "AsyncOpenAI" if field == "async_client" else "OpenAI"
    post = getattr(client, "post", None)
    if not callable(post) or inspect.iscoroutinefunction(post) != (field == "async_client"):
        raise ConfigurationError(
            f"{field} must be one of the OpenAI SDK's, got {type(client).__name__}; "
            f"write {field}=openai.{kind}(...)"
        )


def _let_go(client: object) -> None:
    """Forget the client of a dead loop; its sockets went with the loop."""

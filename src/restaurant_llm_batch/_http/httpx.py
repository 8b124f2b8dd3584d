"""httpx transport: blocking calls, and async calls on trio."""

from __future__ import annotations

import ssl
import threading
from contextlib import aclosing, closing
from typing import Any, Self, TypeAlias

import anyio
import httpx

from .. import _fork
from .._shortage import is_local_shortage
from .abort import TotalTimeout, abortable, check_time, make_abortable
from .body import ACCEPT_ENCODING, DEFAULT_MAX_ANSWER, aread_body, read_body
from .client_lifetime import EventLoopLocal, UsageCounter
from .proxies import ProxySelector
from .secrets import Secret, redact_headers
from .types import (
    MAX_HEADER_BYTES,
    Headers,
    HTTPResponse,
    Timeout,
    TransportError,
    error_text,
    header_size,
    headers_too_long,
    system_trust,
    uses_tls,
)

_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
)
"""Errors raised before any byte of the request was sent."""

_Route: TypeAlias = tuple[str | None, bool]
"""The proxy of a request, and whether it uses TLS; a client without TLS loads no certificates."""
_SyncClients: TypeAlias = dict[_Route, tuple[httpx.Client, UsageCounter]]
_AsyncClients: TypeAlias = dict[_Route, tuple[httpx.AsyncClient, UsageCounter]]
"""Clients by proxy, None for direct connections; usually one."""


_BUFFER_FULL = "Receive buffer too long"
"""h11's message for headers above its limit."""


class HttpxTransport:
    """
    Transport over httpx, for threads and for any event loop.

    Args:
        proxy: A proxy's URL; None for the environment's.
        ssl_context: Certificate authorities to trust; None for the system's.
        keepalive_expiry: Seconds after which an idle connection is closed.
        max_answer: Greatest size of a response's body in bytes, decompressed.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        keepalive_expiry: float = 4.0,
        max_answer: int = DEFAULT_MAX_ANSWER,
    ) -> None:
        self._proxies = ProxySelector(proxy)
        self._context = ssl_context
        self._max_answer = max_answer
        # No limit on connections: the runner's concurrency limiters bound the calls in flight.
        self._limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=keepalive_expiry
        )
        self._lock = threading.Lock()
        self._forks = _fork.count
        self._sync_clients: _SyncClients = {}
        self._clients: EventLoopLocal[_AsyncClients] = EventLoopLocal(dict, lambda clients: None)

    @property
    def proxy_secrets(self) -> tuple[Secret, ...]:
        """The passwords of the proxies, to redact them in errors."""
        return self._proxies.secrets

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """
        Send a request and wait for the response, blocking the thread.

        Raises:
            RunStopped: If the call was cancelled; the connection is closed, so that the server stops too.
            TransportError: If no response came.
            ConfigurationError: If the environment names a proxy that cannot be used.
        """
        try:
            client, in_use = self._borrow(self._route(url))
        except OSError as error:
            raise _no_client(error) from error
        failure: TransportError
        try:
            request = client.build_request(
                method, url, headers=dict(headers), content=body, timeout=_as_httpx_timeout(timeout)
            )
            with abortable(timeout.total):
                return self._read(client.send(request, stream=True))
        except TotalTimeout as error:
            failure = _timeout_error(timeout, error.request_may_have_been_sent)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure = _transport_error(error, timeout, headers)
        finally:
            if in_use.exit():
                client.close()
        raise failure  # without a cause: the client's error holds the request, with the key

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """
        Send a request and wait for the response on the running event loop.

        Raises:
            TransportError: If no response came.
            ConfigurationError: If the environment names a proxy that cannot be used.
        """
        route = self._route(url)
        clients = self._clients.get()
        borrowed = clients.get(route)
        if borrowed is None:
            try:
                borrowed = clients[route] = self._make_async(route), UsageCounter()
            except OSError as error:
                raise _no_client(error) from error
        client, in_use = borrowed
        in_use.enter()
        failure: TransportError
        try:
            request = client.build_request(
                method, url, headers=dict(headers), content=body, timeout=_as_httpx_timeout(timeout)
            )
            request.stream = RequestBody(body or b"")
            with anyio.fail_after(timeout.total):
                return await self._aread(await client.send(request, stream=True))
        except TimeoutError:
            failure = _timeout_error(timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure = _transport_error(error, timeout, headers)
        finally:
            if in_use.exit():
                with anyio.CancelScope(shield=True):
                    await client.aclose()
        raise failure  # without a cause: the client's error holds the request, with the key

    def _read(self, response: httpx.Response) -> HTTPResponse:
        with closing(response):
            _check_headers(response)
            body = read_body(response, self._max_answer, check_time)
        return HTTPResponse(response.status_code, response.headers, body)

    async def _aread(self, response: httpx.Response) -> HTTPResponse:
        async with aclosing(response):
            _check_headers(response)
            body = await aread_body(response, self._max_answer)
        return HTTPResponse(response.status_code, response.headers, body)

    def close(self) -> None:
        """Close the connections of blocking calls, after the last call that uses them."""
        with self._lock:
            clients, self._sync_clients = self._sync_clients, {}
        for client, in_use in clients.values():
            if _fork.count == self._forks and in_use.close():
                client.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections, after the last call that uses them."""
        for client, in_use in (self._clients.take() or {}).values():
            if in_use.close():
                await client.aclose()

    def _route(self, url: str) -> _Route:
        return self._proxies.proxy_for(url), uses_tls(url)

    def _borrow(self, route: _Route) -> tuple[httpx.Client, UsageCounter]:
        # A forked child must use neither its parent's connections nor its lock.
        if _fork.count != self._forks:
            self._forks, self._lock, self._sync_clients = _fork.count, threading.Lock(), {}
        with self._lock:  # look up and enter in one go: close() may come between the two
            borrowed = self._sync_clients.get(route)
            if borrowed is None:
                client = httpx.Client(**self._options(route))
                make_abortable(client)
                borrowed = self._sync_clients[route] = client, UsageCounter()
            borrowed[1].enter()
            return borrowed

    def _make_async(self, route: _Route) -> httpx.AsyncClient:
        return httpx.AsyncClient(**self._options(route))

    def _options(self, route: _Route) -> dict[str, Any]:
        proxy, with_tls = route
        return {
            "headers": {"accept-encoding": ACCEPT_ENCODING},
            "limits": self._limits,
            "proxy": proxy,
            "verify": self._trust() if with_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            "follow_redirects": False,
            "trust_env": False,  # `ProxySelector` reads the environment for all clients alike
        }

    def _trust(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = system_trust()
        return self._context


class RequestBody(httpx.AsyncByteStream):
    """
    A request body that is sent in one piece.

    httpx's own body is an async generator. If it is cancelled while being sent, the garbage collector has to close
    it, which trio warns about.
    """

    def __init__(self, body: bytes) -> None:
        self._pieces = iter((body,))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def _no_client(error: OSError) -> TransportError:
    """Return the error for certificates that cannot be read, because no file can be opened."""
    return TransportError(
        f"{type(error).__name__}: {error}",
        request_may_have_been_sent=False,
        local_shortage=is_local_shortage(error),
    )


def _check_headers(response: httpx.Response) -> None:
    if header_size(response.headers.raw) > MAX_HEADER_BYTES:
        raise headers_too_long()


def _as_httpx_timeout(timeout: Timeout) -> httpx.Timeout:
    read = timeout.total if timeout.read is None else min(timeout.read, timeout.total)
    return httpx.Timeout(read, connect=min(timeout.connect, timeout.total))


def _timeout_error(timeout: Timeout, may_have_been_sent: bool = True) -> TransportError:
    return TransportError(
        f"no response within {timeout.total:g} seconds",
        request_may_have_been_sent=may_have_been_sent,
        timed_out=True,
    )


def _transport_error(
    error: httpx.HTTPError | httpx.InvalidURL, timeout: Timeout, headers: Headers
) -> TransportError:
    if isinstance(error, httpx.RemoteProtocolError) and _BUFFER_FULL in str(error):
        return headers_too_long()
    timed_out = isinstance(error, httpx.TimeoutException)
    sent = not isinstance(error, (*_NOT_SENT, httpx.InvalidURL))
    if isinstance(error, httpx.ConnectTimeout):
        message = f"no connection within {timeout.connect:g} seconds"
    elif timed_out:
        message = f"no data received for {timeout.read or timeout.total:g} seconds"
    else:
        message = f"{type(error).__name__}: {error_text(error)}"
    return TransportError(
        redact_headers(message, headers),
        request_may_have_been_sent=sent,
        timed_out=timed_out,
        local_shortage=not sent and is_local_shortage(error),
    )

"""
HTTP clients of the OpenAI SDK: an httpx2 transport adapter over `Transport`, and httpx2's own transport.

The SDK's own aiohttp client is limited to 100 connections by default, and reports a lost connection as a timeout.
`TransportAdapter` does neither and is as fast.
"""

from __future__ import annotations

from typing import Any

import httpx2

from ..._http.abort import make_abortable
from ..._http.proxies import ProxySelector
from ..._http.types import HTTPResponse, Timeout, Transport, TransportError, system_trust

# No limit on connections: the runner's concurrency limiters bound the calls in flight. Idle connections are closed
# before the server closes them.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)
_CONNECTION_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "transfer-encoding"}
)
"""Request headers that the transport sets itself, since it opens the connection and decompresses the body."""
_ENCODING_HEADERS = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Response headers that describe the body as transferred, not the decompressed body."""


class TransportAdapter(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """
    Adapts a `Transport` to httpx2's transport interface. Closing the adapter does not close the transport.

    Args:
        transport: Sends the requests.
        timeout: Timeouts of each request.
    """

    def __init__(self, transport: Transport, timeout: Timeout) -> None:
        self._transport = transport
        self._timeout = timeout

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, blocking the thread until the response has been read."""
        try:
            response = self._transport.send(
                request.method, str(request.url), _headers(request), request.content, self._timeout
            )
        except TransportError as error:
            raise _as_httpx2(error, request) from error
        return _response(response, request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request on the running event loop."""
        try:
            response = await self._transport.asend(
                request.method, str(request.url), _headers(request), request.content, self._timeout
            )
        except TransportError as error:
            raise _as_httpx2(error, request) from error
        return _response(response, request)


def sync_http(transport: Transport | None, timeout: Timeout, url: str) -> httpx2.Client:
    """
    Return a sync httpx2 client that sends through `transport`; through httpx2's own transport if None.

    Args:
        transport: Sends the requests, or None.
        timeout: Timeouts of each request.
        url: The service's base URL, which decides the proxy.

    Raises:
        ConfigurationError: If the environment names a proxy that cannot be used.
    """
    if transport is None:
        client = httpx2.Client(**_own_transport(timeout, url))
        make_abortable(client)
        return client
    # trust_env=False: httpx2 would mount transports for the environment's proxies, which bypass this one.
    return httpx2.Client(transport=TransportAdapter(transport, timeout), trust_env=False, timeout=None)


def async_http(transport: Transport | None, timeout: Timeout, url: str) -> httpx2.AsyncClient:
    """Return an async httpx2 client; takes the arguments of `sync_http`, and raises as it does."""
    if transport is None:
        return httpx2.AsyncClient(**_own_transport(timeout, url))
    return httpx2.AsyncClient(transport=TransportAdapter(transport, timeout), trust_env=False, timeout=None)


def _own_transport(timeout: Timeout, url: str) -> dict[str, Any]:
    # trust_env=False: `ProxySelector` reads the environment for all clients alike.
    return {
        "limits": _LIMITS,
        "verify": system_trust(),
        "timeout": as_httpx2(timeout),
        "proxy": ProxySelector(None).proxy_for(url),
        "trust_env": False,
    }


def as_httpx2(timeout: Timeout) -> httpx2.Timeout:
    """Convert a timeout to httpx2's, which limits each step but not their sum."""
    read = timeout.total if timeout.read is None else min(timeout.read, timeout.total)
    return httpx2.Timeout(timeout.total, connect=min(timeout.connect, timeout.total), read=read, pool=None)


def _headers(request: httpx2.Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name not in _CONNECTION_HEADERS}


def _response(response: HTTPResponse, request: httpx2.Request) -> httpx2.Response:
    headers = [
        (name, value) for name, value in response.headers.items() if name.lower() not in _ENCODING_HEADERS
    ]
    return httpx2.Response(response.status, headers=headers, content=response.body, request=request)


def _as_httpx2(error: TransportError, request: httpx2.Request) -> httpx2.RequestError:
    error_class: type[httpx2.RequestError]
    if error.timed_out:
        error_class = httpx2.ReadTimeout if error.request_may_have_been_sent else httpx2.ConnectTimeout
    else:
        error_class = httpx2.ReadError if error.request_may_have_been_sent else httpx2.ConnectError
    return error_class(str(error), request=request)

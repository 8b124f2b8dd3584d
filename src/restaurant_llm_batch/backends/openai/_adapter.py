"""
HTTP clients of the OpenAI SDK: an httpx2 transport adapter over `Transport`, and httpx2's own transport.

The SDK's own aiohttp client is limited to 100 connections by default, and reports a lost connection as a timeout.
`TransportAdapter` does neither and is as fast.
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import Any

import httpx2

from ..._http.abort import check_time, make_abortable
from ..._http.body import ACCEPT_ENCODING, DEFAULT_MAX_ANSWER, aread_body, is_short, read_body
from ..._http.proxies import ProxySelector
from ..._http.secrets import HiddenHeaders
from ..._http.types import HTTPResponse, Timeout, Transport, TransportError, trust_for

# No limit on connections: the runner's concurrency limiters bound the calls in flight. Idle connections are closed
# before the server closes them.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)
_CONNECTION_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "transfer-encoding"}
)
"""Request headers that the transport sets itself, since it opens the connection and decompresses the body."""
_ENCODING_HEADERS = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Response headers that describe the body as transferred, not the decompressed body."""
_READ_HEADERS = frozenset({"content-type", "x-request-id"})
"""Headers of a successful response that the SDK reads; the codec reads the rate limits as well."""
_PLAIN = frozenset({"method", "url", "headers", "content", "timeout"})
_NO_TIMEOUT = MappingProxyType({"timeout": httpx2.Timeout(None).as_dict()})
"""The transport has timeouts of its own."""


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


class _PlainRequests:
    """
    A client over a `TransportAdapter`, which makes requests of a URL, headers and bytes without merging its defaults.

    The SDK sends all headers with each request, and the same URL. httpx2 would parse it again, and look for each header
    among defaults that the transport sets itself.
    """

    def __init__(self, adapter: TransportAdapter) -> None:
        # trust_env=False: httpx2 would mount transports for the environment's proxies, which bypass this one.
        super().__init__(transport=adapter, trust_env=False, timeout=None)  # type: ignore[call-arg]
        self._parsed = lru_cache(8)(httpx2.URL)

    def build_request(self, *arguments: Any, **named: Any) -> httpx2.Request:
        """Return a request, as httpx2 does."""
        content = named.get("content")
        others = [name for name in named if name not in _PLAIN and named[name] is not None]
        if arguments or others or type(content) is not bytes:
            request: httpx2.Request = super().build_request(*arguments, **named)  # type: ignore[misc]
            return request
        request = httpx2.Request(
            named["method"],
            self._parsed(named["url"]),
            headers=named["headers"],
            stream=httpx2.ByteStream(content),
            extensions=_NO_TIMEOUT,
        )
        request.read()
        return request


class _AdapterClient(_PlainRequests, httpx2.Client):
    """A sync client over a `TransportAdapter`."""


class _AsyncAdapterClient(_PlainRequests, httpx2.AsyncClient):
    """An async client over a `TransportAdapter`."""


class BoundedTransport(httpx2.HTTPTransport):
    """httpx2's own transport, with answers of a bounded size; see `HTTPTransport`."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, blocking the thread until the response has been read."""
        response = super().handle_request(request)
        if _is_short(response):
            return response  # which the client reads, without a detour
        try:
            body = read_body(response, DEFAULT_MAX_ANSWER, check_time)
        except TransportError as error:
            raise _as_httpx2(error, request) from error
        finally:
            response.close()
        return _response(HTTPResponse(response.status_code, response.headers, body), request)


class AsyncBoundedTransport(httpx2.AsyncHTTPTransport):
    """httpx2's own async transport, with answers of a bounded size."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request on the running event loop."""
        response = await super().handle_async_request(request)
        if _is_short(response):
            return response
        try:
            body = await aread_body(response, DEFAULT_MAX_ANSWER)
        except TransportError as error:
            raise _as_httpx2(error, request) from error
        return _response(HTTPResponse(response.status_code, response.headers, body), request)


def _is_short(response: httpx2.Response) -> bool:
    length = response.headers.get("content-length", "")
    size = int(length) if length.isdecimal() and len(length) < 20 else None
    return is_short(response.status_code, response.headers, size, DEFAULT_MAX_ANSWER)


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
        client = httpx2.Client(transport=BoundedTransport(**_own_pool(url)), **_own_client(timeout))
        make_abortable(client)
        return client
    return _AdapterClient(TransportAdapter(transport, timeout))


def async_http(transport: Transport | None, timeout: Timeout, url: str) -> httpx2.AsyncClient:
    """Return an async httpx2 client; takes the arguments of `sync_http`, and raises as it does."""
    if transport is None:
        return httpx2.AsyncClient(transport=AsyncBoundedTransport(**_own_pool(url)), **_own_client(timeout))
    return _AsyncAdapterClient(TransportAdapter(transport, timeout))


def streaming_http(timeout: Timeout, url: str) -> httpx2.Client:
    """Return a sync httpx2 client for files: bodies of any size, which are read and written piece by piece."""
    client = httpx2.Client(transport=httpx2.HTTPTransport(**_own_pool(url)), **_own_client(timeout))
    make_abortable(client)
    return client


def _own_pool(url: str) -> dict[str, Any]:
    # trust_env=False: `ProxySelector` reads the environment for all clients alike.
    return {
        "limits": _LIMITS,
        "verify": trust_for(url),
        "proxy": ProxySelector(None).proxy_for(url),
        "trust_env": False,
    }


def _own_client(timeout: Timeout) -> dict[str, Any]:
    return {
        "headers": {"accept-encoding": ACCEPT_ENCODING},
        "timeout": as_httpx2(timeout),
        "trust_env": False,
    }


def as_httpx2(timeout: Timeout) -> httpx2.Timeout:
    """Convert a timeout to httpx2's, which limits each step but not their sum."""
    read = timeout.total if timeout.read is None else min(timeout.read, timeout.total)
    return httpx2.Timeout(timeout.total, connect=min(timeout.connect, timeout.total), read=read, pool=None)


def _headers(request: httpx2.Request) -> HiddenHeaders:
    return HiddenHeaders(
        {
            text: value.decode("latin-1")
            for name, value in request.headers.raw
            if (text := name.decode("latin-1").lower()) not in _CONNECTION_HEADERS
        }
    )


def _response(response: HTTPResponse, request: httpx2.Request) -> httpx2.Response:
    headers = [
        (name, value) for name, value in response.headers.items() if _is_passed_on(response.status, name)
    ]
    return httpx2.Response(response.status, headers=headers, content=response.body, request=request)


def _is_passed_on(status: int, name: str) -> bool:
    name = name.lower()
    if name in _ENCODING_HEADERS:
        return False
    # Of a success nobody reads more, and httpx2 takes microseconds for each.
    return status >= 300 or name in _READ_HEADERS or name.startswith("x-ratelimit-")


def _as_httpx2(error: TransportError, request: httpx2.Request) -> httpx2.RequestError:
    error_class: type[httpx2.RequestError]
    if error.timed_out:
        error_class = httpx2.ReadTimeout if error.request_may_have_been_sent else httpx2.ConnectTimeout
    else:
        error_class = httpx2.ReadError if error.request_may_have_been_sent else httpx2.ConnectError
    return error_class(str(error), request=request)

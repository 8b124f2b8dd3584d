"""
What carries the OpenAI SDK's requests: our transport seam where many calls are in flight, httpx2 elsewhere.

The SDK's own aiohttp client stops at 100 connections unless told otherwise, and reports a lost connection as
a timeout; ours does neither and costs no more.
"""

from __future__ import annotations

import httpx2

from ..._http.abort import make_abortable
from ..._http.types import HTTPResponse, Timeout, Transport, TransportError, system_trust

# How many connections there are is for the runner's gates to say. Idle ones are closed before a server does.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)
_NOT_TO_SEND = frozenset({"accept-encoding", "connection", "content-length", "host", "transfer-encoding"})
"""Headers that whoever opens the connection, and unpacks the body, must write."""
_NOT_TO_KEEP = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Headers that are true of the answer on its way, and no longer of the unpacked body."""


class TransportAdapter(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """
    A transport of ours, or the user's, as one of httpx2's; closing it closes nothing.

    Args:
        transport: What carries the requests.
        timeout: How long an exchange may take.
    """

    def __init__(self, transport: Transport, timeout: Timeout) -> None:
        self._transport = transport
        self._timeout = timeout

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send and wait, blocking the thread."""
        try:
            answer = self._transport.send(
                request.method, str(request.url), _headers(request), request.content, self._timeout
            )
        except TransportError as error:
            raise _as_httpx2(error, request) from error
        return _response(answer, request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send and wait on the running loop."""
        try:
            answer = await self._transport.asend(
                request.method, str(request.url), _headers(request), request.content, self._timeout
            )
        except TransportError as error:
            raise _as_httpx2(error, request) from error
        return _response(answer, request)


def sync_http(transport: Transport | None, timeout: Timeout) -> httpx2.Client:
    """Return what carries blocking calls: `transport`, or else httpx2 itself."""
    if transport is None:
        client = httpx2.Client(limits=_LIMITS, verify=system_trust(), timeout=as_httpx2(timeout))
        make_abortable(client)
        return client
    # With the environment's proxies httpx2 would go around the transport.
    return httpx2.Client(transport=TransportAdapter(transport, timeout), trust_env=False, timeout=None)


def async_http(transport: Transport | None, timeout: Timeout) -> httpx2.AsyncClient:
    """Return what carries awaited calls: `transport`, or else httpx2 itself."""
    if transport is None:
        return httpx2.AsyncClient(limits=_LIMITS, verify=system_trust(), timeout=as_httpx2(timeout))
    return httpx2.AsyncClient(transport=TransportAdapter(transport, timeout), trust_env=False, timeout=None)


def as_httpx2(timeout: Timeout) -> httpx2.Timeout:
    """Return a timeout in httpx2's terms, which bound each step and not their sum."""
    read = timeout.total if timeout.read is None else min(timeout.read, timeout.total)
    return httpx2.Timeout(timeout.total, connect=min(timeout.connect, timeout.total), read=read, pool=None)


def _headers(request: httpx2.Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name not in _NOT_TO_SEND}


def _response(answer: HTTPResponse, request: httpx2.Request) -> httpx2.Response:
    headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in _NOT_TO_KEEP]
    return httpx2.Response(answer.status, headers=headers, content=answer.body, request=request)


def _as_httpx2(error: TransportError, request: httpx2.Request) -> httpx2.RequestError:
    kind: type[httpx2.RequestError]
    if error.timed_out:
        kind = httpx2.ReadTimeout if error.request_may_have_been_sent else httpx2.ConnectTimeout
    else:
        kind = httpx2.ReadError if error.request_may_have_been_sent else httpx2.ConnectError
    return kind(str(error), request=request)

"""
HTTP transports of the Qdrant clients: httpx's own, with a limit on a request's total time and on an answer's size.

qdrant-client passes them on to httpx. A blocking request can be aborted by the cancel token of its call.
"""

from __future__ import annotations

from typing import Any

import anyio
import httpx

from ..._http.abort import TotalTimeout, abortable, check_time, make_transport_abortable
from ..._http.body import aread_body, read_body
from ..._http.httpx import RequestBody

_BODY_HEADERS = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Response headers that describe the body as transferred, not the decompressed body."""


class BoundedTransport(httpx.HTTPTransport):
    """
    httpx's transport for blocking requests.

    Args:
        total: Seconds that a request may take, from sending it to reading its response.
        max_answer: Greatest size of a response's body in bytes, decompressed.
        options: Arguments of httpx's transport.
    """

    def __init__(self, total: float, max_answer: int, **options: Any) -> None:
        super().__init__(**options)
        make_transport_abortable(self)
        self._total = total
        self._max_answer = max_answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, blocking the thread until the response has been read."""
        try:
            with abortable(self._total):
                response = super().handle_request(request)
                try:
                    body = read_body(response, self._max_answer, check_time)
                finally:
                    response.close()
        except TotalTimeout as error:
            raise _timeout(request, self._total, error.request_may_have_been_sent) from None
        return _whole(response, body, request)


class AsyncBoundedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport for async requests; takes the arguments of `BoundedTransport`."""

    def __init__(self, total: float, max_answer: int, **options: Any) -> None:
        super().__init__(**options)
        self._total = total
        self._max_answer = max_answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on the running event loop."""
        request.stream = RequestBody(request.content)
        limits = request.extensions.get("timeout", {})
        # The wait for a free connection ends a moment before the whole request, because its error says what to do.
        limits["pool"] = min(limits.get("pool") or self._total, self._total - min(0.1, self._total / 10))
        try:
            with anyio.fail_after(self._total):
                response = await super().handle_async_request(request)
                body = await aread_body(response, self._max_answer)
        except TimeoutError:
            raise _timeout(request, self._total, sent=True) from None
        return _whole(response, body, request)


def _timeout(request: httpx.Request, total: float, sent: bool) -> httpx.TimeoutException:
    error = httpx.ReadTimeout if sent else httpx.ConnectTimeout
    return error(f"no whole response within {total:g} seconds", request=request)


def _whole(response: httpx.Response, body: bytes, request: httpx.Request) -> httpx.Response:
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in _BODY_HEADERS]
    return httpx.Response(response.status_code, headers=headers, content=body, request=request)

"""
HTTP requests as steps of flows: a backend's generator yields an `HTTPRequest`, and `HTTPClient` sends it.

The sync and async methods of a backend drive the same generator, so they cannot differ in what they send, read
or raise.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar

from .secrets import Secret
from .status import raise_no_response
from .transport import HTTPTransport
from .types import Headers, HTTPResponse, Timeout, Transport, TransportError, check_transport


class HTTPRequest(NamedTuple):
    """A step that sends an HTTP request; the flow is resumed with an `HTTPResponse`."""

    method: str
    url: str
    headers: Headers
    body: bytes | None
    timeout: Timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r}, {self.url!r}, {len(self.body or b'')} bytes)"


class HTTPClient:
    """
    Sends requests through a transport.

    Args:
        transport: The user's transport, which is never closed here; None to create and own an `HTTPTransport`.
        keep_alive: Seconds after which an own transport closes an idle connection.

    Raises:
        ConfigurationError: If `transport` lacks ``send`` or ``asend``.
    """

    def __init__(self, transport: Transport | None, *, keep_alive: float = 4.0) -> None:
        check_transport(transport)
        self._own = HTTPTransport(keepalive_expiry=keep_alive) if transport is None else None
        self._transport: Transport = self._own or transport  # type: ignore[assignment]

    def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send a request, blocking the thread until the response has been read."""
        return self._transport.send(*request)

    async def asend(self, request: HTTPRequest) -> HTTPResponse:
        """Send a request on the running event loop."""
        return await self._transport.asend(*request)

    @property
    def proxy_secrets(self) -> tuple[Secret, ...]:
        """The passwords of the transport's proxies, if it tells them."""
        return getattr(self._transport, "proxy_secrets", ())

    def close(self) -> None:
        """Close the sync connections of an own transport."""
        if self._own is not None:
            self._own.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections of an own transport."""
        if self._own is not None:
            await self._own.aclose()


T = TypeVar("T")

HTTPFlow: TypeAlias = Generator[HTTPRequest, Any, T]
"""A generator of HTTP requests, each answered with its `HTTPResponse`, that returns a `T`."""


def send_request(request: HTTPRequest, backend: str, secret: Secret | None) -> HTTPFlow[HTTPResponse]:
    """
    Send one request, as a flow. `secret`, the key in its headers, stands in no error.

    Raises:
        TransientBackendError: If no response came.
        PermanentBackendError: If a response came that is not read, such as one with too long headers.
    """
    try:
        response: HTTPResponse = yield request
    except TransportError as error:
        raise_no_response(error, backend, secret)
    return response

"""
HTTP backends as flows: a generator yields what to send, two tiny methods do the sending.

So the blocking and the awaited colour of a backend cannot differ in what they ask, read or complain about.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import ConfigurationError
from ..steps import Flow
from .status import no_response_error
from .transport import HTTPTransport
from .types import Headers, HTTPResponse, Timeout, Transport, TransportError


class HTTPRequest(NamedTuple):
    """The step of such a flow: a request to send. Answered with an `HTTPResponse`."""

    method: str
    url: str
    headers: Headers
    body: bytes | None
    timeout: Timeout


class HTTPClient:
    """
    Sends exchanges through a transport, its own or the user's.

    Args:
        transport: The user's, which is never closed here; None for one of our own.
    """

    def __init__(self, transport: Transport | None, *, keep_alive: float = 4.0) -> None:
        if transport is not None and not (hasattr(transport, "send") and hasattr(transport, "asend")):
            raise ConfigurationError(
                f"transport must have send() and asend(), but {type(transport).__name__} has not; "
                "write for example transport=HTTPTransport(proxy=...)"
            )
        self._own = HTTPTransport(keepalive_expiry=keep_alive) if transport is None else None
        self._transport: Transport = self._own or transport  # type: ignore[assignment]

    def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send and wait, blocking the thread."""
        return self._transport.send(*request)

    async def asend(self, request: HTTPRequest) -> HTTPResponse:
        """Send and wait on the running loop."""
        return await self._transport.asend(*request)

    def close(self) -> None:
        """Close the connections of blocking calls."""
        if self._own is not None:
            self._own.close()

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        if self._own is not None:
            await self._own.aclose()


def send_request(what: HTTPRequest, backend: str) -> Flow[HTTPResponse]:
    """
    Ask for one exchange.

    Raises:
        TransientBackendError: When no answer came.
    """
    try:
        answer: HTTPResponse = yield what
    except TransportError as error:
        raise no_response_error(error, backend) from error
    return answer

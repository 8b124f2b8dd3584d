"""aiohttp transport: async calls on asyncio, with hundreds in flight at once."""

from __future__ import annotations

import ssl
from inspect import signature
from time import monotonic
from typing import Any, NamedTuple

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from anyio import CancelScope
from anyio.lowlevel import checkpoint
from yarl import URL

from .._shortage import is_local_shortage
from ..errors import ConfigurationError
from .body import ACCEPT_ENCODING, DEFAULT_MAX_ANSWER, BodyReader, is_short
from .client_lifetime import EventLoopLocal, UsageCounter
from .proxies import ProxySelector
from .secrets import Secret, redact_headers
from .types import (
    MAX_HEADER_BYTES,
    Headers,
    HTTPResponse,
    Timeout,
    TransportError,
    header_size,
    headers_too_long,
    system_trust,
)

_MORE_HEADERS: dict[str, Any] = (
    {"max_headers": 4096} if "max_headers" in signature(aiohttp.ClientSession).parameters else {}
)
"""aiohttp from 3.14 on accepts 128 headers by default; httpx has no such limit."""


class _Target(NamedTuple):
    url: URL
    proxy: str | None
    verify: ssl.SSLContext | bool


class _BorrowedSession(NamedTuple):
    session: aiohttp.ClientSession
    in_use: UsageCounter


class AiohttpTransport:
    """
    Transport over aiohttp, for asyncio only.

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
        # aiohttp's own `trust_env` reads the environment and ~/.netrc for each request.
        self._proxies = ProxySelector(proxy)
        self._context = ssl_context
        self._keepalive_expiry = keepalive_expiry
        self._max_answer = max_answer
        self._sessions = EventLoopLocal(self._make, _close_session)
        self._targets: dict[str, _Target] = {}
        self._timeouts: dict[Timeout, aiohttp.ClientTimeout] = {}

    @property
    def proxy_secrets(self) -> tuple[Secret, ...]:
        """The passwords of the proxies, to redact them in errors."""
        return self._proxies.secrets

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """
        Send a request and wait for the response on the running event loop.

        Raises:
            TransportError: If no response came.
            ConfigurationError: If the environment names a proxy that cannot be used.
        """
        started_at = monotonic()
        borrowed = self._sessions.get()
        borrowed.in_use.enter()
        failure: Exception
        try:
            target = self._target(url)
            async with borrowed.session.request(
                method,
                target.url,
                headers=headers,
                data=body,
                timeout=self._as_aiohttp_timeout(timeout),
                proxy=target.proxy,
                ssl=target.verify,
                allow_redirects=False,
            ) as response:
                if header_size(response.raw_headers) > MAX_HEADER_BYTES:
                    raise headers_too_long()
                if is_short(response.status, response.headers, response.content_length, self._max_answer):
                    return HTTPResponse(response.status, response.headers, await response.read())
                body = await self._read(response, started_at + timeout.total)
                return HTTPResponse(response.status, response.headers, body)
        except (ConfigurationError, TransportError) as error:  # a ConfigurationError is a ValueError too
            failure = error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure = _transport_error(error, timeout, headers)
        finally:
            if borrowed.in_use.exit():
                with CancelScope(shield=True):
                    await borrowed.session.close()
        raise failure  # without a cause: the client's error holds the request, with the key, and a proxy's password

    async def _read(self, response: aiohttp.ClientResponse, deadline: float) -> bytes:
        reader = BodyReader(response.status, response.headers, self._max_answer)
        while not reader.full and (data := await response.content.readany()):
            for _ in reader.feed(data):
                await checkpoint()  # other calls go on while this one is decompressed
                if monotonic() > deadline:
                    raise TimeoutError
        return reader.body()

    async def aclose(self) -> None:
        """Close the running event loop's connections, after the last call that uses them."""
        borrowed = self._sessions.take()
        if borrowed is not None and borrowed.in_use.close():
            await borrowed.session.close()

    def _make(self) -> _BorrowedSession:
        session = aiohttp.ClientSession(
            # No limit on connections: the runner's concurrency limiters bound the calls in flight.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keepalive_expiry),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept-encoding": ACCEPT_ENCODING},
            auto_decompress=False,  # `BodyReader` does it, in bounded pieces
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            **_MORE_HEADERS,
        )
        return _BorrowedSession(session, UsageCounter())

    def _target(self, url: str) -> _Target:
        target = self._targets.get(url)
        if target is None:
            parsed = URL(url)
            target = _Target(parsed, self._proxies.proxy_for(url), self._verify_for(parsed))
            if len(self._targets) > 64:  # URLs with a job id are requested a few times and never again
                self._targets.clear()
            self._targets[url] = target
        return target

    def _verify_for(self, url: URL) -> ssl.SSLContext | bool:
        if url.scheme != "https":
            return True
        if self._context is None:
            self._context = system_trust()
        return self._context

    def _as_aiohttp_timeout(self, timeout: Timeout) -> aiohttp.ClientTimeout:
        times = self._timeouts.get(timeout)
        if times is None:
            # aiohttp rounds timers above `ceil_threshold` seconds (5 by default) up to whole seconds.
            times = self._timeouts[timeout] = aiohttp.ClientTimeout(
                total=timeout.total,
                sock_connect=timeout.connect,
                sock_read=timeout.read,
                ceil_threshold=3600,
            )
        return times


def _close_session(borrowed: _BorrowedSession) -> None:
    borrowed.session.detach()  # its loop is closed, and its sockets with it; nothing can be awaited there


def _transport_error(error: Exception, timeout: Timeout, headers: Headers) -> TransportError:
    if _is_too_long(error):
        return headers_too_long()
    # A timeout while connecting is both a ClientError and a TimeoutError.
    timed_out = isinstance(error, TimeoutError)
    not_sent = (
        aiohttp.ClientConnectorError,
        aiohttp.ClientHttpProxyError,
        aiohttp.ConnectionTimeoutError,
        ValueError,
    )
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        message = f"no connection within {timeout.connect:g} seconds"
    elif isinstance(error, aiohttp.SocketTimeoutError):
        message = f"no data received for {timeout.read or timeout.total:g} seconds"
    elif timed_out:
        message = f"no response within {timeout.total:g} seconds"
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        message = f"the proxy refused to connect: {error.status} {error.message}"
    else:
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    sent = not isinstance(error, not_sent)
    shortage = is_local_shortage(error)
    return TransportError(
        redact_headers(message, headers),
        request_may_have_been_sent=sent and not shortage,
        timed_out=timed_out,
        local_shortage=shortage,
    )


def _is_too_long(error: BaseException) -> bool:
    """Return whether a response's headers exceeded a limit of aiohttp's parser."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LineTooLong) or "Too many headers" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False

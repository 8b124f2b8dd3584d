"""aiohttp as a transport: for asyncio, where many calls are in flight at once."""

from __future__ import annotations

import ssl
from typing import NamedTuple
from urllib.request import getproxies, proxy_bypass

import aiohttp
from anyio import CancelScope
from yarl import URL

from .client_lifetime import EventLoopLocal, UsageCounter
from .types import Headers, HTTPResponse, Timeout, TransportError, system_trust


class _Target(NamedTuple):
    url: URL
    proxy: str | None
    trust: ssl.SSLContext | bool


class _BorrowedSession(NamedTuple):
    session: aiohttp.ClientSession
    in_use: UsageCounter


class AiohttpTransport:
    """
    aiohttp, on asyncio only.

    Args:
        proxy: A proxy's URL; None for the environment's.
        ssl_context: Whom to trust; None for the system's authorities.
        keepalive_expiry: Seconds after which an idle connection is closed.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        keepalive_expiry: float = 4.0,
    ) -> None:
        self._proxy = proxy
        self._context = ssl_context
        self._keepalive_expiry = keepalive_expiry
        self._sessions = EventLoopLocal(self._make, _close_session)
        # Looked up once: aiohttp's own `trust_env` reads the environment and ~/.netrc for every request.
        self._environment: dict[str, str] | None = None
        self._targets: dict[str, _Target] = {}
        self._timeouts: dict[Timeout, aiohttp.ClientTimeout] = {}

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """Send a request and wait for the answer on the running loop."""
        lent = self._sessions.get()
        lent.in_use.enter()
        try:
            target = self._target(url)
            async with lent.session.request(
                method,
                target.url,
                headers=headers,
                data=body,
                timeout=self._times(timeout),
                proxy=target.proxy,
                ssl=target.trust,
                allow_redirects=False,
            ) as response:
                return HTTPResponse(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _transport_error(error, timeout) from error
        finally:
            if lent.in_use.exit():
                with CancelScope(shield=True):
                    await lent.session.close()

    async def aclose(self) -> None:
        """Close the running loop's connections, or leave it to the last call that is using them."""
        lent = self._sessions.take()
        if lent is not None and lent.in_use.close():
            await lent.session.close()

    def _make(self) -> _BorrowedSession:
        session = aiohttp.ClientSession(
            # No limit of its own: the runner's gates decide how many connections there are.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=self._keepalive_expiry),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return _BorrowedSession(session, UsageCounter())

    def _target(self, url: str) -> _Target:
        target = self._targets.get(url)
        if target is None:
            parsed = URL(url)
            target = _Target(parsed, self._proxy_for(parsed), self._trust_for(parsed))
            if len(self._targets) > 64:  # job ids make URLs that are asked for a few times and never again
                self._targets.clear()
            self._targets[url] = target
        return target

    def _trust_for(self, url: URL) -> ssl.SSLContext | bool:
        if url.scheme != "https":
            return True
        if self._context is None:
            self._context = system_trust()
        return self._context

    def _proxy_for(self, url: URL) -> str | None:
        if self._proxy is not None:
            return self._proxy
        if self._environment is None:
            self._environment = getproxies()
        proxy = self._environment.get(url.scheme) or self._environment.get("all")
        if not proxy or not proxy.startswith(("http://", "https://")) or proxy_bypass(url.host or ""):
            return None
        return proxy

    def _times(self, timeout: Timeout) -> aiohttp.ClientTimeout:
        times = self._timeouts.get(timeout)
        if times is None:
            # Above this many seconds aiohttp would round its timers up to whole ones.
            times = self._timeouts[timeout] = aiohttp.ClientTimeout(
                total=timeout.total,
                sock_connect=timeout.connect,
                sock_read=timeout.read,
                ceil_threshold=3600,
            )
        return times


def _close_session(lent: _BorrowedSession) -> None:
    lent.session.detach()  # its loop is closed: nothing can be awaited there, and its sockets go with it


def _transport_error(error: Exception, timeout: Timeout) -> TransportError:
    # A timeout while connecting is both a ClientError and a TimeoutError.
    timed_out = isinstance(error, TimeoutError)
    not_sent = (
        aiohttp.ClientConnectorError,
        aiohttp.ClientHttpProxyError,
        aiohttp.ConnectionTimeoutError,
        ValueError,
    )
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        words = f"no connection within {timeout.connect:g} seconds"
    elif isinstance(error, aiohttp.SocketTimeoutError):
        words = f"nothing was heard for {timeout.read or timeout.total:g} seconds"
    elif timed_out:
        words = f"no answer within {timeout.total:g} seconds"
    else:
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return TransportError(
        words, request_may_have_been_sent=not isinstance(error, not_sent), timed_out=timed_out
    )

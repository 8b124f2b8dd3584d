"""httpx as a transport: for blocking calls, for trio, and for tests that watch httpx."""

from __future__ import annotations

import os
import ssl
import threading
from typing import Self

import anyio
import httpx

from .abort import TotalTimeout, abortable, make_abortable
from .client_lifetime import EventLoopLocal, UsageCounter
from .types import Headers, HTTPResponse, Timeout, TransportError, system_trust

_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
)


class HttpxTransport:
    """
    httpx, on any loop.

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
        # How many connections there are is for the runner's gates to say.
        self._limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=keepalive_expiry
        )
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._lent: tuple[httpx.Client, UsageCounter] | None = None
        self._clients = EventLoopLocal(self._make_async, lambda client: None)

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """
        Send a request and wait for the answer, blocking the thread.

        Raises:
            RunStopped: When the run gave the call up; the connection is closed, so that the server stops too.
        """
        client, in_use = self._lend()
        try:
            request = client.build_request(
                method, url, headers=dict(headers), content=body, timeout=_times(timeout)
            )
            with abortable(timeout.total):
                response = client.send(request)
        except TotalTimeout as error:
            raise _timeout_error(timeout, error.may_have_arrived) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _transport_error(error, timeout) from error
        finally:
            if in_use.exit():
                client.close()
        return HTTPResponse(response.status_code, response.headers, response.content)

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """Send a request and wait for the answer on the running loop."""
        client, in_use = self._clients.get()
        in_use.enter()
        try:
            request = client.build_request(
                method, url, headers=dict(headers), content=body, timeout=_times(timeout)
            )
            request.stream = _Body(body or b"")
            with anyio.fail_after(timeout.total):
                response = await client.send(request)
        except TimeoutError as error:
            raise _timeout_error(timeout) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _transport_error(error, timeout) from error
        finally:
            if in_use.exit():
                with anyio.CancelScope(shield=True):
                    await client.aclose()
        return HTTPResponse(response.status_code, response.headers, response.content)

    def close(self) -> None:
        """Close the connections of blocking calls, or leave it to the last call that is using them."""
        with self._lock:
            lent, self._lent = self._lent, None
        if lent is not None and os.getpid() == self._pid and lent[1].close():
            lent[0].close()

    async def aclose(self) -> None:
        """Close the running loop's connections, likewise."""
        lent = self._clients.take()
        if lent is not None and lent[1].close():
            await lent[0].aclose()

    def _lend(self) -> tuple[httpx.Client, UsageCounter]:
        if os.getpid() != self._pid:  # a forked child leaves its parent's connections, and locks, alone
            self._pid, self._lock, self._lent = os.getpid(), threading.Lock(), None
        with self._lock:  # or it might be closed between being looked up and being entered
            if self._lent is None:
                client = httpx.Client(
                    limits=self._limits, proxy=self._proxy, verify=self._verify, follow_redirects=False
                )
                make_abortable(client)
                self._lent = client, UsageCounter()
            self._lent[1].enter()
            return self._lent

    def _make_async(self) -> tuple[httpx.AsyncClient, UsageCounter]:
        client = httpx.AsyncClient(
            limits=self._limits, proxy=self._proxy, verify=self._verify, follow_redirects=False
        )
        return client, UsageCounter()

    @property
    def _verify(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = system_trust()
        return self._context


class _Body(httpx.AsyncByteStream):
    """
    A body that is sent in one piece.

    httpx's own is an async generator: one that is cancelled while it is being sent waits for the garbage collector
    to close it, which trio warns of.
    """

    def __init__(self, body: bytes) -> None:
        self._pieces = iter((body,))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def _times(timeout: Timeout) -> httpx.Timeout:
    read = timeout.total if timeout.read is None else min(timeout.read, timeout.total)
    return httpx.Timeout(read, connect=min(timeout.connect, timeout.total))


def _timeout_error(timeout: Timeout, may_have_arrived: bool = True) -> TransportError:
    return TransportError(
        f"no answer within {timeout.total:g} seconds",
        request_may_have_been_sent=may_have_arrived,
        timed_out=True,
    )


def _transport_error(error: httpx.HTTPError | httpx.InvalidURL, timeout: Timeout) -> TransportError:
    timed_out = isinstance(error, httpx.TimeoutException)
    arrived = not isinstance(error, (*_NOT_SENT, httpx.InvalidURL))
    if isinstance(error, httpx.ConnectTimeout):
        words = f"no connection within {timeout.connect:g} seconds"
    elif timed_out:
        words = f"nothing was heard for {timeout.read or timeout.total:g} seconds"
    else:
        words = f"{type(error).__name__}: {_error_text(error)}"
    return TransportError(words, request_may_have_been_sent=arrived, timed_out=timed_out)


def _error_text(error: BaseException) -> str:
    """Return the words of an error, or of what caused it; httpx's own are often none."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return "no more is known"

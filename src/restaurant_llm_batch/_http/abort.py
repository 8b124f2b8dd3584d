"""
Abortable blocking HTTP requests: cancellation from another thread, and a limit on a request's total time.

Theory of operation
-------------------
A thread that blocks in ``recv()`` cannot be cancelled, but another thread can shut its socket down: ``recv()``
returns at once, and the server sees the connection close and stops generating. Only httpcore's connection pool
knows which socket a request uses, so the pool has to report it:

1. `make_abortable` replaces the *network backend* of a client's pools, the object that opens TCP connections, by
   one that wraps each connection (`_Network`, `_Stream`).
2. `abortable` marks the current thread's request in a context variable for as long as it takes, and registers
   `AbortableRequest.abort` with the call's cancel token.
3. Each blocking operation of a wrapped connection (connect, TLS handshake, read, write) looks up that request,
   stores the socket in it for the duration of the operation (`AbortableRequest.step`), and shortens the
   operation's timeout to the time that is left. httpx itself bounds single reads only, never a whole request.
4. `AbortableRequest.abort` shuts down the stored socket. Between operations no socket is stored; then the
   next operation raises.

Outside of an `abortable` block, a wrapped connection behaves like any other.

Private attributes
------------------
Pools take a ``network_backend=`` argument, but httpx's clients do not pass one on, and a client built around a
pool of our own would not follow the environment's proxies. So `make_abortable` reads ``_transport``, ``_mounts``
and ``_pool`` and writes ``_network_backend`` (each is explained there). Checked with httpx 0.28.1 and
httpcore 1.0.9, and with httpx2 and httpcore2 2.16.2, which the openai SDK uses. If a release renames one of them,
requests work but cannot be aborted, and a warning is logged; ``test_blocking_abort.py`` fails.

Platforms
---------
On Linux and macOS a shutdown ends another thread's ``recv()``. Windows does not document this: there the server
still sees the shutdown, and ``recv()`` ends when the server closes the connection.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from time import monotonic
from typing import Any, TypeVar

from ..cancellation import cancelled_error, on_cancel

T = TypeVar("T")

log = logging.getLogger("restaurant_llm_batch")

_NOT_ABORTABLE = "blocking calls cannot be ended with this %s: %s"


class TotalTimeout(Exception):
    """
    A request's total time ran out before its response had been read.

    Attributes:
        request_may_have_been_sent: Whether any byte may have been sent.
    """

    def __init__(self, *, request_may_have_been_sent: bool) -> None:
        super().__init__()
        self.request_may_have_been_sent = request_may_have_been_sent


@contextmanager
def abortable(seconds: float) -> Iterator[None]:
    """
    Make one blocking request inside the block abortable, on a client prepared by `make_abortable`.

    Args:
        seconds: Limit on the request's total time.

    Raises:
        RunStopped: If the call was cancelled. Its connection is closed at once, except while it is being opened:
            then when the connect timeout ends at the latest.
        TotalTimeout: If the request took longer than `seconds`, even if the server was still sending.
    """
    request = AbortableRequest(seconds)
    token = _CURRENT.set(request)
    try:
        with on_cancel(request.abort):
            yield
    finally:
        _CURRENT.reset(token)


def make_abortable(client: Any) -> None:
    """
    Prepare an httpx or httpx2 client, so that `abortable` can abort its requests and bound their total time.

    Reaches into private attributes; see the module's docstring. If one is missing, logs a warning and leaves the
    client as it is.
    """
    try:
        # Client._transport: the default transport. Client._mounts: URL pattern -> transport, or None for "no
        # proxy"; holds the transports of the environment's proxies or of `proxy=`.
        transports = [client._transport, *client._mounts.values()]  # noqa: SLF001
    except AttributeError as error:
        log.warning(_NOT_ABORTABLE, type(client).__module__, error)
        return
    for transport in transports:
        if transport:
            make_transport_abortable(transport)


def make_transport_abortable(transport: Any) -> None:
    """Prepare an httpx or httpx2 transport as `make_abortable` prepares a client."""
    try:
        # HTTPTransport._pool: its httpcore ConnectionPool, HTTPProxy or SOCKSProxy.
        pool = transport._pool  # noqa: SLF001
        # ConnectionPool._network_backend: handed to each connection that the pool creates, and read at no
        # other time, so it can be replaced until the first request.
        pool._network_backend = _Network(pool._network_backend)  # noqa: SLF001
    except AttributeError as error:
        log.warning(_NOT_ABORTABLE, type(transport).__module__, error)


def check_time() -> None:
    """Raise as `abortable` if the current thread's request was aborted, or has taken too long; else do nothing."""
    current = _CURRENT.get()
    if current is not None:
        current.left(None)


class AbortableRequest:
    """
    One blocking request, which its thread makes step by step and any thread may abort.

    A step is one blocking operation on a connection. The socket is stored during a step only: between steps the
    pool may close the connection, whose file descriptor the system then reuses, or give it to another thread.

    Attributes:
        sent: Whether anything was sent, or may have been.
    """

    __slots__ = ("_aborted", "_deadline", "_lock", "_socket", "sent")

    def __init__(self, seconds: float) -> None:
        self._deadline = monotonic() + seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False
        self.sent = False

    def abort(self) -> None:
        """Abort the request, from any thread: its current step raises, or else its next one."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with suppress(OSError):  # the server has closed the connection already
                    # Not `self._socket.shutdown`: SSLSocket's drops the TLS state that the reading thread is using.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def step(
        self, using: socket.socket, do: Callable[[Any, float], T], what: Any, timeout: float | None
    ) -> T:
        """Perform one operation on a connection within the time that is left."""
        seconds = self.left(timeout)
        try:
            with self._lock:
                self._socket = using
            self.check()  # after storing the socket: an abort before that has shut nothing down
            done = do(what, seconds)
        except Exception as error:
            self.check()
            if monotonic() >= self._deadline:
                raise TotalTimeout(request_may_have_been_sent=self.sent) from error
            raise
        finally:
            with self._lock:
                self._socket = None
        self.check()  # a read from a socket that was shut down returns b"", as at the end of a body
        return done

    def left(self, timeout: float | None) -> float:
        """Return the timeout of the next step: `timeout`, or the time left for the request if that is less."""
        self.check()
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            raise TotalTimeout(request_may_have_been_sent=self.sent)
        return seconds if timeout is None or timeout > seconds else timeout

    def check(self) -> None:
        """Raise `RunStopped` if the request was aborted."""
        if self._aborted:
            raise cancelled_error()


_CURRENT: ContextVar[AbortableRequest | None] = ContextVar("abortable_request", default=None)
"""The request that the current thread is making."""


class _Network:
    """httpcore's NetworkBackend, with connections wrapped in `_Stream`."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> _Stream:
        current = _CURRENT.get()
        if current is not None:
            timeout = current.left(timeout)
        return _Stream(self._network.connect_tcp(host, port, timeout=timeout, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


class _Stream:
    """httpcore's NetworkStream, with each operation made a step of the thread's `AbortableRequest`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._socket: socket.socket = stream.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes
        current = _CURRENT.get()
        if current is None:
            data = self._stream.read(max_bytes, timeout)
        else:
            data = current.step(self._socket, self._stream.read, max_bytes, timeout)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        current = _CURRENT.get()
        if current is None:
            self._stream.write(buffer, timeout)
        else:
            current.sent = True
            current.step(self._socket, self._stream.write, buffer, timeout)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        current = _CURRENT.get()
        if current is None:
            return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

        opened: list[_Stream] = []

        def handshake(context: ssl.SSLContext, seconds: float) -> None:
            opened.append(_Stream(self._stream.start_tls(context, server_hostname, seconds)))

        try:
            with _duplicate(self._socket) as connection:
                current.step(connection, handshake, ssl_context, timeout)
        except BaseException:
            # httpcore closes only the stream that start_tls returns, so a raise here would leak both.
            for stream in (*opened, self):
                stream.close()
            raise
        return opened[0]

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _duplicate(connection: socket.socket) -> AbstractContextManager[socket.socket]:
    """
    Return a second socket object for a connection, to shut it down by during the TLS handshake.

    ``SSLContext.wrap_socket`` detaches the connection from the socket object we hold, and returns the new one
    only when the handshake is over.
    """
    try:
        return socket.fromfd(connection.fileno(), connection.family, connection.type)
    except OSError:  # too many open files: the handshake cannot be aborted, only time out
        return nullcontext(connection)

"""
Blocking exchanges that another thread can end, and whose whole time is bounded.

A thread that reads from a socket cannot be cancelled, but the socket can be shut down under it: the read
returns at once, and the server learns that nobody hears its answer. Which socket an exchange is using only the
pool knows, so every step on a connection of a client that is `endable` asks which exchange its thread makes.

On Linux and macOS a shutdown ends a read of another thread. On Windows that is not documented; there the server
learns of it all the same, and the read ends when it closes the connection.
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


class TotalTimeout(Exception):
    """
    The time of a whole exchange was up before its answer had been read.

    Attributes:
        may_have_arrived: Whether anything had been sent.
    """

    def __init__(self, *, may_have_arrived: bool) -> None:
        super().__init__()
        self.may_have_arrived = may_have_arrived


@contextmanager
def abortable(seconds: float) -> Iterator[None]:
    """
    Make one blocking exchange on a client that is `endable`.

    Raises:
        RunStopped: When the run gave the call up. The connection is closed; one that is just being opened, at
            the latest when its time to connect is up.
        TooLate: When the exchange took longer than so many seconds, however busily the server was answering.
    """
    ours = AbortableRequest(seconds)
    token = _CURRENT.set(ours)
    try:
        with on_cancel(ours.abort):
            yield
    finally:
        _CURRENT.reset(token)


def make_abortable(client: Any) -> None:
    """
    Have the exchanges of a client of httpx's, or of httpx2's, ended and bounded as `exchange` says.

    Their pools take what opens connections as an argument, but the clients do not pass it on, and a client with
    a pool of ours would no longer follow the environment's proxies. So this reaches into the client that was
    made as always. The names are private: where a release has others, calls are made as before, and we say so.
    """
    try:
        pools = [way._pool for way in (client._transport, *client._mounts.values()) if way]  # noqa: SLF001
        for pool in pools:
            pool._network_backend = _Network(pool._network_backend)  # noqa: SLF001
    except AttributeError as error:
        log.warning("blocking calls cannot be ended with this %s: %s", type(client).__module__, error)


class AbortableRequest:
    """
    What one thread does on connections, and another may end.

    A step holds its socket for as long as it lasts and no longer: between steps the pool may close the
    connection, whose number the system then gives to another, or lend it to another thread.

    Attributes:
        sent: Whether something was sent, or may have been.
    """

    __slots__ = ("_aborted", "_deadline", "_lock", "_socket", "sent")

    def __init__(self, seconds: float) -> None:
        self._deadline = monotonic() + seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False
        self.sent = False

    def abort(self) -> None:
        """End the exchange, from any thread: the step that it is in, or else its next one, raises."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with suppress(OSError):  # the other side was faster
                    # The plain socket's own: that of `ssl` would change what the reading thread is using.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def step(
        self, using: socket.socket, do: Callable[[Any, float], T], what: Any, timeout: float | None
    ) -> T:
        """Do one thing on a connection, in what is left of the time."""
        seconds = self.left(timeout)
        try:
            with self._lock:
                self._socket = using
            self.check()  # from here on it is this socket that ending us shuts down
            done = do(what, seconds)
        except Exception as error:
            self.check()
            if monotonic() >= self._deadline:
                raise TotalTimeout(may_have_arrived=self.sent) from error
            raise
        finally:
            with self._lock:
                self._socket = None
        self.check()  # a read from a socket that is shut down ends like that of a whole body
        return done

    def left(self, timeout: float | None) -> float:
        """Return how long a step may take."""
        self.check()
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            raise TotalTimeout(may_have_arrived=self.sent)
        return seconds if timeout is None or timeout > seconds else timeout

    def check(self) -> None:
        """Raise if the exchange was ended."""
        if self._aborted:
            raise cancelled_error()


_CURRENT: ContextVar[AbortableRequest | None] = ContextVar("exchange", default=None)


class _Network:
    """What opens a pool's connections, as httpcore's NetworkBackend."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **more: Any) -> _Stream:
        current = _CURRENT.get()
        if current is not None:
            timeout = current.left(timeout)
        return _Stream(self._network.connect_tcp(host, port, timeout=timeout, **more))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


class _Stream:
    """A connection, as httpcore's NetworkStream."""

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

        def shake_hands(context: ssl.SSLContext, seconds: float) -> None:
            opened.append(_Stream(self._stream.start_tls(context, server_hostname, seconds)))

        try:
            with _again(self._socket) as known:
                current.step(known, shake_hands, ssl_context, timeout)
        except BaseException:
            for stream in (*opened, self):  # httpcore forgets what it was not given back
                stream.close()
            raise
        return opened[0]

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _again(connection: socket.socket) -> AbstractContextManager[socket.socket]:
    """
    Return a second socket of a connection.

    A handshake moves the connection out of the object that we know into one that we do not have yet.
    """
    try:
        return socket.fromfd(connection.fileno(), connection.family, connection.type)
    except OSError:  # too many files are open; then the handshake is bounded by its time alone
        return nullcontext(connection)

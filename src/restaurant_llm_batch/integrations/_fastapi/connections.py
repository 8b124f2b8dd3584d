"""
HTTP connections with time limits, for `restaurant-llm-batch serve`: what uvicorn does not bound; needs uvicorn.

Theory of operation. A connection is in one of three states:

| state | what the client owes | until | afterwards |
|---|---|---|---|
| waiting | the head of a request | `head_seconds` after it began to owe it (idle ones: `idle_seconds`) | closed |
| reading | the body of a request | the router's `body_timeout` | status 408 |
| answering | to read the response | as long as it reads `PROGRESS` bytes in `stalled_seconds` | aborted |

If there are more connections than `connections`, those that owe a head or a body make room, the oldest first. So a new
client gets through, however many slow ones there are: it sends its request at once.

The protocol is uvicorn's for h11, which has a bound for the size of a request's head. Its other one, for httptools, has
none.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger("restaurant_llm_batch")

PROGRESS = 16 * 2**10
"""Bytes that a client must read in `stalled_seconds`, or all that are left."""
RECEIVE_BYTES = 16 * 2**10
"""Bytes that are parsed at once: a body in chunks of a byte takes 40 ms for each of these, and 600 ms by default."""


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """
    Limits of a server.

    Attributes:
        connections: Maximum number of connections.
        head_bytes: Maximum size of the head of a request, in bytes.
        head_seconds: Maximum seconds until the head of a request has arrived.
        idle_seconds: Seconds after which an idle connection is closed.
        stalled_seconds: Seconds after which a client that does not read its response is disconnected.
        drain_seconds: Seconds that requests in flight have to finish after SIGTERM or Ctrl-C.
    """

    connections: int = 1000
    head_bytes: int = 32 * 2**10
    head_seconds: float = 10.0
    idle_seconds: int = 5
    stalled_seconds: float = 30.0
    drain_seconds: float = 20.0


class BoundedProtocol(H11Protocol):
    """An HTTP connection with the limits of `ServerLimits`."""

    limits: ClassVar[ServerLimits]
    owing: ClassVar[dict[BoundedProtocol, None]]
    """Connections whose client owes a head or a body, the oldest first."""

    _head_timer: Any = None
    _write_timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request; make room if there are too many connections."""
        super().connection_made(transport)
        with suppress(AttributeError):  # an event loop other than that of asyncio
            transport.max_size = RECEIVE_BYTES
        if len(self.connections) > self.limits.connections:
            oldest = next(iter(self.owing), self)
            self.owing.pop(oldest, None)
            oldest.transport.abort()
            if oldest is self:
                return
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self.owing.pop(self, None)
        self._head_timer = _cancelled(self._head_timer)
        self._write_timer = _cancelled(self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data, and note what the client still owes."""
        try:
            super().data_received(data)
        except h11.LocalProtocolError as error:  # no request, after the response to the last one has begun
            log.debug("a connection is aborted: %r", error)
            self.transport.abort()
        else:
            self._update()

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the client to read this response."""
        super().on_response_complete()
        self._update()
        self._watch_writing()

    def pause_writing(self) -> None:
        """Begin to watch whether the client reads."""
        super().pause_writing()
        self._watch_writing()

    def _update(self) -> None:
        cycle: Any = self.cycle  # None before the first request
        in_progress = cycle is not None and not cycle.response_complete
        if in_progress and not cycle.more_body:
            self.owing.pop(self, None)
        else:
            self.owing.setdefault(self)
        if in_progress:
            self._head_timer = _cancelled(self._head_timer)
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self._end)

    def _end(self) -> None:
        self._head_timer = None
        if self._write_timer is None:  # otherwise, that one closes the connection
            self.transport.abort()

    def _watch_writing(self) -> None:
        size = self.transport.get_write_buffer_size()
        if size and self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.stalled_seconds, self._check_writing, size)

    def _check_writing(self, before: int) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() > max(before - PROGRESS, 0):
            self.transport.abort()
        else:
            self._watch_writing()


def _cancelled(timer: Any) -> Any:
    """Cancel a timer, if there is one, and return what is left of it: None."""
    return None if timer is None else timer.cancel()


def bounded_protocol(limits: ServerLimits) -> type[BoundedProtocol]:
    """Return a class of connections that share `limits`. A class, because uvicorn creates the connections itself."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits, "owing": {}})

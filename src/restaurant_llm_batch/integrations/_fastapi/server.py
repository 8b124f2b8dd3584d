"""HTTP server of `restaurant-llm-batch serve`: uvicorn with limits and a shutdown in steps; needs uvicorn."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

import uvicorn
from anyio import CancelScope, create_task_group, move_on_after, sleep
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .connections import ServerLimits, bounded_protocol
from .error_responses import APIError, as_response
from .request import request_id_of

POLL_INTERVAL = 0.05
"""Seconds between two checks for a second signal during shutdown."""
ANSWER_SECONDS = 2.0
"""Seconds for the responses of requests that were cancelled, before their connections are aborted."""
CLOSE_SECONDS = 3.0
"""Seconds for requests to end after that, and as many again for the runner to close."""
BACKLOG = 128
"""Connections that the system keeps until they are accepted, which happens all at once."""


class CancellableApp:
    """An ASGI application whose requests in flight can be cancelled; those without a response yet get status 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: set[CancelScope] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI connection; HTTP requests can be cancelled, others (lifespan, WebSocket) cannot."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response_started = False

        async def track_and_send(message: Message) -> None:
            nonlocal response_started
            response_started = True
            await send(message)

        with CancelScope() as open_scope:
            self._open.add(open_scope)
            try:
                await self._app(scope, receive, track_and_send)
            finally:
                self._open.discard(open_scope)
        if open_scope.cancelled_caught and not response_started:
            error = APIError(503, "this service is shutting down")
            await as_response(error, request_id_of(scope))(scope, receive, send)

    def cancel(self) -> None:
        """Cancel all requests in flight."""
        for open_scope in list(self._open):
            open_scope.cancel()


class SignalAwareServer(uvicorn.Server):
    """
    A uvicorn server that bounds what clients can take, and shuts down in three steps.

    The first Ctrl-C, SIGTERM or SIGHUP lets requests in flight finish, for `ServerLimits.drain_seconds`. Then, or at
    the second one, they are cancelled; the third exits at once. uvicorn's own second step exits at once, without a
    response to clients and with a traceback for each.

    Args:
        app: The application.
        limits: The limits.
        on_started: Called when it listens; None for nothing.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: ServerLimits = ServerLimits(),
        on_started: Callable[[], object] | None = None,
    ) -> None:
        self._app = CancellableApp(app)
        self._limits = limits
        self._on_started = on_started
        self._signal_count = 0
        config = uvicorn.Config(
            self._app,
            http=bounded_protocol(limits),
            loop="asyncio",  # uvloop's connections cannot be told how much to read at once
            ws="none",
            h11_max_incomplete_event_size=limits.head_bytes,
            timeout_keep_alive=limits.idle_seconds,
            timeout_graceful_shutdown=math.ceil(limits.drain_seconds + ANSWER_SECONDS + CLOSE_SECONDS),
            backlog=BACKLOG,
            # The client's address in the log is that of its connection, and not what it says in a header.
            proxy_headers=False,
            server_header=False,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the application and listen."""
        await super().startup(sockets)
        if self._on_started is not None:
            self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals during the block; SIGHUP too, by which a terminal ends what runs in it, unless ignored."""
        hang_up = getattr(signal, "SIGHUP", None)
        with super().capture_signals():
            if (
                hang_up is None
                or current_thread() is not main_thread()
                or signal.getsignal(hang_up) == signal.SIG_IGN
            ):
                yield
                return
            before = signal.signal(hang_up, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(hang_up, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count a signal; runs in the signal handler."""
        self._signal_count += 1
        if self._signal_count == 1:
            # uvicorn raises it again when all is closed, and the program knows what follows from these two.
            super().handle_exit(sig if sig == signal.SIGINT else signal.SIGTERM, frame)
        elif self._signal_count > 2:
            self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait until requests in flight finish; cancel them on the second signal, or when the time is over."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._end_requests)
            # Beyond what uvicorn waits for: the application's lifespan, which closes the runner.
            with move_on_after(self._limits.drain_seconds + ANSWER_SECONDS + 2 * CLOSE_SECONDS):
                await super().shutdown(sockets)
            tasks.cancel_scope.cancel()

    async def _end_requests(self) -> None:
        with move_on_after(self._limits.drain_seconds):
            while self._signal_count < 2:  # noqa: ASYNC110  # a signal handler must not set an event
                await sleep(POLL_INTERVAL)
        self._app.cancel()
        await sleep(ANSWER_SECONDS)
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

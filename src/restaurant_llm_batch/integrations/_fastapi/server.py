"""HTTP server of `restaurant-llm-batch serve`: uvicorn with a graceful shutdown in steps; needs uvicorn."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn
from anyio import CancelScope, create_task_group, sleep
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ... import __version__
from .error_responses import APIError, as_response
from .request import request_id_of

POLL_INTERVAL = 0.05
"""Seconds between two checks for a second signal during shutdown."""


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
    A uvicorn server that shuts down in three steps.

    The first Ctrl-C lets requests in flight finish, the second cancels them, the third exits at once. uvicorn's own
    second step exits at once, without a response to clients and with a traceback for each.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = CancellableApp(app)
        self._signal_count = 0
        super().__init__(uvicorn.Config(self._app))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count a signal; runs in the signal handler. uvicorn handles the first and the third."""
        self._signal_count += 1
        if self._signal_count != 2:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait until requests in flight finish; cancel them on the second signal."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._cancel_on_second_signal)
            await super().shutdown(sockets)
            tasks.cancel_scope.cancel()

    async def _cancel_on_second_signal(self) -> None:
        while self._signal_count < 2:  # noqa: ASYNC110  # a signal handler must not set an event
            await sleep(POLL_INTERVAL)
        self._app.cancel()


HEALTH = "/health"


def application(router: APIRouter) -> FastAPI:
    """Return a FastAPI application with the router's endpoints, a health endpoint and an OpenAPI page."""
    app = FastAPI(
        title="restaurant_llm_batch",
        version=__version__,
        description="Summaries, sentiment and strengths of many restaurants at once, from their reviews.",
    )
    app.include_router(router)

    @app.get(HEALTH, tags=["service"])
    async def health() -> dict[str, str]:
        """Report that the service is up, without calling the LLM or the search backend."""
        return {"status": "ok"}

    return app

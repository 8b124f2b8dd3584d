"""The server of `restaurant-llm-batch serve`; needs uvicorn."""

from __future__ import annotations

import socket
from types import FrameType

import uvicorn
from anyio import CancelScope, create_task_group, sleep
from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ... import __version__
from .error_responses import APIError, as_response
from .request import name_of

POLL_INTERVAL = 0.05
"""Seconds between two looks at whether requests are to end."""


class CancellableApp:
    """An application whose requests in flight can be ended; those that have no answer yet get 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: set[CancelScope] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or whatever else there is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        with CancelScope() as open_scope:
            self._open.add(open_scope)
            try:
                await self._app(scope, receive, watched)
            finally:
                self._open.discard(open_scope)
        if open_scope.cancelled_caught and not begun:
            refusal = APIError(503, "this service is shutting down")
            await as_response(refusal, name_of(scope))(scope, receive, send)

    def cancel(self) -> None:
        """End what is in flight."""
        for open_scope in list(self._open):
            open_scope.cancel()


class SignalAwareServer(uvicorn.Server):
    """
    Ends in three steps: the first Ctrl-C lets requests finish, the second cancels them, and the third leaves.

    uvicorn's own second step leaves at once, without a word to clients, and with a traceback for each.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = CancellableApp(app)
        self._signal_count = 0
        super().__init__(uvicorn.Config(self._app))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note that the process is asked to end; runs in a signal handler."""
        self._signal_count += 1
        if self._signal_count != 2:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish, or end them."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._look)
            await super().shutdown(sockets)
            tasks.cancel_scope.cancel()

    async def _look(self) -> None:
        while self._signal_count < 2:  # noqa: ASYNC110  # a signal handler must not set an event
            await sleep(POLL_INTERVAL)
        self._app.cancel()


HEALTH = "/health"


def application(router: APIRouter) -> FastAPI:
    """Return an application with the router's paths, one that tells whether it is up, and an OpenAPI page."""
    app = FastAPI(
        title="restaurant_llm_batch",
        version=__version__,
        description="Summaries, sentiment and strengths of many restaurants at once, from their reviews.",
    )
    app.include_router(router)

    @app.get(HEALTH, tags=["service"])
    async def health() -> dict[str, str]:
        """Tell that the service is up; it asks neither the model nor the search."""
        return {"status": "ok"}

    return app

"""HTTP server of `restaurant-llm-batch serve`: uvicorn with limits and a shutdown in steps; needs uvicorn."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any

import uvicorn
from anyio import CancelScope, create_task_group, move_on_after, sleep
from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ... import __version__
from ..._runner import BatchRunner
from .access import TokenAuth
from .connections import ServerLimits, bounded_protocol
from .docs_page import HEADERS, docs_page
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
_BEARER = HTTPBearer(auto_error=False, description="The token that the service was started with.")
"""Only for the description of the API: `TokenAuth` checks the token, before anything else is done."""


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

    The first Ctrl-C or SIGTERM lets requests in flight finish, for `ServerLimits.drain_seconds`. Then, or at the second
    one, they are cancelled; the third exits at once. uvicorn's own second step exits at once, without a response to
    clients and with a traceback for each.

    Args:
        app: The application.
        limits: The limits.
    """

    def __init__(self, app: ASGIApp, limits: ServerLimits = ServerLimits()) -> None:
        self._app = CancellableApp(app)
        self._limits = limits
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count a signal; runs in the signal handler."""
        self._signal_count += 1
        if self._signal_count == 1:
            super().handle_exit(sig, frame)
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


ROOT = "/"
HEALTH = "/health"
READY = "/ready"
OPENAPI = "/openapi.json"
DOCS = "/docs"
PUBLIC = (HEALTH, READY, OPENAPI, DOCS)
"""Paths that need no token: they say nothing about reviews, and call no service."""


def application(
    router: APIRouter,
    runner: BatchRunner | None = None,
    *,
    token: str | None = None,
    allowed_hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """
    Return a FastAPI application with the router's endpoints, those about the service, and a page that describes them.

    Args:
        router: The router.
        runner: The router's runner, for the endpoint that says whether it is open.
        token: Bearer token that requests must have; None for none.
        allowed_hosts: Names in the header ``Host`` that are answered: "*" for all, "*.example.com" for subdomains.
            Others get status 400. Otherwise any page in a browser of this machine could call the service, by a name
            that its owner points at this machine (DNS rebinding).
    """
    app = FastAPI(
        title="restaurant_llm_batch",
        version=__version__,
        description="Summaries, sentiment and strengths of many restaurants at once, from their reviews.",
        openapi_url=OPENAPI,
        docs_url=None,  # FastAPI's pages load scripts from another server
        redoc_url=None,
    )
    app.include_router(router, dependencies=[Depends(_BEARER)] if token else [])
    if token:
        app.add_middleware(TokenAuth, token=token, public=PUBLIC)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)

    @app.get(ROOT, tags=["service"])
    async def about() -> dict[str, Any]:
        """Name the service, its version, and the paths that describe it."""
        links = {"docs": DOCS, "health": HEALTH, "ready": READY, "openapi": OPENAPI}
        return {"name": app.title, "version": app.version, "links": links}

    @app.get(READY, tags=["service"], responses={503: {"description": "The runner is not open."}})
    async def ready(response: Response) -> dict[str, str]:
        """Report that the runner is open, so that requests are processed at once; otherwise with status 503."""
        if runner is None or runner.is_open:
            return {"status": "ready"}
        response.status_code = 503
        return {"status": "not ready"}

    @app.get(HEALTH, tags=["service"])
    async def health() -> dict[str, str]:
        """Report that the service is up, without calling the LLM or the search backend."""
        return {"status": "ok"}

    @app.get(DOCS, include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = docs_page(app.openapi(), OPENAPI, needs_token=token is not None)
        return HTMLResponse(page, headers=HEADERS)

    return app

"""Application of `restaurant-llm-batch serve`: the router, who may use it, and the paths about the service itself."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from anyio import create_task_group, sleep, to_thread
from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ... import __version__
from ..._runner import BatchRunner
from ...errors import ConfigurationError
from .access import API_KEY_HEADER, ApiKeys, KeyAuth
from .docs_page import HEADERS, docs_page
from .error_responses import REQUEST_ID
from .readiness import Readiness

ROOT = "/"
HEALTH = "/health"
READY = "/ready"
METRICS = "/metrics"
OPENAPI = "/openapi.json"
DOCS = "/docs"
PUBLIC = (HEALTH, READY, OPENAPI, DOCS)
"""Paths that need no key: they say nothing about reviews, and cost the services behind this one a call a second."""
_BEARER = HTTPBearer(auto_error=False, description="The token, or a key, that the service was started with.")
"""Only for the description of the API: `KeyAuth` checks the key, before anything else is done."""
_CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST", "DELETE"],
    "allow_headers": ["Authorization", API_KEY_HEADER, "Content-Type", REQUEST_ID, "X-Debug"],
    "expose_headers": [REQUEST_ID, "Retry-After", "Location"],
}
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s?#@*]+", re.IGNORECASE)
_WRITE_SECONDS = 1.0
"""Seconds between two writes of this process's counts for the others."""


class Metrics(Protocol):
    """Counts of this process, and of others that serve with it."""

    content_type: str

    def prometheus(self) -> str:
        """Return the counts of all."""
        ...

    def write(self) -> None:
        """Let the others have the counts of this process."""
        ...


def application(
    router: APIRouter,
    runner: BatchRunner | None = None,
    *,
    token: str | None = None,
    keys: Mapping[str, str] | None = None,
    allowed_hosts: Sequence[str] = ("*",),
    cors: Sequence[str] = (),
    metrics: Metrics | None = None,
) -> FastAPI:
    """
    Return a FastAPI application with the router's endpoints, those about the service, and a page that describes them.

    Args:
        router: The router.
        runner: The router's runner, for the endpoint that says whether requests would be processed now.
        token: Bearer token that requests must have, or one of the keys; None for none.
        keys: Name of the client by its key, "" for no name; None or none for no keys.
        allowed_hosts: Names in the header ``Host`` that are answered: "*" for all, "*.example.com" for subdomains.
            Others get status 400. Otherwise any page in a browser of this machine could call the service, by a name
            that its owner points at this machine (DNS rebinding).
        cors: Origins whose pages may call the service from a browser, such as "https://example.com"; "*" for all.
        metrics: The counts for ``/metrics``; None for no such path.

    Raises:
        ConfigurationError: An origin is invalid.
    """
    known = {**({} if token is None else {token: ""}), **(keys or {})}  # a token may be a client's key, too
    app = FastAPI(
        title="restaurant_llm_batch",
        version=__version__,
        description="Summaries, sentiment and strengths of many restaurants at once, from their reviews.",
        openapi_url=OPENAPI,
        docs_url=None,  # FastAPI's pages load scripts from another server
        redoc_url=None,
        lifespan=None if metrics is None else _writing(metrics),
    )
    app.include_router(router, dependencies=[Depends(_BEARER)] if known else [])
    if known:
        app.add_middleware(KeyAuth, keys=ApiKeys(known), public=PUBLIC)
    if cors:
        # Around the keys: a browser asks without one whether it may send one.
        app.add_middleware(CORSMiddleware, allow_origins=[check_origin(one) for one in cors], **_CORS)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)
    _add_paths(app, None if runner is None else Readiness(runner), runner, needs_key=bool(known))
    if metrics is not None:
        _add_metrics(app, metrics)
    return app


def check_origin(origin: str) -> str:
    """
    Return an origin for `CORSMiddleware`.

    Raises:
        ConfigurationError: It is not one.
    """
    if not _ORIGIN.fullmatch(origin):
        raise ConfigurationError(
            f"an origin is a scheme, a host and a port, or *, got {origin!r}; for example https://example.com, "
            "without a path"
        )
    return origin.lower()


def _add_paths(
    app: FastAPI, readiness: Readiness | None, runner: BatchRunner | None, *, needs_key: bool
) -> None:
    @app.get(ROOT, tags=["service"])
    async def about() -> dict[str, Any]:
        """Name the service, its version, and the paths that describe it."""
        links = {"docs": DOCS, "health": HEALTH, "ready": READY, "openapi": OPENAPI}
        return {"name": app.title, "version": app.version, "links": links}

    @app.get(READY, tags=["service"], responses={503: {"description": "Requests would fail now."}})
    async def ready(response: Response) -> dict[str, str]:
        """
        Report that requests are processed at once: the runner is open, and the services behind it answer.

        Otherwise the status is 503, with the reason. They are asked at most once a second, for 2 seconds at most.
        """
        if runner is not None and not runner.is_open:
            response.status_code = 503
            return {"status": "not ready"}
        problem = None if readiness is None else await readiness.problem()
        if problem is None:
            return {"status": "ready"}
        response.status_code = 503
        return {"status": "not ready", "reason": problem}

    @app.get(HEALTH, tags=["service"])
    async def health() -> dict[str, str]:
        """Report that the service is up, without calling the LLM or the search backend."""
        return {"status": "ok"}

    @app.get(DOCS, include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = docs_page(app.openapi(), OPENAPI, needs_token=needs_key)
        return HTMLResponse(page, headers=HEADERS)


def _add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get(METRICS, tags=["service"], response_class=Response)
    async def text() -> Response:
        """Return what all workers have done so far, in Prometheus's text format."""
        content = await to_thread.run_sync(metrics.prometheus)
        return Response(content, media_type=metrics.content_type)


def _writing(metrics: Metrics) -> Any:
    """Return a lifespan that writes the counts of this process now and then, and at its end."""

    async def write() -> None:
        while True:
            await sleep(_WRITE_SECONDS)
            await to_thread.run_sync(metrics.write)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with create_task_group() as tasks:
            tasks.start_soon(write)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                metrics.write()

    return lifespan

"""
HTTP server of `restaurant-llm-batch view`: the page of a record, and what it asks for; needs FastAPI and uvicorn.

Only this machine reaches it. Every path begins with a secret token, so that other users of the machine, and pages of
other sites in the same browser, read nothing; the header ``Host`` must be a name of this machine, so that no other name
that leads here (DNS rebinding) makes a page of another site one of this server.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._page.document import document
from .._text import json_line
from ..errors import StoreError
from ..records._page.data import RecordData
from ..records._page.tables import MOST_ROWS, Query

HOSTS = ("127.0.0.1", "localhost")
"""Names in the header ``Host`` that are answered, with any port: another one may be forwarded to this machine."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """
    An ASGI application that passes on requests with the token in their path, and without it.

    Args:
        app: The application that gets them.
        token: The token.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *given]}
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, send_with_headers)
            return
        _, _, rest = scope["path"][1:].partition("/")
        await self._app({**scope, "path": f"/{rest}", "raw_path": None}, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(named) != 1 or (
            named[0].lower().rpartition(":")[0] not in HOSTS and named[0].lower() not in HOSTS
        ):
            return _problem(400, "the header Host must name this machine: 127.0.0.1 or localhost")
        if scope["method"] not in ("GET", "HEAD"):
            return _problem(405, "this page is only read")
        token, slash, _ = scope["path"][1:].partition("/")
        if not slash or not secrets.compare_digest(token.encode("utf-8", "replace"), self._token):
            return _problem(404, "there is nothing here; the address of the page has a token in it")
        return None


def _problem(status: int, detail: str) -> Response:
    return Response(json_line({"detail": detail}), status, media_type="application/json")


def page_app(data: RecordData, token: str, run: int | None = None) -> ASGIApp:
    """
    Return the application.

    Args:
        data: The record.
        token: The first part of every path.
        run: The run that is shown first; None for the latest.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    made = document({"kind": "server", "name": data.name, "run": run}, data.name)
    policy = f"{made.policy}; frame-ancestors 'none'"

    @app.get("/")
    def page() -> Response:
        return Response(made.html, media_type="text/html", headers={"Content-Security-Policy": policy})

    @app.exception_handler(LookupError)
    @app.exception_handler(OverflowError)
    async def not_found(_request: Request, error: Exception) -> Response:
        return _problem(404, str(error))

    @app.exception_handler(StoreError)
    async def unreadable(_request: Request, error: Exception) -> Response:
        return _problem(503, str(error))

    def answer(path: str, find: Callable[..., Any]) -> None:
        # A response at once: FastAPI would look at each value of it first, which takes longer than to find it.
        @wraps(find)
        def respond(**words: Any) -> Response:
            return Response(json_line(find(**words)), media_type="application/json")

        app.add_api_route(f"/api/{path}", respond, response_model=None)

    def version() -> dict[str, str]:
        return {"version": data.version()}

    def items(run: int, query: QueryWords, offset: int = 0, limit: int = MOST_ROWS) -> dict[str, Any]:
        return data.rows("items", run, query, offset, limit)

    def calls(run: int, query: QueryWords, offset: int = 0, limit: int = MOST_ROWS) -> dict[str, Any]:
        return data.rows("calls", run, query, offset, limit)

    def comparison(a: int, b: int) -> dict[str, Any]:
        return data.comparison(a, b)

    answer("version", version)
    answer("items", items)
    answer("calls", calls)
    answer("comparison", comparison)
    for name in ("runs", "overview", "distributions", "limits", "causes", "choices", "item", "timeline"):
        answer(name, getattr(data, name))
    return Guard(app, token)


QueryWords = Annotated[Query, Depends()]

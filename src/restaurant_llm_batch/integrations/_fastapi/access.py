"""Access to the service: a bearer token (RFC 6750), compared in constant time."""

from __future__ import annotations

from collections.abc import Collection
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .error_responses import APIError, as_response
from .request import request_id_of


class TokenAuth:
    """
    An ASGI application that responds with status 401 to HTTP requests without the token.

    Args:
        app: The application that is protected.
        token: The token.
        public: Paths that need none.
    """

    def __init__(self, app: ASGIApp, token: str, public: Collection[str]) -> None:
        self._app = app
        self._expected = f"bearer {token}".encode()
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI connection."""
        if scope["type"] != "http" or scope["path"] in self._public or self._is_allowed(scope):
            await self._app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
        error = APIError(401, "this service needs a token: Authorization: Bearer TOKEN", headers=headers)
        await as_response(error, request_id_of(scope))(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        given = f"{kind.lower()} {token.strip()}".encode("latin-1", "replace")
        return compare_digest(given, self._expected)

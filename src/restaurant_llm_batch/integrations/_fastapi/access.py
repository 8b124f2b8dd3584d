"""Access to the service: keys of clients (RFC 6750), compared in constant time, and the clients' shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import sha256
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..._limits.clients import Client
from .error_responses import APIError, as_response
from .request import CLIENT, request_id_of

API_KEY_HEADER = "X-API-Key"


class Clients:
    """
    The clients of a service.

    Args:
        shares: Their shares by name, 1 for those that are not in it; None if limits are not shared by client.

    Raises:
        ConfigurationError: A share is invalid.
    """

    def __init__(self, shares: Mapping[str, float] | None) -> None:
        self._known = (
            None if shares is None else {name: Client(name, share) for name, share in shares.items()}
        )

    def named(self, name: str) -> Client | None:
        """Return whom a run for the client of a name is made for; None if limits are not shared by client."""
        return None if self._known is None else self._known.get(name) or Client(name)


class ApiKeys:
    """
    The keys of a service.

    Args:
        clients: The name of the client by its key; "" for a key without a name. A client may have several.
    """

    def __init__(self, clients: Mapping[str, str]) -> None:
        self._clients = [(_digest(key), name) for key, name in clients.items()]

    def client_of(self, key: str) -> str | None:
        """Return the name of a key's client; None for a key that is not known."""
        given, found = _digest(key), None
        for digest, name in self._clients:  # every one: the time must not say which one it is
            if compare_digest(given, digest):
                found = name
        return found

    def __repr__(self) -> str:
        return f"<ApiKeys: {len(self._clients)}>"


def _digest(key: str) -> bytes:
    # Digests are of one length, so the time does not depend on that of the key either.
    return sha256(key.encode("utf-8", "replace")).digest()


class KeyAuth:
    """
    An ASGI application that responds with status 401 to HTTP requests without a key.

    A key is given as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

    Args:
        app: The application that is protected. It finds the client's name in the scope, as `CLIENT`.
        keys: The keys.
        public: Paths that need none.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, public: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = self._keys.client_of(_key(Headers(scope=scope)))
        if client is not None:
            scope[CLIENT] = client
        elif scope["path"] not in self._public:
            headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
            error = APIError(401, "this service needs a token: Authorization: Bearer TOKEN", headers=headers)
            await as_response(error, request_id_of(scope))(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _key(headers: Headers) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else headers.get(API_KEY_HEADER, "").strip()

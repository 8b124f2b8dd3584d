"""
Qdrant errors: qdrant-client's exceptions converted to `BackendError` by type and status.

| error | becomes |
|---|---|
| 401 | `AuthenticationFailed` |
| 429 with Retry-After, or from a proxy | `RateLimited` |
| 429 without Retry-After, from Qdrant | `PermanentBackendError`: the request costs more than the whole limit |
| 408, 409, 425, 5xx (507: disk full), a lost connection, a timeout | `TransientBackendError` |
| anything else | `PermanentBackendError` |

gRPC codes are mapped to the HTTP statuses that Qdrant uses for them, see `_GRPC`.
"""

from __future__ import annotations

import json
from typing import Any

from ..._http.secrets import Secret
from ..._http.types import TransportError, error_text
from ...errors import (
    AuthenticationFailed,
    BackendError,
    PermanentBackendError,
    RateLimited,
    TransientBackendError,
)

_EXCEEDS_LIMIT = (
    "the request costs more than the whole rate limit of the collection, so it can never succeed: ask fewer "
    "things at once (fewer aspects, a lower limit, a smaller batch_size), or raise the limit"
)
_TOO_LONG = (
    "the answer is longer than max_answer= allows: ask fewer things at once, or set a higher max_answer"
)
_MAX_TEXT = 300
_DISK_FULL_KEY = "qdrant-insufficient-storage"
"""Metadata key that distinguishes a full disk from a rate limit, which have the same gRPC code."""

_GRPC = {
    "CANCELLED": 503,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 408,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 500,
    "ABORTED": 503,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 405,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 400,
    "UNAUTHENTICATED": 401,
}


def translate(error: Exception, *, server: str, collection: str, secret: Secret | None) -> BackendError:
    """
    Convert an exception of qdrant-client; it becomes the cause, unless it holds the key.

    Args:
        error: The client's exception.
        server: The server's name in messages.
        collection: The collection's name.
        secret: The key, to redact it in the message.
    """
    converted = _translate(error, server, collection)
    converted.__cause__ = error
    if secret is not None:
        message = secret.redact(str(converted))
        if _reveals(error, secret):
            converted.__cause__ = None
        converted.args = (message,)
    return converted


def _translate(error: Exception, server: str, collection: str) -> BackendError:
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    where = f"Qdrant at {server}"
    if isinstance(error, QdrantException):  # raised for a 429 with Retry-After, readable or not
        wait = getattr(error, "retry_after_s", None)
        message = f"{where} asks for a pause: {_shorten(str(error))}"
        return RateLimited(message, retry_after=wait, backend="qdrant", status=429)
    if isinstance(error, UnexpectedResponse):
        text, from_qdrant = _body_text(error.content)
        return _from_status(error.status_code or 0, text, from_qdrant, where, collection)
    if callable(getattr(error, "code", None)) and callable(getattr(error, "details", None)):  # grpc.RpcError
        status, text = _read_rpc_error(error)
        if status == 429 and "larger than max" in text:  # gRPC's own words, for its limit on this side
            return PermanentBackendError(f"{where}: {_TOO_LONG} ({text})", backend="qdrant")
        return _from_status(status, text, True, where, collection)
    if isinstance(error, ResponseHandlingException):
        return _from_transport_error(error.source, where, collection)
    return _from_transport_error(error, where, collection)


def _read_rpc_error(error: Any) -> tuple[int, str]:
    status = _GRPC.get(error.code().name, 500)
    trailing = error.trailing_metadata() or ()
    if status == 429 and any(key == _DISK_FULL_KEY for key, _ in trailing):
        status = 507
    return status, _shorten(str(error.details() or error.code().name))


def _from_status(status: int, text: str, from_qdrant: bool, where: str, collection: str) -> BackendError:
    message = f"{where} answered {status}: {text}" if text else f"{where} answered {status}"
    if status == 401:
        return AuthenticationFailed(f"{message} (check api_key=)", backend="qdrant", status=status)
    if status == 403:
        # A firewall refuses single queries, and a key may have no access to one tenant.
        return PermanentBackendError(f"{message} (check api_key=)", backend="qdrant", status=status)
    if status == 404:
        return PermanentBackendError(f"{message} ({_hint(collection)})", backend="qdrant", status=status)
    if status == 429 and not from_qdrant:
        return RateLimited(message, backend="qdrant", status=status)
    if status == 429:
        return PermanentBackendError(f"{message} ({_EXCEEDS_LIMIT})", backend="qdrant", status=status)
    if status in (408, 409, 425) or status >= 500:
        return TransientBackendError(message, backend="qdrant", status=status)
    return PermanentBackendError(message, backend="qdrant", status=status)


def _hint(collection: str) -> str:
    return f"is there a collection {collection!r}? create_collection() or index_reviews(...) makes it"


def _from_transport_error(error: Exception, where: str, collection: str) -> BackendError:
    import httpx

    if isinstance(error, TransportError):  # of our own transports
        message = f"{where}: {error}"
        return (PermanentBackendError if error.unreadable else TransientBackendError)(
            message, backend="qdrant"
        )
    message = f"{where}: {type(error).__name__}: {_shorten(error_text(error))}"
    if isinstance(error, httpx.PoolTimeout):
        message += " (no free connection: raise pool_size, or lower Limits(search=...))"
    permanent = httpx.UnsupportedProtocol, httpx.LocalProtocolError
    if isinstance(error, httpx.TransportError | OSError) and not isinstance(error, permanent):
        return TransientBackendError(message, backend="qdrant")
    if isinstance(error, ValueError) and collection in str(error):
        message += f" ({_hint(collection)})"  # in local mode, which has no statuses
    return PermanentBackendError(message, backend="qdrant")


def _body_text(content: bytes) -> tuple[str, bool]:
    """Return an error body's message, and whether Qdrant wrote it (JSON) or a proxy (anything else)."""
    try:
        body: Any = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return _shorten(content.decode("utf-8", "replace")), False
    status = body.get("status") if isinstance(body, dict) else None
    text = status.get("error") if isinstance(status, dict) else None
    return _shorten(text if isinstance(text, str) else content.decode("utf-8", "replace")), True


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


def _reveals(error: BaseException | None, secret: Secret) -> bool:
    """Return whether printing an error, or any in its chain of causes, would show the key."""
    key, seen = secret.reveal(), set[int]()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if key in f"{current!s} {current!r} {vars(current)!r}":
            return True
        source = getattr(current, "source", None)
        pending += [
            current.__cause__,
            current.__context__,
            source if isinstance(source, BaseException) else None,
        ]
    return False

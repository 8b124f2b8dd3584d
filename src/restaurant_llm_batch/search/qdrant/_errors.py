"""
Qdrant's errors in ours, by type and status.

| what came | becomes |
|---|---|
| 401, 403 | `AuthenticationFailed` |
| 429 with Retry-After, or from a proxy | `RateLimited` |
| 429 without, from Qdrant | `PermanentBackendError`: it costs more than the whole limit |
| 408, 409, 425, 5xx (507: no room left for now), a lost connection, a timeout | `TransientBackendError` |
| anything else | `PermanentBackendError` |

Over gRPC the codes mean what Qdrant's own statuses do, see `_GRPC`.
"""

from __future__ import annotations

import json
from typing import Any

from ..._http.secrets import Secret
from ...errors import (
    AuthenticationFailed,
    BackendError,
    PermanentBackendError,
    RateLimited,
    TransientBackendError,
)

_TOO_DEAR = (
    "the request costs more than the whole rate limit of the collection, so it can never pass: ask fewer "
    "things at once (fewer aspects, a lower limit, a smaller batch_size), or raise the limit"
)
_TEXT = 300
_NO_ROOM = "qdrant-insufficient-storage"
"""The key by which Qdrant tells a full disk from a rate limit, which share a gRPC code."""

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


def translate(error: Exception, *, place: str, collection: str, secret: Secret | None) -> BackendError:
    """
    Return the error to raise for one of qdrant-client's; its cause is set, unless that holds the key.

    Args:
        error: What the client raised.
        place: Where it was sent.
        collection: Which collection it was about.
        secret: The key, which must not show.
    """
    ours = _translate(error, place, collection)
    ours.__cause__ = error
    if secret is not None:
        clean = secret.redact(str(ours))
        if _shows(error, secret):
            ours.__cause__ = None
        ours.args = (clean,)
    return ours


def _translate(error: Exception, place: str, collection: str) -> BackendError:
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    where = f"Qdrant at {place}"
    if isinstance(error, QdrantException):  # raised for a 429 with Retry-After, readable or not
        wait = getattr(error, "retry_after_s", None)
        message = f"{where} asks for a pause: {_cut(str(error))}"
        return RateLimited(message, retry_after=wait, backend="qdrant", status=429)
    if isinstance(error, UnexpectedResponse):
        text, qdrants = _reason(error.content)
        return _of_status(error.status_code or 0, text, qdrants, where, collection)
    if callable(getattr(error, "code", None)) and callable(getattr(error, "details", None)):  # grpc.RpcError
        status, text = _of_rpc(error)
        return _of_status(status, text, True, where, collection)
    if isinstance(error, ResponseHandlingException):
        return _of_transport(error.source, where, collection)
    return _of_transport(error, where, collection)


def _of_rpc(error: Any) -> tuple[int, str]:
    status = _GRPC.get(error.code().name, 500)
    trailing = error.trailing_metadata() or ()
    if status == 429 and any(key == _NO_ROOM for key, _ in trailing):
        status = 507
    return status, _cut(str(error.details() or error.code().name))


def _of_status(status: int, text: str, qdrants: bool, where: str, collection: str) -> BackendError:
    said = f"{where} answered {status}: {text}" if text else f"{where} answered {status}"
    if status in (401, 403):
        return AuthenticationFailed(f"{said} (check api_key=)", backend="qdrant", status=status)
    if status == 404:
        return PermanentBackendError(f"{said} ({_hint(collection)})", backend="qdrant", status=status)
    if status == 429 and not qdrants:
        return RateLimited(said, backend="qdrant", status=status)
    if status == 429:
        return PermanentBackendError(f"{said} ({_TOO_DEAR})", backend="qdrant", status=status)
    if status in (408, 409, 425) or status >= 500:
        return TransientBackendError(said, backend="qdrant", status=status)
    return PermanentBackendError(said, backend="qdrant", status=status)


def _hint(collection: str) -> str:
    return f"is there a collection {collection!r}? create_collection() or index_reviews(...) makes it"


def _of_transport(error: Exception, where: str, collection: str) -> BackendError:
    import httpx

    said = f"{where}: {type(error).__name__}: {_cut(str(error))}"
    if isinstance(error, httpx.PoolTimeout):
        said += " (no free connection: raise pool_size, or lower Limits(search=...))"
    ours = httpx.UnsupportedProtocol, httpx.LocalProtocolError
    if isinstance(error, httpx.TransportError | OSError) and not isinstance(error, ours):
        return TransientBackendError(said, backend="qdrant")
    if isinstance(error, ValueError) and collection in str(error):
        said += f" ({_hint(collection)})"  # local mode has no statuses
    return PermanentBackendError(said, backend="qdrant")


def _reason(content: bytes) -> tuple[str, bool]:
    """Return what an error body says, and whether Qdrant itself wrote it; a proxy writes other bodies."""
    try:
        body: Any = json.loads(content or b"{}")
    except ValueError:
        return _cut(content.decode("utf-8", "replace")), False
    status = body.get("status") if isinstance(body, dict) else None
    said = status.get("error") if isinstance(status, dict) else None
    return _cut(said if isinstance(said, str) else content.decode("utf-8", "replace")), True


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _TEXT else text[:_TEXT] + "..."


def _shows(error: BaseException | None, secret: Secret) -> bool:
    """Tell whether an error, or any that led to it, would print the key."""
    key, seen = secret.reveal(), set[int]()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if key in f"{one!s} {one!r} {vars(one)!r}":
            return True
        source = getattr(one, "source", None)
        waiting += [one.__cause__, one.__context__, source if isinstance(source, BaseException) else None]
    return False

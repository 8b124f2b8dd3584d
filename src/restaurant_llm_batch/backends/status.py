"""Errors for HTTP statuses: what an answer of a service means for a run, for backends of users."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .._http.classify import service_error
from .._http.secrets import Secret
from ..errors import BackendError


def error_for_status(
    status: int | None,
    body: str | bytes | Mapping[str, Any] = "",
    *,
    backend: str = "",
    headers: Mapping[str, str] | None = None,
    api_key: str | None = None,
) -> BackendError:
    """
    Return the error for a service's answer, so that a backend of your own can raise it.

    Status, body and headers decide, as in the backends of this library: 429, 529 and words such as "overloaded" are
    `RateLimited`, with the seconds of ``Retry-After``; 408, 409, 425 and other 5xx are `TransientBackendError`; 401 is
    `AuthenticationFailed`; used-up credit is `QuotaExhausted`; a prompt that is too long is `PromptTooLong`; a content
    filter's refusal is `ContentRefused`; any other status is `PermanentBackendError`.

    Args:
        status: The HTTP status; None if the error came inside an answer with another status, such as 200.
        body: The body: its text, its bytes, or the decoded JSON. Errors in the forms of OpenAI, FastAPI, Google,
            Anthropic and others are read.
        backend: Name of the backend, for the message.
        headers: The response headers.
        api_key: The key that the request was made with: services quote it in messages, from which it is removed.
    """
    content: Any = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if isinstance(content, str):
        with suppress(ValueError, RecursionError):  # a page or a plain text stays what it is
            content = json.loads(content)
    lowered = {name.lower(): value for name, value in (headers or {}).items()}
    secret = Secret(api_key) if api_key else None
    return service_error(status, content, backend, headers=lowered, secret=secret)

"""HTTP bodies and base URLs: JSON encoded and decoded, responses that are missing or unreadable, URLs normalized."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from pydantic_core import from_json, to_json

from ..errors import BackendError, ConfigurationError, PermanentBackendError, TransientBackendError
from .body import MAX_ERROR_BYTES
from .error_body import page_text
from .event_stream import join_events, join_lines, looks_like_events
from .secrets import Secret, is_free_of
from .types import HTTPResponse, TransportError

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def encode(body: Mapping[str, Any]) -> bytes:
    """
    Encode a JSON body as UTF-8.

    Korean is not escaped, since escapes in a prompt cost several tokens per syllable. A lone surrogate, which
    UTF-8 cannot encode, becomes a question mark.
    """
    try:
        return to_json(body)  # several times faster than json.dumps, but raises for lone surrogates
    except ValueError:
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def decode(response: HTTPResponse, backend: str, secret: Secret | None = None) -> Any:
    """
    Decode the JSON body of a response; see `parse_body`.

    Raises:
        TransientBackendError: If it is not JSON; usually a proxy has answered in place of the service.
        PermanentBackendError: If it is an event stream without a completion; asking again would cost the same again.
    """
    body = parse_body(response.body)
    if not isinstance(body, Unreadable):
        return body
    raise unreadable_error(body, backend, secret, response.status)


def parse_error_body(body: bytes) -> Any:
    """
    Decode the body of an error, of which only the beginning was read; JSON that was cut off is read so far.

    Returns:
        The decoded body, or its text as `Unreadable`.
    """
    body = body[:MAX_ERROR_BYTES]
    parsed = parse_body(body)
    if isinstance(parsed, Unreadable) and len(body) == MAX_ERROR_BYTES and parsed.lstrip()[:1] in ("{", "["):
        try:
            return from_json(body, allow_partial="trailing-strings")
        except ValueError:
            pass
    return parsed


class Unreadable(str):
    """The text of a body that is not JSON."""

    __slots__ = ()


def parse_body(body: bytes) -> Any:
    """
    Decode a JSON body, and tolerate what servers really send.

    A byte order mark is ignored, a lone surrogate becomes a replacement character, and a stream of events or JSON
    lines that was not asked for is joined to one completion.

    Returns:
        The decoded body, or its text as `Unreadable`.
    """
    try:
        return from_json(body)
    except ValueError:
        pass
    text = _as_text(body).rstrip("\0 \t\r\n")
    try:
        return _parse_leniently(text)
    except (ValueError, RecursionError):
        pass
    joined = join_events(text) if looks_like_events(text) else join_lines(text)
    return Unreadable(text) if joined is None else joined


def unreadable_error(
    text: Unreadable, backend: str, secret: Secret | None, status: int | None
) -> BackendError:
    """Return the error for a successful response whose body is not JSON."""
    shown = page_text(text) if text.lstrip().startswith("<") else str(text)
    shown = (shown if secret is None else secret.redact(shown))[:80]
    if looks_like_events(text) and "data:" in text:
        return PermanentBackendError(
            f"{backend} answered with an event stream without a completion: {shown!r}; "
            "switch streaming off in the server or gateway",
            backend=backend,
            status=status,
        )
    return TransientBackendError(
        f"{backend} answered with something that is not JSON: {shown!r}", backend=backend, status=status
    )


def no_response_error(error: TransportError, backend: str, secret: Secret | None) -> BackendError:
    """
    Return the error for a request that got no response, or one that cannot be read; without the key.

    An unreadable response is permanent, since the request was processed, and would be paid for again.
    """
    reason = str(error) if secret is None else secret.redact(str(error))
    if error.unreadable:
        return PermanentBackendError(f"{backend}: {reason}", backend=backend)
    return TransientBackendError(
        f"{backend} did not answer: {reason}", local_shortage=error.local_shortage, backend=backend
    )


def raise_no_response(error: TransportError, backend: str, secret: Secret | None) -> NoReturn:
    """Raise the error of `no_response_error`, caused by `error` unless a key stands in it."""
    raise no_response_error(error, backend, secret) from (error if is_free_of(error, secret) else None)


def normalize_base_url(url: str, *, without: str = "") -> str:
    """
    Strip trailing slashes from a base URL, and the suffix `without`.

    Raises:
        ConfigurationError: If it is not an http(s) URL, or holds a user or password.
    """
    if not str(url).startswith(("http://", "https://")):
        raise ConfigurationError(
            f'base_url must start with http:// or https://, got {url!r}; for example "http://localhost:8000"'
        )
    if "@" in url.split("/")[2]:
        raise ConfigurationError("base_url must not hold a user or password; pass them as api_key=...")
    return url.rstrip("/").removesuffix(without).rstrip("/") if without else url.rstrip("/")


def _as_text(body: bytes) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(encoding, "replace")
    return body.decode("utf-8", "replace")


def _parse_leniently(text: str) -> Any:
    value = json.loads(text, strict=False)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        # Through UTF-16, which joins the two halves of a character and leaves only lone ones to be replaced.
        halves = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")
        value = json.loads(halves.decode("utf-16", "replace"))
    return value

"""
Error bodies: message, codes, status and wait of an error in any of the shapes that services use.

Services disagree about where an error says what it is. `read_error` reads the shapes of OpenAI, Azure, vLLM, SGLang,
llama.cpp, TGI, Ollama, Mistral, Anthropic, Google, FastAPI and OpenRouter, plain text, and HTML pages. Pure functions.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .retry_after import wait_in_body, wait_in_text

MAX_TEXT = 4000
"""Characters of an error's text that are examined."""
_MAX_PARSED = 100_000
_MAX_DEPTH = 6

# What is opened and not closed goes to the end, so that no text is searched for the same end twice.
_TAGS = re.compile(r"<[^<>]*+>?")
_INVISIBLE = re.compile(
    r"<(script|style)\b.*?(?:</\1\s*+>|\Z)|<head\b.*?(?:</head\s*+>|(?=<body\b)|\Z)|<!--.*?(?:-->|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_TITLE = re.compile(r"<(title|h1)\b[^<>]{0,300}>(.{0,500}?)</\1\s{0,20}>", re.IGNORECASE | re.DOTALL)
_IS_HTML = re.compile(
    r"\s*+(?:<\?xml[^>]*+>\s*+)?(?:<!--(?>.*?-->)\s*+)*+<(?:!doctype|html|head|body|title|center|h1|p\b)",
    re.IGNORECASE | re.DOTALL,
)
_MAX_PAGE, _MAX_PAGE_TEXT = 8_000, 200

_CODE_KEYS = ("code", "type", "error_type", "errorType", "status", "reason", "kind", "error_code", "__type")


class ServiceError(NamedTuple):
    """
    An error as a service describes it.

    Attributes:
        message: Its message, for people.
        text: Everything it says in words, for classification.
        codes: Its codes and types as they are written, the most specific first.
        param: The request's field that it names, or "".
        fields: Further request fields that it names by location.
        status: The HTTP status that the body states, or None.
        wait: Seconds to wait that the body states, or None.
        is_page: Whether it is an HTML page, which a gateway or firewall sent in place of the service.
    """

    message: str
    text: str = ""
    codes: tuple[str, ...] = ()
    param: str = ""
    fields: tuple[str, ...] = ()
    status: int | None = None
    wait: float | None = None
    is_page: bool = False


def read_error(body: Any) -> ServiceError:
    """
    Return what an error body says.

    Args:
        body: The decoded body, or its text if it was not JSON.
    """
    body = parse_nested(body)
    if isinstance(body, str):
        if _IS_HTML.match(body):
            message = page_text(body)
            return ServiceError(message, message, is_page=True)
        return ServiceError(body, body[:MAX_TEXT], wait=wait_in_text(body[:MAX_TEXT]))
    parts = list(_parts(body, 0))
    codes: dict[str, None] = {}
    status: int | None = None
    for part in parts:
        for key in _CODE_KEYS:
            value = part.get(key)
            number = _status(value)
            if number is not None and key in ("code", "status", "error_code"):
                status = status or number
            elif isinstance(value, str) and value and not value.isdigit():
                codes.setdefault(value[:200])
    message = _message(body)
    words = [message, *(as_text(part[key]) for part in parts for key in ("raw", "reasons") if part.get(key))]
    text = " ".join(words)[:MAX_TEXT]
    param = next(
        (part["param"] for part in parts if isinstance(part.get("param"), str) and part["param"]), ""
    )
    wait = wait_in_body(parts)
    return ServiceError(
        message=message,
        text=text,
        codes=tuple(codes),
        param=param,
        fields=tuple(field for part in parts for field in _location(part)),
        status=status,
        wait=wait_in_text(text) if wait is None else wait,
    )


def parse_nested(error: Any) -> Any:
    """Parse an error that is text: JSON, or the repr of a Python object; return anything else as it is."""
    if (
        not isinstance(error, str)
        or len(error) > _MAX_PARSED
        or error.lstrip("\ufeff \r\n\t")[:1] not in ("{", "[")
    ):
        return error
    text = error.strip("\ufeff \r\n\t")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        try:
            parsed = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return error
    return parsed if isinstance(parsed, (dict, list)) else error


def as_text(value: Any) -> str:
    """Return ``str(value)``; "" for what cannot be shown: it is nested too deeply, or has a number of 5,000 digits."""
    try:
        return str(value)
    except (RecursionError, ValueError):
        return ""


def page_text(page: str) -> str:
    """Return the readable text of an HTML page in at most 200 characters, its title first."""
    page = page[:_MAX_PAGE]
    title = _TITLE.search(page)
    text = _plain(_INVISIBLE.sub(" ", page))
    heading = _plain(title[2]) if title else ""
    if heading and not text.lower().startswith(heading.lower()):
        text = f"{heading}: {text}" if text else heading
    return text[:_MAX_PAGE_TEXT]


def _plain(page: str) -> str:
    return " ".join(html.unescape(_TAGS.sub(" ", page)).split())


def _parts(value: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of an error that may describe it, innermost error first."""
    value = parse_nested(value)
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for entry in value[:20]:
            yield from _parts(entry, depth + 1)
    elif isinstance(value, dict):
        for key in ("error", "innererror", "detail", "details", "errors", "metadata", "message", "status"):
            yield from _parts(value.get(key), depth + 1)
        yield value


def _message(value: Any, depth: int = 0) -> str:
    value = parse_nested(value)
    if depth > _MAX_DEPTH:
        return as_text(value)
    if isinstance(value, list):
        return "; ".join(_message(entry, depth + 1) for entry in value[:20])
    if isinstance(value, dict):
        for key in ("error", "message", "detail", "errors", "error_message", "msg", "status"):
            if value.get(key) and (key != "status" or isinstance(value[key], dict)):
                message = _message(value[key], depth + 1)
                location = ".".join(_location(value)) if key == "msg" else ""
                return f"{location}: {message}" if location else message
        return _as_json(value)
    return as_text(value)


def _as_json(value: Mapping[str, Any]) -> str:
    """Return an object without a message as JSON, as services write it; or its only text."""
    texts = [one for one in value.values() if isinstance(one, str)]
    if len(value) == len(texts) == 1:
        return texts[0]
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, TypeError, ValueError):  # what Python wrote, in place of JSON
        return as_text(value)


def _location(part: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the path in pydantic's `loc`, without the leading "body"."""
    location = part.get("loc")
    if not isinstance(location, (list, tuple)):
        return ()
    names = tuple(str(name) for name in location if isinstance(name, str))
    return names[1:] if names[:1] == ("body",) else names


def _status(value: Any) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if type(value) is int and 400 <= value < 600 else None

"""
OpenAI codec: request bodies, responses and the SDK's exceptions, on top of `_http.openai_api`.

Pure functions for what is particular to OpenAI: strict schemas, hints for rejected parameters, and keys in errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..._http.openai_api import chat_body, chat_error, read_chat
from ..._http.secrets import Secret, is_free_of
from ..._http.status import Unreadable, no_response_error, parse_body, parse_error_body, unreadable_error
from ..._http.types import TransportError, error_text, headers_too_long
from ..._llm_response import LLMResponse
from ..._shortage import is_local_shortage
from ...errors import BackendError, ConfigurationError, PermanentBackendError
from ...models import LLMRequest
from ...tokens.tokenizers import replace_surrogates
from .._schema_forms import without_bounds
from ._strict import StrictCache

if TYPE_CHECKING:
    from httpx2 import Request, Response

BACKEND = "openai"
_FINE_TUNED = "ft:"
_KEY_HEADERS = ("authorization", "api-key")
_BUFFER_FULL = "Receive buffer too long"
"""h11's message for headers above its limit."""
_HINTS = {
    "service_tier": "use OpenAILLM(..., service_tier=...) with another tier, or leave it out",
}
"""What to do if a server rejects a field that is not left out by itself, by the field's name."""


def check_arguments(
    model: Any, service_tier: Any, prompt_cache_key: Any, max_tokens_field: Any, extra_body: Any
) -> None:
    """
    Check the parameters of every request.

    Raises:
        ConfigurationError: If one of them has the wrong type or value.
    """
    if not (isinstance(model, str) and model):
        raise ConfigurationError(f'model must be a name, got {model!r}; for example "gpt-4.1-mini"')
    for field, value in (("service_tier", service_tier), ("prompt_cache_key", prompt_cache_key)):
        if value is not None and not (isinstance(value, str) and value):
            raise ConfigurationError(f"{field} must be a non-empty string or None, got {value!r}")
    if max_tokens_field not in (None, "max_tokens", "max_completion_tokens"):
        raise ConfigurationError(
            f'max_tokens_field must be "max_tokens" or "max_completion_tokens", got {max_tokens_field!r}'
        )
    if extra_body is not None and not isinstance(extra_body, Mapping):
        raise ConfigurationError(f"extra_body must be a mapping of fields, got {type(extra_body).__name__}")
    if (extra_body or {}).get("stream"):
        raise ConfigurationError(
            "extra_body must not set stream: responses are read as a whole; leave it out"
        )


def body_for(
    request: LLMRequest,
    model: str,
    *,
    max_tokens_field: str,
    send_temperature: bool,
    extra_body: Mapping[str, Any],
    strict: StrictCache,
) -> dict[str, Any]:
    """
    Return the request body of a chat completion.

    Args:
        request: The messages and their sampling parameters.
        model: The model's name.
        max_tokens_field: The service's name of the field that limits completion tokens.
        send_temperature: Whether to send the temperature.
        extra_body: Further fields, which override those above.
        strict: Tells whether the schema is within what OpenAI's strict mode supports.
    """
    if request.schema is not None and model.startswith(_FINE_TUNED):
        request = replace(request, schema=without_bounds(request.schema))
    body = chat_body(request, model, max_tokens_field=max_tokens_field)
    if not send_temperature:
        del body["temperature"]
    for message in body["messages"]:
        message["content"] = replace_surrogates(message["content"])
    if request.schema is not None:
        body["response_format"]["json_schema"]["strict"] = strict.is_strict(request.schema)
    body.update(extra_body)
    return body


def read_response(response: Response) -> LLMResponse:
    """
    Parse a response of the service.

    Raises:
        BackendError: If it is not a chat completion.
    """
    key = _key_of(response.request)
    body = parse_body(response.content)
    if isinstance(body, Unreadable):
        raise unreadable_error(body, BACKEND, key, None)
    return read_chat(body, BACKEND, key, response.headers)


def backend_error(error: Exception) -> BackendError:
    """
    Convert an exception of the SDK.

    The exception becomes the cause, except if the service repeated the key in it.
    """
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return _status_error(error, error.response)
    failure: BackendError
    if isinstance(error, APIConnectionError):
        key = _key_of(error.request)
        failure = no_response_error(_transport_error(error), BACKEND, key)
    else:
        key = None
        failure = PermanentBackendError(f"{BACKEND}: {type(error).__name__}: {error}", backend=BACKEND)
    if is_free_of(error, key):
        failure.__cause__ = error
    return failure


def _status_error(error: Exception, response: Response) -> BackendError:
    key = _key_of(response.request)
    body = _with_hint(parse_error_body(response.content), response)
    failure = chat_error(response.status_code, body, response.headers, BACKEND, key)
    if key is None or key.reveal() not in f"{error} {response.text} {response.headers.multi_items()}":
        failure.__cause__ = error
    return failure


def _with_hint(body: Any, response: Response) -> Any:
    error = body.get("error") if isinstance(body, dict) else None
    if response.status_code == 404 and "/v1" not in response.request.url.path:
        return {"error": {"message": f"{error or body} (most servers need a base_url that ends with /v1)"}}
    hint = _HINTS.get(str(error.get("param"))) if isinstance(error, dict) else None
    if error is None or hint is None:
        return body
    return {"error": {**error, "message": f"{error.get('message')} To fix it, {hint}"}}


def _transport_error(error: Exception) -> TransportError:
    """Return why no response came: our `TransportError`, or one for the client's own error."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, TransportError):
        cause = cause.__cause__
    if cause is not None:
        return cause
    cause = error.__cause__ or error
    if _BUFFER_FULL in str(cause):
        return headers_too_long()
    message = f"{type(cause).__name__}: {error_text(cause)}"
    return TransportError(message, request_may_have_been_sent=True, local_shortage=is_local_shortage(error))


def _key_of(request: Request) -> Secret | None:
    """Return the key in a request's headers; None if there is none."""
    for header in _KEY_HEADERS:
        key = request.headers.get(header, "").removeprefix("Bearer ").strip()
        if key:
            return Secret(key)
    return None

"""
HTTP error responses without internal details.

Error messages of LLM and search services contain their addresses and account names. So a response only says what kind
of error occurred, in a text from this module; the details go to the log, under the same request id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ...errors import (
    STOPS_THE_RUN,
    AuthenticationFailed,
    BackendError,
    BatchError,
    ConfigurationError,
    ContentRefused,
    DeadlineExceeded,
    OutputError,
    OutputTruncated,
    PermanentBackendError,
    PromptTooLong,
    QuotaExhausted,
    RateLimited,
    RunStopped,
    SubmissionUnknown,
    TransientBackendError,
)
from .responses import ErrorDetail, ErrorResponse
from .serialize import as_json

REQUEST_ID = "X-Request-Id"
MAX_DETAILS = 20
MAX_TEXT = 300
RETRY_AFTER = 5
"""Seconds after which a request may be sent again, unless the service behind this one names others."""

_MESSAGES: Sequence[tuple[type[BatchError], str]] = (
    (RateLimited, "a service behind this one is overloaded"),
    (TransientBackendError, "a service behind this one did not answer"),
    (PromptTooLong, "the reviews do not fit into the model's context"),
    (SubmissionUnknown, "the connection was lost while a job was submitted; it was not sent again"),
    (AuthenticationFailed, "a service behind this one does not accept its credentials"),
    (QuotaExhausted, "a service behind this one has no quota left"),
    (ContentRefused, "a content filter of a service behind this one refused the reviews or the answer"),
    (PermanentBackendError, "a service behind this one refused the call"),
    (BackendError, "a service behind this one failed"),
    (OutputTruncated, "the model's answer was cut off"),
    (OutputError, "the model's answer could not be used"),
    (DeadlineExceeded, "it took longer than this service allows"),
    (ConfigurationError, "this service is not set up for it"),
)
"""First match wins: subclasses come before their base classes."""

_STATUSES: Sequence[tuple[type[BatchError], int]] = (
    (TransientBackendError, 503),
    (PromptTooLong, 422),
    (ContentRefused, 422),
    (AuthenticationFailed, 503),
    (QuotaExhausted, 503),
    (BackendError, 502),
    (OutputError, 502),
    (DeadlineExceeded, 504),
    (RunStopped, 503),
    (ConfigurationError, 503),
)
"""
Status of a request about one restaurant that failed; first match wins. 503: the service, or one behind it, is not
usable now; 502: one behind it answered, but not as it should; 422: another request may succeed.
"""

# Beginnings of errors about a token budget that is too small. It may be the request's budget, so the client may know.
_TOO_SMALL = re.compile(r"max_tokens_per_batch=|a budget of \d+ tokens for a batch ")


class APIError(HTTPException):
    """An error with an HTTP status and a message for the client."""

    def __init__(
        self,
        status: int,
        message: str,
        details: Sequence[ErrorDetail] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.details = details


def describe_error(error: BaseException) -> str:
    """Return the text of an error for the client, without internal details."""
    if isinstance(error, RunStopped):
        cause = error.__cause__
        return f"RunStopped: not run to its end{f': {describe_error(cause)}' if cause is not None else ''}"
    if isinstance(error, ConfigurationError) and _TOO_SMALL.match(str(error)):
        return (
            f"{type(error).__name__}: max_tokens_per_batch is too small for the instructions, a review and "
            "the answer; send a larger one"
        )
    for error_type, message in _MESSAGES:
        if isinstance(error, error_type):
            status = getattr(error, "status", None)
            return f"{type(error).__name__}: {message}" + (f" (status {status})" if status else "")
    return "internal error"


def is_misconfiguration(error: BaseException) -> bool:
    """Return whether an error is one of the service's setup: every request fails by it, whatever is in it."""
    if isinstance(error, ConfigurationError):
        return not _is_of_request(error)
    return isinstance(error, STOPS_THE_RUN)


def is_unknown_there(error: BaseException) -> bool:
    """Return whether a service has no such model, collection or path: if it says so each time, it is the setup."""
    return isinstance(error, PermanentBackendError) and error.status in (404, 405)


def _is_of_request(error: ConfigurationError) -> bool:
    return error.of_one_item or _TOO_SMALL.match(str(error)) is not None


def unusable(error: Exception) -> APIError:
    """Return the error response of a request that failed as every other one will, since the service is not set up."""
    return APIError(503, describe_error(error))


def failed(error: Exception) -> APIError:
    """Return the error response of a request about one restaurant, which failed."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, ConfigurationError) and _is_of_request(error):
        status = 422
    headers = None
    if isinstance(error, TransientBackendError):
        seconds = RETRY_AFTER if error.retry_after is None else min(max(error.retry_after, 1), 3600)
        headers = {"Retry-After": str(ceil(seconds))}
    return APIError(status, describe_error(error), headers=headers)


def as_api_error(error: Exception) -> APIError:
    """Return the error response of a request that failed as a whole."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, STOPS_THE_RUN):
        return APIError(503, describe_error(error))
    if isinstance(error, RunStopped):
        return APIError(503, "this service is shutting down")
    if isinstance(error, ConfigurationError):
        return APIError(422, shorter(str(error)))
    return APIError(500, "internal error")


def as_response(error: HTTPException | RequestValidationError, request_id: str) -> Response:
    """Return an error as an HTTP response in the common shape, `ErrorResponse`."""
    if isinstance(error, RequestValidationError):
        return _response(422, *_invalid(error.errors()), request_id=request_id)
    details = error.details if isinstance(error, APIError) else ()
    detail: Any = error.detail  # of any type, if a dependency of the application raises the error
    message = detail if isinstance(detail, str) else "the request was refused"
    return _response(error.status_code, message, details, request_id=request_id, headers=error.headers)


def error_body(status: int, message: str, details: Sequence[ErrorDetail], request_id: str) -> dict[str, Any]:
    """Return the body of an error response."""
    body = ErrorResponse(code=status, message=message, details=list(details) or None, request_id=request_id)
    return body.model_dump()


def _response(
    status: int,
    message: str,
    details: Sequence[ErrorDetail],
    *,
    request_id: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = as_json(error_body(status, message, details, request_id))
    response = Response(body, status, headers, "application/json")
    response.headers[REQUEST_ID] = request_id
    return response


def invalid(error: ValidationError) -> APIError:
    """Return the error response for a body that does not fit the model of its endpoint."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return APIError(422, *_invalid({**one, "loc": ("body", *one["loc"])} for one in found))


def _invalid(errors: Iterable[Any]) -> tuple[str, list[ErrorDetail]]:
    details = [_detail(error["loc"], _message(error), error["type"]) for error in errors]
    first = details[0]
    return f"{first['field']}: {first['message']}", details[:MAX_DETAILS]


def _message(error: Any) -> str:
    if error["type"] in ("model_type", "model_attributes_type"):
        return "Must be an object"
    return shorter(str(error["msg"]))


def detail(place: Sequence[int | str], message: str, kind: str = "value_error") -> ErrorDetail:
    """
    Return the detail about a field of the body.

    Args:
        place: The names and indices that lead to the field; none for the body itself.
        message: What is wrong.
        kind: A word for it, for programs.
    """
    return _detail(("body", *place), message, kind)


def _detail(loc: Sequence[int | str], message: str, kind: str) -> ErrorDetail:
    short = [shorter(part) if isinstance(part, str) else part for part in loc]
    return ErrorDetail(field=_field(loc), message=message, loc=short, msg=message, type=kind)


def _field(loc: Sequence[int | str]) -> str:
    """Return the path of a field as in code, ``restaurants[0].limit``; the first part of `loc` is always "body"."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc[1:])
    return shorter(path.removeprefix(".")) or str(loc[0])


def shorter(text: str) -> str:
    """Truncate a text that may quote the request, to `MAX_TEXT` characters."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."

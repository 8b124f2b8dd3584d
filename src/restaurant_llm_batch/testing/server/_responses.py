"""Planned responses of the fault server: body, status, headers and form of delivery, fixed before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic_core import to_json

Delivery: TypeAlias = Literal["whole", "disconnect", "reset", "slow_body", "no_response"]


class Usage(NamedTuple):
    """Tokens of a completion."""

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class PlannedResponse:
    """
    A response to be sent.

    Attributes:
        body: Bytes of the body.
        status: HTTP status code.
        headers: Headers, except the content type.
        delivery: How to send the response; or how to fail instead.
        latency: Seconds to wait before it is sent.
        admitted: Whether its request was admitted and occupies the server until the response is sent.
        usage: Tokens of the completion in it; None if there is none.
        priority: Priority of the request.
        job_id: Id of the job whose completion it reports, or ""; a completion reported twice counts once.
        content_type: Media type of the body.
    """

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = "whole"
    latency: float = 0.0
    admitted: bool = False
    usage: Usage | None = None
    priority: int = 0
    job_id: str = ""
    content_type: str = "application/json"


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None, **fields: Any
) -> PlannedResponse:
    """Return a JSON response; `fields` are further fields of `PlannedResponse`."""
    return PlannedResponse(to_json(body), status, headers or {}, **fields)


def html_error(status: int, title: str) -> PlannedResponse:
    """Return an HTML error page, as a proxy in front of the service sends it."""
    html = f"<html><head><title>{title}</title></head><body><center>nginx</center></body></html>"
    return PlannedResponse(html.encode(), status, content_type="text/html")


def openai_error(
    status: int,
    message: str,
    error_type: str,
    code: str | int | None = None,
    headers: Mapping[str, str] | None = None,
) -> PlannedResponse:
    """Return an error in the format of OpenAI, which vLLM shares."""
    error = {
        "message": message,
        "type": error_type,
        "param": None,
        "code": status if code is None else code,
    }
    return json_response({"error": error}, status, headers)

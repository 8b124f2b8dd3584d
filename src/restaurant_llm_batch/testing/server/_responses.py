"""What to send back, and how; decided before any of it is sent."""

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
    An answer.

    Attributes:
        body: Its bytes.
        status: Its HTTP status.
        headers: Its headers, the type of its content aside.
        delivery: How it is sent, or not.
        after: Seconds that it takes.
        admitted: Whether it is an answer to a question that was let in, and takes a place until it is sent.
        usage: Tokens that it tells of; None where it holds no completion.
        priority: Of the question.
        job_id: The job whose completion it tells; of all that tell the same one, the first counts.
        kind: The type of its content.
    """

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = "whole"
    after: float = 0.0
    admitted: bool = False
    usage: Usage | None = None
    priority: int = 0
    job_id: str = ""
    kind: str = "application/json"


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None, **more: Any
) -> PlannedResponse:
    """Return an answer in JSON."""
    return PlannedResponse(to_json(body), status, headers or {}, **more)


def html_error(status: int, title: str, **more: Any) -> PlannedResponse:
    """Return what a proxy in between says."""
    html = f"<html><head><title>{title}</title></head><body><center>nginx</center></body></html>"
    return PlannedResponse(html.encode(), status, kind="text/html", **more)


def openai_error(
    status: int,
    words: str,
    kind: str,
    code: str | int | None = None,
    headers: Mapping[str, str] | None = None,
) -> PlannedResponse:
    """Return an error in the shape of OpenAI's, which is vLLM's too."""
    error = {"message": words, "type": kind, "param": None, "code": status if code is None else code}
    return json_response({"error": error}, status, headers)

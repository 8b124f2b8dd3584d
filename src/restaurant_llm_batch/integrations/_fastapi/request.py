"""Requests, read within bounds."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from .error_responses import REQUEST_ID, APIError, as_response
from .responses import ErrorDetail

LINES = "application/x-ndjson"
_YES = {"true", "1", "yes"}
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True)
class Bounds:
    """The largest body, in bytes, and the most restaurants of one request."""

    body_bytes: int
    items: int


class BatchRequest(Request):
    """
    A request that is refused as soon as it proves to be too large.

    Attributes:
        request_id: Its name: that of the header ``X-Request-Id`` where it is sane, else a new one.
    """

    def __init__(self, scope: Scope, receive: Receive, bounds: Bounds) -> None:
        super().__init__(scope, receive)
        self._bounds = bounds
        self.request_id = name_of(scope)

    @property
    def wants_debug(self) -> bool:
        """Whether the fuller shapes are asked for."""
        asked = self.headers.get("x-debug", ""), self.query_params.get("debug", "")
        return any(value.strip().lower() in _YES for value in asked)

    @property
    def wants_lines(self) -> bool:
        """Whether results are to be sent as they finish."""
        wanted = _qualities(",".join(self.headers.getlist("accept")))
        return 0 < wanted.get(LINES, 0) >= wanted.get("application/json", 0)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body; what the header says about its length is only good for refusing it sooner."""
        size = 0
        said = self.headers.get("content-length", "")
        if said.isdecimal() and int(said[:20]) > self._bounds.body_bytes:
            raise self._too_large()
        async with aclosing(super().stream()) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._bounds.body_bytes:
                    raise self._too_large()
                yield chunk

    async def body(self) -> bytes:
        """Return the body, which must say that it is JSON."""
        if not _is_json(self.headers.get("content-type", "")):
            raise APIError(415, "the request must be JSON, with the header Content-Type: application/json")
        return await super().body()

    async def json(self) -> Any:
        """Return what the body says."""
        try:
            read = from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise APIError(
                422, "the body is not JSON", [ErrorDetail(field="body", message=str(error))]
            ) from None
        restaurants = read.get("restaurants") if isinstance(read, dict) else None
        if isinstance(restaurants, list) and len(restaurants) > self._bounds.items:
            most = self._bounds.items
            message = f"at most {most} restaurants are done in one request, not {len(restaurants)}"
            raise APIError(413, message, [ErrorDetail(field="restaurants", message=f"At most {most}")])
        return read

    def _too_large(self) -> APIError:
        return APIError(413, f"the body of a request may have {self._bounds.body_bytes:,} bytes at most")


def name_of(request: Scope) -> str:
    """Return a request's name."""
    given = Headers(scope=request).get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else uuid4().hex


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _qualities(accept: str) -> dict[str, float]:
    """Return how much each named media type is wanted, from 0 to 1."""
    wanted: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        wanted[kind] = float(weight) if re.fullmatch(r"[01](\.\d{0,3})?", weight) else 0.0
    return wanted


class BatchRoute(APIRoute):
    """
    A route of the batch router.

    It answers errors of reading a request by itself, so that handlers of the whole application stay what they
    are. Exceptions of dependencies that an application adds go to its own handlers, `HTTPException` excepted.
    """

    bounds: ClassVar[Bounds]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request."""
        handle = super().get_route_handler()
        bounds = self.bounds

        async def handle_within_bounds(plain: Request) -> Response:
            request = BatchRequest(plain.scope, plain.receive, bounds)
            try:
                response = await handle(request)
            except (RequestValidationError, HTTPException) as error:
                return as_response(error, request.request_id)
            response.headers[REQUEST_ID] = request.request_id
            return response

        return handle_within_bounds

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request that has found this path."""
        try:
            await super().handle(scope, receive, send)
        except HTTPException as error:  # a method that the path does not have; all others were seen above
            await as_response(error, name_of(scope))(scope, receive, send)


def routes_within(bounds: Bounds) -> type[BatchRoute]:
    """Return the kind of route that reads no more than `bounds`."""
    return type("BatchRoute", (BatchRoute,), {"bounds": bounds})

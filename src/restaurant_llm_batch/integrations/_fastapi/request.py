"""HTTP requests with size limits, request ids and content negotiation, and the route class that uses them."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar, TypeVar, get_type_hints
from uuid import uuid4

from anyio import move_on_after
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from .bounds import INLINE_BYTES, Bounds, OpenBody
from .error_responses import REQUEST_ID, APIError, as_response, detail, invalid, shorter
from .requests import CheckedBody

T = TypeVar("T")

NDJSON = "application/x-ndjson"
_TRUE = {"true", "1", "yes"}
CLIENT = "restaurant_llm_batch.client"
"""Entry of a request's scope with the name of its client."""
_OPEN_BODY = "restaurant_llm_batch.open_body"
_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class BatchRequest(Request):
    """
    A request that is refused as soon as more has arrived than the bounds allow, or it takes too long to arrive.

    Args:
        scope: The ASGI scope.
        receive: Receives the body.
        bounds: The limits.
        model: Validates the body.

    Attributes:
        request_id: The header ``X-Request-Id`` if it is valid, else a new id.
    """

    def __init__(self, scope: Scope, receive: Receive, bounds: Bounds, model: TypeAdapter[Any]) -> None:
        super().__init__(scope, receive)
        self._bounds = bounds
        self._model = model
        self._is_large = False
        self._checked: CheckedBody | None = None
        self.request_id = request_id_of(scope)

    @property
    def client_name(self) -> str:
        """Name of the client whose key the request has; "" if it has none."""
        return str(self.scope.get(CLIENT, ""))

    @property
    def log_id(self) -> str:
        """The request's name in the log: its id, and its client's name."""
        return f"{self.request_id} of {self.client_name}" if self.client_name else self.request_id

    @property
    def wants_debug(self) -> bool:
        """Whether the client asks for the fuller response with `debug`."""
        values = self.headers.get("x-debug", ""), self.query_params.get("debug", "")
        return any(value.strip().lower() in _TRUE for value in values)

    @property
    def accepts_ndjson(self) -> bool:
        """Whether the client prefers NDJSON: each result as soon as it is ready."""
        qualities = _qualities(",".join(self.headers.getlist("accept")))
        return 0 < qualities.get(NDJSON, 0) >= qualities.get("application/json", 0)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the body in chunks; raise `APIError` (413, 503) as soon as it, or all open bodies, are too large."""
        size = 0
        # The header may be wrong or missing: it only serves to refuse a large body before it is read.
        content_length = self.headers.get("content-length", "")
        if content_length.isdecimal() and int(content_length[:20]) > self._bounds.body_bytes:
            raise self._too_large()
        open_body: OpenBody | None = self.scope.get(_OPEN_BODY)
        async with aclosing(super().stream()) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._bounds.body_bytes:
                    raise self._too_large()
                if open_body is not None:
                    open_body.add(len(chunk))
                yield chunk

    async def body(self) -> bytes:
        """Return the body; raise `APIError` if its content type is not JSON (415) or it takes too long (408)."""
        if not _is_json(self.headers.get("content-type", "")):
            raise APIError(415, "the request must be JSON, with the header Content-Type: application/json")
        seconds = self._bounds.body_seconds
        with move_on_after(seconds):
            return await super().body()
        message = f"the body did not arrive within {seconds:g} seconds"
        raise APIError(408, message, headers={"Connection": "close"})

    async def json(self) -> Any:
        """
        Return the decoded body; it has been validated too.

        A large body is decoded in a thread: meanwhile, the event loop answers other requests.

        Raises:
            APIError: It is not JSON or invalid (422), or has too many restaurants, reviews or values (413).
        """
        if self._checked is None:
            body = await self.body()
            self._is_large = len(body) > INLINE_BYTES
            self._checked = await self.off_loop(partial(self._decode, body))
        return self._checked

    async def off_loop(self, function: Callable[[], T]) -> T:
        """Call a function that takes time in proportion to the body: in a thread, if the body is large."""
        return await self._bounds.in_thread(function) if self._is_large else function()

    def _decode(self, body: bytes) -> CheckedBody:
        self._bounds.check_values(body)
        try:
            decoded = from_json(body.removeprefix(BOM_UTF8), allow_inf_nan=False)
        except ValueError as error:
            problem = detail((), shorter(str(error)), "json_invalid")
            raise APIError(422, "the body is not JSON", [problem]) from None
        self._bounds.check_decoded(decoded)
        try:
            model = self._model.validate_python(decoded)
        except ValidationError as error:
            raise invalid(error) from None
        checked = CheckedBody(decoded)
        checked.model = model
        return checked

    def _too_large(self) -> APIError:
        return APIError(413, f"the body of a request may have {self._bounds.body_bytes:,} bytes at most")


def request_id_of(scope: Scope) -> str:
    """Return the header ``X-Request-Id`` of a request if it is valid, else a new id."""
    header = Headers(scope=scope).get("x-request-id", "")
    # Only harmless characters, because the id goes into headers and logs.
    return header if _VALID_REQUEST_ID.fullmatch(header) else uuid4().hex


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


def _qualities(accept: str) -> dict[str, float]:
    """Return the quality value of each media type in an ``Accept`` header, 0 to 1 (RFC 9110, 12.4.2)."""
    qualities: dict[str, float] = {}
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        qualities[media_type] = float(weight) if re.fullmatch(r"[01](\.\d{0,3})?", weight) else 0.0
    return qualities


class BatchRoute(APIRoute):
    """
    Route class of the batch router: reads requests as `BatchRequest` and converts request errors to responses.

    Errors are converted here and not in exception handlers, because a router cannot add handlers without changing those
    of the whole application. Exceptions of an application's dependencies, except `HTTPException`, go to its handlers.
    """

    bounds: ClassVar[Bounds]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the request handler."""
        handle = super().get_route_handler()
        bounds = self.bounds
        body = get_type_hints(self.endpoint, include_extras=True).get("body", Any)
        model: TypeAdapter[Any] = TypeAdapter(body)

        async def handle_within_bounds(original: Request) -> Response:
            request = BatchRequest(original.scope, original.receive, bounds, model)
            try:
                response = await handle(request)
            except (RequestValidationError, HTTPException) as error:
                return as_response(error, request.request_id)
            response.headers[REQUEST_ID] = request.request_id
            return response

        return handle_within_bounds

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request that matches this path, with any HTTP method."""
        try:
            with self.bounds.open_body() as scope[_OPEN_BODY]:
                await super().handle(scope, receive, send)
        except HTTPException as error:  # 405 only: the request handler converts all others
            await as_response(error, request_id_of(scope))(scope, receive, send)


def routes_within(bounds: Bounds) -> type[BatchRoute]:
    """Return a route class that enforces `bounds`. A class, because FastAPI creates the routes itself."""
    return type("BatchRoute", (BatchRoute,), {"bounds": bounds})

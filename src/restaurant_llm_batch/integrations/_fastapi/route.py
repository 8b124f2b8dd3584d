"""Routes that name every request, and answer every error in one shape."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from .error_responses import REQUEST_ID, as_response
from .request import BatchRequest, Bounds, name_of


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

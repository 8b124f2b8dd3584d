"""HTTP application of the fault server: routing, latency, and delivery of responses (whole, slow, reset, none)."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from time import monotonic

import anyio
from aiohttp import web
from pydantic_core import from_json

from . import _vllm_api as vllm
from ._batch_api import Batches
from ._responses import PlannedResponse, json_response, openai_error
from ._runpod_api import Endpoint
from ._service import FaultService

HOST = "127.0.0.1"
_CONTROL_PATHS = ("/_counts", "/_faults")
"""Paths for the owner of the server, from another process; not counted."""
_SLOW_BODY_PIECES = 10
_LINGER_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with timeout 0: closing sends RST
_SHUTDOWN_TIMEOUT = 0.05
"""Seconds that responses in progress get when the server stops; aiohttp takes 0 for no limit."""


class FaultApp:
    """Serves the responses that a `FaultService` plans; runs on the event loop that calls `start`."""

    def __init__(self, service: FaultService) -> None:
        self._service = service
        self._endpoint = Endpoint(service)
        self._batches = Batches(service)
        self._scheduler = vllm.RequestScheduler(lambda: service.faults)

    async def start(self, port: int) -> int:
        """Listen on `port`, or on a free one if it is 0; return the port."""
        # handler_cancellation: a client that disconnects cancels its handler, which counts the request as abandoned.
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_TIMEOUT)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, port, backlog=2048).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        await self._runner.cleanup()

    async def faults_changed(self) -> None:
        """Start waiting requests that fit the new capacity."""
        self._scheduler.start_waiting()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = _endpoint_of(request.path)
        planned: PlannedResponse | None = None
        whole = False
        try:
            raw = await request.content.read()
            planned = self._decide(request, path, raw)
            response = await self._deliver(request, planned)
            whole = planned.delivery in ("whole", "slow_body")
        except anyio.get_cancelled_exc_class():
            self._service.request_abandoned()
            raise
        except ConnectionError:  # the client disconnected between two pieces of a slow body
            self._service.request_abandoned()
            return web.Response()
        finally:
            if path not in _CONTROL_PATHS:
                self._service.request_ended(path, planned, whole=whole)
        return response

    def _decide(self, request: web.BaseRequest, path: str, raw: bytes) -> PlannedResponse:
        guarded = path.startswith(("/v1/", "/v2/"))
        if guarded and not self._service.is_authorized(request.headers.get("Authorization", "")):
            return openai_error(
                401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"
            )
        try:
            if path.startswith(("/v1/files", "/v1/batches")):
                about = request.query_string, request.headers.get("content-type", "")
                return self._batches.answer(
                    request.method, request.path.removeprefix("/v1/"), *about, raw, monotonic()
                )
            return self._route(request.method, path, request.path, raw)
        except Exception as error:
            # Raised by a function of the user (plan, latency, answer). Keep it for `FaultServer.stop`, so that the
            # test fails with it; the client only sees status 500.
            self._service.error = self._service.error or error
            return openai_error(500, f"{type(error).__name__}: {error}", "test_server_error")

    def _route(self, method: str, path: str, full_path: str, raw: bytes) -> PlannedResponse:
        service = self._service
        match method, path:
            case "POST", "/v1/chat/completions":
                return service.chat(raw, monotonic())
            case "GET", "/v1/models":
                return vllm.models(service.model, service.faults)
            case "POST", "/tokenize":
                return service.tokenize(raw)
            case "GET", "/metrics":
                return vllm.metrics(self._scheduler, service.faults, service.model, service.stats.refused)
            case "GET", "/health":
                return PlannedResponse(b"")
            case "GET", "/version":
                return json_response({"version": "0.33.0"})
            case "GET", "/_counts":
                return json_response(service.counts(monotonic()).as_dict())
            case "PATCH", "/_faults":
                return self._change(raw)
        if path.startswith("/v2/"):
            job_id = full_path.split("/")[4] if full_path.count("/") > 3 else ""
            return self._endpoint.answer(path.removeprefix("/v2/"), job_id, method, raw, monotonic())
        return openai_error(404, f"no {method} of {path} here", "NotFoundError")

    def _change(self, raw: bytes) -> PlannedResponse:
        try:
            self._service.faults = replace(self._service.faults, **from_json(raw))
        except (TypeError, ValueError) as error:
            return openai_error(400, str(error), "test_server_error")
        self._scheduler.start_waiting()
        return json_response({})

    async def _deliver(self, request: web.BaseRequest, planned: PlannedResponse) -> web.StreamResponse:
        if planned.admitted:
            tokens = sum(planned.usage or (0,))
            async with self._scheduler.running_request(planned.priority, tokens):
                if planned.latency:
                    await anyio.sleep(planned.latency)
                return await self._send(request, planned)
        return await self._send(request, planned)

    async def _send(self, request: web.BaseRequest, planned: PlannedResponse) -> web.StreamResponse:
        headers = {"content-type": planned.content_type, **planned.headers}
        match planned.delivery:
            case "whole":
                return web.Response(body=planned.body, status=planned.status, headers=headers)
            case "no_response":
                await anyio.sleep_forever()
            case "disconnect":
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
        headers["content-length"] = str(len(planned.body))
        response = web.StreamResponse(status=planned.status, headers=headers)
        await response.prepare(request)
        if planned.delivery == "reset":
            await response.write(planned.body[: len(planned.body) // 2])
            _reset(request)
            return response
        step = len(planned.body) // _SLOW_BODY_PIECES + 1
        for start in range(0, len(planned.body), step):
            if start:  # between pieces, not after the last, when the client already has the whole body
                await anyio.sleep(self._service.faults.slow_body_seconds / (_SLOW_BODY_PIECES - 1))
            await response.write(planned.body[start : start + step])
        return response


def _endpoint_of(path: str) -> str:
    """Return a path without ids; RunPod's OpenAI-compatible paths become those of the chat API."""
    parts = path.split("/")
    if parts[1:2] == ["v1"] and parts[2:3] in (["files"], ["batches"]):
        return "/".join([*parts[:3], *parts[4:5]])
    if len(parts) < 4 or parts[1] != "v2":
        return path
    if parts[3] == "openai":
        return "/" + "/".join(parts[4:])
    return f"/v2/{parts[3]}"


def _reset(request: web.BaseRequest) -> None:
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    transport.abort()

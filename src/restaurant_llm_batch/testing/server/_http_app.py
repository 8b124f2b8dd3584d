"""The HTTP around the desk: where requests go, how long answers take, and how they are cut off."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from time import monotonic

import anyio
from aiohttp import web
from pydantic_core import from_json

from . import _vllm_api as vllm
from ._responses import PlannedResponse, json_response, openai_error
from ._runpod_api import Endpoint
from ._service import FaultService

HOST = "127.0.0.1"
_CONTROLS = ("/_counts", "/_faults")
"""What the server's owner asks from another process; not counted."""
_PIECES = 10
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: the connection is reset when it is closed
_A_MOMENT = 0.05
"""Seconds that answers in the making get when the server stops; 0 would be for ever."""


class FaultApp:
    """
    Serves what a desk says.

    All of it happens on the loop that `start` is called on.
    """

    def __init__(self, desk: FaultService) -> None:
        self._desk = desk
        self._endpoint = Endpoint(desk)
        self._seats = vllm.RequestScheduler(lambda: desk.faults)

    async def start(self, port: int) -> int:
        """Listen, and return the port."""
        server = web.Server(self._answer, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=_A_MOMENT)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, port, backlog=2048).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Listen no more, and end all connections."""
        await self._runner.cleanup()

    async def faults_changed(self) -> None:
        """Let in those who wait for what there is now."""
        self._seats.call()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = _place(request.path)
        said: PlannedResponse | None = None
        whole = False
        try:
            raw = await request.content.read()
            said = self._decide(request, path, raw)
            response = await self._tell(request, said)
            whole = said.delivery in ("whole", "slow_body")
        except anyio.get_cancelled_exc_class():
            self._desk.given_up()
            raise
        except ConnectionError:  # the client has gone between two pieces
            self._desk.given_up()
            return web.Response()
        finally:
            if path not in _CONTROLS:
                self._desk.left(path, said, whole=whole)
        return response

    def _decide(self, request: web.BaseRequest, path: str, raw: bytes) -> PlannedResponse:
        guarded = path.startswith(("/v1/", "/v2/"))
        if guarded and not self._desk.knows(request.headers.get("Authorization", "")):
            return openai_error(
                401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"
            )
        try:
            return self._route(request.method, path, request.path, raw)
        except Exception as error:
            # Of a function of the user's; its own test shall hear of it, not only the client.
            self._desk.error = self._desk.error or error
            return openai_error(500, f"{type(error).__name__}: {error}", "test_server_error")

    def _route(self, method: str, path: str, address: str, raw: bytes) -> PlannedResponse:
        desk = self._desk
        match method, path:
            case "POST", "/v1/chat/completions":
                return desk.chat(raw, monotonic())
            case "GET", "/v1/models":
                return vllm.models(desk.model, desk.faults)
            case "POST", "/tokenize":
                return desk.tokenized(raw)
            case "GET", "/metrics":
                return vllm.metrics(self._seats, desk.faults, desk.model, desk.stats.refused)
            case "GET", "/health":
                return PlannedResponse(b"")
            case "GET", "/version":
                return json_response({"version": "0.33.0"})
            case "GET", "/_counts":
                return json_response(desk.counts(monotonic()).as_dict())
            case "PATCH", "/_faults":
                return self._change(raw)
        if path.startswith("/v2/"):
            job_id = address.split("/")[4] if address.count("/") > 3 else ""
            return self._endpoint.answer(path.removeprefix("/v2/"), job_id, method, raw, monotonic())
        return openai_error(404, f"no {method} of {path} here", "NotFoundError")

    def _change(self, raw: bytes) -> PlannedResponse:
        try:
            self._desk.faults = replace(self._desk.faults, **from_json(raw))
        except (TypeError, ValueError) as error:
            return openai_error(400, str(error), "test_server_error")
        self._seats.call()
        return json_response({})

    async def _tell(self, request: web.BaseRequest, said: PlannedResponse) -> web.StreamResponse:
        if said.admitted:
            tokens = sum(said.usage or (0,))
            async with self._seats.one(said.priority, tokens):
                if said.after:
                    await anyio.sleep(said.after)
                return await self._send(request, said)
        return await self._send(request, said)

    async def _send(self, request: web.BaseRequest, said: PlannedResponse) -> web.StreamResponse:
        headers = {"content-type": said.kind, **said.headers}
        match said.delivery:
            case "whole":
                return web.Response(body=said.body, status=said.status, headers=headers)
            case "no_response":
                await anyio.sleep_forever()
            case "disconnect":
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
        headers["content-length"] = str(len(said.body))
        response = web.StreamResponse(status=said.status, headers=headers)
        await response.prepare(request)
        if said.delivery == "reset":
            await response.write(said.body[: len(said.body) // 2])
            _reset(request)
            return response
        step = len(said.body) // _PIECES + 1
        for start in range(0, len(said.body), step):
            if start:  # not after the last piece, when the client has all of it
                await anyio.sleep(self._desk.faults.slow_body_seconds / (_PIECES - 1))
            await response.write(said.body[start : start + step])
        return response


def _place(path: str) -> str:
    """Return a path without the ids in it; a chat over RunPod's address is a chat."""
    parts = path.split("/")
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
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    transport.abort()

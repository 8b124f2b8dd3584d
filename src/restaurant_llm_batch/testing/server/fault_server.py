"""
`FaultServer`: a local HTTP server with OpenAI's chat API, vLLM's extras and RunPod's job API that fails on purpose.

    with FaultServer(Faults(probabilities={"reset": 0.1}, limit=24), seed=1) as server:
        llm = VLLMServerLLM(server.url)

In a shell: ``python -m restaurant_llm_batch.testing.server --help``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Literal, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ...errors import ConfigurationError
from ._answers import Responder, make_responder
from ._faults import Faults
from ._service import FaultService
from ._stats import ServerStats


class FaultServer:
    """
    Serves on 127.0.0.1 from its own thread, in a ``with`` block or from `start` to `stop`.

    A server that is started again listens on the same port and keeps its jobs and statistics, like a server that
    crashed and was restarted.

    Args:
        faults: Faults and capacity of the server.
        seed: Seed for `Faults.probabilities` and random latencies.
        answer: Text of the replies. "schema": the smallest JSON of the request's schema, in which every free string
            contains the request's digest, and a list of objects with an ``id`` has one for each numbered line of the
            last message. "echo": the same, with the beginning of the last message in place of the digest. Or a
            function from the `ChatRequest` to a string, or to a mapping that is encoded as JSON.
        model: Name of the model in replies to requests that name none.
        api_key: The required API key; None to accept any.
        port: Port to listen on; 0 for a free port.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    def __init__(
        self,
        faults: Faults = Faults(),
        *,
        seed: int = 0,
        answer: Literal["schema", "echo"] | Responder = "schema",
        model: str = "tiny",
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        self._service = FaultService(_checked(faults), seed, make_responder(answer), model, api_key)
        self._port = port
        self._running: ExitStack | None = None
        self._faults_changed: Callable[[], object] = _nothing

    def __repr__(self) -> str:
        return f"FaultServer({f'127.0.0.1:{self._port}' if self._port else 'not started'})"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shut_down()
        if error is None:  # otherwise the error of the user's function would hide that of the block
            self._raise_error()

    def start(self) -> Self:
        """
        Start the server; return when it listens.

        Raises:
            ConfigurationError: The server is running already.
            OSError: The port is in use.
        """
        if self._running is not None:
            raise ConfigurationError("this server is running; start() it once, or stop() it before")
        from ._http_app import FaultApp

        app = FaultApp(self._service)
        with ExitStack() as stack:
            portal: BlockingPortal = stack.enter_context(start_blocking_portal("asyncio"))
            self._port = portal.call(app.start, self._port)
            stack.callback(portal.call, app.stop)
            self._faults_changed = partial(portal.start_task_soon, app.faults_changed)
            self._running = stack.pop_all()
        return self

    def stop(self) -> None:
        """
        Stop the server and abort requests in flight; return when its thread has ended.

        Raises:
            Exception: The first error of a function of yours (`Faults.plan`, `Faults.latency`, `answer`); its
                request got status 500.
        """
        self._shut_down()
        self._raise_error()

    @property
    def url(self) -> str:
        """Base URL of the server, for `VLLMServerLLM`."""
        if not self._port:
            raise ConfigurationError("this server has no address yet; start() it, or use it in a with block")
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        """Base URL with ``/v1``, for `OpenAILLM`."""
        return f"{self.url}/v1"

    @property
    def runpod_url(self) -> str:
        """Base URL of the job API, for `RunPodLLM`; any endpoint id is valid."""
        return f"{self.url}/v2"

    @property
    def counts(self) -> ServerStats:
        """Statistics so far."""
        return self._service.counts(monotonic())

    @property
    def faults(self) -> Faults:
        """The current faults and capacity; may be set at any time, from any thread."""
        return self._service.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._service.faults = _checked(faults)
        self._faults_changed()

    @property
    def limit(self) -> int | None:
        """`Faults.limit`; may be set at any time, from any thread."""
        return self._service.faults.limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self.faults = replace(self.faults, limit=limit)

    def _shut_down(self) -> None:
        self._faults_changed = _nothing
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def _raise_error(self) -> None:
        error, self._service.error = self._service.error, None
        if error is not None:
            raise error


def _nothing() -> None:
    """Do nothing, in place of `FaultApp.faults_changed` while the server is not running."""


def _checked(faults: object) -> Faults:
    if not isinstance(faults, Faults):
        raise ConfigurationError(f"faults must be Faults(...), got {faults!r}")
    return faults

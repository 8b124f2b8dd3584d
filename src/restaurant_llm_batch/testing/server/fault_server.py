"""
A real server that misbehaves on purpose: OpenAI's chat API, vLLM's extras and RunPod's job API, on this machine.

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
    Serves on 127.0.0.1 from a thread of its own, while the ``with`` block or from `start` to `stop`.

    Started again, it listens on the port that it had, as a server does that died and came back; what it knew,
    its jobs and its counts among them, it knows still.

    Args:
        faults: What goes wrong, and how strong the server is.
        seed: Decides which questions meet the faults of `Faults.probabilities`, and draws the latencies.
        answer: What the model writes: "schema" for the smallest JSON of the question's schema, where every
            free text tells the question's digest and lists of things with an ``id`` have one for each number
            that the last message numbers its lines with; "echo" for the beginning of the last message in
            place of the digest; or a function from the question to text, or to what becomes JSON.
        model: The model's name, where a question names none.
        api_key: The key that is asked for; None takes any.
        port: Where to listen; 0 for a free port.

    Raises:
        ConfigurationError: When an argument cannot be used.
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
        self._desk = FaultService(_checked(faults), seed, make_responder(answer), model, api_key)
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
        self._end()
        if error is None:
            self._raise()

    def start(self) -> Self:
        """
        Listen; returns when it does.

        Raises:
            ConfigurationError: When it is running.
            OSError: When the port is taken.
        """
        if self._running is not None:
            raise ConfigurationError("this server is running; start() it once, or stop() it before")
        from ._http_app import FaultApp

        app = FaultApp(self._desk)
        with ExitStack() as stack:
            portal: BlockingPortal = stack.enter_context(start_blocking_portal("asyncio"))
            self._port = portal.call(app.start, self._port)
            stack.callback(portal.call, app.stop)
            self._faults_changed = partial(portal.start_task_soon, app.faults_changed)
            self._running = stack.pop_all()
        return self

    def stop(self) -> None:
        """
        Listen no more and cut off what is in flight; returns when the thread has ended.

        Raises:
            Exception: What a function of yours (`Faults.plan`, `Faults.latency`, `answer`) raised; it was
                answered with 500.
        """
        self._end()
        self._raise()

    @property
    def url(self) -> str:
        """The address, as `VLLMServerLLM` wants it."""
        if not self._port:
            raise ConfigurationError("this server has no address yet; start() it, or use it in a with block")
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        """The address with its ``/v1``, as `OpenAILLM` wants it."""
        return f"{self.url}/v1"

    @property
    def runpod_url(self) -> str:
        """The address of the job API, as `RunPodLLM` wants it; every endpoint id is good."""
        return f"{self.url}/v2"

    @property
    def counts(self) -> ServerStats:
        """What was seen until now."""
        return self._desk.counts(monotonic())

    @property
    def faults(self) -> Faults:
        """What goes wrong from now on; may be set at any time, from any thread."""
        return self._desk.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._desk.faults = _checked(faults)
        self._faults_changed()

    @property
    def limit(self) -> int | None:
        """`Faults.limit`; may be set at any time, from any thread."""
        return self._desk.faults.limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self.faults = replace(self.faults, limit=limit)

    def _end(self) -> None:
        self._faults_changed = _nothing
        running, self._running = self._running, None
        if running is not None:
            running.close()

    def _raise(self) -> None:
        error, self._desk.error = self._desk.error, None
        if error is not None:
            raise error


def _nothing() -> None:
    """Tell no one, while no one serves."""


def _checked(faults: object) -> Faults:
    if not isinstance(faults, Faults):
        raise ConfigurationError(f"faults must be Faults(...), got {faults!r}")
    return faults

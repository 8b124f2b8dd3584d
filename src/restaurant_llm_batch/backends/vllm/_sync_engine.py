"""Sync vLLM engine: a `vllm.LLM` in this process, started by the first call and shared by all threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Queue
from typing import Any

from ... import _fork
from ..._llm_response import LLMResponse
from ...errors import BatchError, ConfigurationError
from ...models import LLMRequest
from ._codec import LoadedEngine, Prepared, backend_error, describe, load_sync, read
from ._shared_engine import SharedEngine

POLL_INTERVAL = 1.0
"""Seconds between checks that the engine's process is alive."""


class EngineDeadError(Exception):
    """Raised in place of vLLM's error of the same name, where vLLM would wait forever."""


class SteppedLLM:
    """
    A `vllm.LLM` as an `Engine`: requests are added, stepped and aborted one by one.

    `LLM.chat` does not fit: requests that arrive meanwhile wait until its whole list is finished, one bad prompt
    fails the whole list, and after an interruption it returns outputs of the previous list.
    """

    def __init__(self, llm: Any) -> None:
        self._engine = llm.llm_engine
        core = self._engine.engine_core
        # Private to vLLM; checked with 0.32. Both exist only if the engine runs in a process of its own.
        self._outputs: Any = getattr(core, "outputs_queue", None)
        self._process: Any = getattr(core, "resources", None)
        self._watched = isinstance(self._outputs, Queue) and hasattr(self._process, "engine_dead")

    def add(self, name: str, request: Prepared, /) -> None:
        """Add a request."""
        self._engine.add_request(name, request.prompt, request.sampling, priority=request.priority)

    def step(self) -> list[tuple[str, Any]]:
        """Compute the next token of each scheduled request, and return the finished outputs."""
        self._await_output()
        return [(output.request_id, output) for output in self._engine.step() if output.finished]

    def abort(self, names: list[str], /) -> None:
        """Abort requests."""
        self._engine.abort_request(names)

    def _await_output(self) -> None:
        """Wait for the next output, since vLLM 0.32's own wait never ends if the engine's process was killed."""
        if not self._watched:
            return
        with self._outputs.not_empty:
            while not self._outputs.queue:
                if self._process.engine_dead:
                    raise EngineDeadError
                self._outputs.not_empty.wait(POLL_INTERVAL)


@dataclass(frozen=True, slots=True)
class _Running:
    started: LoadedEngine
    shared: SharedEngine[Prepared, Any]


class SyncEngine:
    """
    The sync engine of `VLLMEngineLLM`.

    Args:
        arguments: Engine arguments including the model; None if the user passed an engine.
        template_arguments: Arguments of the chat template besides the messages.
        llm: The user's own `vllm.LLM`, which is never shut down here.
    """

    def __init__(
        self, arguments: Mapping[str, Any] | None, template_arguments: Mapping[str, Any], llm: Any = None
    ) -> None:
        self._arguments = arguments
        self._template_arguments = template_arguments
        self._own = llm
        self._lock = threading.Lock()
        self._forks = _fork.count
        self._running: _Running | None = None
        self._in_flight = 0
        self._failure: BatchError | None = None
        self._inherited: list[_Running | None] = []

    def complete(self, request: LLMRequest) -> LLMResponse:
        """Complete a request, blocking the thread. Thread-safe."""
        running = self._enter()
        try:
            prepared = running.started.prepare(request, self._template_arguments)
            output = running.shared.run(prepared)
        except BatchError:
            raise
        except Exception as error:
            raise backend_error(error) from error
        finally:
            with self._lock:
                self._in_flight -= 1
        return read(output, running.started.model)

    def close(self) -> None:
        """Shut the engine down, unless the user owns it or requests are in flight."""
        with self._lock:
            self._reset_after_fork()
            if self._in_flight:
                return
            running, self._running, self._failure = self._running, None, None
        if running is not None and self._own is None:
            running.started.engine.llm_engine.engine_core.shutdown()

    def _enter(self) -> _Running:
        with self._lock:
            self._reset_after_fork()
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # the traceback would grow with each raise
            if self._running is None:
                self._running = self._start()
            self._in_flight += 1
            return self._running

    def _reset_after_fork(self) -> None:
        """Stop using the parent's engine in a forked child."""
        if self._forks != _fork.count:
            # Keep a reference: collecting the engine in the child would shut down the parent's.
            self._inherited.append(self._running)
            self._forks, self._running, self._failure, self._in_flight = _fork.count, None, None, 0

    def _start(self) -> _Running:
        if self._own is not None:
            return _Running(describe(self._own), SharedEngine(SteppedLLM(self._own)))
        if self._arguments is None:
            raise ConfigurationError(
                "this VLLMEngineLLM has engine= only, which needs llm_async=True; "
                "pass llm= as well, or the model's name"
            )
        try:
            llm = load_sync(self._arguments)
        except BatchError as error:
            self._failure = error  # do not repeat a slow start that fails for each item
            raise
        return _Running(describe(llm), SharedEngine(SteppedLLM(llm)))

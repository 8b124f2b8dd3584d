"""vLLM's blocking engine: started once, by whoever asks first, and driven by whoever is at the helm."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Queue
from typing import Any

from ..._llm_response import LLMResponse
from ...errors import BatchError, ConfigurationError
from ...models import LLMRequest
from ._codec import LoadedEngine, Prepared, backend_error, describe, load_sync, read
from ._shared_engine import SharedEngine

POLL_INTERVAL = 1.0
"""Seconds between two looks at whether the engine's process is alive."""


class EngineDeadError(Exception):
    """Stands for vLLM's error of that name, where vLLM would wait for ever instead of raising it."""


class SteppedLLM:
    """
    A `vllm.LLM` whose engine is stepped by us.

    `LLM.chat` would keep all who ask meanwhile waiting until the last answer of its list is there, fail the
    whole list for one bad prompt, and after an interruption return answers of the list before.
    """

    def __init__(self, llm: Any) -> None:
        self._engine = llm.llm_engine
        core = self._engine.engine_core
        # Both are there only when the engine has a process of its own.
        self._outputs: Any = getattr(core, "outputs_queue", None)
        self._process: Any = getattr(core, "resources", None)
        self._watched = isinstance(self._outputs, Queue) and hasattr(self._process, "engine_dead")

    def add(self, name: str, job: Prepared, /) -> None:
        """Take a request on."""
        self._engine.add_request(name, job.prompt, job.sampling, priority=job.priority)

    def step(self) -> list[tuple[str, Any]]:
        """Compute the next token of what is scheduled, and return what is finished."""
        self._await_output()
        return [(output.request_id, output) for output in self._engine.step() if output.finished]

    def abort(self, names: list[str], /) -> None:
        """Give requests up."""
        self._engine.abort_request(names)

    def _await_output(self) -> None:
        """Return when the next step will not wait: vLLM 0.32 waits for ever for a process that was killed."""
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
    The blocking colour.

    Args:
        arguments: Engine arguments, the model among them; None when the user gave an engine.
        template_arguments: What the chat template is given beside the messages.
        llm: The user's own `vllm.LLM`, which is never shut down here.
    """

    def __init__(
        self, arguments: Mapping[str, Any] | None, template_arguments: Mapping[str, Any], llm: Any = None
    ) -> None:
        self._arguments = arguments
        self._template_arguments = template_arguments
        self._own = llm
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._running: _Running | None = None
        self._in_flight = 0
        self._failure: BatchError | None = None
        self._inherited: list[_Running | None] = []

    def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer a request; any number of threads may call this at once."""
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
        """Shut the engine down, unless it is the user's own or somebody else's requests are in it."""
        with self._lock:
            self._leave_to_the_parent()
            if self._in_flight:
                return
            running, self._running, self._failure = self._running, None, None
        if running is not None and self._own is None:
            running.started.engine.llm_engine.engine_core.shutdown()

    def _enter(self) -> _Running:
        with self._lock:
            self._leave_to_the_parent()
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # which would grow with every time it is raised
            if self._running is None:
                self._running = self._start()
            self._in_flight += 1
            return self._running

    def _leave_to_the_parent(self) -> None:
        """Forget an engine that belongs to the process which this one was forked from."""
        if self._pid != os.getpid():
            # Kept for ever: were the child to collect it, it would shut down its parent's.
            self._inherited.append(self._running)
            self._pid, self._running, self._failure, self._in_flight = os.getpid(), None, None, 0

    def _start(self) -> _Running:
        if self._own is not None:
            return _Running(describe(self._own), SharedEngine(SteppedLLM(self._own)))
        if self._arguments is None:
            raise ConfigurationError(
                "VLLMEngineLLM was given engine= only, which answers under llm_async=True; "
                "give it llm=, or the model's name"
            )
        try:
            llm = load_sync(self._arguments)
        except BatchError as error:
            self._failure = error  # every item would wait as long for the same failure
            raise
        return _Running(describe(llm), SharedEngine(SteppedLLM(llm)))

"""
Async vLLM engine: an `AsyncLLM` in this process, on one event loop at a time.

An `AsyncLLM` belongs to the event loop that it was started on, and its GPU memory to the process. So there is at
most one `_LoopEngine`: when calls come from another loop after the first one has closed, its engine is shut down
before the next one starts. After a fork, the parent's engine is kept but not used.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from anyio import CapacityLimiter, Lock, to_thread
from anyio.lowlevel import current_token

from ... import _fork
from ..._http.client_lifetime import loop_is_trio
from ..._llm_response import LLMResponse
from ...errors import BatchError, ConfigurationError, TransientBackendError
from ...models import LLMRequest
from ._codec import BACKEND, LoadedEngine, Prepared, backend_error, describe, load_async, read


class _LoopEngine:
    """
    The engine of one event loop, started by the first call.

    Args:
        loop: The event loop.
        arguments: Engine arguments; None if `own` is given.
        own: The user's own engine.
        previous: The engine of a closed loop, to shut down before starting.
    """

    def __init__(
        self, loop: Any, arguments: Mapping[str, Any] | None, own: Any, previous: _LoopEngine | None
    ) -> None:
        self.loop = loop
        self.forks = _fork.count
        self.in_flight = 0
        self.tokenizer_limiter = CapacityLimiter(1)  # vLLM lets one thread at a time use its tokenizer
        self._arguments = arguments
        self._own = own
        self._previous = previous
        self._start_lock = Lock()
        self._start_limiter = CapacityLimiter(1)
        self._engine_lock = threading.Lock()
        self._started: LoadedEngine | None = None
        self._failure: BatchError | None = None

    async def get(self) -> LoadedEngine:
        """Return the engine; start it in a thread if it is not running. Raises the first start's error again."""
        if self._started is not None:
            return self._started
        async with self._start_lock:
            # The thread goes on after a cancellation; `_engine_lock` makes the next start wait for it.
            return await to_thread.run_sync(self._start, abandon_on_cancel=True, limiter=self._start_limiter)

    def _start(self) -> LoadedEngine:
        with self._engine_lock:
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # the traceback would grow with each raise
            if self._started is None:
                if self._previous is not None:
                    self._previous.shut_down()  # a GPU does not hold two engines
                    self._previous = None
                self._started = describe(self._make())
            return self._started

    def _make(self) -> Any:
        if self._own is not None:
            return self._own
        if self._arguments is None:
            raise ConfigurationError(
                "this VLLMEngineLLM has llm= only, which needs llm_async=False; "
                "pass engine= as well, or the model's name"
            )
        try:
            return load_async(self._arguments)
        except BatchError as error:
            self._failure = error  # do not repeat a slow start that fails for each item
            raise

    def shut_down(self) -> None:
        """Shut the engine down, unless the user owns it."""
        with self._engine_lock:
            started, self._started = self._started, None
            if started is not None and self._own is None:
                started.engine.shutdown()


class AsyncEngine:
    """
    The async engine of `VLLMEngineLLM`.

    Args:
        arguments: Engine arguments including the model; None if the user passed an engine.
        template_arguments: Arguments of the chat template besides the messages.
        engine: The user's own `AsyncLLM`, which is never shut down here.
    """

    def __init__(
        self, arguments: Mapping[str, Any] | None, template_arguments: Mapping[str, Any], engine: Any = None
    ) -> None:
        self._arguments = arguments
        self._template_arguments = template_arguments
        self._own = engine
        self._lock = threading.Lock()
        self._current: _LoopEngine | None = None
        self._inherited: list[_LoopEngine] = []

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Complete a request; cancellation aborts it in the engine."""
        current = self._engine_for_loop()
        current.in_flight += 1
        try:
            started = await current.get()
            prepared = await to_thread.run_sync(
                started.prepare, request, self._template_arguments, limiter=current.tokenizer_limiter
            )
            output = await _last_output(started.engine, prepared)
        except BatchError:
            raise
        except Exception as error:
            raise backend_error(error) from error
        finally:
            current.in_flight -= 1
        if output is None:
            raise TransientBackendError("vLLM ended the request without output", backend=BACKEND)
        return read(output, started.model)

    async def aclose(self) -> None:
        """Shut down this loop's engine, unless the user owns it or requests are in flight."""
        with self._lock:
            current = self._current
            if (
                current is None
                or current.loop is not current_token().native_token
                or current.forks != _fork.count
            ):
                return
            if current.in_flight:
                return
            self._current = None
        await to_thread.run_sync(current.shut_down, limiter=CapacityLimiter(1))

    def _engine_for_loop(self) -> _LoopEngine:
        loop = current_token().native_token
        current = self._current
        if current is not None and current.loop is loop and current.forks == _fork.count:
            return current
        if loop_is_trio():
            raise ConfigurationError(
                "vLLM's AsyncLLM needs asyncio; under trio use Strategy(llm_async=False, ...), which calls "
                "vllm.LLM from worker threads"
            )
        with self._lock:
            previous = self._previous_engine(loop)
            self._current = _LoopEngine(loop, self._arguments, self._own, previous)
            return self._current

    def _previous_engine(self, loop: Any) -> _LoopEngine | None:
        current = self._current
        if current is not None and current.forks != _fork.count:
            # Keep a reference: collecting the engine in the child would shut down the parent's.
            self._inherited.append(current)
            return None
        if current is not None and self._own is None and not current.loop.is_closed():
            raise ConfigurationError(
                "this VLLMEngineLLM runs on another event loop; use it on one loop at a time, or on several "
                "with llm_async=False"
            )
        return current


async def _last_output(engine: Any, prepared: Prepared) -> Any:
    """Run a request to its end; on cancellation, vLLM's generator aborts it in the engine."""
    last = None
    outputs = engine.generate(prepared.prompt, prepared.sampling, uuid4().hex, priority=prepared.priority)
    async with aclosing(outputs):
        async for output in outputs:
            last = output
    return last

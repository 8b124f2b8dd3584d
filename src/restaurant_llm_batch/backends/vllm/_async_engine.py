"""vLLM's awaited engine: one at a time, on the event loop that it was first asked on."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from anyio import CapacityLimiter, Lock, to_thread
from anyio.lowlevel import current_token

from ..._http.client_lifetime import loop_is_trio
from ..._llm_response import LLMResponse
from ...errors import BatchError, ConfigurationError, TransientBackendError
from ...models import LLMRequest
from ._codec import BACKEND, LoadedEngine, Prepared, backend_error, describe, load_async, read


class _OnLoop:
    """
    The engine of one loop, or what will become of it.

    Args:
        loop: The loop.
        arguments: Engine arguments; None when `own` is given.
        own: The user's own engine.
        before: What a loop that is gone has left behind.
    """

    def __init__(
        self, loop: Any, arguments: Mapping[str, Any] | None, own: Any, before: _OnLoop | None
    ) -> None:
        self.loop = loop
        self.pid = os.getpid()
        self.in_flight = 0
        self.rendering = CapacityLimiter(1)  # vLLM lets one thread at a time use its tokenizer
        self._arguments = arguments
        self._own = own
        self._before = before
        self._turn = Lock()
        self._thread = CapacityLimiter(1)
        self._building = threading.Lock()
        self._started: LoadedEngine | None = None
        self._failure: BatchError | None = None

    async def get(self) -> LoadedEngine:
        """Return the engine, starting it in a thread if need be; raise what kept it from starting."""
        if self._started is not None:
            return self._started
        async with self._turn:
            # When cancelled, nobody waits for the thread, but it goes on; the next start waits for it.
            return await to_thread.run_sync(self._start, abandon_on_cancel=True, limiter=self._thread)

    def _start(self) -> LoadedEngine:
        with self._building:
            if self._failure is not None:
                raise self._failure.with_traceback(None)  # which would grow with every time it is raised
            if self._started is None:
                if self._before is not None:
                    self._before.shut_down()  # two do not fit into one GPU
                    self._before = None
                self._started = describe(self._make())
            return self._started

    def _make(self) -> Any:
        if self._own is not None:
            return self._own
        if self._arguments is None:
            raise ConfigurationError(
                "VLLMEngineLLM was given llm= only, which answers under llm_async=False; "
                "give it engine=, or the model's name"
            )
        try:
            return load_async(self._arguments)
        except BatchError as error:
            self._failure = error  # every item would wait as long for the same failure
            raise

    def shut_down(self) -> None:
        """Shut the engine down, unless it is the user's own."""
        with self._building:
            started, self._started = self._started, None
            if started is not None and self._own is None:
                started.engine.shutdown()


class AsyncEngine:
    """
    The awaited colour.

    Args:
        arguments: Engine arguments, the model among them; None when the user gave an engine.
        template_arguments: What the chat template is given beside the messages.
        engine: The user's own `AsyncLLM`, which is never shut down here.
    """

    def __init__(
        self, arguments: Mapping[str, Any] | None, template_arguments: Mapping[str, Any], engine: Any = None
    ) -> None:
        self._arguments = arguments
        self._template_arguments = template_arguments
        self._own = engine
        self._lock = threading.Lock()
        self._here: _OnLoop | None = None
        self._inherited: list[_OnLoop] = []

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer a request; cancelling it aborts it in the engine."""
        here = self._on_this_loop()
        here.in_flight += 1
        try:
            started = await here.get()
            prepared = await to_thread.run_sync(
                started.prepare, request, self._template_arguments, limiter=here.rendering
            )
            output = await _last_output(started.engine, prepared)
        except BatchError:
            raise
        except Exception as error:
            raise backend_error(error) from error
        finally:
            here.in_flight -= 1
        if output is None:
            raise TransientBackendError("vLLM ended the request without an answer", backend=BACKEND)
        return read(output, started.model)

    async def aclose(self) -> None:
        """Shut down this loop's engine, unless it is the user's own or somebody else's requests are in it."""
        with self._lock:
            here = self._here
            if here is None or here.loop is not current_token().native_token or here.pid != os.getpid():
                return
            if here.in_flight:
                return
            self._here = None
        await to_thread.run_sync(here.shut_down, limiter=CapacityLimiter(1))

    def _on_this_loop(self) -> _OnLoop:
        loop = current_token().native_token
        here = self._here
        if here is not None and here.loop is loop and here.pid == os.getpid():
            return here
        if loop_is_trio():
            raise ConfigurationError(
                "vLLM's AsyncLLM needs asyncio; under trio write Strategy(llm_async=False, ...), which calls "
                "vllm.LLM from worker threads"
            )
        with self._lock:
            before = self._left_behind(loop)
            self._here = _OnLoop(loop, self._arguments, self._own, before)
            return self._here

    def _left_behind(self, loop: Any) -> _OnLoop | None:
        here = self._here
        if here is not None and here.pid != os.getpid():
            # Kept for ever: were the child to collect it, it would shut down its parent's.
            self._inherited.append(here)
            return None
        if here is not None and self._own is None and not here.loop.is_closed():
            raise ConfigurationError(
                "this VLLMEngineLLM runs on another event loop; use it on one loop at a time, or on several "
                "with llm_async=False"
            )
        return here


async def _last_output(engine: Any, prepared: Prepared) -> Any:
    """Run a request to its end; when cancelled, vLLM's generator aborts it in the engine."""
    last = None
    outputs = engine.generate(prepared.prompt, prepared.sampling, uuid4().hex, priority=prepared.priority)
    async with aclosing(outputs):
        async for output in outputs:
            last = output
    return last

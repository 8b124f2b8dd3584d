"""A model whose calls stay in flight until a test lets them go, and tasks that call it."""

from __future__ import annotations

import threading
from typing import Any

import anyio

from restaurant_llm_batch import LLMRequest, LLMResponse
from restaurant_llm_batch.steps import Flow, complete
from tests.support.patience import PATIENCE, wait_until


class Held:
    """
    A model that answers as many calls as it is told to.

    Attributes:
        in_flight: Calls in flight.
        started: Calls that have started.
        peak: Most calls in flight at once.
    """

    model = "held"

    def __init__(self) -> None:
        self.in_flight = self.started = self.peak = 0
        self._counts = threading.Lock()
        self._let_go = threading.Semaphore(0)
        self._open = False

    def let_go(self, calls: int) -> None:
        """Answer so many calls."""
        self._let_go.release(calls)

    def let_all_go(self) -> None:
        """Answer all calls from now on."""
        self._open = True
        self._let_go.release(1)

    def wait_for(self, *, started: int) -> None:
        """Wait until so many calls have started."""
        wait_until(lambda: self.started >= started)

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        self._enter()
        assert self._let_go.acquire(timeout=PATIENCE)
        return self._leave()

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        self._enter()
        while not self._let_go.acquire(blocking=False):
            await anyio.sleep(0.002)
        return self._leave()

    def _enter(self) -> None:
        with self._counts:
            self.in_flight += 1
            self.started += 1
            self.peak = max(self.peak, self.in_flight)

    def _leave(self) -> LLMResponse:
        with self._counts:
            self.in_flight -= 1
        if self._open:
            self._let_go.release(1)
        return LLMResponse("ok", "stop", 10, 2, "held")


def ask_once(item: Any) -> Flow[str]:
    """Make one call."""
    reply = yield from complete(LLMRequest("dish", ({"role": "user", "content": f"{item!r}"},)))
    return reply.text


def ask_in_batches(item: Any) -> Flow[str]:
    """Make one call that counts as a packed batch."""
    request = LLMRequest("dish", ({"role": "user", "content": f"{item!r}"},))
    reply = yield from complete(request, limiter="batches")
    return reply.text

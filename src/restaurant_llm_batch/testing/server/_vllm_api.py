"""vLLM's extras: which model is served, how full the server is, and who is worked on next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from heapq import heappop, heappush

import anyio

from ._faults import Faults
from ._responses import PlannedResponse, json_response

_BLOCK = 16
_METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{labels}}} {running}.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{labels}}} {waiting}.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{labels}}} {usage}
# HELP vllm:num_preemptions_total Cumulative number of preemption from the engine.
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{{{labels}}} 0.0
# HELP vllm:admission_rejections_total Requests rejected at admission.
# TYPE vllm:admission_rejections_total counter
vllm:admission_rejections_total{{{labels},reason="requests"}} {refused}.0
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="{block}",engine="0",num_gpu_blocks="{blocks}"}} 1.0
"""


class RequestScheduler:
    """
    Who is worked on, and who waits; belongs to the server's loop.

    Args:
        faults: Tells how many there are now, and what the KV cache holds.

    Attributes:
        running: How many are worked on.
        tokens: What they have in the KV cache.
    """

    def __init__(self, faults: Callable[[], Faults]) -> None:
        self._faults = faults
        self.running = 0
        self.tokens = 0
        self._waiting: list[tuple[int, int, int, anyio.Event]] = []
        self._order = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def one(self, priority: int, tokens: int) -> AsyncIterator[None]:
        """Take a seat, in the order of priorities and then of coming; the first in line is not overtaken."""
        if self._waiting or not self._fits(tokens):
            await self._wait(priority, tokens)
        else:
            self._sit(tokens)
        try:
            yield
        finally:
            self.running -= 1
            self.tokens -= tokens
            self.call()

    def call(self) -> None:
        """Seat those who wait, as far as there is room."""
        while self._waiting and self._fits(self._waiting[0][2]):
            _, _, tokens, event = heappop(self._waiting)
            self._sit(tokens)
            event.set()

    async def _wait(self, priority: int, tokens: int) -> None:
        self._order += 1
        place = (priority, self._order, tokens, anyio.Event())
        heappush(self._waiting, place)
        try:
            await place[3].wait()
        except BaseException:
            if place in self._waiting:
                self._waiting.remove(place)
                self._waiting.sort()
            else:
                self.running -= 1
                self.tokens -= tokens
            self.call()
            raise

    def _fits(self, tokens: int) -> bool:
        faults = self._faults()
        if faults.max_running is not None and self.running >= faults.max_running:
            return False
        # What is larger than the cache would wait for ever, so it runs alone.
        return faults.kv_tokens is None or not self.running or self.tokens + tokens <= faults.kv_tokens

    def _sit(self, tokens: int) -> None:
        self.running += 1
        self.tokens += tokens


def metrics(seats: RequestScheduler, faults: Faults, model: str, refused: int) -> PlannedResponse:
    """Return ``/metrics``."""
    usage = min(1.0, seats.tokens / faults.kv_tokens) if faults.kv_tokens else 0.0
    text = _METRICS.format(
        labels=f'engine="0",model_name="{model}"',
        running=seats.running,
        waiting=seats.waiting,
        usage=usage,
        refused=refused,
        block=_BLOCK,
        blocks=faults.kv_tokens // _BLOCK if faults.kv_tokens else "None",
    )
    return PlannedResponse(text.encode(), kind="text/plain; version=0.0.4")


def models(model: str, faults: Faults) -> PlannedResponse:
    """Return ``/v1/models``."""
    one = {"id": model, "object": "model", "owned_by": "vllm", "root": model, "max_model_len": faults.context}
    return json_response({"object": "list", "data": [one]})

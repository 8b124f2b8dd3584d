"""vLLM's extras on the fault server: model list, metrics, and a scheduler with priorities and a KV cache."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from heapq import heappop, heappush

import anyio

from ._faults import Faults
from ._responses import PlannedResponse, json_response

_BLOCK_SIZE = 16
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


_SGLANG = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{{{labels}}} {running}.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{{{labels}}} {waiting}.0
# TYPE sglang:token_usage gauge
sglang:token_usage{{{labels}}} {usage}
# TYPE sglang:num_retracted_requests_total counter
sglang:num_retracted_requests_total{{{labels}}} 0.0
"""
_SGLANG_CACHE = """\
# TYPE sglang:max_total_num_tokens gauge
sglang:max_total_num_tokens{{{labels}}} {tokens}.0
"""
_TGI = """\
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size {running}
# TYPE tgi_queue_size gauge
tgi_queue_size {waiting}
"""


class RequestScheduler:
    """
    Admits requests to the model by priority, while slots and KV cache last; used on the server's event loop only.

    Args:
        faults: Returns the current `Faults`, for `max_running` and `kv_tokens`.

    Attributes:
        running: Number of running requests.
        tokens: Number of tokens of the running requests in the KV cache.
    """

    def __init__(self, faults: Callable[[], Faults]) -> None:
        self._faults = faults
        self.running = 0
        self.tokens = 0
        self._waiting: list[tuple[int, int, int, anyio.Event]] = []
        self._sequence = 0

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._waiting)

    @asynccontextmanager
    async def running_request(self, priority: int, tokens: int) -> AsyncIterator[None]:
        """
        Wait until the request may run; it runs for the length of the block.

        Requests start by priority, then by arrival. A smaller request never overtakes the first one in the queue.
        """
        if self._waiting or not self._fits(tokens):
            await self._wait(priority, tokens)
        else:
            self._start(tokens)
        try:
            yield
        finally:
            self.running -= 1
            self.tokens -= tokens
            self.start_waiting()

    def start_waiting(self) -> None:
        """Start waiting requests, in order, as long as they fit."""
        while self._waiting and self._fits(self._waiting[0][2]):
            _, _, tokens, event = heappop(self._waiting)
            self._start(tokens)
            event.set()

    async def _wait(self, priority: int, tokens: int) -> None:
        self._sequence += 1
        entry = (priority, self._sequence, tokens, anyio.Event())
        heappush(self._waiting, entry)
        try:
            await entry[3].wait()
        except BaseException:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._waiting.sort()  # a sorted list is a valid heap
            else:
                # Started and cancelled at the same time: give the slot back.
                self.running -= 1
                self.tokens -= tokens
            self.start_waiting()
            raise

    def _fits(self, tokens: int) -> bool:
        faults = self._faults()
        if faults.max_running is not None and self.running >= faults.max_running:
            return False
        # A request that is larger than the cache would wait forever: let it run alone.
        return faults.kv_tokens is None or not self.running or self.tokens + tokens <= faults.kv_tokens

    def _start(self, tokens: int) -> None:
        self.running += 1
        self.tokens += tokens


def metrics(scheduler: RequestScheduler, faults: Faults, model: str, refused: int) -> PlannedResponse:
    """Return the response of ``/metrics``."""
    usage = min(1.0, scheduler.tokens / faults.kv_tokens) if faults.kv_tokens else 0.0
    form = _METRICS
    if faults.metrics == "sglang":
        form = _SGLANG + (_SGLANG_CACHE if faults.kv_tokens else "")
    elif faults.metrics == "tgi":
        form = _TGI
    text = form.format(
        labels=f'engine="0",model_name="{model}"',
        tokens=faults.kv_tokens,
        running=scheduler.running,
        waiting=scheduler.waiting,
        usage=usage,
        refused=refused,
        block=_BLOCK_SIZE,
        blocks=faults.kv_tokens // _BLOCK_SIZE if faults.kv_tokens else "None",
    )
    return PlannedResponse(text.encode(), content_type="text/plain; version=0.0.4")


def models(model: str, faults: Faults) -> PlannedResponse:
    """Return the response of ``/v1/models``."""
    entry = {
        "id": model,
        "object": "model",
        "owned_by": "vllm",
        "root": model,
        "max_model_len": faults.context,
    }
    return json_response({"object": "list", "data": [entry]})

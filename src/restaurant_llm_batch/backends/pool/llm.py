"""LLM pool: several endpoints as one LLM backend, each with a limit of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from types import MappingProxyType
from typing import Any

from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._limits.breaker import BreakerPolicy
from ..._limits.endpoints import EndpointStatistics
from ..._limits.pool import EndpointLimiter
from ..._llm_response import LLMResponse
from ..._store.identity import model_fingerprint_of
from ...models import LLMRequest
from ._arguments import Arguments, Endpoint, Endpoints, Limit
from ._direct import DirectCalls


class LLMPool(PickledAsRecipe):
    """
    Several endpoints as one LLM backend: a call goes where there is room.

        llm = LLMPool(
            {"a": VLLMServerLLM("http://a:8000"), "b": VLLMServerLLM("http://b:8000")},
            limits={"a": 8, "b": AdaptiveLimit()},
            fallback={"cloud": OpenAILLM("gpt-5-mini")},
        )
        runner = BatchRunner(llm=llm, ...)

    Each endpoint has a limit of its own, so `Limits.llm` and `Limits.batches` limit the calls only if you set them.
    Calls that find no room wait in one queue for all endpoints, by priority and arrival. The calls of one item stay at
    one endpoint, whose cache has their prefix, as long as it has room; no call waits for that.

    An endpoint that fails `errors_in_a_row` times without an answer in between is left out. After `wait_initial`
    seconds one call tries it again; each time that this fails, the wait doubles. Its calls go to the other endpoints,
    which does not count as an attempt of theirs, and neither does a refusal while another endpoint has not refused. An
    endpoint that rejects every call (its key, its credit) is left out with a warning; the run stops only if all do. If
    all endpoints fail, calls wait for up to `pool_timeout` seconds, and then fail as they would without a pool.

    Endpoints may be of any kind, sync or async, and have different models. A reply is stored under the model that gave
    it; replies of equal models at different addresses are the same. Runners that are given one pool share its limits.

    Args:
        endpoints: The backends, as a list or by name. The names are those in events, statistics and logs; those of a
            list are like "vllm-1".
        limits: The most calls in flight at each endpoint: one limit that each of them has, a list of limits, or limits
            by name. A limit is what `Limits.llm` takes.
        weights: Shares of the calls while there is room, relative to each other, as a list or by name; None for shares
            by limit.
        fallback: Endpoints that are used only if the others have no room, or are left out: further backends, as a list
            or by name, or names of those in `endpoints`; the first of them goes before the next. True for the order in
            which `endpoints` are given.
        errors_in_a_row: Errors without an answer in between after which an endpoint is left out.
        wait_initial: Seconds for which it is left out at first.
        wait_max: Most seconds until it is tried again.
        pool_timeout: Seconds for which calls wait if every endpoint is left out.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        limits: Limit | Sequence[Limit] | Mapping[str, Limit] = 8,
        weights: Sequence[float] | Mapping[str, float] | None = None,
        fallback: bool | str | Endpoint | Sequence[str | Endpoint] | Mapping[str, Endpoint] | None = None,
        errors_in_a_row: int = 5,
        wait_initial: float = 1.0,
        wait_max: float = 5.0,
        pool_timeout: float = 30.0,
    ) -> None:
        self._made_with = arguments_of(locals())
        arguments = Arguments(endpoints, limits, weights, fallback)
        policy = BreakerPolicy(errors_in_a_row, wait_initial, wait_max, pool_timeout)
        self._endpoints = arguments.backends
        self._limiter = EndpointLimiter(arguments.specs, policy)
        self._direct = DirectCalls(self._limiter, self._endpoints)

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """The backends by their names."""
        return MappingProxyType(self._endpoints)

    @property
    def endpoint_backends(self) -> Sequence[Endpoint]:
        """The backends, in the order of `endpoint_limiter`; for the runner."""
        return tuple(self._endpoints.values())

    @property
    def endpoint_limiter(self) -> EndpointLimiter:
        """The limits of the endpoints; for the runner, which admits its calls to them one by one."""
        return self._limiter

    @property
    def model(self) -> str | None:
        """Name of the model; None if the endpoints have different ones, or do not tell."""
        names = {getattr(backend, "model", None) for backend in self._endpoints.values()}
        name = names.pop() if len(names) == 1 else None
        return name if isinstance(name, str) else None

    @property
    def calls_model(self) -> bool:
        """Whether an endpoint calls a model; `OfflineLLM` does not."""
        return any(getattr(backend, "calls_model", True) for backend in self._endpoints.values())

    @property
    def fingerprint(self) -> str:
        """What its models are known by in a store, in any order; with equal models, that of the model."""
        models = sorted({model_fingerprint_of(backend) for backend in self._endpoints.values()})
        return models[0] if len(models) == 1 else f"pool of {'; '.join(models)}"

    def statistics(self) -> dict[str, EndpointStatistics]:
        """Return the state of each endpoint, and its calls of all runs so far, by name."""
        return self._limiter.statistics()

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Complete a request at an endpoint that has room, blocking the thread; wait for one if there is none.

        Raises:
            RunStopped: If the call was cancelled.
            Exception: What the endpoint raises.
        """
        return self._direct.complete(request)

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Complete a request on the running event loop; see `complete`."""
        return await self._direct.acomplete(request)

    def close(self) -> None:
        """
        Close what the endpoints have opened outside of event loops; the next call opens it again.

        Raises:
            Exception: What the first endpoint raised that could not be closed. All others were closed.
        """
        with ExitStack() as closing:
            for backend in self._endpoints.values():
                close: Any = getattr(backend, "close", None)
                if callable(close):
                    closing.callback(close)

    async def aclose(self) -> None:
        """Close what the endpoints have opened on the running event loop; see `close`."""
        async with AsyncExitStack() as closing:
            for backend in self._endpoints.values():
                aclose: Any = getattr(backend, "aclose", None)
                if callable(aclose):
                    closing.push_async_callback(aclose)

    def __repr__(self) -> str:
        return f"LLMPool({', '.join(f'{name}: {backend!r}' for name, backend in self._endpoints.items())})"

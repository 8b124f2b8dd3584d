"""Execution plan: the sync or async method of each backend that a strategy uses, and what runs concurrently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, Protocol, TypeAlias

from .._config.strategy import Strategy
from .._fast_init import fast_init
from ..errors import ConfigurationError
from ..outcomes import Stage


@fast_init
@dataclass(frozen=True, slots=True, eq=False)
class BackendMethod:
    """A method of a backend, and whether it is awaited (`is_async`) or blocks."""

    method: Callable[[Any], Any]
    is_async: bool


Around: TypeAlias = Callable[[BackendMethod], BackendMethod]
"""Returns the method that is called in place of another one."""


@fast_init
@dataclass(frozen=True, slots=True, eq=False)
class CallSpec:
    """
    What calls of one kind have in common. It has slots, since a field of a named tuple takes long to read.

    Attributes:
        method: The backend's method, and whether it is awaited.
        stage: "search", "llm" or "tokens".
        permits: Slots that a call takes: the queries of one round trip count one by one.
        endpoints: The method of each endpoint of a pool, in place of `method`; empty without a pool.
    """

    method: BackendMethod
    stage: Stage
    permits: int = 1
    endpoints: Sequence[BackendMethod] = ()


class LoadMethod(NamedTuple):
    """A method of a backend that returns the load of its server, and whether it is awaited (`is_async`) or blocks."""

    method: Callable[[], Any]
    is_async: bool


class ReadServer(Protocol):
    """Reads the load of a server, without waiting for it."""

    def __call__(self, method: LoadMethod, done: Callable[[Any, BaseException | None], object], /) -> object:
        """Call a method; then pass its answer, or its error, to `done` where the run lives."""
        ...


def load_method(llm: object, *, is_awaited: bool) -> LoadMethod | None:
    """
    Return the method of a backend that returns the load of its server; None without one.

    Args:
        llm: The backend.
        is_awaited: Whether calls to it are awaited.
    """
    for name in ("metrics", "health"):
        awaited, blocking = _method(llm, "a" + name), _method(llm, name)
        if awaited is not None and is_awaited:
            return LoadMethod(awaited, is_async=True)
        if blocking is not None:
            return LoadMethod(blocking, is_async=False)
    return None


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """
    The methods that a run calls, and what it does concurrently.

    Attributes:
        search: The method that searches; None without a search backend.
        search_many: The method that runs several queries in one round trip; None if the backend has none, or if the
            strategy runs searches in sequence.
        llm: The method that calls the model.
        endpoints: The method of each endpoint that calls the model, if `llm` is a pool; otherwise empty.
        concurrent_searches: Whether one item's searches run concurrently.
        concurrent_flows: Whether one item's independent flows run concurrently.
        concurrent_items: Whether items run concurrently.
    """

    search: BackendMethod | None
    search_many: BackendMethod | None
    llm: BackendMethod
    concurrent_searches: bool
    concurrent_flows: bool
    concurrent_items: bool
    endpoints: Sequence[BackendMethod] = ()


def make_plan(
    strategy: Strategy, search: object | None, llm: object, endpoints: Sequence[object] = ()
) -> ExecutionPlan:
    """
    Choose the sync or async methods for a strategy.

    Args:
        strategy: The strategy.
        search: The search backend, or None.
        llm: The LLM backend.
        endpoints: The backends of its endpoints, if it is a pool.

    Raises:
        ConfigurationError: If a backend has no method that the strategy can use.
    """
    loop = strategy.is_concurrent and not strategy.threads
    search_method = many = None
    if search is not None:
        search_method = _choose(search, "search", prefer_async=loop, strategy=strategy)
        if strategy.search_async:
            many = _method(search, "asearch_many" if search_method.is_async else "search_many")
    return ExecutionPlan(
        search=search_method,
        search_many=BackendMethod(many, search_method.is_async) if many and search_method else None,
        llm=_choose_llm(llm, strategy),
        concurrent_searches=strategy.search_async,
        concurrent_flows=strategy.is_concurrent,
        concurrent_items=strategy.restaurant_async,
        endpoints=tuple(_choose_llm(endpoint, strategy) for endpoint in endpoints),
    )


def _choose_llm(llm: object, strategy: Strategy) -> BackendMethod:
    return _choose(llm, "complete", prefer_async=strategy.llm_async, strategy=strategy)


def _choose(backend: object, name: str, *, prefer_async: bool, strategy: Strategy) -> BackendMethod:
    awaited = _method(backend, "a" + name)
    blocking = _method(backend, name)
    if isinstance(backend, type):
        raise ConfigurationError(
            f"{backend.__name__} is a class, not a backend; for example {backend.__name__}(...)"
        )
    kind = type(backend).__name__
    if iscoroutinefunction(blocking):
        raise ConfigurationError(f"{kind}.{name}() is defined with `async def`; rename it a{name}()")
    if prefer_async and awaited:
        return BackendMethod(awaited, is_async=True)
    if blocking:
        return BackendMethod(blocking, is_async=False)
    if awaited:
        raise ConfigurationError(
            f"{kind} has only a{name}(), which {strategy} cannot use; "
            f"use Strategy.stage(4), or give {kind} a blocking {name}()"
        )
    raise ConfigurationError(f"{kind} has neither {name}() nor a{name}(); it is not a backend")


def _method(backend: object, name: str) -> Callable[..., Any] | None:
    method = getattr(backend, name, None)
    return method if callable(method) else None

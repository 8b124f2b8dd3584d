"""Which colour of which backend a run uses, and what goes side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from .._config.strategy import Strategy
from ..errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class BackendMethod:
    """A backend's method to call, and whether it is awaited (`is_async`) or blocks."""

    method: Callable[[Any], Any]
    is_async: bool


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """
    How one run is carried out.

    Attributes:
        search: How to search; None without a search backend.
        search_many: How to search several things in one round trip; None where that is not to be done.
        llm: How to ask the model.
        concurrent_searches: Whether one item's searches run side by side.
        concurrent_flows: Whether one item's independent flows do.
        concurrent_items: Whether items do.
    """

    search: BackendMethod | None
    search_many: BackendMethod | None
    llm: BackendMethod
    concurrent_searches: bool
    concurrent_flows: bool
    concurrent_items: bool


def make_plan(strategy: Strategy, search: object | None, llm: object) -> ExecutionPlan:
    """
    Choose the colours for a strategy.

    Raises:
        ConfigurationError: When a backend has no method that the strategy can use.
    """
    loop = strategy.is_concurrent and not strategy.threads
    search_line = many = None
    if search is not None:
        search_line = _choose(search, "search", native=loop, strategy=strategy)
        if strategy.search_async:
            many = _method(search, "asearch_many" if search_line.is_async else "search_many")
    return ExecutionPlan(
        search=search_line,
        search_many=BackendMethod(many, search_line.is_async) if many and search_line else None,
        llm=_choose(
            llm,
            "complete",
            native=strategy.llm_async,
            strategy=strategy,
        ),
        concurrent_searches=strategy.search_async,
        concurrent_flows=strategy.is_concurrent,
        concurrent_items=strategy.restaurant_async,
    )


def _choose(backend: object, name: str, *, native: bool, strategy: Strategy) -> BackendMethod:
    awaited = _method(backend, "a" + name)
    plain = _method(backend, name)
    if isinstance(backend, type):
        raise ConfigurationError(
            f"{backend.__name__} is a class, not a backend; write {backend.__name__}(...)"
        )
    kind = type(backend).__name__
    if iscoroutinefunction(plain):
        raise ConfigurationError(f"{kind}.{name}() is defined with `async def`; rename it a{name}()")
    if native and awaited:
        return BackendMethod(awaited, is_async=True)
    if plain:
        return BackendMethod(plain, is_async=False)
    if awaited:
        raise ConfigurationError(
            f"{kind} has only a{name}(), which {strategy} cannot use; "
            f"write Strategy.stage(4), or give {kind} a blocking {name}()"
        )
    raise ConfigurationError(f"{kind} has neither {name}() nor a{name}(); it is not a backend")


def _method(backend: object, name: str) -> Callable[[Any], Any] | None:
    method = getattr(backend, name, None)
    return method if callable(method) else None

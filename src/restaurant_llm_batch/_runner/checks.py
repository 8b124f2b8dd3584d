"""Checks of the arguments of `BatchRunner`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from .._config.limits import Limits
from .._config.stopping import Price, StopConditions
from .._config.strategy import Strategy
from ..errors import ConfigurationError
from ..protocols import Observer

log = logging.getLogger("restaurant_llm_batch")


def check_prices(prices: object, stop: StopConditions) -> None:
    """
    Check the prices.

    Raises:
        ConfigurationError: They are no prices, or a stop condition needs some and there are none.
    """
    if stop.max_cost is not None and not prices:
        raise ConfigurationError(
            "StopConditions.max_cost needs prices; for example "
            'prices={"gpt-5-mini": Price(prompt=0.25, completion=2.0)}'
        )
    if prices is None:
        return
    if not isinstance(prices, Mapping) or not all(
        isinstance(name, str) and isinstance(price, Price) for name, price in prices.items()
    ):
        raise ConfigurationError(
            f"prices must map names of models to a Price, got {prices!r}; "
            'for example prices={"gpt-5-mini": Price(prompt=0.25, completion=2.0)}'
        )


def as_observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """
    Return the observers.

    Raises:
        ConfigurationError: They are not a list of callables.
    """
    given: object = observers
    if isinstance(given, Iterable) and not isinstance(given, (str, type)):
        found = tuple(given)
        if all(callable(observer) and not isinstance(observer, type) for observer in found):
            return found
    raise ConfigurationError(
        f"observers must be a list of callables that take an event, got {observers!r}; "
        "for example observers=[RichProgress()]"
    )


def check_counter(counter: object) -> None:
    """
    Check the token counter.

    Raises:
        ConfigurationError: It is not callable.
    """
    if not callable(counter) or isinstance(counter, type):
        raise ConfigurationError(
            f"count_tokens must be callable with a text, got {counter!r}; for example count_tokens=estimate_tokens"
        )


def check_type(value: object, expected: type, field: str) -> None:
    """
    Check the type of an argument.

    Raises:
        ConfigurationError: It is not of this type.
    """
    if not isinstance(value, expected):
        raise ConfigurationError(
            f"{field} must be a {expected.__name__}, got {value!r}; for example {field}={expected.__name__}(...)"
        )


def check_batch_tokens(limits: Limits, *, sends_batches: bool) -> None:
    """
    Check that a token budget of packed batches that adapts can do so.

    Args:
        limits: The limits.
        sends_batches: Whether the backend sends the calls as a provider's batch.

    Raises:
        ConfigurationError: It cannot.
    """
    if sends_batches and limits.adaptive_batch is not None:
        raise ConfigurationError(
            "max_tokens_per_batch adapts to how long calls take, and the calls of a provider's batch do not say that; "
            "give a number, for example Limits(max_tokens_per_batch=4000)"
        )


def announce_waves(strategy: Strategy, *, has_store: bool, are_kept: bool) -> None:
    """
    Warn of what a backend that sends batches cannot do without a store, or with restaurants one by one.

    Args:
        strategy: The strategy.
        has_store: Whether there is a store.
        are_kept: Whether the batches of a run that is stopped are left for the next one.

    Raises:
        ConfigurationError: Batches are to be left for a later run, which has no store to find them by.
    """
    if are_kept and not has_store:
        raise ConfigurationError(
            'on_stop="keep" leaves batches for a later run, which finds them in the store, and there is none: give the '
            'runner one, for example store="run.db"'
        )
    if not has_store:
        log.warning(
            "batches without a store are lost with this process, and paid for again: give the runner one, for example "
            'store="run.db"'
        )
    if not strategy.restaurant_async:
        log.warning(
            "%s runs restaurants one by one, so each of them takes batches of its own, which may take hours; use "
            "Strategy.stage(4) or Strategy.threaded()",
            strategy,
        )

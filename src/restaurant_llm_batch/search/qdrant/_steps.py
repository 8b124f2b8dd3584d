"""Steps of the Qdrant flows: client calls and CPU work, which sync and async drivers perform."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar


@dataclass(frozen=True, slots=True)
class ClientCall:
    """
    A step that calls a method of the client on the collection; the flow is resumed with its result.

    The sync and the async client have methods with the same names and arguments.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CPUWork:
    """A step that runs CPU-bound work, such as embedding; the flow is resumed with its result."""

    work: Callable[[], Any]


T = TypeVar("T")

QdrantFlow: TypeAlias = Generator[ClientCall | CPUWork, Any, T]
"""A generator of client calls and CPU work that returns a `T`."""
Perform: TypeAlias = Callable[[ClientCall | CPUWork], Any]
PerformAsync: TypeAlias = Callable[[ClientCall | CPUWork], Awaitable[Any]]

"""What a flow against Qdrant asks for, and who performs it: one text for both colours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class ClientCall:
    """
    Call a method of the client about the collection. Answered with what it returns.

    The blocking client and the async one have methods of the same names and arguments.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CPUWork:
    """Do work that takes the processor for a while. Answered with what it returns."""

    work: Callable[[], Any]


Perform: TypeAlias = Callable[[ClientCall | CPUWork], Any]
PerformAsync: TypeAlias = Callable[[ClientCall | CPUWork], Awaitable[Any]]

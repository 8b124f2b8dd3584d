"""A plain generator function as a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import ConfigurationError
from ..models import ItemId, as_item_id
from ..protocols import Task
from ..steps import Flow
from .items import ID_FIELDS

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Function(Generic[R]):
    """A task made of one generator function; items are passed to it as they are given."""

    function: Callable[[Any], Flow[R]]

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def needs_search(self) -> bool:
        """Not known before it searches."""
        return False

    def read(self, raw: Any, /) -> Any:
        """Return the item unchanged."""
        return raw

    def identify(self, item: Any, /) -> tuple[ItemId, int]:
        """Find the id in the item itself, one of its keys, or one of its attributes."""
        if isinstance(item, str) or hasattr(item, "__index__"):
            return as_item_id(item, "the item"), 0
        for field in ID_FIELDS:
            value = item.get(field) if isinstance(item, Mapping) else getattr(item, field, None)
            if value is not None:
                return as_item_id(value, field), 0
        raise ConfigurationError(
            f"cannot tell the id of {item!r}; give it a key or attribute "
            f"named {' or '.join(map(repr, ID_FIELDS))}"
        )

    def flow(self, item: Any, /) -> Flow[R]:
        """Open the flow."""
        return self.function(item)


def as_task(task: Task[R] | Callable[[Any], Flow[R]]) -> Task[R]:
    """
    Return a task, made of the function if it is one.

    Raises:
        ConfigurationError: When it is neither a task nor callable.
    """
    if not isinstance(task, type) and all(
        hasattr(task, name) for name in ("read", "identify", "flow", "needs_search")
    ):
        return task  # type: ignore[return-value]
    if callable(task) and not isinstance(task, type):
        return Function(task)
    hint = f"{task.__name__}(...)" if isinstance(task, type) else "SummarizeAspects()"
    raise ConfigurationError(
        f"the task must be a task or a generator function, got {task!r}; write for example {hint}"
    )

"""`WrappedTask`: a task that does what another one does; a subclass changes a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...models import ItemId
from ...protocols import Task
from ...steps import Flow


@dataclass(frozen=True)
class WrappedTask:
    """
    A task that does what another one does.

    Attributes:
        task: The other one.
    """

    task: Task[Any]

    @property
    def name(self) -> str:
        """The name of the task."""
        return self.task.name

    @property
    def requires_search(self) -> bool:
        """Whether the task searches."""
        return self.task.requires_search

    def parse_item(self, raw: Any, /) -> Any:
        """Parse an item of the task."""
        return self.task.parse_item(raw)

    def item_key(self, item: Any, /) -> tuple[ItemId, int]:
        """Return the key of an item of the task."""
        return self.task.item_key(item)

    def flow(self, item: Any, /) -> Flow[Any]:
        """Return the flow of an item of the task."""
        return self.task.flow(item)

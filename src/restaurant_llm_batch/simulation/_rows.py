"""Rows of a plan: reads all items, and keeps those that are looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any

from .._engine.items import ItemReader, RunItem, check_items
from ..protocols import Task
from ._thinning import Thinned
from .plan import BadRow


def read_rows(
    task: Task[Any], items: Iterable[Any], sample: int | None
) -> tuple[Sequence[RunItem], int, list[BadRow]]:
    """Read all items; return those to look at, the number of those that can be read, and those that cannot."""
    items = check_items(items, task)
    good = Thinned(sample)
    bad: list[BadRow] = []
    is_collection = isinstance(items, Collection)
    reader = ItemReader(task, iter(items))
    for item in reader:
        if item.bad is None:
            good.add(item)
        else:
            problem = str(item.bad).removeprefix(f"item {item.index}: ")
            bad.append(BadRow(item.index, item.item_id, problem.replace(", which is still open", "")))
        if not is_collection:
            reader.item_finished(item)
    # A run reads a collection in the order of its priorities.
    chosen = sorted(good.items, key=attrgetter("priority")) if is_collection else good.items
    return chosen, good.count, bad

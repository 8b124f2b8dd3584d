"""Tasks of which each item has its own settings: those that a restaurant brings with a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from typing import Any

from ...models import ComparisonItem, Hit, ItemId, Review, SearchQuery
from ...protocols import Task
from ...results import RestaurantStrength
from ...steps import Flow, search_all
from ...tasks.aspects import seed_query
from ...tasks.strengths import ExtractStrengths
from .wrapped_task import WrappedTask


@dataclass(frozen=True)
class VariedTask:
    """A task whose settings differ by item; each item is a pair: the task of that item, and its item."""

    name: str
    requires_search: bool = False

    def parse_item(self, raw: Any, /) -> Any:
        """Parse the pair's item with its task."""
        task, item = raw
        return task, task.parse_item(item)

    def item_key(self, item: Any, /) -> tuple[ItemId, int]:
        """Return the key of the pair's item."""
        task, parsed = item
        key: tuple[ItemId, int] = task.item_key(parsed)
        return key

    def flow(self, item: Any, /) -> Flow[Any]:
        """Return the flow of the pair's item."""
        task, parsed = item
        flow: Flow[Any] = task.flow(parsed)
        return flow


def vary(task: Task[Any], tasks: Sequence[Task[Any]], items: list[Any]) -> tuple[Task[Any], list[Any]]:
    """Return a task and its items for items that have a task each: `task` itself, if that is the task of all."""
    if all(one is task for one in tasks):
        return task, items
    return VariedTask(task.name), list(zip(tasks, items, strict=True))


@dataclass(frozen=True)
class StrengthsOverChosen(WrappedTask):
    """
    `ExtractStrengths` with comparison reviews of chosen restaurants, where an item has none.

    One search in each restaurant finds its reviews. Their best ones are taken in turn, up to the task's limit in all.

    Attributes:
        task: The task.
        restaurants: Ids of the restaurants to compare with.
    """

    task: ExtractStrengths
    restaurants: tuple[ItemId, ...]

    def flow(self, item: ComparisonItem, /) -> Flow[RestaurantStrength]:
        """Return the flow of an item: search in the restaurants, then the task's own flow."""
        if item.comparison_reviews is None:
            found = yield from self._found(item.target_restaurant_id)
            item = replace(item, comparison_reviews=found)
        return (yield from self.task.flow(item))

    def _found(self, target: ItemId) -> Flow[tuple[Review, ...]]:
        text = self.task.query or seed_query("auto")
        chosen: dict[str, ItemId] = {}  # in the order of the request, each once
        for one in self.restaurants:
            if str(one) != str(target):
                chosen.setdefault(str(one), one)
        queries = [
            SearchQuery(one, text, self.task.limit, self.task.min_score, "comparison")
            for one in chosen.values()
        ]
        lists: list[Sequence[Hit]] = []
        for hits in (yield from search_all(queries)):
            if isinstance(hits, Exception):
                raise hits
            lists.append(hits)
        in_turn = (hit for hit in chain.from_iterable(zip_longest(*lists)) if hit is not None)
        return tuple(
            Review(hit.content, hit.review_id, hit.restaurant_id) for hit in islice(in_turn, self.task.limit)
        )

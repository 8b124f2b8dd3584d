"""The door: items as the user gave them become entries, or failures in their place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..errors import ConfigurationError, OutputError, RunStopped
from ..models import ID_FIELDS, ItemId, as_item_id
from ..outcomes import Failure, Stage
from ..protocols import Task
from ..steps import Flow

MAX_ERRORS_SHOWN = 5
"""How many bad items of a list one error names."""


@dataclass(slots=True)
class RunItem:
    """
    An item on its way through a run.

    Attributes:
        index: Its place in the input, from 0.
        item_id: Its name.
        priority: Lower goes first.
        item: What the task's flow takes.
        sequence: When it entered the window, on the runner's counter.
        deadline: When its time is up, on `time.monotonic`'s clock; None for never.
        has_llm_reply: Whether the model has answered it anything.
        retried: Answers that came only at a later try, and which.
        stored_replies: Answers that are in the store, and their keys there.
        errors: What calls of this item raised in the end, with stage and tries.
    """

    index: int
    item_id: ItemId
    priority: int
    item: Any
    sequence: int = 0
    deadline: float | None = None
    has_llm_reply: bool = False
    retried: list[tuple[Any, int]] = field(default_factory=list)
    stored_replies: list[tuple[Any, bytes]] = field(default_factory=list)
    errors: list[tuple[BaseException, Stage, int]] = field(default_factory=list)


class ItemReader:
    """
    Reads items, lazily where the input is lazy.

    A collection (a list, a tuple, a range, a set, ...) is checked whole, before any call. From any other
    iterable a bad item becomes a `Failure` in its place, and an id is a duplicate while an item of that id is
    open.

    Attributes:
        total: How many items there are, or None when the input does not tell.

    Raises:
        ConfigurationError: When the items are not iterable, or some item of a collection is bad.
    """

    def __init__(self, task: Task[Any], items: Iterable[Any]) -> None:
        self._task = task
        self._open: set[ItemId] = set()
        self.total: int | None = None
        self._entries: Iterator[RunItem | Failure]
        if hasattr(items, "__aiter__"):
            raise ConfigurationError(
                "items must be an iterable that is not async; collect them first, "
                "with [item async for item in items]"
            )
        if isinstance(items, (str, bytes, dict)) or not isinstance(items, Iterable):
            raise ConfigurationError(
                f"items must be a list or another iterable of items, got {type(items).__name__}; "
                "write [item] for a single one"
            )
        if isinstance(items, Collection):
            entries = self._read_whole(items)
            self.total = len(entries)
            self._entries = iter(entries)
        else:
            self._entries = self._read_lazily(items)

    def __iter__(self) -> Iterator[RunItem | Failure]:
        return self

    def __next__(self) -> RunItem | Failure:
        return next(self._entries)

    @property
    def is_materialized(self) -> bool:
        """Whether nothing of the user's runs when the next entry is taken."""
        return self.total is not None

    def item_finished(self, entry: RunItem) -> None:
        """Note that an entry is open no longer."""
        self._open.discard(entry.item_id)

    def _read_whole(self, items: Collection[Any]) -> list[RunItem]:
        entries: list[RunItem] = []
        complaints: list[str] = []
        first: dict[ItemId, int] = {}
        for index, raw in enumerate(items):
            try:
                entry = self._read(index, raw)
            except ConfigurationError as error:
                complaints.append(str(error))
                continue
            if entry.item_id in first:
                complaints.append(
                    f"item {index}: duplicate id {entry.item_id!r}, already item "
                    f"{first[entry.item_id]}; give each item once"
                )
                continue
            first[entry.item_id] = index
            entries.append(entry)
        if complaints:
            more = len(complaints) - MAX_ERRORS_SHOWN
            tail = [f"and {more} more"] if more > 0 else []
            raise ConfigurationError("; ".join(complaints[:MAX_ERRORS_SHOWN] + tail))
        return entries

    def _read_lazily(self, items: Iterable[Any]) -> Iterator[RunItem | Failure]:
        for index, raw in enumerate(items):
            try:
                entry = self._read(index, raw)
                if entry.item_id in self._open:
                    raise ConfigurationError(
                        f"item {index}: duplicate id {entry.item_id!r}, which is still open; "
                        "give each item once"
                    )
            except Exception as error:  # whatever a task of the user's own raises for a bad item
                yield Failure(_name_of(raw), error, "input", index=index)
            else:
                self._open.add(entry.item_id)
                yield entry

    def _read(self, index: int, raw: Any) -> RunItem:
        try:
            item = self._task.parse_item(raw)
            item_id, priority = self._task.item_key(item)
        except ConfigurationError as error:
            raise ConfigurationError(f"item {index}: {error}") from error.__cause__
        except Exception as error:
            raise ConfigurationError(f"item {index}: {type(error).__name__}: {error}") from error
        return RunItem(index, item_id, priority, item)


class InlineSource:
    """Entries read where the run is."""

    def __init__(self, intake: ItemReader) -> None:
        self._reader = intake

    def take(self, room: int) -> RunItem | Failure | None:
        """Return the next entry, or None after the last."""
        return next(self._reader, None)


def _name_of(raw: Any) -> ItemId | None:
    names = [raw.get(field) for field in ID_FIELDS] if isinstance(raw, dict) else [raw]
    return next((name for name in names if isinstance(name, (int, str))), None)


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class FunctionTask(Generic[R]):
    """A task made of one generator function; items are passed to it as they are given."""

    function: Callable[[Any], Flow[R]]

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def requires_search(self) -> bool:
        """Not known before it searches."""
        return False

    def parse_item(self, raw: Any, /) -> Any:
        """Return the item unchanged."""
        return raw

    def item_key(self, item: Any, /) -> tuple[ItemId, int]:
        """Find the id in the item itself, one of its keys, or one of its attributes."""
        if isinstance(item, str) or hasattr(item, "__index__"):
            return as_item_id(item, "the item"), 0
        for name in ID_FIELDS:
            value = item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
            if value is not None:
                return as_item_id(value, name), 0
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
        hasattr(task, name) for name in ("parse_item", "item_key", "flow", "requires_search")
    ):
        return task  # type: ignore[return-value]
    if callable(task) and not isinstance(task, type):
        return FunctionTask(task)
    hint = f"{task.__name__}(...)" if isinstance(task, type) else "SummarizeAspects()"
    raise ConfigurationError(
        f"the task must be a task or a generator function, got {task!r}; write for example {hint}"
    )


def failure_stage(item: RunItem, error: Exception) -> tuple[Stage, int]:
    """Return the stage at which an item failed, and how many attempts the failing call took."""
    if isinstance(error, RunStopped):
        return "run", 0
    cause: BaseException | None = error
    while cause is not None:
        for raised, stage, attempts in item.errors:
            if raised is cause:
                return stage, attempts
        cause = cause.__cause__
    if isinstance(error, OutputError):
        return "llm", next((attempt for reply, attempt in item.retried if reply is error.reply), 1)
    return "task", 0

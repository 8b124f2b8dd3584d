"""Item reader: parses and checks the user's items; a bad item becomes a failure in its position."""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from inspect import isasyncgenfunction, isawaitable, iscoroutinefunction
from itertools import islice
from operator import itemgetter
from typing import Any, Generic, TypeAlias, TypeVar, cast

from .._values import composed, place_of
from ..errors import ConfigurationError, OutputError, RunStopped
from ..models import ID_FIELDS, ItemId, as_item_id
from ..outcomes import Outcome, Stage
from ..protocols import Task
from ..steps import Flow

MAX_ERRORS_SHOWN = 5
"""Most errors of bad items in one exception's message."""


E = TypeVar("E")

Appendable: TypeAlias = list[E] | tuple[()]
"""A list that is made when it is needed: most items need none of theirs, and an empty list takes time."""


def appended(entries: Appendable[E], entry: E) -> list[E]:
    """Return the list with an entry added."""
    if isinstance(entries, tuple):
        return [entry]
    entries.append(entry)
    return entries


@dataclass(slots=True)
class RunItem:
    """
    An item and its state in a run.

    Attributes:
        index: Its position in the input, from 0.
        item_id: Its id.
        priority: Lower goes first.
        item: The parsed item, the argument of the task's flow.
        bad: The error of an item that could not be read, which is not started.
        sequence: When it entered the window, as a number of the runner's counter.
        deadline: The time at which it fails, on the run's clock; None for never.
        has_llm_reply: Whether the model has replied to any of its calls.
        retried: Replies that needed more than one attempt, and the number of attempts.
        stored_replies: Replies that are in the store, and their keys.
        errors: The exceptions of its calls that failed, with stage and attempts.
        shares_failure: Whether a call of another item failed for it too; see `once`.
        outcome: Its outcome, once that is counted.
        delivered: Whether the outcome was handed over.
        turns: Tickets that it holds while its texts are packed, until it goes on; see `batch_tokens`.
        home: With a pool, the endpoint of its latest call, by number; -1 before. See `Affinity`.
        entered_at: When it entered the window, on the run's clock; None before.
        waited, calls, searches, cache_hits, prompt_tokens, completion_tokens, cost, tries: What it has taken so far;
            see `Spent`.
    """

    index: int
    item_id: ItemId
    priority: int
    item: Any
    bad: Exception | None = None
    sequence: int = 0
    deadline: float | None = None
    has_llm_reply: bool = False
    retried: Appendable[tuple[Any, int]] = ()
    stored_replies: Appendable[tuple[Any, bytes]] = ()
    errors: Appendable[tuple[BaseException, Stage, int]] = ()
    shares_failure: bool = False
    outcome: Outcome[Any] | None = None
    delivered: bool = False
    turns: Appendable[object] = ()
    home: int = -1
    entered_at: float | None = None
    waited: float = 0.0
    calls: int = 0
    searches: int = 0
    cache_hits: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    tries: int = 0


class ItemReader:
    """
    Reads items, lazily if the input is lazy.

    A collection (a list, a tuple, a range, a set, ...) is checked as a whole before any call, and read in the order of
    its priorities. In any other iterable, a bad item becomes a `Failure` in its position, and an id is a duplicate only
    while another item of that id is open, and not at all if the task has a true ``ids_may_repeat``: its items are rows,
    and ids say what they are about. Items of an async iterable are awaited elsewhere (`awaited_items`) and given
    to the reader one by one.

    Args:
        task: Parses the items.
        items: The user's items.
        on_loop: Whether the run awaits on the caller's event loop, so that the items may be an async iterable.

    Attributes:
        total: The number of items; None if the input is lazy.
        tracks_ids: Whether it is to be told when an item has ended, whose id may then come again.
        unread: What was taken from the input and not read yet; an item that was awaited is put there.
        awaited: The iterator to await the items from; None if the input is not async.

    Raises:
        ConfigurationError: If the items are not iterable, or an item of a collection is bad.
    """

    __slots__ = (
        "_ids_may_repeat",
        "_index",
        "_items",
        "_latest",
        "_open",
        "_read",
        "_task",
        "awaited",
        "total",
        "tracks_ids",
        "unread",
    )

    def __init__(
        self, task: Task[Any], items: Iterable[Any] | AsyncIterable[Any], *, on_loop: bool = False
    ) -> None:
        self._task = task
        self._open: set[ItemId] = set()
        self._ids_may_repeat = bool(getattr(task, "ids_may_repeat", False))
        self.total: int | None = None
        self.tracks_ids: bool = not self._ids_may_repeat
        self._read: list[tuple[int, ItemId, int, Any]] = []  # what is left of a collection, the next one last
        self._items: Iterator[Any]  # of any other iterable
        self._index = -1  # of the latest lazy item
        self.unread: list[Any] = []
        self._latest: RunItem | None = None
        self.awaited: AsyncIterator[Any] | None = None
        if on_loop and isinstance(items, AsyncIterable):
            self.awaited, self._items = aiter(items), iter(())
            return
        items = check_items(items, task)
        if isinstance(items, Collection):
            self._read = self._read_collection(items)
            self.total, self.tracks_ids = len(self._read), False  # they are checked before the run
            self._read.sort(key=itemgetter(2))
            self._read.reverse()
        else:
            self._items = iter(items)

    def __iter__(self) -> Iterator[RunItem]:
        return iter(self.take, None)

    def take(self, room: int = 1) -> RunItem | None:
        """Return the next item, or None after the last; so a reader is a source of items that are not awaited."""
        # An interrupt may land after any line. What was taken from the input is in `unread` or in `_latest` by then.
        if self.total is not None:
            read = self._read
            if not read:
                return None
            # Made now, and not kept: an item that has ended holds its outcome and its replies.
            item = self._latest = RunItem(*read[-1])
            del read[-1]
            return item
        if self.awaited is None:
            self.unread.extend(islice(self._items, 1))  # one call, so that nothing is taken and lost
        if not self.unread:
            return None
        self._latest, self._index, self.unread = (
            self._read_lazily(self._index + 1, self.unread[0]),
            self._index + 1,
            [],
        )
        return self._latest

    def unfinished(self) -> RunItem | None:
        """Return the item read last if its outcome was not handed over: an interrupt, or the run's end, came before."""
        if self.unread:
            self._latest, self._index, self.unread = (
                _unread(self._index + 1, self.unread[0]),
                self._index + 1,
                [],
            )
        latest = self._latest
        return None if latest is None or latest.delivered else latest

    @property
    def is_materialized(self) -> bool:
        """Whether all items were read at the start, so that `take` runs no code of the user."""
        return self.total is not None

    def item_finished(self, item: RunItem) -> None:
        """Record that an item is no longer open; needed only if it `tracks_ids`."""
        self._open.discard(_key(item.item_id))

    def _read_collection(self, items: Collection[Any]) -> list[tuple[int, ItemId, int, Any]]:
        """Return the arguments of each `RunItem`."""
        read: list[tuple[int, ItemId, int, Any]] = []
        errors: list[str] = []
        first: dict[ItemId, int] = {}
        for index, raw in enumerate(items):
            try:
                item_id, priority, item = self._parse(index, raw)
            except ConfigurationError as error:
                errors.append(str(error))
                continue
            key = item_id if type(item_id) is int else _key(item_id)
            if key in first:
                errors.append(
                    f"item {index}: duplicate id {item_id!r}, already item {first[key]}; give each item once"
                )
                continue
            first[key] = index
            read.append((index, item_id, priority, item))
        if errors:
            more = len(errors) - MAX_ERRORS_SHOWN
            tail = [f"and {more} more"] if more > 0 else []
            raise ConfigurationError("; ".join(errors[:MAX_ERRORS_SHOWN] + tail))
        return read

    def _read_lazily(self, index: int, raw: Any) -> RunItem:
        try:
            item = RunItem(index, *self._parse(index, raw))
            if self._ids_may_repeat:
                return item
            if _key(item.item_id) in self._open:
                raise ConfigurationError(
                    f"item {index}: duplicate id {item.item_id!r}, which is still open; give each item once"
                )
        except Exception as error:  # a user's own task may raise any exception for a bad item
            item = _unread(index, raw)
            item.bad = error
            return item
        self._open.add(_key(item.item_id))
        return item

    def _parse(self, index: int, raw: Any) -> tuple[ItemId, int, Any]:
        """Return the id of an item, its priority, and the parsed item."""
        try:
            item = self._task.parse_item(raw)
            item_id, priority = self._task.item_key(item)
        except ConfigurationError as error:
            raise ConfigurationError(f"item {index}: {error}") from error.__cause__
        except Exception as error:
            place = place_of(error)
            at = f" (at {place})" if place else ""
            raise ConfigurationError(f"item {index}: {type(error).__name__}: {error}{at}") from error
        return item_id, priority, item


def check_items(items: object, task: Task[Any] | None = None) -> Iterable[Any]:
    """
    Return items that can be read one by one, without an event loop.

    The rows of a data frame are its items, all of which are read at once; those of a table that was opened are read as
    they are taken. A task with a method ``items_of_table`` says which items are in them.

    Raises:
        ConfigurationError: They are async only, a text or a mapping, or not iterable; or the rows of a frame are bad.
    """
    if type(items) is list or type(items) is tuple:
        return items
    if isinstance(items, AsyncIterable) and not isinstance(items, Iterable):
        raise ConfigurationError(
            f"items cannot be awaited here, and {type(items).__name__} is an async iterable; "
            "use `await runner.arun(task, items)` or `async for outcome in runner.astream(task, items)`"
        )
    from .._rows.table import as_ids, as_table

    table = as_table(items)
    if table is not None:
        read: Callable[[Any], Iterable[Any]] = getattr(task, "items_of_table", iter)
        return read(table) if table is items else list(read(table))
    if isinstance(items, (str, bytes, dict)) or not isinstance(items, Iterable):
        raise ConfigurationError(
            f"items must be a list or another iterable of items, got {type(items).__name__}; "
            f"for example {_iterable_in_place_of(items)}"
        )
    return as_ids(items)


def _iterable_in_place_of(items: object) -> str:
    """Return what to write in place of items that are not iterable."""
    if isawaitable(items):
        return "items=await rows(), for what the awaited function returns"
    return "items=rows() for a function that yields items" if callable(items) else "[item] for a single item"


def _unread(index: int, raw: Any) -> RunItem:
    """Return an item that can only fail. Its id is None if it has none; only its failure shows that."""
    return RunItem(index, cast("ItemId", _id_of(raw)), 0, None)


def _key(item_id: ItemId) -> ItemId:
    """Return what two ids have in common if they name the same item: a text in any of its Unicode forms is one."""
    return composed(item_id) if isinstance(item_id, str) else item_id


def _id_of(raw: Any) -> ItemId | None:
    ids = [raw.get(field) for field in ID_FIELDS] if isinstance(raw, dict) else [raw]
    return next((found for found in ids if isinstance(found, (int, str))), None)


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class FunctionTask(Generic[R]):
    """A task that consists of one generator function, its `flow`. The function gets the items unchanged."""

    flow: Callable[[Any], Flow[R]]

    @property
    def name(self) -> str:
        """The function's name."""
        return name_of(self.flow)

    @property
    def requires_search(self) -> bool:
        """False: it is not known until the function searches."""
        return False

    def parse_item(self, raw: Any, /) -> Any:
        """Return the item unchanged."""
        return raw

    def item_key(self, item: Any, /) -> tuple[ItemId, int]:
        """Return the id: the item itself, or one of its keys or attributes."""
        if type(item) is int:
            return item, 0
        if isinstance(item, str) or hasattr(item, "__index__"):
            return as_item_id(item, "the item"), 0
        for name in ID_FIELDS:
            value = item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
            if value is not None:
                return as_item_id(value, name), 0
        raise ConfigurationError(
            f"an item needs a key or attribute named {' or '.join(map(repr, ID_FIELDS))}, got {item!r}; "
            f"for example {{{ID_FIELDS[0]!r}: 1}}"
        )


def as_task(task: Task[R] | Callable[[Any], Flow[R]]) -> Task[R]:
    """
    Return the task, or a task made of the generator function.

    Raises:
        ConfigurationError: If it is neither a task nor callable.
    """
    if isinstance(task, type):
        raise _no_task(f"a class, {task!r}", f"{task.__name__}(...)")
    missing = [name for name in _TASK_MEMBERS if not hasattr(task, name)]
    if not missing:
        _refuse_async(getattr(task, "flow"), f"{type(task).__name__}.flow")  # noqa: B009
        return task  # type: ignore[return-value]
    if callable(task):
        _refuse_async(task, name_of(task))
        return FunctionTask(task)
    if hasattr(task, "flow"):
        raise _no_task(
            f"{task!r}, which lacks {', '.join(missing)}", "a class with the members of protocols.Task"
        )
    if isinstance(task, Generator):
        name = name_of(task)
        raise _no_task(f"what {name}(...) returned", f"{name} without parentheses")
    raise _no_task(repr(task), "SummarizeAspects()")


_TASK_MEMBERS = ("parse_item", "item_key", "flow", "requires_search")


def _no_task(got: str, example: str) -> ConfigurationError:
    return ConfigurationError(
        f"task must be a task or a generator function, got {got}; for example {example}"
    )


USE_DEF = (
    "write `def` in place of `async def`, and `reply = yield from complete(request)` in place of `await`; "
    "the runner calls async backends by itself"
)


def name_of(function: Any) -> str:
    """Return the name of a function, of a partial one's function, or of an object's class."""
    function = getattr(function, "func", function)
    return getattr(function, "__name__", type(function).__name__)


def _refuse_async(function: object, name: str) -> None:
    call = getattr(function, "__call__", function)  # noqa: B004  # of an object, its class may define it
    if any(map(iscoroutinefunction, (function, call))) or any(map(isasyncgenfunction, (function, call))):
        raise ConfigurationError(
            f"the task {name} is defined with `async def`, but a task yields steps and awaits nothing; {USE_DEF}"
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

"""
Rows of a record: turns the events of runs into rows of its tables.

Theory of operation. `RunRows` has the state of one run. Its events come where the run lives, one at a time; each that
ends something makes a row at once, and is forgotten. The writing thread takes the rows now and then (`take`), together
with a row for each item and call that has started since and not ended: so a reader sees what is in flight. That row is
replaced when the item or the call has ended. A lock makes an event and a taking whole, so that no row is in the file
before one with a smaller number.

Rows have numbers within their run. The run's id, which the file gives, is added by the statements that write them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import count, takewhile
from threading import RLock
from typing import Any, NamedTuple

from .. import _fork
from .._config.stopping import Price, find_price
from .._llm_response import LLMResponse, valid_reply
from .._text import error_text
from ..errors import RateLimited
from ..events import (
    CacheHit,
    CallEnded,
    CallStarted,
    Event,
    ItemEnded,
    ItemStarted,
    LateReply,
    LimitChanged,
    RetryScheduled,
    RunEnded,
    RunStarted,
    ServerRead,
)
from ..models import ItemId
from ..outcomes import Failure, Success
from ._run_row import RunnerFacts, RunRow
from ._server_rows import ServerRows
from ._standings import Standings
from ._statements import (
    BATCHED_CALL,
    CALL_ENDPOINT,
    FAILED_ITEM,
    LIMIT,
    LIMITER,
    OK_CALL,
    OPEN_CALL,
    OPEN_ITEM,
    OTHER_CALL,
    SERVER_LOAD,
    STORED_CALL,
    SUCCEEDED_ITEM,
    Batch,
    Row,
)
from ._text_rows import AddTexts, TextRows
from ._values import MAX_INTEGER, id_texts, sql_integer, sql_name, sql_text
from ._wishes import RunControl

_MAX_ENDED = 10_000
"""Most failed calls that are remembered, for the next attempt or a late reply."""


class Group(NamedTuple):
    """
    What a run has for the writing thread.

    Attributes:
        rows: Its rows.
        texts: What adds the rows of texts, in order.
        events: Number of events that these come from.
        ended: Whether the run has ended, so that this is its last group.
    """

    rows: Batch
    texts: list[AddTexts]
    events: int
    ended: bool


class OpenItem:
    """
    An item that has started and not ended.

    Attributes:
        row: The first values of its row, those of `OPEN_ITEM`.
        calls: Number of its calls that have started and not ended.
        is_taken: Whether the writing thread has its row.
    """

    __slots__ = ("calls", "is_taken", "row")

    def __init__(self, row: Row) -> None:
        self.row: Row = row
        self.calls: int = 0
        self.is_taken: bool = False


_NO_REPLY = (None,) * 6
_NO_ERROR = (None,) * 3
_NUMBER, _ITEM, _ATTEMPT = (OPEN_CALL.columns.index(name) for name in ("id", "item", "attempt"))


class RunRows:
    """
    The state of one run in a record.

    Args:
        facts: What is known of its runner.
        event: Its start.
        began: When that was, as a Unix time.
        texts: Whether texts are recorded.
        control: The limits of its runner; None for a simulation.

    Attributes:
        id: Its id in the file; 0 until it has one there.
        row: The row of the run itself.
        ended: Whether it has ended.
        queued: Whether it is queued for the writing thread, which takes its rows.
        forks: Number of forks before it began: a forked child has a copy of it that is not its own.
    """

    def __init__(
        self,
        facts: RunnerFacts,
        event: RunStarted,
        began: float,
        texts: bool = False,
        control: RunControl | None = None,
    ) -> None:
        self.control: RunControl | None = control
        self.id: int = 0
        self.row: RunRow = RunRow(facts, event, began, texts)
        self.ended: bool = False
        self.queued: bool = False
        self.forks: int = _fork.count
        self._zero = event.time
        self._events = 0
        self._listed_prices = facts.prices
        self._prices: dict[str, Price | None] = {}
        self._model: object = None  # of the last reply
        self._next_call = count(1).__next__
        self._next_limit = count(1).__next__
        self._servers = ServerRows()
        self._items: dict[ItemId, OpenItem] = {}
        self._calls: dict[int, Row] = {}  # the values of `OPEN_CALL` of each open call
        self._last_call_taken = 0
        self._ended_calls: dict[
            int, tuple[float, Row, Row]
        ] = {}  # that will be made again, or whose reply may be late: when, first values, error
        self._standings = Standings(control)
        self._texts = TextRows() if texts else None
        self._lock = RLock()  # reentrant: the garbage collector may run anything within it
        self._rows: Batch = defaultdict(list)
        self._to_add: list[AddTexts] = []
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ItemStarted: self._item_started,
            CallStarted: self._call_started,
            CallEnded: self._call_ended,
            LateReply: self._late_reply,
            CacheHit: self._cache_hit,
            LimitChanged: self._limit_changed,
            ServerRead: self._server_read,
            RetryScheduled: self._retry_scheduled,
            ItemEnded: self._item_ended,
            RunEnded: self._run_ended,
        }

    def add(self, event: Event) -> None:
        """Add the rows that an event makes."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            now = event.time - self._zero
            with self._lock:
                self._events += 1
                self.row.latest = now
                handler(event, now)

    def take(self) -> Group:
        """Return what has been added since the last call. Called by the writing thread, while events go on."""
        with self._lock:
            self.queued = False
            rows, self._rows = self._rows, defaultdict(list)
            texts, self._to_add = self._to_add, []
            events, self._events = self._events, 0
            rows[OPEN_CALL], rows[OPEN_ITEM] = self._new_calls(), self._new_items()
            latest, ended = self.row.latest, self.ended
        if self.id and events:  # not within the lock: the limiters have one of their own
            rows[LIMITER] = self.standings(self._zero + latest)
        return Group(rows, texts, events, ended)

    def _new_calls(self) -> list[Row]:
        # The order of a dictionary is that in which they have started.
        found = list(takewhile(self._is_new_call, reversed(self._calls.values())))
        if found:
            self._last_call_taken = found[0][_NUMBER]
        return found

    def _is_new_call(self, row: Row) -> bool:
        return bool(row[_NUMBER] > self._last_call_taken)

    def _new_items(self) -> list[Row]:
        found = list(takewhile(_is_new_item, reversed(self._items.values())))
        for item in found:
            item.is_taken = True
        return [item.row for item in found]

    def standings(self, now: float) -> list[Row]:
        """Return the rows of its limiters as they stand at a time, if that has changed."""
        return self._standings.rows(now, max(0.0, now - self._zero))

    # Items

    def _item_started(self, event: ItemStarted, now: float) -> None:
        place, item_id = event.position, event.item_id
        self._items[item_id] = OpenItem((place + 1, place, *id_texts(item_id), now))

    def _item_ended(self, event: ItemEnded, now: float) -> None:
        outcome = event.outcome
        item_id, item = outcome.item_id, None
        if item_id is not None and (outcome.ok or outcome.stage != "input"):
            item = self._items.get(item_id)
            self._standings.item_ended(item_id)
        # Without one, it could not be read, or its start is not recorded.
        begun = (outcome.index + 1, outcome.index, *id_texts(item_id), None) if item is None else item.row
        if isinstance(outcome, Success):
            self._rows[SUCCEEDED_ITEM].append((*begun, now))
        else:
            if item is not None and item.calls:
                self._cancel_calls(begun[0], now)
            self._rows[FAILED_ITEM].append((*begun, now, *_failure_values(outcome)))
        if self._texts is not None:
            self._to_add.append(partial(self._texts.end_item, begun[0], outcome))
        if item is not None and item_id is not None:
            del self._items[item_id]

    def _cancel_calls(self, item: int, ended: float) -> None:
        """End the calls of an item that was stopped: they were cancelled, and have no event of their own."""
        for call in [call for call, begun in self._calls.items() if begun[_ITEM] == item]:
            self._rows[OTHER_CALL].append(
                (*self._calls.pop(call), ended, *_NO_REPLY, "cancelled", *_NO_ERROR)
            )

    # Calls

    def _call_started(self, event: CallStarted, now: float) -> None:
        _, _, item_id, stage, label, attempt, waited, slots, call, rate, key, request, endpoint = event
        queued = now - waited
        retry = 0.0
        if attempt > 1:
            before = self._ended_calls.pop(call, None)
            if before is not None:
                retry = max(0.0, queued - before[0])
            self._standings.retried(call)
        item, number = self._items.get(item_id), self._next_call()
        if item is not None:
            item.calls += 1
        self._calls[call] = (
            number,
            None if item is None else item.row[0],
            call,
            attempt,
            stage,
            label if type(label) is str and label.isascii() else sql_name(label),
            queued,
            now,
            waited - rate,
            rate,
            retry,
            slots,
            key,
        )
        if endpoint is not None:
            self._rows[CALL_ENDPOINT].append((number, sql_name(endpoint)))
        if request is not None and attempt == 1 and self._texts is not None:
            self._to_add.append(partial(self._texts.add_prompt, event))

    def _call_ended(self, event: CallEnded, now: float) -> None:
        call = event.call
        begun = self._calls.get(call)
        if begun is None:
            return  # it was cancelled with its item
        error, reply = event.error, event.reply
        if error is None:
            values = _NO_REPLY if reply is None else self._reply_values(begun[_NUMBER], reply)
            self._rows[OK_CALL].append((*begun, now, *values))
        else:
            reply = self._call_failed(call, begun, now, error)
        del self._calls[call]
        item = self._items.get(event.item_id)
        if item is not None:
            item.calls -= 1
        if self._texts is not None:
            if reply is not None:
                self._to_add.append(partial(self._texts.add_answer, begun[_NUMBER], reply.text))
            if event.hits:
                self._to_add.append(partial(self._texts.add_hits, event.item_id, event.hits))

    def _call_failed(self, call: int, begun: Row, ended: float, error: BaseException) -> LLMResponse | None:
        """Add the row of a call that failed; return the reply that it has been charged for all the same."""
        paid = getattr(error, "reply", None)
        reply = valid_reply(paid) if isinstance(paid, LLMResponse) else None
        values = _NO_REPLY if reply is None else self._reply_values(begun[_NUMBER], reply)
        outcome, of_error = "refused" if isinstance(error, RateLimited) else "failed", _error_values(error)
        self._rows[OTHER_CALL].append((*begun, ended, *values, outcome, *of_error))
        self._ended_calls[call] = ended, begun, of_error
        if len(self._ended_calls) > _MAX_ENDED:
            del self._ended_calls[next(iter(self._ended_calls))]
        return reply

    def _reply_values(self, number: int, reply: LLMResponse) -> Row:
        """Return what a reply adds to the row of its call, by the number of that row."""
        if reply.model != self._model:
            self._name_of(reply.model)
        prompt, completion, cached = reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens
        cost = None
        if self._listed_prices and (prompt or completion):
            price = self._price(self.row.model)
            cost = None if price is None else price.of(reply)
        if prompt + completion + cached > MAX_INTEGER:
            prompt, completion, cached = sql_integer(prompt), sql_integer(completion), sql_integer(cached)
        if reply.batched:
            self._rows[BATCHED_CALL].append((number,))
        reason = reply.finish_reason
        return (
            self.row.model,
            prompt,
            completion,
            cached,
            cost,
            reason if reason == "stop" else sql_name(reason),
        )

    def _name_of(self, model: object) -> str:
        """Return the name of a model as SQLite takes it; most replies have the name of the reply before."""
        if model != self._model:
            self._model, self.row.model = model, sql_name(model)
        return self.row.model

    def _price(self, model: str) -> Price | None:
        if model not in self._prices:
            self._prices[model] = find_price(self._listed_prices, model)
        return self._prices[model]

    def _late_reply(self, event: LateReply, now: float) -> None:
        before = self._ended_calls.pop(event.call, None)
        if before is None or before[1][_ATTEMPT] != event.attempt:
            return
        ended, begun, error = before
        self._rows[OTHER_CALL].append(
            (*begun, ended, *self._reply_values(begun[_NUMBER], event.reply), "late", *error)
        )
        if self._texts is not None:
            self._to_add.append(partial(self._texts.add_answer, begun[_NUMBER], event.reply.text))

    def _cache_hit(self, event: CacheHit, now: float) -> None:
        item, number, reply = self._items.get(event.item_id), self._next_call(), event.reply
        named = number, None if item is None else item.row[0], event.call, sql_name(event.label)
        model = self._name_of(reply.model), sql_name(reply.finish_reason)
        self._rows[STORED_CALL].append((*named, now, now, now, *model, event.key))
        if self._texts is not None:
            if event.request is not None:
                self._to_add.append(partial(self._texts.add_prompt, event))
            self._to_add.append(partial(self._texts.add_answer, number, reply.text))

    def _limit_changed(self, event: LimitChanged, now: float) -> None:
        row = self._next_limit(), event.limiter, now, event.limit, event.reason
        self._rows[LIMIT].append(row)

    def _server_read(self, event: ServerRead, now: float) -> None:
        self._rows[SERVER_LOAD].append(self._servers.row(now, event))

    def _retry_scheduled(self, event: RetryScheduled, now: float) -> None:
        # No row: the wait before a retry lies between the end of one attempt and the start of the next.
        self._standings.retry_scheduled(event)

    # The end

    def _run_ended(self, event: RunEnded, now: float) -> None:
        for begun in self._calls.values():
            self._rows[OTHER_CALL].append((*begun, now, *_NO_REPLY, "cancelled", *_NO_ERROR))
        self._calls, self._items = {}, {}
        self.row.stats = event.stats
        self.ended = True


def _is_new_item(item: OpenItem) -> bool:
    return not item.is_taken


def _failure_values(outcome: Failure) -> Row:
    kind, text = sql_name(type(outcome.error).__name__), sql_text(error_text(outcome.error))
    return outcome.stage, outcome.attempts, kind, text


def _error_values(error: BaseException) -> Row:
    status = getattr(error, "status", None)
    return (
        sql_name(type(error).__name__),
        status if type(status) is int and abs(status) < 1 << 31 else None,
        sql_text(error_text(error)),
    )

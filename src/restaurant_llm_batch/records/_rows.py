"""
Rows of a record: turns the events of runs into rows of its tables.

Theory of operation. `RunRows` has the state of one run: its open items and calls, and how far its rows are numbered.
It knows nothing of the file but the id that the run has there, which is given before its first event is handled.

A call that ends within the group in which it started is written once, with its end. Otherwise it is written without an
end first, so that a reader sees what is in flight, and is replaced when it has ended. So it is with items.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

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
from ..models import ItemId, LLMRequest
from ..outcomes import RunStats, Success
from ._server_rows import ServerRows
from ._shown import hit_ids, shown_texts
from ._standings import Standings
from ._values import id_texts, iso, sql_integer, sql_name, sql_text, to_json
from ._wishes import RunControl

log = logging.getLogger("restaurant_llm_batch")

Row = list[Any]

_MAX_ENDED = 10_000
"""Most failed calls that are remembered, for the next attempt or a late reply."""


@dataclass(frozen=True, slots=True)
class RunnerFacts:
    """
    What a record says of the runner of a run.

    Attributes:
        model: Name of its model.
        strategy: Its strategy.
        settings: Its limits, retries, time limits and stop conditions, as JSON.
        prices: Prices by model name.
        version: Version of the library.
        simulated: Whether its runs are simulated ones.
    """

    model: str
    strategy: str
    settings: str
    prices: Mapping[str, Price]
    version: str
    simulated: bool = False


Batch = dict[str, list[Row]]
"""The rows that a group of events makes, by table."""


_ITEM_OPEN = (None, None, None, None, None, None)  # from `ended` on


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
        base: The number before the ids of its rows.
        missing: Number of its events that could not be written.
        latest: Seconds from its start to its latest event.
        ended: Whether its end has been handled.
        events: Its events that have not become rows.
        queued: Whether it is queued for the writing thread, which takes them.
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
        self.base: int = 0
        self.missing: int = 0
        self.latest: float = 0.0
        self.ended: bool = False
        self.events: deque[Event] = deque()
        self.queued: bool = False
        self.forks: int = _fork.count
        self._facts = facts
        self._texts = texts
        self._began = began
        self._zero = event.time
        self._total = event.total
        self._task = sql_name(event.task)
        self._stats: RunStats | None = None
        self._prices: dict[str, Price | None] = {}
        self._model = ""
        self._model_text: str | None = None
        self._next_call = count(1).__next__
        self._next_limit = count(1).__next__
        self._servers = ServerRows()
        self._next_review = count(1).__next__
        self._items: dict[ItemId, Row] = {}
        self._calls: dict[int, Row] = {}
        self._found: dict[
            ItemId, dict[str, ItemId]
        ] = {}  # with texts: ids of the hits of open items, by their text
        self._ended_calls: dict[
            int, tuple[float, Row]
        ] = {}  # that will be made again, or whose reply may be late
        self._new: dict[int, tuple[str, Row]] = {}  # open rows that are not written yet, by `id`
        self._standings = Standings(control)
        self._handlers: dict[type, Callable[[Batch, Any], None]] = {
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

    def take_events(self) -> list[Event]:
        """Return the events so far, and forget them. Called by the writing thread while others append."""
        self.queued = False  # first: an event that is appended from now on queues the run again
        take = self.events.popleft
        return [take() for _ in range(len(self.events))]

    def handle(self, batch: Batch, event: Event) -> None:
        """Add the rows that an event makes."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(batch, event)

    def end_group(self, batch: Batch, event: Event) -> None:
        """Add what has begun and not ended within a group of events, `event` being its last."""
        self.latest = event.time - self._zero
        for table, row in self._new.values():
            batch[table].append(row)
        self._new.clear()
        if self.id:
            batch["limiters"] += self.standings(event.time)

    def standings(self, now: float) -> list[Row]:
        """Return the rows of its limiters as they stand at a time, if that has changed."""
        return self._standings.rows(self.id, self.base, now, max(0.0, now - self._zero))

    @property
    def row(self) -> Row:
        """The row of the run itself, from its second column on."""
        facts, stats = self._facts, self._stats
        row: Row = [
            self._task,
            sql_name(facts.model or self._model),
            facts.strategy,
            facts.settings,
            facts.version,
            self._total,
            int(facts.simulated),
            int(self._texts),
            iso(self._began),
            self._began,
            os.getpid(),
            self.latest,
            self.missing,
        ]
        if stats is None:
            return row + [None] * 14
        stopped = stats.stopped_because
        return [
            *row,
            iso(self._began + self.latest),
            self.latest,
            None if stopped is None else sql_name(stopped),
            stats.succeeded,
            stats.failed,
            sum(stats.calls.values()),
            stats.retries,
            stats.rate_limited,
            stats.cache_hits,
            sql_integer(stats.prompt_tokens),
            sql_integer(stats.completion_tokens),
            sql_integer(stats.cached_tokens),
            stats.cost,
            stats.estimated_cost,
        ]

    @property
    def memory_row(self) -> Row:
        """The row of the table `run_memory`, once the run has ended."""
        stats = self._stats or RunStats()
        by_kind = to_json(stats.out_of_memory_by_kind)
        return [self.base + 1, self.id, stats.peak_memory_mib, stats.out_of_memory, by_kind]

    # Items

    def _item_started(self, batch: Batch, event: ItemStarted) -> None:
        text, written = id_texts(event.item_id)
        place = event.position
        row = [self.base + place + 1, self.id, place, text, written, event.time - self._zero, *_ITEM_OPEN]
        self._items[event.item_id] = row
        self._new[id(row)] = "items", row

    def _item_ended(self, batch: Batch, event: ItemEnded) -> None:
        outcome = event.outcome
        ended = event.time - self._zero
        row = None
        if outcome.item_id is not None and (outcome.ok or outcome.stage != "input"):
            row = self._items.pop(outcome.item_id, None)
            self._found.pop(outcome.item_id, None)
            self._standings.item_ended(outcome.item_id)
        if row is None:  # it could not be read, or its start is not recorded
            place = outcome.index
            row = [self.base + place + 1, self.id, place, *id_texts(outcome.item_id), None, *_ITEM_OPEN]
        else:
            self._new.pop(id(row), None)
            if not outcome.ok:
                self._cancel_calls(batch, row, ended)
        if isinstance(outcome, Success):
            row[6:] = ended, "succeeded", None, None, None, None
            if self._texts:
                batch["results"].append([row[0], self.id, to_json(outcome.value)])
        else:
            error = outcome.error
            kind = sql_name(type(error).__name__)
            row[6:] = ended, "failed", outcome.stage, outcome.attempts, kind, sql_text(error_text(error))
        batch["items"].append(row)

    def _cancel_calls(self, batch: Batch, item: Row, ended: float) -> None:
        """End the calls of an item that was stopped: they were cancelled, and have no event of their own."""
        cancelled = [number for number, row in self._calls.items() if row[2] == item[0]]
        for number in cancelled:
            row = self._calls.pop(number)
            row[10], row[15] = ended, "cancelled"
            self._finish_call(batch, row)

    # Calls

    def _call_started(self, batch: Batch, event: CallStarted) -> None:
        started = event.time - self._zero
        queued = started - event.queue_seconds
        before = None
        if event.attempt > 1:
            before = self._ended_calls.pop(event.call, None)
            self._standings.retried(event.call)
        item = self._items.get(event.item_id)
        row = [
            self.base + self._next_call(),
            self.id,
            None if item is None else item[0],
            self.base + event.call,
            event.attempt,
            event.stage,
            sql_name(event.label),
            None,
            queued,
            started,
            None,
            event.queue_seconds - event.rate_seconds,
            event.rate_seconds,
            0.0 if before is None else max(0.0, queued - before[0]),
            event.weight,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            event.key,
        ]
        self._calls[event.call] = row
        self._new[id(row)] = "calls", row
        if event.endpoint is not None:
            batch["call_endpoints"].append([row[0], self.id, sql_name(event.endpoint)])
        if event.request is not None and event.attempt == 1:
            self._add_prompt(batch, event, event.request)

    def _call_ended(self, batch: Batch, event: CallEnded) -> None:
        row = self._calls.pop(event.call, None)
        if row is None:
            return  # it was cancelled with its item
        ended = row[10] = event.time - self._zero
        error, reply = event.error, event.reply
        if error is None:
            row[15] = "ok"
        else:
            row[15] = "refused" if isinstance(error, RateLimited) else "failed"
            status = getattr(error, "status", None)
            row[21] = sql_name(type(error).__name__)
            row[22] = status if type(status) is int and abs(status) < 1 << 31 else None
            row[23] = sql_text(error_text(error))
            paid = getattr(error, "reply", None)
            reply = valid_reply(paid) if isinstance(paid, LLMResponse) else None
            self._ended_calls[event.call] = ended, row
            if len(self._ended_calls) > _MAX_ENDED:
                del self._ended_calls[next(iter(self._ended_calls))]
        if reply is not None:
            self._add_reply(batch, row, reply)
        self._finish_call(batch, row)
        if event.hits:
            self._found.setdefault(event.item_id, {}).update(hit_ids(event.hits))

    def _finish_call(self, batch: Batch, row: Row) -> None:
        self._new.pop(id(row), None)
        batch["calls"].append(row)

    def _add_reply(self, batch: Batch, row: Row, reply: LLMResponse) -> None:
        model = reply.model
        row[7] = self._known(model)
        row[16] = sql_integer(reply.prompt_tokens)
        row[17] = sql_integer(reply.completion_tokens)
        row[18] = sql_integer(reply.cached_tokens)
        if self._facts.prices and (reply.prompt_tokens or reply.completion_tokens):
            price = self._price(row[7])
            row[19] = None if price is None else price.of(reply)
        if reply.batched:
            batch["batched_calls"].append([row[0], self.id])
        row[20] = reply.finish_reason if reply.finish_reason == "stop" else sql_name(reply.finish_reason)
        if self._texts:
            batch["answers"].append([row[0], self.id, sql_text(reply.text)])

    def _known(self, model: object) -> str:
        """Return the name of a model as SQLite takes it; most replies have the name of the reply before."""
        if model != self._model or self._model_text is None:
            self._model, self._model_text = str(model), sql_name(model)
        return self._model_text

    def _price(self, model: str) -> Price | None:
        if model not in self._prices:
            self._prices[model] = find_price(self._facts.prices, model)
        return self._prices[model]

    def _late_reply(self, batch: Batch, event: LateReply) -> None:
        _, row = self._ended_calls.pop(event.call, (0.0, None))
        if row is not None and row[4] == event.attempt:
            row = row.copy()
            row[15] = "late"
            self._add_reply(batch, row, event.reply)
            batch["calls"].append(row)

    def _cache_hit(self, batch: Batch, event: CacheHit) -> None:
        now = event.time - self._zero
        reply = event.reply
        item = self._items.get(event.item_id)
        row = [
            self.base + self._next_call(),
            self.id,
            None if item is None else item[0],
            self.base + event.call,
            0,
            "llm",
            sql_name(event.label),
            self._known(reply.model),
            now,
            now,
            now,
            0.0,
            0.0,
            0.0,
            0,
            "stored",
            None,
            None,
            None,
            None,
            sql_name(reply.finish_reason),
            None,
            None,
            None,
            event.key,
        ]
        batch["calls"].append(row)
        if event.request is not None:
            self._add_prompt(batch, event, event.request)
        if self._texts:
            batch["answers"].append([row[0], self.id, sql_text(reply.text)])

    def _limit_changed(self, batch: Batch, event: LimitChanged) -> None:
        seconds = event.time - self._zero
        number = self.base + self._next_limit()
        batch["limits"].append([number, self.id, event.limiter, seconds, event.limit, event.reason])

    def _server_read(self, batch: Batch, event: ServerRead) -> None:
        row = self._servers.row(self.id, self.base, event.time - self._zero, event)
        batch["server_loads"].append(row)

    def _retry_scheduled(self, batch: Batch, event: RetryScheduled) -> None:
        # No row: the wait before a retry lies between the end of one attempt and the start of the next.
        self._standings.retry_scheduled(event)

    # Texts

    def _add_prompt(self, batch: Batch, event: CallStarted | CacheHit, request: Any) -> None:
        if not isinstance(request, LLMRequest):
            return  # a search, whose hits are in the prompts that follow
        try:
            messages = to_json([dict(message) for message in request.messages])
            form = None if request.schema is None else to_json(request.schema)
            shown = list(shown_texts(request.inputs))
        except Exception:  # a user's own mapping may raise anything
            log.warning("a prompt of %r cannot be recorded", request.task, exc_info=True)
            return
        prompt = self.base + event.call
        row = [
            prompt,
            self.id,
            messages,
            sql_integer(int(request.max_tokens)),
            float(request.temperature),
            form,
        ]
        batch["prompts"].append(row)
        found = self._found.get(event.item_id, {})
        for part, place, shown_as, content in shown:
            number = self.base + self._next_review()
            row = [number, self.id, prompt, sql_name(part), place, id_texts(shown_as)[0]]
            review_id = found.get(content)
            row += (None, None) if review_id is None else id_texts(review_id)
            batch["reviews"].append([*row, sql_text(content)])

    # The end

    def _run_ended(self, batch: Batch, event: RunEnded) -> None:
        self._stats = event.stats
        self.ended = True
        ended = event.time - self._zero
        for row in self._calls.values():
            row[10], row[15] = ended, "cancelled"
            batch["calls"].append(row)
        self._calls.clear()
        self._new.clear()

"""
In-flight calls: equal LLM calls that are in flight at once are made once (single-flight), within a run and across runs.

Only with a store: `_engine/cached_calls.py` joins every LLM call here. Methods may be called from any thread; the
table's lock guards every field, and no callback runs under it.

Theory of operation. The first run that joins a key *leads*: it makes the calls, retries included. Others *follow*:
they wait until the reply is in the store. The call is shared: it runs at the best priority of all waiters, survives
the cancellation of its own run while another run waits, and its reply is stored even if no waiter is left. If the
leader leaves without a reply, the first follower is promoted and leads.

Runs are compared by identity only, as the *owners* of leader and followers: one item of a run leads, and items of the
same run or of others follow. Followers of the leader's own run end with it; *foreign* ones, of other runs, do not.

    state       meaning                             next, and by what
    OPEN        the leader has no reply             PERSISTING: `persist_reply`
                                                    OPEN, with a new leader: the leader left, a follower waits
                                                    DONE: the leader left, no follower waits
    PERSISTING  the reply is on its way to disk     PERSISTED: the store has committed, or failed
    PERSISTED   the followers may read the store    DONE: the leader left
    any         the leader's event loop is closed   OPEN, with a new leader: a follower finds that out (`follow`)
    DONE        removed from the table

`leader_left` and the call's return may come in either order. The leader of an abandoned call leaves first, because its
call cannot be stopped and returns later. The second of the two events finishes the entry (`_finish`).

A Ctrl-C may raise within any method. A run notes what it leads and follows before it joins it (`RunState.shares`), and
at its end it leaves what it has not left. So leaving can be done again, and then does what is left to do: what belongs
together changes in one statement, and a follower stays in `_followers` until it was notified.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol, TypeAlias

from .. import _fork
from .._limits.clients import Client
from .._llm_response import LLMResponse, valid_reply

NOT_STARTED = -1.0
"""`started_at` of a call that has not reached its backend; no clock shows a negative time."""

Callback: TypeAlias = Callable[[Exception | None], object]


class SharedCall(Protocol):
    """The part of the engine's `Call` that an entry uses."""

    endpoint_ticket: Any
    in_flight: Any
    started_at: float

    @property
    def is_async(self) -> bool:
        """Whether it is awaited, and can be cancelled."""
        ...

    def raise_priority(self, priority: int, sequence: float, client: Client | None) -> None:
        """Start it no later than a call of this priority and sequence, of this client."""
        ...

    def request_cancel(self) -> None:
        """Notify a blocking backend that no caller waits."""
        ...

    def update_shield(self) -> bool:
        """Shield it from its run's cancellation while `has_other_waiters`; False if its event loop is gone."""
        ...


class State(Enum):
    """The state of an in-flight call; see the table above."""

    OPEN = auto()
    PERSISTING = auto()
    PERSISTED = auto()
    DONE = auto()


@dataclass(slots=True, eq=False)
class Follower:
    """
    An item that waits for another one's call.

    Attributes:
        owner: Its run.
        priority: Its priority; lower goes first.
        sequence: When it entered the window.
        client: Whom its run is made for, or None.
        on_done: Called when the wait is over, perhaps more than once; None before it waits, and afterwards.
        leads: Whether it has been promoted: the leader left without a reply.
    """

    owner: object
    priority: int
    sequence: float
    client: Client | None = None
    on_done: Callback | None = None
    leads: bool = False

    def notify(self) -> None:
        """End the wait."""
        on_done = self.on_done  # read once: in another thread, the wait may be over
        if on_done is not None:
            on_done(None)


class Keeper(Protocol):
    """Keeps replies."""

    def persist(self, call: SharedCall, reply: LLMResponse, on_done: Callback, /) -> object:
        """Write the reply to a call to the store, and call back when it is on disk."""
        ...


class InFlightCall:
    """
    One key's leader, its call and its followers.

    Args:
        table: The table of all keys.
        key: Its key there.
        owner: The run that leads.

    Attributes:
        key: Its key in the table.
        keeper: Keeps the replies to its calls; None until it has a leader.
    """

    __slots__ = (
        "_call",
        "_call_returned",
        "_followers",
        "_foreign_followers",
        "_leader",
        "_leader_left",
        "_lock",
        "_owner",
        "_reply",
        "_state",
        "_table",
        "keeper",
        "key",
    )

    def __init__(self, table: InFlightCalls, key: bytes, owner: object) -> None:
        self.keeper: Keeper | None = None
        self._table = table
        self._lock = table.lock
        self.key: bytes = key
        self._owner = owner
        self._state = State.OPEN
        self._leader: Follower | None = (
            None  # the one that was promoted; None for the run that made the entry
        )
        self._leader_left = False
        self._call: SharedCall | None = None
        self._call_returned = False
        self._reply: Any = None  # of the latest call
        self._followers: dict[Follower, None] = {}  # in the order in which they joined
        self._foreign_followers = 0  # of other runs than the leader's

    @property
    def has_other_waiters(self) -> bool:
        """Whether another run than the leader's waits for the reply."""
        return self._foreign_followers > 0

    def attach_call(self, call: SharedCall) -> None:
        """Share the leader's next attempt, before it is made: at the best priority of all waiters."""
        with self._lock:
            self._call, self._call_returned, self._reply = call, False, None
            call.in_flight = self
            for follower in self._followers:
                call.raise_priority(follower.priority, follower.sequence, follower.client)

    def on_call_returned(self, call: SharedCall, reply: Any) -> None:
        """Record the reply of a call before its flow is resumed. The flow may have ended."""
        with self._lock:
            current = call is self._call
            leader_left = self._leader_left
            if current:
                self._call_returned, self._reply = True, reply
        if not current:  # detached: another leader has made a call of its own meanwhile
            self._persist_late_reply(call, reply)
        elif leader_left:
            self._finish()

    def _persist_late_reply(self, call: SharedCall, reply: Any) -> None:
        if isinstance(reply, LLMResponse) and valid_reply(reply) is reply and self.keeper is not None:
            with suppress(Exception):  # for example, no more threads; no caller waits for it
                self.keeper.persist(call, reply, lambda _: None)

    def persist_reply(self, call: SharedCall, reply: LLMResponse, on_done: Callback) -> None:
        """Write the reply to a call to the store; then call `on_done`, with None if it is on disk, or the error."""
        if self.keeper is None:
            raise RuntimeError("keeper is not set: the leader sets it before its first call")
        on_commit = partial(self._on_commit, on_done)
        try:
            with self._lock:
                self._state = State.PERSISTING
            self.keeper.persist(call, reply, on_commit)
        except Exception as error:  # for example, no more threads
            on_commit(error)
        except (
            BaseException
        ):  # an interrupt: whether the reply is written is unknown, and nobody may wait for it
            on_commit(RuntimeError("interrupted"))
            raise

    def _on_commit(self, on_done: Callback, failure: Exception | None) -> None:
        with self._lock:
            # Otherwise a follower was promoted: the leader's event loop is closed.
            if self._state is State.PERSISTING:
                self._state = State.PERSISTED
            leader_left = self._leader_left
        on_done(failure)
        if leader_left:
            self._finish()

    def leader_left(self, leader: Follower | None = None) -> None:
        """
        Record that the leader has left. A call in flight, or a write, finishes the entry when it ends.

        Args:
            leader: The follower that was promoted to leader; None for the run that made the entry.
        """
        with self._lock:
            promoted = self._leader if self._leader is not leader else None
            if promoted is None:
                self._leader_left = True
        if promoted is not None:
            promoted.notify()  # it may not have been, if leaving was interrupted
            return
        with self._lock:
            if self._state is State.PERSISTED and not self._followers:  # as nearly always
                self._end()
                return
            call = self._call if self._call_is_out() else None
        if call is None:
            self._finish()
        else:
            self._release_call(call)

    def _call_is_out(self) -> bool:
        return self._call is not None and self._call.started_at != NOT_STARTED and not self._call_returned

    def _release_call(self, call: SharedCall) -> None:
        """Cancel a call whose leader has left, unless another run waits for it."""
        if self.has_other_waiters:
            return
        call.request_cancel()
        if not call.is_async:
            # A backend that ignores the request may run for ever; followers must not wait for it.
            self._promote_next()

    def _finish(self) -> None:
        """End the entry, or promote a follower. A reply that the leader did not wait for is stored first."""
        with self._lock:
            state, call, reply = self._state, self._call, self._reply
            if state is State.PERSISTING:
                return  # `on_commit` calls this again
            unstored = state is State.OPEN and isinstance(reply, LLMResponse) and valid_reply(reply) is reply
        if unstored and call is not None:
            self.persist_reply(call, reply, lambda _: None)
        elif state is State.OPEN:
            self._promote_next()
        else:
            self._resolve()

    def follow(self, follower: Follower, on_done: Callback) -> None:
        """Wait for the entry's end; `on_done` is then called, at once if it has ended already."""
        follower.on_done = on_done
        with self._lock:
            call = self._call
            done = self._state is State.DONE
            first_foreign = False
            if not done:
                self._followers[follower] = None
                foreign = follower.owner is not self._owner
                first_foreign = foreign and not self._foreign_followers
                self._foreign_followers += foreign
        if done:
            on_done(None)
        elif call is not None:
            call.raise_priority(follower.priority, follower.sequence, follower.client)
            if first_foreign and not call.update_shield():
                self._promote_next()

    def unfollow(self, follower: Follower) -> None:
        """Stop waiting, or leading if promoted."""
        with self._lock:
            leads = follower.leads
            last_foreign = False
            if follower in self._followers:
                del self._followers[follower]
                foreign = follower.owner is not self._owner
                self._foreign_followers -= foreign
                last_foreign = foreign and not self._foreign_followers
            call, leader_left, is_out = self._call, self._leader_left, self._call_is_out()
        if leads:
            self.leader_left(follower)
        elif last_foreign and call is not None:
            call.update_shield()
            if leader_left and is_out:
                self._release_call(call)

    def _resolve(self) -> None:
        """End the entry: all followers read the store."""
        with self._lock:
            self._end()
            followers = list(self._followers)
        for follower in followers:
            follower.notify()
            self._followers.pop(follower, None)

    def _end(self) -> None:
        self._state = State.DONE
        self._table.forget(self.key, self)
        self._call, self._reply = (
            None,
            None,
        )  # a cycle of call and entry would be left to the garbage collector

    def _promote_next(self) -> None:
        """
        Promote the first follower to leader, since there is no reply; without a follower, end the entry.

        Only the first: if all went on at once, a call that always fails would cost each follower a store lookup for
        every other.
        """
        with self._lock:
            first = next(iter(self._followers), None)
            if first is not None and self._state is not State.DONE:
                # In one statement, also the call's end: an interrupt lands before or after all of this.
                self._leader, first.leads, self._leader_left, self._state, self._call, self._reply = (
                    first,
                    True,
                    False,
                    State.OPEN,
                    None,
                    None,
                )
                del self._followers[first]
                if first.owner is not self._owner:
                    self._owner = first.owner
                    self._foreign_followers = sum(
                        follower.owner is not first.owner for follower in self._followers
                    )
        if first is None:
            self._resolve()
        else:
            first.notify()


class InFlightCalls:
    """
    The calls in flight, by key.

    Attributes:
        ended: Number of entries that have ended.
        open: The entries by key. To be read only: an attribute, since every request is looked for in it.
    """

    def __init__(self) -> None:
        self._reset_after_fork()

    def _reset_after_fork(self) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.ended: int = 0
        self.open: dict[bytes, InFlightCall] = {}
        self._forks = _fork.count  # last: another thread of a forked child may read it

    def entry(self, key: bytes, owner: object) -> InFlightCall:
        """Return a new entry that `owner` will lead, if it joins."""
        if self._forks != _fork.count:
            self._reset_after_fork()  # a forked child makes its own calls
        return InFlightCall(self, key, owner)

    def join(self, entry: InFlightCall) -> InFlightCall:
        """Add an entry and return it; if its key has one already, return that."""
        with self.lock:
            return self.open.setdefault(entry.key, entry)

    def forget(self, key: bytes, entry: InFlightCall) -> None:
        """Remove an entry that is done."""
        self.ended += 1
        if self.open.get(key) is entry:
            del self.open[key]

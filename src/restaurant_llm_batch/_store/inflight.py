"""
Equal questions that are in flight at once are asked once, whichever runs ask them.

The first to ask *leads*: its run makes the calls. Whoever asks meanwhile *follows*: it waits until the answer is in the
store. When the leader leaves without one, the next in line leads.

The call is everybody's. A follower's better priority lifts it. When the run that made it is cancelled, it goes on as
long as another run waits for its answer, and is ended when the last one leaves. And an answer that comes when nobody
waits any more was paid for: it is kept for the next who asks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .._engine.run import is_valid_reply
from .._llm_response import LLMResponse

if TYPE_CHECKING:
    from .._engine.call import Call
    from .._engine.run import Run

Callback: TypeAlias = Callable[[Exception | None], object]
Persist: TypeAlias = Callable[[LLMResponse, Callback], object]


@dataclass(slots=True, eq=False)
class Follower:
    """
    Somebody who waits for a question.

    Attributes:
        run: For which run.
        priority: How urgently.
        sequence: Likewise.
        on_done: What to call when the wait is over.
        leads: Whether it is to lead now: whoever did has left without an answer.
    """

    run: Run
    priority: int
    sequence: float
    on_done: Callback | None = None
    leads: bool = False

    def notify(self) -> None:
        """Tell that the wait is over."""
        if self.on_done is not None:
            self.on_done(None)


class InFlightCall:
    """
    A question in flight. Its methods may be called from any thread.

    Args:
        table: Those that it is one of.
        key: Its key there.
        run: The run that leads.

    Attributes:
        persist: Puts an answer into the store, and tells when it is on disk.
    """

    __slots__ = (
        "_answer",
        "_call",
        "_followers",
        "_foreign_followers",
        "_keeping",
        "_kept",
        "_key",
        "_left",
        "_lock",
        "_run",
        "_settled",
        "_table",
        "persist",
    )

    def __init__(self, table: InFlightCalls, key: bytes, run: Run) -> None:
        self.persist: Persist | None = None
        self._table = table
        self._lock = table.lock
        self._key = key
        self._run = run
        self._followers: dict[Follower, None] = {}  # in line
        self._foreign_followers = 0  # followers of other runs
        self._call: Call | None = None
        self._answer: Any = None  # what the call came to
        self._kept = self._keeping = False
        self._left = False  # the leader has gone
        self._settled = False

    @property
    def has_other_waiters(self) -> bool:
        """Whether another run than the one that leads waits for the answer."""
        return self._foreign_followers > 0

    def attach_call(self, call: Call) -> None:
        """Note the leader's next try, before it is made."""
        with self._lock:
            self._call, self._answer = call, None
            call.in_flight = self
            places = [(follower.priority, follower.sequence) for follower in self._followers]
            call.priority, call.sequence = min([(call.priority, call.sequence), *places])

    def on_call_returned(self, call: Call, answer: Any) -> None:
        """Note what a call came to, before its flow hears of it; which may be gone."""
        with self._lock:
            call.landed = True
            expected = call is self._call
            left = self._left
            if expected:
                self._answer = answer
        if not expected:  # it was let go, and others have asked meanwhile
            self._persist_late_reply(answer)
        elif left:
            self._finish()

    def _persist_late_reply(self, answer: Any) -> None:
        if isinstance(answer, LLMResponse) and is_valid_reply(answer) and self.persist is not None:
            with suppress(Exception):  # no more threads, say; nobody waits for it
                self.persist(answer, lambda _: None)

    def persist_reply(self, reply: LLMResponse, on_done: Callback) -> None:
        """Put an answer into the store."""
        if self.persist is None:
            raise RuntimeError("nobody has said where answers are kept")
        with self._lock:
            self._kept = self._keeping = True

        def durable(failure: Exception | None) -> None:
            with self._lock:
                self._keeping = False
                left = self._left
            on_done(failure)
            if left:
                self._finish()

        try:
            self.persist(reply, durable)
        except Exception as error:  # no more threads, say
            durable(error)

    def leader_left(self) -> None:
        """Note that the leader has gone. What is still under way settles the question when it ends."""
        with self._lock:
            self._left = True
            call = self._call
            out = call is not None and call.is_out
        if not out:
            self._finish()
        elif call is not None:
            self._release_call(call)

    def _release_call(self, call: Call) -> None:
        """Give up a call whose run has gone, unless another run waits for it."""
        if self.has_other_waiters:
            return
        call.request_cancel()
        if not call.method.is_async:
            # Nobody waits for it any more: a backend that cannot be ended may take for ever.
            self._promote_next()

    def _finish(self) -> None:
        """Settle the question, or pass it on; an answer that its leader did not wait for is kept before."""
        with self._lock:
            if self._keeping:
                return
            reply = self._answer
            lost = not self._kept and isinstance(reply, LLMResponse) and is_valid_reply(reply)
        if lost:
            self.persist_reply(reply, lambda _: None)
        elif self._kept:
            self._resolve()
        else:
            self._promote_next()

    def follow(self, follower: Follower, on_done: Callback) -> None:
        """Wait for the question to be settled; `on_done` is then called, at once if it is already."""
        follower.on_done = on_done
        with self._lock:
            call = self._call
            settled = self._settled
            if not settled:
                self._followers[follower] = None
                first = follower.run is not self._run and not self._foreign_followers
                self._foreign_followers += follower.run is not self._run
        if settled:
            on_done(None)
        elif call is not None:
            call.raise_priority(follower.priority, follower.sequence)
            if first and not call.update_shield():
                self._promote_next()

    def unfollow(self, follower: Follower) -> None:
        """Wait no more, nor lead."""
        with self._lock:
            leads, follower.leads = follower.leads, False
            last = False
            if follower in self._followers:
                del self._followers[follower]
                self._foreign_followers -= follower.run is not self._run
                last = follower.run is not self._run and not self._foreign_followers
            call, left = self._call, self._left
        if leads:
            self.leader_left()
        elif last and call is not None:
            call.update_shield()
            if left and call.is_out:
                self._release_call(call)

    def _resolve(self) -> None:
        """Have all followers look into the store."""
        with self._lock:
            if self._settled:
                return
            self._settled = True
            self._table.forget(self._key, self)
            followers, self._followers = list(self._followers), {}
            self._detach_call()
        for follower in followers:
            follower.notify()

    def _promote_next(self) -> None:
        """
        Have the first follower lead, for there is no answer.

        If all went on, each would cost every other a look, when a question always fails.
        """
        with self._lock:
            first = next(iter(self._followers), None)
            if first is not None and not self._settled:
                del self._followers[first]
                if first.run is not self._run:
                    self._run = first.run
                    self._foreign_followers = sum(
                        follower.run is not first.run for follower in self._followers
                    )
                self._detach_call()
                self._kept = self._left = False
                first.leads = True
        if first is None:
            self._resolve()
        else:
            first.notify()

    def _detach_call(self) -> None:
        """Let go of the call; without this, only the garbage collector could free it."""
        call, self._call, self._answer = self._call, None, None
        if call is not None and call.landed:
            call.in_flight = None


class InFlightCalls:
    """The questions in flight, by key."""

    def __init__(self) -> None:
        self._reset_after_fork()

    def _reset_after_fork(self) -> None:
        self.lock = threading.RLock()
        self._open: dict[bytes, InFlightCall] = {}
        self._pid = os.getpid()  # last: another thread of a forked child may look

    def join(self, key: bytes, run: Run) -> tuple[InFlightCall, bool]:
        """Return the question of a key, and whether this run leads it."""
        if os.getpid() != self._pid:
            self._reset_after_fork()  # a forked child asks for itself
        with self.lock:
            question = self._open.get(key)
            if question is not None:
                return question, False
            question = self._open[key] = InFlightCall(self, key, run)
            return question, True

    def forget(self, key: bytes, question: InFlightCall) -> None:
        """Forget a question that is settled."""
        if self._open.get(key) is question:
            del self._open[key]

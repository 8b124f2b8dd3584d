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

from .._engine.run import is_sound
from .._llm_response import LLMReply

if TYPE_CHECKING:
    from .._engine.call import Call
    from .._engine.run import Run

Told: TypeAlias = Callable[[Exception | None], object]
Keep: TypeAlias = Callable[[LLMReply, Told], object]


@dataclass(slots=True, eq=False)
class Follower:
    """
    Somebody who waits for a question.

    Attributes:
        run: For which run.
        priority: How urgently.
        arrival: Likewise.
        told: What to call when the wait is over.
        leads: Whether it is to lead now: whoever did has left without an answer.
    """

    run: Run
    priority: int
    arrival: float
    told: Told | None = None
    leads: bool = False

    def tell(self) -> None:
        """Tell that the wait is over."""
        if self.told is not None:
            self.told(None)


class Question:
    """
    A question in flight. Its methods may be called from any thread.

    Args:
        questions: Those that it is one of.
        key: Its key there.
        run: The run that leads.

    Attributes:
        keep: Puts an answer into the store, and tells when it is on disk.
    """

    __slots__ = (
        "_answer",
        "_call",
        "_followers",
        "_keeping",
        "_kept",
        "_key",
        "_left",
        "_lock",
        "_questions",
        "_run",
        "_settled",
        "_strangers",
        "keep",
    )

    def __init__(self, questions: Questions, key: bytes, run: Run) -> None:
        self.keep: Keep | None = None
        self._questions = questions
        self._lock = questions.lock
        self._key = key
        self._run = run
        self._followers: dict[Follower, None] = {}  # in line
        self._strangers = 0  # followers of other runs
        self._call: Call | None = None
        self._answer: Any = None  # what the call came to
        self._kept = self._keeping = False
        self._left = False  # the leader has gone
        self._settled = False

    @property
    def wanted(self) -> bool:
        """Whether another run than the one that leads waits for the answer."""
        return self._strangers > 0

    def asks(self, call: Call) -> None:
        """Note the leader's next try, before it is made."""
        with self._lock:
            self._call, self._answer = call, None
            call.question = self
            places = [(follower.priority, follower.arrival) for follower in self._followers]
            call.priority, call.arrival = min([(call.priority, call.arrival), *places])

    def came_back(self, call: Call, answer: Any) -> None:
        """Note what a call came to, before its flow hears of it; which may be gone."""
        with self._lock:
            call.landed = True
            expected = call is self._call
            left = self._left
            if expected:
                self._answer = answer
        if not expected:  # it was let go, and others have asked meanwhile
            self._keep_late(answer)
        elif left:
            self._wind_up()

    def _keep_late(self, answer: Any) -> None:
        if isinstance(answer, LLMReply) and is_sound(answer) and self.keep is not None:
            with suppress(Exception):  # no more threads, say; nobody waits for it
                self.keep(answer, lambda _: None)

    def keep_answer(self, reply: LLMReply, told: Told) -> None:
        """Put an answer into the store."""
        if self.keep is None:
            raise RuntimeError("nobody has said where answers are kept")
        with self._lock:
            self._kept = self._keeping = True

        def durable(failure: Exception | None) -> None:
            with self._lock:
                self._keeping = False
                left = self._left
            told(failure)
            if left:
                self._wind_up()

        try:
            self.keep(reply, durable)
        except Exception as error:  # no more threads, say
            durable(error)

    def leave(self) -> None:
        """Note that the leader has gone. What is still under way settles the question when it ends."""
        with self._lock:
            self._left = True
            call = self._call
            out = call is not None and call.is_out
        if not out:
            self._wind_up()
        elif call is not None:
            self._let_go(call)

    def _let_go(self, call: Call) -> None:
        """Give up a call whose run has gone, unless another run waits for it."""
        if self.wanted:
            return
        call.give_up()
        if not call.line.native:
            # Nobody waits for it any more: a backend that cannot be ended may take for ever.
            self._pass_on()

    def _wind_up(self) -> None:
        """Settle the question, or pass it on; an answer that its leader did not wait for is kept before."""
        with self._lock:
            if self._keeping:
                return
            reply = self._answer
            lost = not self._kept and isinstance(reply, LLMReply) and is_sound(reply)
        if lost:
            self.keep_answer(reply, lambda _: None)
        elif self._kept:
            self._settle()
        else:
            self._pass_on()

    def follow(self, follower: Follower, told: Told) -> None:
        """Wait for the question to be settled; `told` is then called, at once if it is already."""
        follower.told = told
        with self._lock:
            call = self._call
            settled = self._settled
            if not settled:
                self._followers[follower] = None
                first = follower.run is not self._run and not self._strangers
                self._strangers += follower.run is not self._run
        if settled:
            told(None)
        elif call is not None:
            call.lift(follower.priority, follower.arrival)
            if first and not call.shelter():
                self._pass_on()

    def unfollow(self, follower: Follower) -> None:
        """Wait no more, nor lead."""
        with self._lock:
            leads, follower.leads = follower.leads, False
            last = False
            if follower in self._followers:
                del self._followers[follower]
                self._strangers -= follower.run is not self._run
                last = follower.run is not self._run and not self._strangers
            call, left = self._call, self._left
        if leads:
            self.leave()
        elif last and call is not None:
            call.shelter()
            if left and call.is_out:
                self._let_go(call)

    def _settle(self) -> None:
        """Have all followers look into the store."""
        with self._lock:
            if self._settled:
                return
            self._settled = True
            self._questions.forget(self._key, self)
            followers, self._followers = list(self._followers), {}
            self._part()
        for follower in followers:
            follower.tell()

    def _pass_on(self) -> None:
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
                    self._strangers = sum(follower.run is not first.run for follower in self._followers)
                self._part()
                self._kept = self._left = False
                first.leads = True
        if first is None:
            self._settle()
        else:
            first.tell()

    def _part(self) -> None:
        """Let go of the call; without this, only the garbage collector could free it."""
        call, self._call, self._answer = self._call, None, None
        if call is not None and call.landed:
            call.question = None


class Questions:
    """The questions in flight, by key."""

    def __init__(self) -> None:
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.lock = threading.RLock()
        self._open: dict[bytes, Question] = {}
        self._pid = os.getpid()  # last: another thread of a forked child may look

    def join(self, key: bytes, run: Run) -> tuple[Question, bool]:
        """Return the question of a key, and whether this run leads it."""
        if os.getpid() != self._pid:
            self._start_afresh()  # a forked child asks for itself
        with self.lock:
            question = self._open.get(key)
            if question is not None:
                return question, False
            question = self._open[key] = Question(self, key, run)
            return question, True

    def forget(self, key: bytes, question: Question) -> None:
        """Forget a question that is settled."""
        if self._open.get(key) is question:
            del self._open[key]

"""
Equal questions that are in flight at once are asked once, whichever runs ask them.

The first to ask *leads*: its run makes the calls. Whoever asks meanwhile *follows*: it waits until the question is
settled, and then looks into the store, where the answer is; if it is not, it is the next one's turn to lead.

The call is everybody's. A follower's better priority lifts it. When the run that made it is cancelled, it goes on as
long as another run waits for its answer, and is ended when the last one leaves. And an answer that comes when nobody
waits any more was paid for: it is kept for the next who asks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..models import LLMReply
from .run import is_sound

if TYPE_CHECKING:
    from .call import Call
    from .run import Run

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
        heir: The question to lead then, when this one came to no answer; None when there is one, or a new start.
    """

    run: Run
    priority: int
    arrival: float
    told: Told | None = None
    heir: Question | None = None


class Question:
    """
    A question in flight. Its methods may be called from any thread.

    Args:
        questions: Those that it is one of.
        key: Its key there.
        run: The run that leads.
        followers: Who waits for it already.

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

    def __init__(
        self, questions: Questions, key: bytes, run: Run, followers: Iterable[Follower] = ()
    ) -> None:
        self.keep: Keep | None = None
        self._questions = questions
        self._lock = questions.lock
        self._key = key
        self._run = run
        self._followers = dict.fromkeys(followers)
        self._strangers = sum(follower.run is not run for follower in self._followers)
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
            if call is not self._call:
                return
            self._answer = answer
            left = self._left
        if left:
            self._wind_up()

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
            # Who asks now does not wait for it: a backend that cannot be ended may take for ever.
            self._settle(answered=False)

    def _wind_up(self) -> None:
        """Settle the question, after an answer that its leader did not wait for is kept."""
        with self._lock:
            if self._keeping:
                return
            reply = self._answer
            lost = not self._kept and isinstance(reply, LLMReply) and is_sound(reply)
        if lost:
            self.keep_answer(reply, lambda _: None)
        else:
            self._settle(answered=self._kept)

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
                self._settle(answered=False)

    def unfollow(self, follower: Follower) -> None:
        """Wait no more, and leave to others what one has come into."""
        with self._lock:
            heir, follower.heir = follower.heir, None
            last = False
            if follower in self._followers:
                del self._followers[follower]
                self._strangers -= follower.run is not self._run
                last = follower.run is not self._run and not self._strangers
            call, left = self._call, self._left
        if heir is not None:
            heir.leave()
        if last and call is not None:
            call.shelter()
            if left and call.is_out:
                self._let_go(call)

    def _settle(self, *, answered: bool) -> None:
        """
        Let the followers go on: all of them when there is an answer, or else the first, who leads for the others.

        If all went on without one, a question that always fails would cost each follower a look for every other.
        """
        with self._lock:
            if self._settled:
                return
            self._settled = True
            self._questions.forget(self._key, self)
            followers, self._followers = list(self._followers), {}
            self._strangers = 0
            call, self._call = self._call, None
            if call is not None and call.landed:
                call.question = None  # without this, only the garbage collector could free either
            elif call is not None:
                self._call = call
            if followers and not answered:
                first, *others = followers
                first.heir = self._questions.open(self._key, first.run, others)
                followers = [first]
        for follower in followers:
            if follower.told is not None:
                follower.told(None)


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
            return self.open(key, run), True

    def open(self, key: bytes, run: Run, followers: Iterable[Follower] = ()) -> Question:
        """Return a new question of a key, which a run is to lead."""
        question = self._open[key] = Question(self, key, run, followers)
        return question

    def forget(self, key: bytes, question: Question) -> None:
        """Forget a question that is settled."""
        if self._open.get(key) is question:
            del self._open[key]

"""
Processes on virtual time that share a limit: they pause, die and come back, and their clocks differ.

Each process has the real state of a borrower, and the broker the real lender. Everything between is simulated:
messages take time, are lost, and arrive late and out of order; the server counts the calls that it works on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from random import Random

from restaurant_llm_batch import Client
from restaurant_llm_batch._engine.virtual import VirtualTime
from restaurant_llm_batch._limits.wait_queue import CallbackTicket, Ticket
from restaurant_llm_batch.sharing._borrower import BorrowedState
from restaurant_llm_batch.sharing._broker import INTERVAL, perform
from restaurant_llm_batch.sharing._lender import Lender
from restaurant_llm_batch.sharing._messages import LOAN_SECONDS, Answer, Ask, SetLimit, Terms

TIMEOUT = 0.6


@dataclass(frozen=True)
class Weather:
    """
    What a world is like.

    Attributes:
        latency: Greatest seconds that a message takes.
        loss: Share of the messages, and of the answers, that are lost.
        late: Share of the lost ones that arrive after all, within three seconds.
        drift: Greatest deviation of the speed of a process's clock.
        clock_jumps: Whether the broker's clock is set, now and then.
        restarts: Whether the broker loses its state, now and then.
    """

    latency: float = 0.005
    loss: float = 0.0
    late: float = 0.0
    drift: float = 0.0
    clock_jumps: bool = False
    restarts: bool = False


@dataclass(eq=False)
class Call:
    """A call at the server."""

    process: Process
    ticket: Ticket
    excused: bool = False


@dataclass(eq=False)
class Process:
    """
    A process.

    Attributes:
        state: Its share.
        calls: Its calls that the server works on.
        sent: Messages so far.
        started: Calls that it has started so far.
        paused: Whether it stands still.
        dead: Whether it has ended.
    """

    name: str
    world: World
    seconds: float
    speed: float
    offset: float
    state: BorrowedState = field(init=False)
    calls: set[Call] = field(default_factory=set)
    sent: int = 0
    started: int = 0
    paused: bool = False
    dead: bool = False
    _talking: bool = False
    _backlog: list[Callable[[], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = BorrowedState(
            self.world.terms,
            self.name,
            self.name,
            INTERVAL,
            0,
            self.clock,
            self.world.time.now,
            self.nudge,
            lambda: 0,
        )

    def clock(self) -> float:
        return self.offset + self.speed * self.world.time.now()

    def act(self, action: Callable[[], object]) -> None:
        """Do something in this process: now, when it goes on after a pause, or never if it is dead."""
        if self.dead:
            return
        if self.paused:
            self._backlog.append(action)
        else:
            action()

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        self.world.time.call_later(seconds, partial(self.act, action))

    def call(self, seconds: float | None = None, weight: int = 1, client: Client | None = None) -> None:
        """Want to make a call."""

        def admitted() -> None:
            self.world.start(self, ticket, seconds or self.seconds * self.world.random.uniform(0.5, 1.5))

        ticket = CallbackTicket(admitted, weight=weight, client=client)
        if self.state.enqueue(ticket):
            admitted()

    def ended(self, call: Call, outcome: str = "success") -> None:
        """Take the server's reply."""
        self.calls.discard(call)
        for ticket in self.state.release(call.ticket, outcome, 0.0):  # type: ignore[arg-type]
            ticket.on_admitted()
        self.world.check()

    def nudge(self) -> None:
        self.later(0.0, self.talk)

    def talk(self) -> None:
        """Send a message, if one is due."""
        due = self.state.due
        if self._talking or due is None:
            return
        if due - self.clock() > 1e-6:
            self.later((due - self.clock()) / self.speed, self.talk)
            return
        self._talking = True
        ask = self.state.prepare(self.clock())
        self.sent += 1
        done = [False]

        def heard(answer: Answer) -> None:
            if not done[0]:
                done[0] = True
                self._go_on(self.state.answered(ask, answer, self.clock()))

        def gave_up() -> None:
            if not done[0]:
                done[0] = True
                self._go_on(self.state.unanswered(ask, "timeout", self.clock()))

        self.world.send(ask, lambda answer: self.act(partial(heard, answer)))
        self.later(TIMEOUT, gave_up)

    def _go_on(self, admitted: list[Ticket]) -> None:
        self._talking = False
        for ticket in admitted:
            ticket.on_admitted()
        self.talk()

    def pause(self, seconds: float) -> None:
        """Stand still for some time."""
        if self.lives:
            self.paused = True
            self.world.time.call_later(seconds, self.go_on)

    def go_on(self) -> None:
        self.paused = False
        backlog, self._backlog = self._backlog, []
        for action in backlog:
            action()

    def die(self) -> None:
        """End without a word; the server works on."""
        self.dead = True

    @property
    def lives(self) -> bool:
        return not self.dead and not self.paused


class World:
    """
    A server, a broker and processes.

    Args:
        limit: The limit that they share.
        seed: Seed of all that is random.
        weather: What the world is like.

    Attributes:
        peak: Most calls at once at the server, but those that are excused.
        excused_of_living: Calls that went on after the loan of a process that was not paused.
    """

    def __init__(self, limit: int, seed: int, weather: Weather = Weather()) -> None:
        self.time = VirtualTime()
        self.random = Random(seed)
        self.terms = Terms(limit)
        self.limit = limit
        self.weather = weather
        self.lender: Lender | None = None
        self.up = True
        self.processes: list[Process] = []
        self.peak = 0
        self.excused_of_living = 0
        self.busy_seconds = 0.0
        self.slot_seconds = 0.0
        self._measured_at = 0.0
        self._broker_offset = self.random.uniform(-100, 100)
        self._restarted_at = -10.0
        self._limit_was = limit
        self._lowered_at = -10.0

    def add(self, seconds: float = 0.1) -> Process:
        """Start a process whose calls take about so many seconds."""
        drift, random = self.weather.drift, self.random
        process = Process(
            f"p{len(self.processes)}",
            self,
            seconds,
            1 + random.uniform(-drift, drift),
            random.uniform(-60, 60),
        )
        self.processes.append(process)
        return process

    # The broker

    def send(self, ask: Ask, heard: Callable[[Answer], object]) -> None:
        weather, random = self.weather, self.random
        delay = random.uniform(0, weather.latency)
        if random.random() < weather.loss:
            if random.random() >= weather.late:
                return
            delay = random.uniform(0, 3)
        self.time.call_later(delay, partial(self._arrive, ask, heard))

    def _arrive(self, ask: Ask, heard: Callable[[Answer], object]) -> None:
        if not self.up:
            return
        now = self.time.now()
        known = self.lender
        self.lender, answer = perform(
            known,
            "gpu",
            ask,
            now + self._broker_offset,
            may_be_lost=known is None and now - self._restarted_at < LOAN_SECONDS,
        )
        if self.random.random() >= self.weather.loss:
            self.time.call_later(self.random.uniform(0, self.weather.latency), partial(heard, answer))

    def restart_broker(self) -> None:
        """Lose the broker's state."""
        self.lender = None
        self._restarted_at = self.time.now()

    def set_broker_clock(self, seconds: float) -> None:
        self._broker_offset += seconds

    def set_limit(self, limit: int) -> None:
        """Set the limit at the broker."""
        self._limit_was, self._lowered_at = max(self.limit, limit), self.time.now()
        self.limit = limit
        if self.lender is not None:
            self.lender, _ = perform(
                self.lender, "gpu", SetLimit(limit), self.time.now() + self._broker_offset
            )

    # The server

    @property
    def most(self) -> int:
        """The highest limit that may be in force: after it was lowered, that of before, until loans have ended."""
        return self._limit_was if self.time.now() < self._lowered_at + 3 else self.limit

    def start(self, process: Process, ticket: Ticket, seconds: float) -> None:
        assert not process.dead
        assert not process.paused
        self.measure()
        process.started += 1
        call = Call(process, ticket)
        process.calls.add(call)
        self.time.call_later(seconds, partial(self._end, call))
        self.check()

    def _end(self, call: Call) -> None:
        self.measure()
        if call.process.dead:
            call.process.calls.discard(call)
        elif call.process.paused:
            call.process.calls.discard(call)  # the server is done; the process does not know
            call.process.act(partial(call.process.ended, call))
        else:
            call.process.ended(call)

    def _excuse(self) -> None:
        """Excuse the calls of processes whose loan has ended: they were paused, or their messages were lost."""
        for each in self.processes:
            if each.calls and each.clock() >= each.state._loan_end:
                for call in each.calls:
                    self.excused_of_living += each.lives and not call.excused
                    call.excused = True

    def in_flight(self) -> int:
        return sum(call.ticket.weight for each in self.processes for call in each.calls if not call.excused)

    def check(self) -> None:
        """Check that the server works on no more calls than the limit, but those that are excused."""
        self._excuse()
        in_flight = self.in_flight()
        self.peak = max(self.peak, in_flight)
        assert in_flight <= self.most, (
            f"at {self.time.now():.3f} s: {in_flight} in flight, {self.most} allowed: "
            + ", ".join(f"{each.name} {len(each.calls)}" for each in self.processes)
        )

    def measure(self) -> None:
        """Count how many of the slots that could be busy were, while calls waited."""
        now = self.time.now()
        seconds, self._measured_at = now - self._measured_at, now
        if not any(each.lives and each.state.waiting for each in self.processes):
            return
        gone = 0
        if self.lender is not None:
            for each in self.processes:
                member = self.lender.members.get(each.name)
                if not each.lives and member is not None:
                    gone += member.claim.lent
        live = sum(len(each.calls) for each in self.processes if each.lives)
        self.busy_seconds += seconds * live
        self.slot_seconds += seconds * max(live, self.limit - gone)

    @property
    def busy_share(self) -> float:
        return self.busy_seconds / self.slot_seconds if self.slot_seconds else 1.0

    def run(self, until: float) -> None:
        """Let time pass."""
        while self.time.next_moment <= until:
            self.time.step(until)
        self.time.step(until)


def keep_busy(process: Process, queue: int, *clients: Client) -> None:
    """Have so many calls wait in a process at all times, for as long as it lives; those of clients in turn."""
    turns = cycle(clients or (None,))

    def fill() -> None:
        while process.state.waiting < queue:
            process.call(client=next(turns))
        process.later(0.05, fill)

    process.act(fill)

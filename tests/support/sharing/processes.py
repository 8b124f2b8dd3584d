"""
Real processes that share a limit at a broker, and start, stop, pause and die at random, against a server that counts.

The processes are forked by one that has imported everything and does nothing else, the *nursery*.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from random import Random
from types import FrameType
from typing import Any, Self

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, SharedLimiter, Strategy
from restaurant_llm_batch.sharing import Broker, BrokerUnavailable, FileBroker, RayBroker, RedisBroker
from restaurant_llm_batch.steps import Flow, complete

from .server import CountingServer, now

QUIET_SECONDS = 4.0
"""Seconds until the first process is stopped."""
MESSAGE_SECONDS = 10.0
"""Seconds that a process must have been there to say how many messages it sends a second."""
REQUEST = LLMRequest("ask", ({"role": "user", "content": "?"},), max_tokens=10)


def broker_of(place: str) -> Broker:
    """Return the broker at a place: the path of a file, a URL of Redis, or ray://ADDRESS."""
    if place.startswith("redis://"):
        return RedisBroker(place)
    if place.startswith("ray://"):
        import ray

        if not ray.is_initialized():
            ray.init(address=place.removeprefix("ray://"), log_to_driver=False, logging_level="ERROR")
        return RayBroker()
    return FileBroker(place)


def count_messages(broker: Broker) -> Callable[[], int]:
    """Count the messages to a broker from now on; return a function that says how many there were."""
    perform = broker.perform
    messages = [0]

    def counted(name: str, command: Any) -> Any:
        messages[0] += 1
        return perform(name, command)

    broker.perform = counted  # type: ignore[method-assign]
    return lambda: messages[0]


def loan_of(broker: Broker, pid: int) -> tuple[int, float]:
    """Return how many slots are lent to a process of this machine, and for how many seconds."""
    label = f"{socket.gethostname()}:{pid}"
    with suppress(BrokerUnavailable):
        found = broker.limits().get("gpu")
        for member in () if found is None else found.members:
            if member.label == label:
                return member.lent, member.seconds_left
    return 0, 0.0


class Caller:
    """A backend that makes calls at a `CountingServer`, over connections that it keeps."""

    def __init__(self, port: int, seconds: float, random: Random, messages: Callable[[], int]) -> None:
        self._port = port
        self._messages = messages
        self._seconds = seconds
        self._random = random
        self._idle: list[object] = []

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Make a call."""
        import anyio

        called_at = now()
        seconds = self._seconds * self._random.uniform(0.5, 1.5)
        stream = self._idle.pop() if self._idle else await anyio.connect_tcp("127.0.0.1", self._port)
        await stream.send(f"{os.getpid()} {called_at} {seconds} {self._messages()}\n".encode())  # type: ignore[attr-defined]
        await stream.receive(1)  # type: ignore[attr-defined]
        self._idle.append(stream)
        return LLMResponse("good")


def ask(item: int) -> Flow[str]:
    """Make one call."""
    reply = yield from complete(REQUEST)
    return reply.text


def endless() -> Iterator[int]:
    """Return items without end."""
    number = 0
    while True:
        yield number
        number += 1


def work(place: str, limit: int, port: int, seed: int, seconds: float) -> None:
    """Make calls until SIGTERM, then end as a program ends."""
    random = Random(seed)

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    with suppress(KeyboardInterrupt):
        broker = broker_of(place)
        messages = count_messages(broker)
        limits = Limits(llm=SharedLimiter("gpu", limit, broker=broker), open_items=random.choice([10, 40]))
        llm = Caller(port, seconds, random, messages)
        with BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=limits) as runner:
            for _ in runner.stream(ask, endless()):
                pass


class Nursery:
    """
    A process that forks others.

    Args:
        modules: What it imports first, so that none of the others has to.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        (mine, theirs), (answers, back) = os.pipe(), os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            os.close(theirs)
            os.close(answers)
            for module in ("anyio._backends._asyncio", *modules):
                import_module(module)
            self._serve(mine, back)
        os.close(mine)
        os.close(back)
        self._orders, self._answers = os.fdopen(theirs, "w"), os.fdopen(answers)

    def _serve(self, orders: int, back: int) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for line in os.fdopen(orders):
            place, limit, port, seed, seconds = line.split("\t")
            pid = os.fork()
            if not pid:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                status = 1
                try:
                    work(place, int(limit), int(port), int(seed), float(seconds))
                    status = 0
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            os.write(back, f"{pid}\n".encode())
        os._exit(0)

    def bear(self, place: str, limit: int, port: int, seed: int, seconds: float) -> int:
        """Start a process, and return its number."""
        self._orders.write(f"{place}\t{limit}\t{port}\t{seed}\t{seconds}\n")
        self._orders.flush()
        return int(self._answers.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._orders.close()
        self._answers.close()
        os.waitpid(self.pid, 0)


@dataclass(frozen=True)
class Soaked:
    """What came of it."""

    calls: int
    message_rates: list[float]
    peak: int
    peak_apart: int
    busy_share: float
    too_many: list[str]
    processes: int
    happened: dict[str, int]


def soak(
    nursery: Nursery,
    place: str,
    *,
    limit: int = 8,
    processes: int = 8,
    seconds: float = 60.0,
    seed: int = 0,
    call_seconds: float = 0.2,
    meanwhile: Callable[[float], object] = lambda passed: None,
) -> Soaked:
    """
    Let processes start, stop, pause and die at random.

    Args:
        nursery: Forks the processes; made before anything that does not survive a fork.
        place: The broker; see `broker_of`.
        limit: The limit that they share.
        processes: How many there are at a time.
        seconds: For how long.
        seed: Seed of what happens when.
        call_seconds: About how long a call takes.
        meanwhile: Called now and then with the seconds that have passed, for example to restart the broker.
    """
    random = Random(seed)
    alive: dict[int, float] = {}  # until when each is paused; 0 for one that is not
    born = 0
    happened: dict[str, int] = {}
    with CountingServer(limit) as server:
        broker = broker_of(place)
        began = now()
        happens_at = began + QUIET_SECONDS
        try:
            while now() < began + seconds:
                while len(alive) < processes:
                    born += 1
                    alive[nursery.bear(place, limit, server.port, 1000 * seed + born, call_seconds)] = 0.0
                for pid, until in list(alive.items()):
                    if until and now() > until:
                        os.kill(pid, signal.SIGCONT)
                        alive[pid] = 0.0
                if now() > happens_at:
                    what = _happen(random, server, alive, broker)
                    happened[what] = happened.get(what, 0) + 1
                    happens_at = now() + random.uniform(0.5, 2.0)
                meanwhile(now() - began)
                time.sleep(0.02)
            busy = server.busy_share
        finally:
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        rates = server.message_rates(MESSAGE_SECONDS)
        return Soaked(
            server.calls,
            rates,
            server.peak,
            server.peak_apart,
            busy,
            server.too_many,
            born,
            happened,
        )


def _happen(random: Random, server: CountingServer, alive: dict[int, float], broker: Broker) -> str:
    """Kill, stop or end a process."""
    active = [pid for pid, until in alive.items() if not until]
    if len(active) < 3:
        return "nothing"
    pid = random.choice(active)
    what = random.choice(["kill", "pause", "pause", "end"])
    with suppress(ProcessLookupError):
        if what == "pause":
            seconds = random.choice([0.3, 1.0, 2.5, 5.0])
            os.kill(pid, signal.SIGSTOP)
            lent, left = loan_of(broker, pid)
            server.stopped(pid, now() + min(seconds, left), lent)
            alive[pid] = now() + seconds
        elif what == "kill":
            os.kill(pid, signal.SIGKILL)
            lent, left = loan_of(broker, pid)
            server.stopped(pid, now() + left, lent)
            del alive[pid]
        else:
            server.ended(pid)
            os.kill(pid, signal.SIGTERM)
            del alive[pid]
    return what

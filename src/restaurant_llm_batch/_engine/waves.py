"""
Waves: the requests of all open flows of a run, gathered into the batches of a provider.

Theory of operation. A flow that calls the model puts a line into the open wave and waits; it holds no slot, and its
prompt is in the wave's file only. When no flow of the run can go on by itself, the scheduler calls `flush`, and the
wave is sent: no timer guesses. It is sent earlier if it is full. A flow of the run's own (`wave_flow`) then uploads
the file, creates the batch, looks at it from time to time, and hands the answers to the flows that wait.

    wave       meaning                                      next
    open       flows put lines into it                      ready: it is full, or no flow can go on
                                                            answered at once, to be called online: too few lines
    ready      waits until the service has room for it      live
    live       a flow of the run carries it                 over: each of its lines has an answer
    adopted    an earlier run has sent it, as the store     over; what it has no answer for goes into the open wave
               says; a flow finds it and collects it

What a line is answered with says what its flow does next: a reply or an error, as those of any call; `ONLINE` to make
the call at once; `AGAIN` to ask again, as if for the first time.

All of this happens where the run lives, so nothing here is locked.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator
from math import inf
from typing import Any, Protocol, TypeAlias

from .._store.overlay import AnyStore
from .._store.wave_journal import WaveJournal
from ..models import LLMRequest
from .mailbox import Clock
from .wave_file import Line, Wave
from .wave_service import WaveService

log = logging.getLogger("restaurant_llm_batch")

Estimate: TypeAlias = Callable[[LLMRequest], int]
"""Returns the estimated tokens of a request's prompt."""


Carrier: TypeAlias = "Callable[[Wave, Waves], Generator[Any, Any, None]]"
"""Returns the flow that carries a wave."""


class Signal:
    """
    An answer to a line that is neither a reply nor an error.

    Args:
        name: What it is shown as.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


SENT = Signal("SENT")
"""The line is at the service; its answer comes later. Only the flow that leads it is told."""
ONLINE = Signal("ONLINE")
"""The call is to be made online."""
AGAIN = Signal("AGAIN")
"""The request is to be asked again: its reply may be in the store, and no attempt is used up."""


class WaveHost(Protocol):
    """Where a run lives, as its waves use it."""

    def spawn(self, flow: Generator[Any, Any, None], /) -> object:
        """Run a flow of the run's own."""
        ...

    def run_blocking(self, work: Callable[[], object], /) -> object:
        """Run a function that blocks, where it does not block the run."""
        ...

    def later(self, action: Callable[[], object], /) -> object:
        """Run an action after the current one."""
        ...


class _Inline:
    """The host of a run whose flows are run one after the other: the flow that waits carries its wave itself."""

    def __init__(self) -> None:
        self.flows: deque[Generator[Any, Any, None]] = deque()
        self.spawn = self.flows.append

    def run_blocking(self, work: Callable[[], object], /) -> None:
        """Run it here: there is no other thread."""
        work()

    def later(self, action: Callable[[], object], /) -> None:
        """Run it now."""
        action()


class Waves:
    """
    The waves of one run.

    Args:
        service: The service.
        store: The store, or None.
        now: The run's clock.
        estimate: Estimates the tokens of a prompt.
        stop: Stops the run, for a reason.
        alive: Called when the service has said that a batch goes on: the run does not stall.
        carrier: Returns the flow that carries a wave.

    Attributes:
        service: The service.
        journal: Notes what is at the service; None without a store.
        now: The run's clock.
        waiting: Number of flows that wait for a line.
        flows: Number of flows that carry a wave.
        busy: Number of these that are about to answer lines, so that flows will go on.
        collecting: Number of these that read answers, which are paid for; the run does not end meanwhile.
        sent: Number of batches made.
        refusals: Number of batches in a row that the service had no room for.
        stop: Stops the run, for a reason.
        alive: To be called when the service has said that a batch goes on.
    """

    def __init__(
        self,
        service: WaveService,
        store: AnyStore | None,
        now: Clock,
        estimate: Estimate,
        stop: Callable[[str], object],
        alive: Callable[[], object],
        carrier: Carrier,
    ) -> None:
        self.service = service
        self.journal: WaveJournal | None = None if store is None else WaveJournal(store, service.name)
        self.now = now
        self.stop = stop
        self.alive = alive
        self._carrier = carrier
        self.waiting: int = 0
        self.flows: int = 0
        self.busy: int = 0
        self.collecting: int = 0
        self.sent: int = 0
        self.refusals: int = 0
        self.host: WaveHost = _Inline()
        self._store = store
        self._estimate = estimate
        self._open: Wave | None = None
        self._ready: deque[Wave] = deque()
        self._live: dict[str, Wave] = {}  # by id, adopted ones too
        self._over: set[str] = set()  # ids of waves that have no further answer
        self._by_key: dict[bytes, Line] = {}
        self._most = inf if service.max_enqueued_tokens is None else service.max_enqueued_tokens
        self._closed = False

    @property
    def inline_flows(self) -> deque[Generator[Any, Any, None]] | None:
        """The flows to be run by the flow that waits; None if the host runs them."""
        return self.host.flows if isinstance(self.host, _Inline) else None

    @property
    def has_lines(self) -> bool:
        """Whether there is something to send."""
        return self._open is not None

    # Lines

    def enter(self, key: bytes, request: LLMRequest) -> tuple[Line, bool]:
        """Return the line of a request, and whether it is new; otherwise another flow leads it."""
        line = self._by_key.get(key)
        if line is not None:
            return self._used(line), False
        raw = self.service.write(key.hex(), request)
        weight = self._estimate(request) if self.service.max_enqueued_tokens is not None else len(raw)
        return self._used(self._add(key, raw, request.task, weight)), True

    def enter_again(self, old: Line) -> tuple[Line, bool]:
        """Return a line for the request of another one, as `enter` does."""
        line = self._by_key.get(old.key)
        if line is not None:
            return self._used(line), False
        raw = self.service.rewrite(old.raw)
        weight = len(raw)
        if self.service.max_enqueued_tokens is not None:
            weight = self._estimate(self.service.read(raw, old.task))
        return self._used(self._add(old.key, raw, old.task, weight)), True

    @staticmethod
    def _used(line: Line) -> Line:
        line.users += 1
        line.file.users += 1
        return line

    @staticmethod
    def leave(line: Line) -> None:
        """Note that a flow has done with a line, which `enter` has returned."""
        line.users -= 1
        line.file.release()

    def request_of(self, line: Line) -> LLMRequest:
        """Return the request of a line."""
        return self.service.read(line.raw, line.task)

    def _add(self, key: bytes, raw: bytes, task: str, weight: int) -> Line:
        wave = self._sent_before(key) or self._with_room(len(raw), weight)
        line = self._by_key[key] = wave.add(key, raw, task, weight)
        return line

    def _with_room(self, size: int, weight: int) -> Wave:
        """Return the open wave, or a new one if it has no room for a line."""
        wave, service = self._open, self.service
        if wave is not None and (
            len(wave.lines) >= service.max_lines
            or wave.file.size + size > service.max_bytes
            or wave.weight + weight > self._most
        ):
            self._seal(wave)
            self.host.later(self.dispatch)  # not now: a flow is in the middle of a step
            wave = None
        if wave is None:
            wave = self._open = Wave()
        return wave

    def _seal(self, wave: Wave) -> None:
        self._open = None
        wave.file.sealed = True
        self._ready.append(wave)

    def _sent_before(self, key: bytes) -> Wave | None:
        """Return the wave of an earlier run that a request is in; None if there is none."""
        if self.journal is None:
            return None
        wave_id = self.journal.wave_of(key)
        if wave_id is None or wave_id in self._over:
            return None
        wave = self._live.get(wave_id)
        if wave is None:
            if self.journal.state_of(wave_id) is None:
                return None
            wave = self._live[wave_id] = Wave(wave_id)
            self.flows += 1
            self.busy += 1  # until it is known what has become of it
            self.host.later(lambda: self._carry(wave))
        return wave if wave.is_adopted and not wave.is_over else None

    # Waves

    def flush(self) -> None:
        """Send what is there: no flow of the run can go on by itself."""
        wave, service = self._open, self.service
        if wave is None:
            return
        if service.online_rest and len(wave.lines) < service.min_wave:
            self._open = None
            wave.file.sealed = True
            log.info("%d calls are fewer than min_wave, and are made online", len(wave.lines))
            for line in wave.unanswered():
                self.answer(line, ONLINE)
            return
        self._seal(wave)
        self.dispatch()

    def dispatch(self) -> None:
        """Send the waves that are ready, as long as the service has room for them."""
        while self._ready and not self._closed:
            first = self._ready[0]
            if first.weight > self._most and len(first.lines) > 1:
                self._ready.popleft()
                self._halve(first)
                continue
            live = [wave for wave in self._live.values() if not wave.is_adopted]
            if live and sum(wave.weight for wave in live) + first.weight > self._most:
                return
            wave = self._ready.popleft()
            self._live[wave.id] = wave
            self.flows += 1
            self._carry(wave)

    def _carry(self, wave: Wave) -> None:
        if not self._closed:
            self.host.spawn(self._carrier(wave, self))

    def refuse(self, wave: Wave) -> bool:
        """
        Note that the service has no room for the tokens of a wave: less is sent at once, and the wave in halves.

        Returns:
            Whether no other wave is there that would make room when it ends.
        """
        enqueued = sum(one.weight for one in self._live.values() if not one.is_adopted)
        self._most = max(1, min(self._most, enqueued) // 2)
        self._halve(wave)
        return not any(one is not wave for one in self._live.values())

    def _halve(self, wave: Wave) -> None:
        """Make two waves of one, which are to be sent next."""
        lines = wave.unanswered()
        middle = (len(lines) + 1) // 2
        halves = [self._copy(part) for part in (lines[:middle], lines[middle:]) if part]
        self._ready.extendleft(reversed(halves))
        wave.file.close_if_unused()

    def _copy(self, lines: list[Line]) -> Wave:
        """Return a wave of lines of another one, which their flows wait for from now on."""
        wave = Wave()
        for old in lines:
            raw = old.raw
            weight = len(raw)
            if self.service.max_enqueued_tokens is not None:
                weight = self._estimate(self.service.read(raw, old.task))
            wave.lines[old.key] = old
            wave.weight += weight
            old.file.users -= old.users
            old.file, old.start = wave.file, wave.file.append(raw)
            wave.file.users += old.users
        wave.file.sealed = True
        return wave

    def end(self, wave: Wave) -> None:
        """Note that a wave has no further answer, and send what waits for room."""
        wave.is_over = True
        self._over.add(wave.id)
        self._live.pop(wave.id, None)
        if self.journal is not None:
            self.journal.forget_wave(wave.id)
        wave.file.sealed = True
        wave.file.close_if_unused()
        wave.done.clear()

    def answer(self, line: Line, answer: Any) -> None:
        """Give a line its answer, and wake the flows that wait for it."""
        if line.answered:
            return
        line.answered = True
        if line.lead is None:  # its flow is about to wait, or has gone
            line.result = answer
        if self._by_key.get(line.key) is line:
            del self._by_key[line.key]
        lead, line.lead = line.lead, None
        followers, line.followers = line.followers, ()
        for wake in (*((lead,) if lead is not None else ()), *followers):
            wake(answer)

    def mark_sent(self, lines: list[Line]) -> None:
        """Note that lines are at the service, and tell the flows that lead them."""
        for line in lines:
            if line.sent:
                continue
            line.sent = True
            lead, line.lead = line.lead, None
            if lead is not None:
                lead(SENT)

    def close(self) -> None:
        """End the run's part in all of this: batches that nobody waits for are cancelled, or left to the next run."""
        if self._closed:
            return
        self._closed = True
        left = list(self._live.values())
        for wave in left:
            wave.is_over = True
            if self.journal is not None and not wave.is_adopted and not (wave.batch_id or wave.creating):
                for key in wave.lines:
                    self.journal.forget_line(key, wave.id)
                self.journal.forget_wave(wave.id)
        ids = [wave.batch_id for wave in left if wave.batch_id]
        if ids and self.service.on_stop == "cancel":
            self.service.cancel_later(ids)
        for wave in (*left, *self._ready, *([self._open] if self._open is not None else [])):
            wave.file.close()
        self._open = None
        self._ready.clear()
        self._by_key.clear()

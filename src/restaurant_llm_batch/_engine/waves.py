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
from typing import Any, TypeAlias

from .._store.overlay import AnyStore
from .._store.wave_journal import WaveJournal, WaveNote
from ..errors import StoreError
from ..models import LLMRequest
from . import wave_timing as timing
from .wave_file import Line, Wave
from .wave_host import InlineHost, WaveHost, WaveRun
from .wave_service import WaveService

log = logging.getLogger("restaurant_llm_batch")

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


class Waves:
    """
    The waves of one run.

    Args:
        service: The service.
        store: The store, or None.
        run: What else the waves need of the run.
        carrier: Returns the flow that carries a wave.

    Attributes:
        service: The service.
        journal: Notes what is at the service; None without a store.
        run: What it needs of the run.
        entered: Number of lines so far.
        waiting: Number of flows that wait for a line.
        flows: Number of flows that carry a wave.
        busy: Number of these that are about to answer lines, so that flows will go on.
        collecting: Number of these that read answers, which are paid for; the run does not end meanwhile.
        sent: Number of batches made.
        refusals: Number of batches in a row that the service had no room for.
        rejections: Number of batches in a row that the service did not accept because of some of their lines.
    """

    def __init__(self, service: WaveService, store: AnyStore | None, run: WaveRun, carrier: Carrier) -> None:
        self.service = service
        self.journal: WaveJournal | None = None if store is None else WaveJournal(store, service.name)
        self.run = run
        self.entered: int = 0
        self.waiting: int = 0
        self.flows: int = 0
        self.busy: int = 0
        self.collecting: int = 0
        self.sent: int = 0
        self.refusals: int = 0
        self.rejections: int = 0
        self.host: WaveHost = InlineHost()
        self._carrier = carrier
        self._open: Wave | None = None
        self._ready: deque[Wave] = deque()
        self._live: dict[str, Wave] = {}  # by id, adopted ones too
        self._over: set[str] = set()  # ids of waves that have no further answer
        self._by_key: dict[bytes, Line] = {}
        self._cap: float = inf if service.max_enqueued_tokens is None else service.max_enqueued_tokens
        self._most = self._cap  # what is sent at once, which refusals lower
        self._in_tokens: bool = min(self._cap, run.prompt_tokens_left()[0]) < inf
        self._accepted = 0  # waves in a row, since the latest refusal
        self._cut_to = 0  # lines of the latest wave that was cut to the budget
        self._closed = False

    @property
    def inline_flows(self) -> deque[Generator[Any, Any, None]] | None:
        """The flows to be run by the flow that waits; None if the host runs them."""
        return self.host.flows if isinstance(self.host, InlineHost) else None

    @property
    def has_lines(self) -> bool:
        """Whether there is something to send."""
        return self._open is not None

    def stop(self, reason: str) -> None:
        """Stop the run."""
        self.run.stop(reason)
        self.host.later(self.host.check_stop)

    # Lines

    def enter(self, key: bytes, request: LLMRequest) -> tuple[Line, bool]:
        """Return the line of a request, and whether it is new; otherwise another flow leads it."""
        line = self._by_key.get(key)
        if line is not None:
            return self._used(line), False
        raw = self.service.write(key.hex(), request)
        weight = self.run.estimate(request) if self._in_tokens else len(raw)
        return self._used(self._add(key, raw, request.task, weight)), True

    def enter_again(self, old: Line) -> tuple[Line, bool]:
        """Return a line for the request of another one, as `enter` does."""
        line = self._by_key.get(old.key)
        if line is not None:
            return self._used(line), False
        return self._used(self._add(old.key, self.service.rewrite(old.raw), old.task, old.weight)), True

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
        try:
            line = wave.add(key, raw, task, weight)
        except StoreError as error:  # the disk is full, for example
            self.stop(str(error))
            raise
        self._by_key[key] = line
        self.entered += 1
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
        wave_id = None if self.journal is None else self.journal.wave_of(key)
        if wave_id is None:
            return None
        wave = self._live.get(wave_id)
        if wave is None:
            if not self.is_known(wave_id):
                return None
            wave = self._live[wave_id] = Wave(wave_id)
            self.flows += 1
            self.busy += 1  # until it is known what has become of it
            self.host.later(lambda: self._carry(wave))
        return wave if wave.is_adopted and not wave.is_over else None

    def is_known(self, wave_id: str) -> bool:
        """Return whether a wave that the journal names may still answer its lines."""
        known = self.journal is not None and self.journal.note_of(wave_id) is not None
        return known and wave_id not in self._over

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
        """Send the waves that are ready, as long as the service, and the run's budget, have room for them."""
        while self._ready and not self._closed:
            wave, live = self._ready[0], self._enqueued()
            budget, name = self.run.prompt_tokens_left()
            room = min(self._most, budget)
            if live and live + wave.weight > room:
                return
            if wave.weight > room and len(wave.lines) > 1:
                self._ready.popleft()
                self._queue_first(self._parts(wave, room))
                if budget == room and not self._is_worth(len(self._ready[0].lines)):
                    self.stop(f"what is left of {name} is too little for another batch")
                    return
                continue
            if wave.weight > budget:
                self.stop(f"what is left of {name} is less than the prompt of the next call may cost")
                return
            self._ready.popleft()
            self._live[wave.id] = wave
            self.flows += 1
            self._carry(wave)

    def _is_worth(self, lines: int) -> bool:
        """Return whether a wave that is cut to the budget is worth a batch: not ever fewer lines, day after day."""
        before, self._cut_to = self._cut_to, lines
        return 2 * lines >= before

    def _carry(self, wave: Wave) -> None:
        if not self._closed:
            self.host.spawn(self._carrier(wave, self))

    def _enqueued(self) -> int:
        return sum(wave.weight for wave in self._live.values() if not wave.is_adopted)

    def refuse(self, wave: Wave, limit: int | None) -> bool:
        """
        Note that the service has no room for the tokens of a wave, which is sent again later: in parts, unless it is
        known to be within the limit, so that it was what others have sent that left no room.

        Args:
            wave: The wave.
            limit: Most tokens that the service takes at once, if it has said so.

        Returns:
            Whether no other wave is there that would make room when it ends.
        """
        self._accepted = 0
        is_alone = not any(one is not wave for one in self._live.values())
        lines = wave.unanswered()
        if limit is not None:
            self._cap = min(
                self._cap, max(1, limit if self._in_tokens else limit / self._tokens_per_byte(lines))
            )
            self._most = min(self._most, self._cap)
            parts = [lines]
        else:
            middle = (len(lines) + 1) // 2
            parts = [lines[:middle], lines[middle:]]
            halves = max(sum(line.weight for line in part) for part in parts)
            self._most = max(1, halves if is_alone else min(self._most, self._enqueued()) // 2)
        self._queue_first([self._copy(part) for part in parts if part])
        wave.file.close_if_unused()
        return is_alone

    def accepted(self) -> None:
        """Note that the service has worked on a wave; after some of them, try whether it takes more at once."""
        self.refusals = self.rejections = 0
        self._accepted += 1
        if self._accepted % timing.GROW_AFTER == 0:
            self._most = min(self._cap, 2 * self._most)

    def _tokens_per_byte(self, lines: list[Line]) -> float:
        """Estimate it from some lines."""
        sample = lines[:: len(lines) // 100 + 1]
        tokens = sum(self.run.estimate(self.request_of(line)) for line in sample)
        return max(1, tokens) / max(1, sum(line.size for line in sample))

    def _parts(self, wave: Wave, room: float) -> list[Wave]:
        """Return the waves of a wave's lines that `room` suffices for, and of the rest."""
        lines, weight, fitting = wave.unanswered(), 0, 0
        for line in lines:
            weight += line.weight
            if fitting and weight > room:
                break
            fitting += 1
        parts = [self._copy(part) for part in (lines[:fitting], lines[fitting:]) if part]
        wave.file.close_if_unused()
        return parts

    def _queue_first(self, waves: list[Wave]) -> None:
        self._ready.extendleft(reversed(waves))

    @staticmethod
    def _copy(lines: list[Line]) -> Wave:
        """Return a wave of lines of another one, which their flows wait for from now on."""
        wave = Wave()
        wave.move(lines)
        wave.file.sealed = True
        return wave

    def finish(self, wave: Wave, rest: Any, *, forget: bool = True) -> None:
        """
        Note that a wave has no further answer, and send what waits for room.

        Args:
            wave: The wave.
            rest: What its lines without an answer are answered with.
            forget: Whether no later run needs to look for it.
        """
        for line in wave.unanswered():
            if forget and self.journal is not None:
                self.journal.forget_line(line.key, wave.id)
            self.answer(line, rest)
        self.end(wave, forget=forget)
        self.dispatch()

    def end(self, wave: Wave, *, forget: bool = True) -> None:
        """Note that a wave is over."""
        wave.is_over = True
        self._live.pop(wave.id, None)
        if forget:  # otherwise it is looked for again, if it has further lines
            self._over.add(wave.id)
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
            if self.journal is not None and not wave.is_foreign:
                self._leave(wave, self.journal)
        if self.service.on_stop == "cancel":
            ours = [wave for wave in left if wave.batch_id and not (wave.is_foreign or wave.has_ended)]
            ids = [wave.batch_id for wave in ours if wave.claim_cancel()]
            if ids:
                self.service.cancel_later(ids)
        for wave in (*left, *self._ready, *([self._open] if self._open is not None else [])):
            wave.file.close()
        self._open = None
        self._ready.clear()
        self._by_key.clear()

    @staticmethod
    def _leave(wave: Wave, journal: WaveJournal) -> None:
        """Note that a wave is not carried any more: it was never sent, or any other run may take it over."""
        if wave.batch_id:
            journal.record_note(wave.id, WaveNote("", batch_id=wave.batch_id), _ignore)
        elif not (wave.is_adopted or wave.creating):
            for key in wave.lines:
                journal.forget_line(key, wave.id)
            journal.forget_wave(wave.id)


def _ignore(_: Exception | None) -> None:
    """Do nothing: the end of this process says the same."""

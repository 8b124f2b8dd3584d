"""
Calls by waves: how a flow asks the model by a line of a batch, with retries, and what is recorded of it.

A flow that waits keeps no prompt: the request is in the wave's file, and is read from there if it is needed again. A
line counts as a call of its item from the moment at which its batch is at the service. Flows that ask for the same wait
for one line; the first of them has made the call, and the others have found its reply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, cast

from .._config.retry import AttemptCounts, next_retry_delay
from .._llm_response import LLMResponse
from .._store.inflight import InFlightCall
from .._store.keys import request_key
from .._store.overlay import AnyStore
from ..errors import DeadlineExceeded, RateLimited, RunStopped
from ..models import LLMRequest
from ..steps import Complete, LimiterName
from .admission import CallContext
from .cached_calls import found_reply
from .call import Call
from .frames import EngineFlow
from .items import RunItem, appended
from .memo import WaitForLine, clone_exception
from .plan import BackendMethod, CallSpec
from .run import RunState
from .wave_file import Line
from .wave_service import LineUnanswered
from .waves import AGAIN, ONLINE, SENT, Waves

_NONE = AttemptCounts()


class _Keyed(NamedTuple):
    """What the recorder reads of a call that has a key in the store."""

    key: bytes


class _Asked:
    """
    One request of an item, over all of its attempts.

    Args:
        key: The key of its reply.
        request: The request.
        limiter: The limit that an online call counts against.
        item: The item.
        run: The run.
        waves: Its waves.
    """

    __slots__ = (
        "attempts",
        "in_flight",
        "item",
        "key",
        "leads",
        "limiter",
        "line",
        "number",
        "queued_at",
        "run",
        "started_at",
        "waves",
    )

    def __init__(
        self,
        key: bytes,
        request: LLMRequest,
        limiter: LimiterName,
        item: RunItem,
        run: RunState,
        waves: Waves,
    ) -> None:
        self.key = key
        self.limiter = limiter
        self.item = item
        self.run = run
        self.waves = waves
        self.attempts = _NONE
        self.number = 0
        self.in_flight = False
        self.started_at = 0.0
        self._enter(*waves.enter(key, request))

    def _enter(self, line: Line, leads: bool) -> None:
        self.line, self.leads = line, leads
        self.queued_at = self.run.now()

    def ask_again(self) -> None:
        """Put the request into a wave once more."""
        old = self.line
        self._enter(*self.waves.enter_again(old))
        self.waves.leave(old)

    @property
    def attempt(self) -> int:
        """Number of the attempt, from 1."""
        return self.attempts.failed + self.attempts.rate_limited + 1

    def step(self) -> WaitForLine:
        """Return the step that waits for the line to be sent, if that is not known yet, or answered."""
        line = self.line
        subscribe = line.wait_as_lead if self.leads else line.wait_as_follower
        return WaitForLine(subscribe, line.task, interruptible=True)

    def wait_inline(self, flows: deque[Generator[Any, Any, None]]) -> EngineFlow[Any]:
        """Carry the waves until the line is answered: no other flow of the run does."""
        found: list[Any] = []
        self.step().subscribe(found.append)
        while not found:
            if flows:
                yield from flows.popleft()
            elif self.waves.has_lines:
                self.waves.flush()
            elif self.run.stopped is not None:
                raise self.run.stop_error()
            else:
                raise RuntimeError("a line waits, and no wave carries it")
        self._check_time()
        return found[0]

    def note_deadline(self, error: DeadlineExceeded) -> None:
        """Note that the item's time was up while it waited."""
        self.item.errors = appended(self.item.errors, (error, "llm", self.attempt))

    def note_sent(self) -> None:
        """Record that the call starts, once its line is at the service."""
        if self.leads and self.line.sent and not self.in_flight:
            self._start(self.waves)

    def _check_time(self) -> None:
        """Raise if the time of the item, or of the run, is up: nothing could end the wait."""
        run = self.run
        run.check_run_timeout()
        if run.stopped is not None:
            raise run.stop_error()
        if run.is_overdue(self.item):
            error = run.item_timeout_error()
            self.note_deadline(error)
            raise error

    # Records

    def _call(self, request: LLMRequest | None) -> Call:
        run = self.run
        self.number = self.number or run.recorder.next_call()
        spec = CallSpec(BackendMethod(_nothing, is_async=False), "llm")
        context = CallContext(run.now, run.recorder.counters)
        call = Call(spec, request, self.line.task, self.number, context, self.attempt)
        call.queued_at = self.queued_at
        call.started_at = self.started_at
        call.in_flight = cast("InFlightCall", _Keyed(self.key)) if run.store is not None else None
        return call

    def _start(self, waves: Waves) -> None:
        self.started_at = self.run.now()
        request = waves.request_of(self.line) if self.run.recorder.wants_requests else None
        self.run.recorder.call_started(self._call(request), self.item, self)
        self.in_flight = True

    def finish(self, reply: LLMResponse | None, error: Exception | None) -> None:
        """Record that the call has ended, if it was sent."""
        if self.in_flight:
            call = self._call(self.waves.request_of(self.line))
            self.leave()
            self.run.recorder.call_finished(call, self.item, reply, error)
            if reply is not None and self.run.packer.observes:
                self.run.packer.observe(call.argument, reply)

    def drop(self) -> None:
        """Record that the call has ended without an answer, and is asked again or online."""
        self.finish(None, LineUnanswered("its batch has not answered this call"))

    def _take_over(self) -> None:
        """Lead the line, whose call is paid for, if the flow that has led it is gone."""
        if not self.leads and self.line.is_leaderless:
            self.line.is_leaderless, self.leads = False, True
            self._start(self.waves)

    def leave(self) -> None:
        """Count the call as in flight no more."""
        if self.leads and not self.line.answered:
            self.line.is_leaderless = True
        if self.in_flight:
            self.in_flight = False
            self.run.recorder.counters.call_finished(self, "llm")

    def use(self, reply: LLMResponse) -> LLMResponse:
        """Return the reply, recorded: as that of a call, or as one that another flow's call has brought."""
        item, run = self.item, self.run
        self._take_over()
        if not (self.leads and self.in_flight):  # another flow's call, or that of another process
            return found_reply(reply, self.key, self.waves.request_of(self.line), item, run)
        self.finish(reply, None)
        item.has_llm_reply = True
        if self.attempt > 1:
            item.retried = appended(item.retried, (reply, self.attempt))
        if run.store is not None:
            item.stored_replies = appended(item.stored_replies, (reply, self.key))
        return reply

    def fail(self, error: Exception) -> None:
        """Record an error; raise it unless the request is asked once more."""
        item, run = self.item, self.run
        cause, error = (
            error.__cause__,
            clone_exception(error),
        )  # each flow raises its own: it may be that of a wave
        error.__cause__ = cause
        attempt = self.attempt
        self.finish(None, error)
        if not isinstance(error, RunStopped):
            run.stop_if_fatal(error)
        refused = isinstance(error, RateLimited)
        counts = self.attempts
        self.attempts = AttemptCounts(counts.failed + (not refused), counts.rate_limited + refused)
        wait = next_retry_delay(run.retries["llm"], error, self.attempts, 0.0, refused)
        if run.stopped is not None and wait is not None:
            raise run.stop_error()
        if wait is None:
            item.errors = appended(item.errors, (error, "llm", attempt))
            raise error
        if self.leads and self.number:
            # The next wave is the wait: there is none of seconds.
            call = self._call(None)
            run.recorder.retry_scheduled(call, item, 0.0, refused, error)


def complete_by_wave(
    waves: Waves,
    call_online: Callable[[Complete, RunItem, RunState], EngineFlow[LLMResponse]],
    step: Complete,
    item: RunItem,
    run: RunState,
) -> EngineFlow[LLMResponse]:
    """
    Return the stored reply to a request, or ask for it by a line of a wave.

    Args:
        waves: Its waves.
        call_online: Makes a call at once, with retries.
        step: The request.
        item: The item it is for.
        run: The run.
    """
    request, store = step.request, run.store
    key = request_key(run.fingerprint, request)
    found = None if store is None else store.get(key)
    if found is not None:
        return found_reply(found, key, request, item, run)
    if run.stopped is not None:
        raise run.stop_error()
    asked = _Asked(key, request, step.limiter, item, run, waves)
    # Not kept while the flow waits: with tens of thousands of flows, the prompts would fill the memory.
    del step, request
    inline = waves.inline_flows
    try:
        while True:
            asked.note_sent()
            if inline is not None:
                answer = yield from asked.wait_inline(inline)
            else:
                # Here and not in a flow of its own, which would take memory for each line.
                waves.waiting += 1
                try:
                    answer = yield asked.step()
                except DeadlineExceeded as error:
                    asked.note_deadline(error)
                    raise
                finally:
                    waves.waiting -= 1
            if answer is SENT:
                continue
            if isinstance(answer, LLMResponse):
                return asked.use(answer)
            if answer is ONLINE:
                break
            if answer is AGAIN:
                asked.drop()
                stored = _stored(asked, store)
                if stored is not None:
                    return stored
            else:
                asked.fail(answer)
            if run.stopped is not None:
                raise run.stop_error()
            asked.ask_again()
        asked.drop()
        online = Complete(waves.request_of(asked.line), asked.limiter)
        return (yield from call_online(online, item, run))
    finally:
        asked.leave()
        waves.leave(asked.line)


def _stored(asked: _Asked, store: AnyStore | None) -> LLMResponse | None:
    found = None if store is None else store.get(asked.key)
    if found is None:
        return None
    return found_reply(found, asked.key, asked.waves.request_of(asked.line), asked.item, asked.run)


def _nothing(_: Any) -> None:
    """Stand in place of a backend's method: a line is not called."""

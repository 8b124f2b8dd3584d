"""
The flow that carries a wave: uploads its file, creates the batch, looks at it, and hands out what it has answered.

Theory of operation. Each step is a `Sleep`, or a `WaitForCallback` for a request to the service or for the store.
What is written down, and when, decides what a kill costs:

    journal of the wave     meaning                             what the next run does
    "n PROCESS"             the batch may be made               looks for a batch of that name; if there is none, and
                                                                the process is gone, the lines were never sent
    "f FILE PROCESS"        its file is at the service          the same
    "b BATCH"               the batch is there                  looks at it

A request whose fate is unknown is never just made again: a batch is first looked for by the wave's name, which it
carries. Uploads and looks cost nothing, and are repeated.

A line without an answer is asked again: in the next wave, as an attempt of its call if the batch is at fault. Answers
are in the store before their flows go on, and those of lines that this run has not asked for yet are kept too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeAlias, TypeVar, cast

from .._llm_response import LLMResponse
from ..errors import (
    STOPS_THE_RUN,
    BackendError,
    ConfigurationError,
    DeadlineExceeded,
    PermanentBackendError,
    RateLimited,
    RunStopped,
    StoreError,
    SubmissionUnknown,
    TransientBackendError,
)
from ..steps import Sleep
from .memo import WaitForCallback
from .wave_file import Line, Wave, here, may_live
from .wave_service import BatchProblem, BatchState, FileNotVisible
from .waves import AGAIN, ONLINE, Waves, log

T = TypeVar("T")

WaveSteps: TypeAlias = Generator["Sleep | WaitForCallback", Any, T]

FIRST_LOOK, GROWTH, LONGEST = 1.0, 1.5, 60.0
"""Seconds until a batch is first looked at, how much longer each wait is than the one before, and the longest."""
SLICE = 200
"""Lines that are handed out, or written down, before other flows go on."""
MAX_TRIES = 10
"""Requests to the service for one thing that fail in passing ways, or do not find a file that is there."""
MISSED_LOOKS = 4
"""Looks in a row that do not find a batch, after which it has vanished."""
QUOTA_WAIT, MAX_QUOTA_WAIT, MAX_REFUSALS = 60.0, 900.0, 20
"""Seconds until a wave is sent again that the service had no room for; the longest; and how often in a row."""
CANCEL_WAIT = 900.0
"""Seconds until a batch that was cancelled is given up: the service says that it takes ten minutes at most."""
_NO_LIST = (404, 405, 501)
FOREIGN_WAIT, LOOK_AGAIN = 600.0, 2.0
"""Seconds for which another process is waited for that may still create its batch; and until an unknown batch is
looked for again."""


def carry(wave: Wave, waves: Waves) -> WaveSteps[None]:
    """Carry a wave to its end. No exception leaves this but that of a run that stops."""
    try:
        yield from _Carrier(wave, waves).carry()
    except (RunStopped, GeneratorExit):
        raise
    except Exception as error:
        if isinstance(error, StoreError):
            waves.stop(f"the store cannot be used: {error}")
        for line in wave.unanswered():
            if waves.journal is not None:
                waves.journal.forget_line(line.key, wave.id)
            waves.answer(line, error)
        waves.end(wave)
        waves.dispatch()
    finally:
        waves.flows -= 1


class _Carrier:
    def __init__(self, wave: Wave, waves: Waves) -> None:
        self._wave = wave
        self._waves = waves
        self._service = waves.service
        self._is_late = False  # it was cancelled because it took too long
        self._was_cancelled = False

    def carry(self) -> WaveSteps[None]:
        wave, waves = self._wave, self._waves
        if wave.is_adopted:
            batch = yield from self._found_again()
        else:
            batch = yield from self._submitted()
        if batch is None:
            self._end(AGAIN)
            return
        batch = yield from self._ended(batch)
        if batch is None and self._is_late:
            self._end(self._late_answer())
            return
        if batch is None:
            log.warning("batch %r has vanished from the service; its lines are asked again", wave.batch_id)
            self._end(AGAIN if wave.is_adopted else _lost("the batch has vanished from the service"))
            return
        if batch.status == "failed" and any(problem.is_quota for problem in batch.problems):
            yield from self._refused(batch.problems[0])
            return
        with self._busy():
            yield from self._forget_file()
            if batch.status == "failed":
                yield from self._failed(batch.problems)
            else:
                waves.refusals = 0
                yield from self._collected(batch)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Keep the waves from being sent: flows will go on."""
        self._waves.busy += 1
        self._waves.collecting += 1
        try:
            yield
        finally:
            self._waves.busy -= 1
            self._waves.collecting -= 1

    def _end(self, rest: Any) -> None:
        """Answer what has no answer, and end the wave."""
        wave, waves = self._wave, self._waves
        if waves.journal is not None:
            for line in wave.unanswered():
                waves.journal.forget_line(line.key, wave.id)
        for line in wave.unanswered():
            waves.answer(line, rest)
        waves.end(wave)
        waves.dispatch()

    # Requests

    def _do(self, work: Callable[[], T]) -> WaveSteps[T]:
        """Do something that blocks."""
        results: list[T] = []
        errors: list[Exception] = []

        def subscribe(on_done: Callable[[Any], object]) -> None:
            def run() -> None:
                try:
                    results.append(work())
                except Exception as error:
                    errors.append(error)
                on_done(None)

            try:
                self._waves.host.run_blocking(run)
            except RuntimeError as error:  # no thread
                errors.append(
                    TransientBackendError(f"no thread can be started: {error}", local_shortage=True)
                )
                on_done(None)

        yield WaitForCallback(subscribe)
        if errors:
            raise errors[0]
        return results[0]

    def _retried(self, work: Callable[[], T], tries: int = MAX_TRIES) -> WaveSteps[T]:
        """Do something that may be done twice, until it succeeds or fails for good."""
        wait = FIRST_LOOK
        for left in reversed(range(tries)):
            try:
                return (yield from self._do(work))
            except TransientBackendError as error:
                if not left:
                    raise
                log.info("the batch service failed, and is asked again: %s", error)
                yield Sleep(max(wait, min(error.retry_after or 0.0, LONGEST)))
                wait = min(LONGEST, GROWTH * wait)
        raise AssertionError("unreachable")

    def _journalled(self, write: Callable[[Callable[[Exception | None], object]], object]) -> WaveSteps[None]:
        failure = yield WaitForCallback(write)
        if failure is not None:
            raise StoreError(str(failure)) from failure

    # Sending

    def _submitted(self) -> WaveSteps[BatchState]:
        """Send the wave: its lines and its name are in the journal before the batch is made."""
        wave, journal = self._wave, self._waves.journal
        if journal is not None:
            keys = list(wave.lines)
            for start in range(0, len(keys), SLICE):
                yield from self._journalled(
                    partial(journal.record_lines, keys[start : start + SLICE], wave.id)
                )
                yield Sleep(0)
            # Last: lines of a wave that is not in the journal were never sent.
            yield from self._journalled(partial(journal.record_state, wave.id, f"n {here()}"))
        wave.file_id = yield from self._retried(
            lambda: self._service.upload(wave.file.rewind(), f"{wave.id}.jsonl")
        )
        if journal is not None:
            state = f"f {wave.file_id} {here()}"
            yield from self._journalled(partial(journal.record_state, wave.id, state))
        batch = yield from self._created()
        self._waves.sent += 1
        log.info("%d calls were sent as batch %r", len(wave.lines), batch.id)
        lines = list(wave.lines.values())
        for start in range(0, len(lines), SLICE):
            self._waves.mark_sent(lines[start : start + SLICE])
            yield Sleep(0)
        return batch

    def _created(self) -> WaveSteps[BatchState]:
        wave, wait, refusals = self._wave, FIRST_LOOK, 0
        for left in reversed(range(MAX_TRIES)):
            wave.creating = True
            error: TransientBackendError
            while True:
                try:
                    return (yield from self._do(self._create))
                except RateLimited as refused:  # surely not created
                    refusals += 1
                    if refusals >= MAX_REFUSALS:
                        raise
                    yield Sleep(max(wait, min(refused.retry_after or 0.0, LONGEST)))
                    wait = min(LONGEST, GROWTH * wait)
                except TransientBackendError as failed:
                    error = failed
                    break
            if not isinstance(error, FileNotVisible):
                found = yield from self._found(wave.file_id)
                if found is not None:
                    self._note(found.id)
                    return found
            if not left:
                raise error
            log.info("the batch was not created, and is created again: %s", error)
            yield Sleep(wait)
            wait = min(LONGEST, GROWTH * wait)
        raise AssertionError("unreachable")

    def _create(self) -> BatchState:
        """Create the batch, and note its id in the same thread: the run may be over by then."""
        batch = self._service.create(self._wave.file_id, self._wave.id)
        self._note(batch.id)
        if self._wave.is_over and self._service.on_stop == "cancel":
            self._service.cancel(batch.id)
        return batch

    def _note(self, batch_id: str) -> None:
        self._wave.batch_id = batch_id
        if self._waves.journal is not None:
            self._waves.journal.record_state(self._wave.id, f"b {batch_id}", _ignore)

    # Waiting

    def _found_again(self) -> WaveSteps[BatchState | None]:
        """Return the batch of a wave that an earlier run has sent; None if there is none, and will be none."""
        wave, journal = self._wave, self._waves.journal
        try:
            waited, looks = 0.0, 0
            while True:
                kind, *rest = (journal.state_of(wave.id) or "").split() if journal is not None else [""]
                if kind == "b" and rest:
                    wave.batch_id = rest[0]
                    batch = yield from self._looked(rest[0])
                    if batch is not None:
                        return batch
                elif kind not in ("n", "f"):
                    return None
                file_id = rest[0] if kind == "f" and len(rest) > 1 else ""
                batch = yield from self._found(file_id)
                if batch is not None:
                    self._note(batch.id)
                    return batch
                looks += 1
                lives = kind in ("n", "f") and bool(rest) and may_live(rest[-1])
                if looks >= 2 and (not lives or waited >= FOREIGN_WAIT):
                    return None
                pause = LOOK_AGAIN if not lives else min(LONGEST, LOOK_AGAIN * GROWTH**looks)
                yield Sleep(pause)
                waited += pause
        finally:
            self._waves.busy -= 1

    def _found(self, file_id: str) -> WaveSteps[BatchState | None]:
        """Look for the wave's batch among all batches; return None if it is not there."""
        try:
            return (yield from self._retried(partial(self._service.find, self._wave.id, file_id)))
        except PermanentBackendError as error:
            if error.status not in _NO_LIST:
                raise
            raise SubmissionUnknown(
                f"batch {self._wave.id} may have been made, and the service lists no batches: {error}"
            ) from error

    def _looked(self, batch_id: str) -> WaveSteps[BatchState | None]:
        """Return a batch as it is now; None if the service does not know it."""
        try:
            return (yield from self._retried(partial(self._service.look, batch_id)))
        except PermanentBackendError as error:
            if error.status == 404:
                return None
            raise

    def _ended(self, batch: BatchState) -> WaveSteps[BatchState | None]:
        """Look at the batch until it has ended; return None if it has vanished."""
        waves, wait, missed = self._waves, FIRST_LOOK, 0
        at_most = self._service.wait_at_most
        deadline = None if at_most is None else waves.now() + at_most
        while not batch.has_ended:
            pause = wait if deadline is None else min(wait, max(0.0, deadline - waves.now()))
            yield Sleep(pause)
            wait = min(LONGEST, GROWTH * wait)
            if deadline is not None and waves.now() >= deadline:
                if self._is_late:
                    return None
                self._is_late = True
                log.warning(
                    "batch %s was not done within %g s (wait_at_most), and is cancelled", batch.id, at_most
                )
                yield from self._cancelled(batch.id)
                deadline, wait = waves.now() + CANCEL_WAIT, FIRST_LOOK
            try:
                batch = yield from self._do(partial(self._service.look, batch.id))
                missed = 0
                waves.alive()
            except STOPS_THE_RUN:
                raise
            except BackendError as error:
                is_missing = isinstance(error, PermanentBackendError) and error.status == 404
                missed += is_missing
                if missed >= MISSED_LOOKS:
                    return None
                if isinstance(error, PermanentBackendError) and not is_missing:
                    raise
                log.info("batch %s could not be looked at, and will be again: %s", batch.id, error)
        return batch

    def _cancelled(self, batch_id: str) -> WaveSteps[None]:
        try:
            yield from self._retried(partial(self._service.cancel, batch_id), tries=3)
        except BackendError as error:  # it has ended meanwhile, perhaps
            log.info("batch %s could not be cancelled: %s", batch_id, error)

    # What has become of it

    def _refused(self, problem: BatchProblem) -> WaveSteps[None]:
        """Send the wave again, in halves, when the service has room for its tokens."""
        wave, waves = self._wave, self._waves
        waves.refusals += 1
        if waves.refusals > MAX_REFUSALS:
            self._end(
                RateLimited(f"the batch service had no room {MAX_REFUSALS} times in a row: {problem.message}")
            )
            return
        if waves.journal is not None:
            for key in wave.lines:
                waves.journal.forget_line(key, wave.id)
        log.warning("the batch service has no room for a wave, which is sent in halves: %s", problem.message)
        waits = waves.refuse(wave)
        yield from self._forget_file()
        if waits:
            yield Sleep(min(MAX_QUOTA_WAIT, QUOTA_WAIT * GROWTH ** (waves.refusals - 1)))
        waves.end(wave)
        waves.dispatch()

    def _failed(self, problems: tuple[BatchProblem, ...]) -> WaveSteps[None]:
        """Answer the lines that the service did not accept; the others are asked again."""
        wave, lines = self._wave, list(self._wave.lines.values())
        for problem in problems:
            if problem.line is not None and 0 < problem.line <= len(lines) and not wave.is_adopted:
                self._waves.answer(lines[problem.line - 1], _rejected(problem))
        if len(wave.unanswered()) < len(lines) or wave.is_adopted:
            self._end(AGAIN)
            return
        first = problems[0] if problems else BatchProblem("", "the batch has failed")
        transient = any(word in first.code for word in ("server", "internal", "timeout", "unavailable"))
        self._end(_lost(f"the batch has failed: {first.message}") if transient else _rejected(first))
        yield Sleep(0)

    def _collected(self, batch: BatchState) -> WaveSteps[None]:
        """Hand out the answers in both files of the batch, which may be partial, then what becomes of the rest."""
        self._was_cancelled = batch.status == "cancelled"
        for file_id in (batch.output_file, batch.error_file):
            if file_id:
                yield from self._read(file_id)
        wave = self._wave
        rest = len(wave.unanswered())
        if rest:
            log.warning("batch %s is %s, without an answer to %d of its lines", batch.id, batch.status, rest)
        if self._is_late:
            self._end(self._late_answer())
        elif wave.is_adopted:
            self._end(AGAIN)
        elif batch.status == "cancelled":
            self._end(self._foreign_cancel())
        else:
            state = "has expired" if batch.status == "expired" else "was completed"
            self._end(_lost(f"the batch {state} without an answer to this line"))

    def _late_answer(self) -> Any:
        if self._service.online_rest:
            return ONLINE
        return DeadlineExceeded(
            f"the batch was not done within {self._service.wait_at_most:g} s (wait_at_most)"
        )

    def _read(self, file_id: str) -> WaveSteps[None]:
        """Hand out the answers of a file."""
        with cast("BinaryIO", TemporaryFile(prefix="restaurant-llm-batch-")) as file:
            try:
                yield from self._retried(partial(self._fetch, file_id, file))
            except BackendError as error:
                if isinstance(error, STOPS_THE_RUN):
                    raise
                log.warning("the file %s of batch %s cannot be read: %s", file_id, self._wave.batch_id, error)
                return
            file.seek(0)
            while raws := list(islice(file, SLICE)):
                yield from self._hand_out([found for raw in raws if (found := self._answer(raw)) is not None])
                yield Sleep(0)

    def _fetch(self, file_id: str, into: BinaryIO) -> None:
        into.seek(0)
        into.truncate()
        self._service.fetch(file_id, into)
        into.flush()

    def _answer(self, raw: bytes) -> tuple[bytes, LLMResponse | Exception] | None:
        found = self._service.read_answer(raw)
        if found is None:
            return None
        try:
            key = bytes.fromhex(found[0])
        except ValueError:
            return None
        return key, found[1]

    def _hand_out(self, answers: list[tuple[bytes, LLMResponse | Exception]]) -> WaveSteps[None]:
        wave, waves, journal = self._wave, self._waves, self._waves.journal
        fresh: dict[bytes, LLMResponse | Exception] = {}
        for key, answer in answers:
            known = key in wave.lines or (wave.is_adopted and journal is not None)
            if known and key not in wave.done and not isinstance(fresh.get(key), LLMResponse):
                fresh[key] = answer  # the first reply of several
        if wave.is_adopted:
            wave.done.update(fresh)
        replies = [(key, answer) for key, answer in fresh.items() if isinstance(answer, LLMResponse)]
        if journal is not None and replies:
            failure = yield WaitForCallback(partial(journal.keep, replies))
            if failure is not None:
                waves.stop(f"the store cannot be written: {failure}")
        for key, answer in fresh.items():
            if journal is not None:
                journal.forget_line(key, wave.id)
            line = wave.lines.pop(key, None)  # so that it does not stay in memory until all are answered
            if line is not None:
                waves.answer(line, self._of_line(line, answer))

    def _of_line(self, line: Line, answer: LLMResponse | Exception) -> Any:
        if isinstance(answer, PermanentBackendError) and answer.refused_fields:
            return AGAIN if self._service.learns(line.raw, answer) else answer
        if not isinstance(answer, TransientBackendError):
            return answer
        if self._is_late:
            return self._late_answer()
        if self._wave.is_adopted:
            return AGAIN  # the attempts were another run's
        return self._foreign_cancel() if self._was_cancelled and "cancel" in answer.code else answer

    @staticmethod
    def _foreign_cancel() -> PermanentBackendError:
        return PermanentBackendError("the batch was cancelled by another client of the service")

    def _forget_file(self) -> WaveSteps[None]:
        """Delete the wave's file at the service, where its answers are."""
        file_id, self._wave.file_id = self._wave.file_id, ""
        if file_id:
            try:
                yield from self._do(partial(self._service.forget, file_id))
            except BackendError as error:
                log.info("the file %s could not be deleted: %s", file_id, error)


def _lost(message: str) -> TransientBackendError:
    return TransientBackendError(message)


def _rejected(problem: BatchProblem) -> Exception:
    text = f"the batch service rejects this call: {problem.message}"
    if problem.code in ("model_not_found", "invalid_model"):
        return ConfigurationError(text)
    return PermanentBackendError(text, code=problem.code)


def _ignore(_: Exception | None) -> None:
    """Do nothing: the batch is found by the wave's name."""

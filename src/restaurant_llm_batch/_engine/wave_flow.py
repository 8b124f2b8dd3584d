"""
The flow that carries a wave: sends it, looks at its batch until that has ended, and hands out what it has answered.

Theory of operation. Each step is a `Sleep`, or a `WaitForCallback` for a request to the service or for the store.

    what becomes of the batch               its lines
    completed, expired, cancelled           have the answers in its files (`wave_answers`); a line without one is asked
                                            again in the next wave, as an attempt of its call if the batch is at fault
    failed: too many tokens are enqueued    wait, and are sent again, in parts
    failed: some lines are not accepted     those fail, the others are asked again
    vanished                                are asked again, as an attempt
    its state, or its answers, cannot       fail, and stay in the journal: they may be paid for, and the next run looks
    be had                                  again
    too late (`wait_at_most`)               are called online, or fail

Answers are in the store before their flows go on, and those of lines that this run has not asked for yet are kept too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

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
from . import wave_timing as timing
from .memo import WaitForCallback
from .wave_answers import Answer, AnswerFiles
from .wave_file import Line, Wave
from .wave_requests import WaveSteps, done, retried
from .wave_sending import find_again, send
from .wave_service import BatchProblem, BatchState, FileNotVisible, LineAnswer, LineUnanswered
from .waves import AGAIN, ONLINE, Waves, log


def carry(wave: Wave, waves: Waves) -> WaveSteps[None]:
    """Carry a wave to its end. No exception leaves this but that of a run that stops."""
    try:
        yield from _Carrier(wave, waves).carry()
    except (RunStopped, GeneratorExit):
        raise
    except Exception as error:
        if isinstance(error, StoreError):
            waves.stop(str(error))
        # What is at the service is paid for: whatever has kept this run from it, the next one looks for it again.
        may_exist = wave.batch_id or wave.creating
        waves.finish(wave, error, forget=not may_exist or isinstance(error, SubmissionUnknown))
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
        batch = yield from (self._adopted() if wave.is_adopted else send(wave, waves))
        if batch is None:
            waves.finish(wave, AGAIN)
            return
        if not wave.is_adopted:
            self._note(batch)
        batch = yield from self._ended(batch)
        if batch is None and self._is_late:
            waves.finish(wave, self._late_answer(), forget=not wave.is_foreign)
            return
        if batch is None:
            log.warning("batch %r has vanished from the service; its lines are asked again", wave.batch_id)
            waves.finish(
                wave, AGAIN if wave.is_adopted else LineUnanswered("the batch has vanished from the service")
            )
            return
        wave.has_ended = True
        wave.file_id = wave.file_id or batch.input_file
        if batch.status == "failed" and any(problem.is_quota for problem in batch.problems):
            yield from self._refused(next(problem for problem in batch.problems if problem.is_quota))
            return
        with self._busy():
            yield from self._forget_file()
            if batch.status == "failed":
                self._failed(batch.problems)
            else:
                waves.accepted()
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

    # Waiting

    def _adopted(self) -> WaveSteps[BatchState | None]:
        """Return the batch of a wave that an earlier run has sent, as it is now; None if there is none."""
        try:
            batch = yield from find_again(self._wave, self._waves)
            if batch is None or batch.status:
                return batch
            return (yield from self._looked(batch, timing.LONG_TRIES)) or batch
        finally:
            self._waves.busy -= 1  # the next wave has waited until now

    def _looked(self, batch: BatchState, tries: int) -> WaveSteps[BatchState | None]:
        """Look at the batch; return None if it cannot be looked at now."""
        try:
            look = partial(self._service.look, batch.id)
            found = yield from retried(self._waves, look, tries)
        except STOPS_THE_RUN:
            raise
        except TransientBackendError as error:
            log.info("batch %s could not be looked at, and will be again: %s", batch.id, error)
            return None
        except PermanentBackendError as error:
            if error.status != 404:
                raise
            found = BatchState(batch.id, _MISSING)
        self._note(found)
        return found

    def _note(self, batch: BatchState) -> None:
        lines = batch.lines or len(self._wave.lines)
        self._waves.run.looked_at(batch.id, batch.status, lines, min(lines, batch.done))

    def _ended(self, batch: BatchState) -> WaveSteps[BatchState | None]:
        """Look at the batch until it has ended; return None if it has vanished."""
        waits, missed, now = timing.waits(), 0, self._waves.run.now
        at_most = self._service.wait_at_most
        deadline = None if at_most is None else now() + at_most
        found: BatchState | None = batch
        while True:
            if found is not None:
                batch = found
                missed = missed + 1 if batch.status == _MISSING or _lacks_files(batch) else 0
            if missed >= timing.MISSED_LOOKS or (batch.has_ended and not missed):
                return batch if batch.has_ended else None
            wait = next(waits)
            yield Sleep(wait if deadline is None else min(wait, max(0.0, deadline - now())))
            if deadline is not None and now() >= deadline and not batch.has_ended:
                if self._is_late or self._wave.is_foreign:  # not ours to cancel
                    self._is_late = True
                    return None
                self._is_late = True
                yield from self._cancelled(batch.id)
                deadline, waits = now() + timing.CANCEL_WAIT, timing.waits()
            found = yield from self._looked(batch, 1)

    def _cancelled(self, batch_id: str) -> WaveSteps[None]:
        """Cancel a batch that takes too long."""
        at_most = self._service.wait_at_most
        log.warning("batch %s was not done within %g s (wait_at_most), and is cancelled", batch_id, at_most)
        try:
            yield from retried(self._waves, partial(self._service.cancel, batch_id), 3)
        except BackendError as error:  # it has ended meanwhile, perhaps
            log.info("batch %s could not be cancelled: %s", batch_id, error)

    # What has become of it

    def _refused(self, problem: BatchProblem) -> WaveSteps[None]:
        """Send the wave again when the service has room for its tokens."""
        wave, waves = self._wave, self._waves
        waves.refusals += 1
        if waves.refusals > timing.MAX_REFUSALS:
            told = f"the batch service had no room {timing.MAX_REFUSALS} times in a row: {problem.message}"
            waves.finish(wave, RateLimited(told))
            return
        if waves.journal is not None:
            for key in wave.lines:
                waves.journal.forget_line(key, wave.id)
        log.warning(
            "the batch service has no room for a wave, which is sent again later: %s", problem.message
        )
        waits = waves.refuse(wave, problem.limit)
        yield from self._forget_file()
        if waits:
            wait = timing.QUOTA_WAIT * timing.GROWTH ** (waves.refusals - 1)
            yield Sleep(min(timing.MAX_QUOTA_WAIT, wait))
        waves.end(wave)
        waves.dispatch()

    def _failed(self, problems: tuple[BatchProblem, ...]) -> None:
        """Answer the lines that the service did not accept; the others are asked again."""
        wave, waves, lines = self._wave, self._waves, list(self._wave.lines.values())
        waves.rejections += 1
        for problem in problems:
            if problem.line is not None and 0 < problem.line <= len(lines) and not wave.is_adopted:
                waves.answer(lines[problem.line - 1], _rejected(problem))
        goes_on = waves.rejections <= timing.MAX_REFUSALS
        if wave.is_adopted or (goes_on and len(wave.unanswered()) < len(lines)):
            waves.finish(wave, AGAIN)
            return
        first = problems[0] if problems else BatchProblem("", "the batch has failed")
        transient = any(word in first.code for word in ("server", "internal", "timeout", "unavailable"))
        waves.finish(
            wave, LineUnanswered(f"the batch has failed: {first.message}") if transient else _rejected(first)
        )

    def _collected(self, batch: BatchState) -> WaveSteps[None]:
        """Hand out the answers in both files of the batch, which may be partial, then what becomes of the rest."""
        wave, waves = self._wave, self._waves
        self._was_cancelled = batch.status == "cancelled"
        with AnswerFiles(waves) as files:
            yield from self._downloaded(batch, files)
            for piece in files.pieces():
                yield from self._hand_out(piece)
                yield Sleep(0)
        rest = len(wave.unanswered())
        if rest:
            log.warning("batch %s is %s, without an answer to %d of its lines", batch.id, batch.status, rest)
        if self._is_late:
            waves.finish(wave, self._late_answer())
        elif wave.is_adopted:
            waves.finish(wave, AGAIN)
        elif self._was_cancelled:
            waves.finish(wave, self._foreign_cancel())
        else:
            state = "has expired" if batch.status == "expired" else "was completed"
            waves.finish(wave, LineUnanswered(f"the batch {state} without an answer to this line"))

    def _downloaded(self, batch: BatchState, files: AnswerFiles) -> WaveSteps[None]:
        """
        Download the files of the batch.

        Raises:
            PermanentBackendError: The answers cannot be had now.
        """
        for file_id in filter(None, (batch.output_file, batch.error_file)):
            try:
                yield from files.download(file_id, batch.answered if file_id == batch.output_file else 0)
            except STOPS_THE_RUN:
                raise
            except BackendError as error:
                is_gone = self._wave.is_adopted and isinstance(error, FileNotVisible)
                if file_id == batch.output_file and not is_gone:
                    raise PermanentBackendError(
                        f"the answers of batch {batch.id} cannot be downloaded, and its calls are not sent again, as "
                        f"they are paid for; run again with the same store to collect them: {error}"
                    ) from error
                log.warning("the file %s of batch %s cannot be read: %s", file_id, batch.id, error)

    def _late_answer(self) -> Any:
        if self._service.online_rest:
            return ONLINE
        return DeadlineExceeded(
            f"the batch was not done within {self._service.wait_at_most:g} s (wait_at_most)"
        )

    def _hand_out(self, answers: list[Answer]) -> WaveSteps[None]:
        wave, waves, journal = self._wave, self._waves, self._waves.journal
        fresh: dict[bytes, LineAnswer] = {}
        for key, answer in answers:
            if self._is_awaited(key) and not isinstance(fresh.get(key), LLMResponse):
                fresh[key] = answer  # the first reply of several
        if wave.is_adopted:
            wave.done.update(fresh)
        replies = [(key, answer) for key, answer in fresh.items() if isinstance(answer, LLMResponse)]
        if journal is not None and replies:
            failure = yield WaitForCallback(partial(journal.keep, replies))
            if failure is not None:
                raise StoreError(str(failure)) from failure
        for key, answer in fresh.items():
            if journal is not None:
                journal.forget_line(key, wave.id)
            line = wave.lines.pop(key, None)  # so that it does not stay in memory until all are answered
            if line is not None:
                waves.answer(line, self._of_line(line, answer))

    def _is_awaited(self, key: bytes) -> bool:
        """Return whether a key is that of a line of the wave which has no answer yet; no run need have asked for it."""
        wave, journal = self._wave, self._waves.journal
        if key in wave.lines:
            return not wave.lines[key].answered
        is_ours = wave.is_adopted and key not in wave.done and journal is not None
        return is_ours and journal is not None and journal.wave_of(key) == wave.id

    def _of_line(self, line: Line, answer: LineAnswer) -> Any:
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
                yield from done(self._waves, partial(self._service.forget, file_id))
            except BackendError as error:
                log.info("the file %s could not be deleted: %s", file_id, error)


_MISSING = "missing"
"""The status of a batch that the service does not find."""


def _lacks_files(batch: BatchState) -> bool:
    """Return whether a batch is done, and its files are not named yet."""
    return batch.status == "completed" and not (batch.output_file or batch.error_file)


def _rejected(problem: BatchProblem) -> Exception:
    text = f"the batch service rejects this call: {problem.message}"
    if problem.code in ("model_not_found", "invalid_model"):
        return ConfigurationError(text)
    return PermanentBackendError(text, code=problem.code)

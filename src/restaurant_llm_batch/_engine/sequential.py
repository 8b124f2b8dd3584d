"""Sequential driver: one item, and one call, at a time in the calling thread; no event loop, no worker thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._foreign import own_exception
from ..errors import ConfigurationError
from ..outcomes import Failure, Outcome
from ..steps import Gather, Sleep, drive
from .call import RETURNED, RUNNING, Call
from .frames import EngineStep
from .items import ItemReader, RunItem
from .mailbox import ThreadMailbox
from .memo import NotifyCell, WaitForCallback, WaitForCell
from .policy import run_item
from .run import RunState


class SequentialDriver:
    """Runs items one after the other, each when `take` is called."""

    def __init__(self, run: RunState, reader: ItemReader) -> None:
        self._run = run
        self._recorder = run.recorder
        self._reader = reader
        self._mailbox = ThreadMailbox()
        self._open: RunItem | None = None
        self._started = False

    def take(self) -> Outcome[Any] | None:
        """Run the next item and return its outcome; None after the last, or when the run was stopped."""
        self._run.check_run_timeout()
        if self._run.stopped is not None:
            return None
        item = next(self._reader, None)
        if item is None:
            return None
        if isinstance(item, Failure):
            self._recorder.record_outcome(item)
            return item
        self._run.enter_window(item)
        self._recorder.item_started(item)
        self._open = item
        try:
            value = drive(run_item(item, self._run), lambda step: self._perform(step, item))
        except Exception as error:
            outcome = self._recorder.item_finished(item, None, error)
        except BaseException as fatal:
            own = own_exception(fatal, "the task")
            if own is None:
                raise
            outcome = self._recorder.item_finished(item, None, own)
        else:
            outcome = self._recorder.item_finished(item, value, None)
        self._open = None
        self._reader.item_finished(item)
        return outcome

    def check_stop(self) -> None:
        """Wake the run, which was stopped. Safe in a signal handler."""
        self._mailbox.wake()

    def abandon(self) -> None:
        """Cancel the run, whose outcomes no caller consumes any more."""
        self._run.stop("the run was cancelled")

    def abort(self) -> Iterator[Outcome[Any]]:
        """Cancel the run, and yield the outcome of the item that was open."""
        self._run.stop("the run was cancelled")
        if self._open is not None:
            item, self._open = self._open, None
            yield self._recorder.item_finished(item, None, self._run.stop_error())

    def _perform(self, step: EngineStep, item: RunItem) -> Any:
        if isinstance(step, WaitForCallback):
            return self._subscribe(step, item)
        if isinstance(step, NotifyCell):
            return None  # no other item is open that could wait
        if isinstance(step, WaitForCell):
            raise ConfigurationError(
                "a flow passed to once() uses its own key, or one that waits for it, so it would wait for itself"
            )
        if isinstance(step, Sleep):
            self._mailbox.wait(step.seconds, self._run.now, unless=lambda: self._run.stopped is not None)
            if self._run.stopped is not None:
                raise self._run.stop_error()
            return None
        if isinstance(step, Gather):
            raise TypeError("a sequential plan does not run flows concurrently")
        self._acquire(step)
        try:
            step.state = RUNNING
            step.started_at = self._run.now()
            if self._run.time_limits.call is not None or item.deadline is not None:
                self._run.set_call_deadline(step, item)
            self._recorder.call_started(step, item)
            answer, error = step.run_blocking()
            step.record_outcome(error)
            step.state = RETURNED
        finally:
            step.release()
        self._recorder.call_finished(step, item, answer, error)
        if error is not None:
            raise error
        return answer

    def _subscribe(self, step: WaitForCallback, item: RunItem) -> Exception | None:
        answers: list[Exception | None] = []

        def on_done(answer: Exception | None) -> None:
            answers.append(answer)
            self._mailbox.wake()

        step.subscribe(on_done)
        while not answers:
            self._mailbox.run_pending()
            if step.interruptible and not answers:
                self._run.check_run_timeout()
                if self._run.stopped is not None:
                    raise self._run.stop_error()
                if self._run.is_overdue(item):
                    raise self._run.item_timeout_error()
        return answers[0]

    def _acquire(self, call: Call) -> None:
        """Pass the limiters; other threads may hold their slots."""
        self._started = False
        call.acquire(self._mailbox, self._on_admitted)
        try:
            while not self._started:
                rate = self._run.limiters.rate
                self._mailbox.run_pending(rate.seconds_until_ready(self._run.now()))
                rate.admit_ready(self._run.now())
                if self._run.stopped is not None and not self._started:
                    raise self._run.stop_error()
        except BaseException:
            call.cancel_acquire()
            raise

    def _on_admitted(self, call: Call) -> None:
        self._started = True

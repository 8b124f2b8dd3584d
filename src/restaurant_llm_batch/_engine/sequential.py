"""The driver for one thing at a time, in the calling thread: no event loop, no worker thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import ConfigurationError
from ..outcomes import Failure, Outcome
from ..steps import Sleep, drive
from .call import Call
from .items import ItemReader, RunItem
from .mailbox import ThreadMailbox
from .memo import NotifyCell, WaitForCallback, WaitForCell
from .policy import run_item
from .run import Run


class SequentialDriver:
    """Runs items one after the other, each when it is asked for."""

    def __init__(self, run: Run, intake: ItemReader) -> None:
        self._run = run
        self._reader = intake
        self._mailbox = ThreadMailbox()
        self._open: RunItem | None = None
        self._started = False

    def take(self) -> Outcome[Any] | None:
        """Run the next item and return its outcome; None after the last, or when the run was stopped."""
        self._run.check_run_timeout()
        if self._run.stopped is not None:
            return None
        entry = next(self._reader, None)
        if entry is None:
            return None
        if isinstance(entry, Failure):
            self._run.record_outcome(entry)
            return entry
        self._run.item_started(entry)
        self._open = entry
        try:
            value = drive(run_item(entry, self._run), lambda step: self._perform(step, entry))
        except Exception as error:
            outcome = self._run.item_finished(entry, None, error)
        else:
            outcome = self._run.item_finished(entry, value, None)
        self._open = None
        self._reader.item_finished(entry)
        return outcome

    def check_stop(self) -> None:
        """Notice that the run was stopped."""
        self._mailbox.wake()

    def abandon(self) -> None:
        """Do nothing more, when nobody asks for it."""
        self._run.stop("the run was cancelled")

    def abort(self) -> Iterator[Outcome[Any]]:
        """Give up, and yield the outcome of the item that was open."""
        self._run.stop("the run was cancelled")
        if self._open is not None:
            entry, self._open = self._open, None
            yield self._run.item_finished(entry, None, self._run.stop_error())

    def _perform(
        self, step: Call | Sleep | WaitForCallback | WaitForCell | NotifyCell, entry: RunItem
    ) -> Any:
        if isinstance(step, WaitForCallback):
            return self._subscribe(step, entry)
        if isinstance(step, NotifyCell):
            return None  # nobody else is under way who could wait
        if isinstance(step, WaitForCell):
            raise ConfigurationError(
                "a flow given to once() asks for its own key, or for one that waits for it, so it would wait for itself"
            )
        if isinstance(step, Sleep):
            self._mailbox.wait(step.seconds, unless=lambda: self._run.stopped is not None)
            if self._run.stopped is not None:
                raise self._run.stop_error()
            return None
        self._acquire(step)
        try:
            self._run.call_started(step, entry)
            answer, error = step.run_blocking()
            step.record_outcome(error)
        finally:
            step.release()
        self._run.call_finished(step, entry, answer, error)
        if error is not None:
            raise error
        return answer

    def _subscribe(self, step: WaitForCallback, entry: RunItem) -> Exception | None:
        answers: list[Exception | None] = []

        def called_back(answer: Exception | None) -> None:
            answers.append(answer)
            self._mailbox.wake()

        step.subscribe(called_back)
        while not answers:
            self._mailbox.run_pending()
            if step.interruptible and not answers:
                self._run.check_run_timeout()
                if self._run.stopped is not None:
                    raise self._run.stop_error()
                if self._run.is_overdue(entry):
                    raise self._run.item_timeout_error()
        return answers[0]

    def _acquire(self, call: Call) -> None:
        """Pass the gates; other threads may hold their slots."""
        self._started = False
        call.acquire(self._mailbox, self._start)
        try:
            while not self._started:
                rate = self._run.limiters.rate
                self._mailbox.run_pending(rate.seconds_until_ready())
                rate.admit_ready()
                if self._run.stopped is not None and not self._started:
                    raise self._run.stop_error()
        except BaseException:
            call.cancel_acquire()
            raise

    def _start(self, call: Call) -> None:
        self._started = True

"""The driver for one thing at a time, in the calling thread: no event loop, no worker thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import ConfigurationError
from ..outcomes import Failure, Outcome
from ..steps import Pause, drive
from .call import Call
from .items import Entry, Intake
from .mailbox import ThreadHome
from .memo import Await, Join, Release
from .policy import govern_item
from .run import Run


class SequentialDriver:
    """Runs items one after the other, each when it is asked for."""

    def __init__(self, run: Run, intake: Intake) -> None:
        self._run = run
        self._intake = intake
        self._home = ThreadHome()
        self._open: Entry | None = None
        self._started = False

    def take(self) -> Outcome[Any] | None:
        """Run the next item and return its outcome; None after the last, or when the run was stopped."""
        self._run.look_at_time()
        if self._run.stopped is not None:
            return None
        entry = next(self._intake, None)
        if entry is None:
            return None
        if isinstance(entry, Failure):
            self._run.closed(entry)
            return entry
        self._run.open(entry)
        self._open = entry
        try:
            value = drive(govern_item(entry, self._run), lambda step: self._perform(step, entry))
        except Exception as error:
            outcome = self._run.close(entry, None, error)
        else:
            outcome = self._run.close(entry, value, None)
        self._open = None
        self._intake.ended(entry)
        return outcome

    def look_around(self) -> None:
        """Notice that the run was stopped."""
        self._home.nudge()

    def drop(self) -> None:
        """Do nothing more, when nobody asks for it."""
        self._run.stop("the run was cancelled")

    def abort(self) -> Iterator[Outcome[Any]]:
        """Give up, and yield the outcome of the item that was open."""
        self._run.stop("the run was cancelled")
        if self._open is not None:
            entry, self._open = self._open, None
            yield self._run.close(entry, None, self._run.stop_error())

    def _perform(self, step: Call | Pause | Await | Join | Release, entry: Entry) -> Any:
        if isinstance(step, Await):
            return self._await(step, entry)
        if isinstance(step, Release):
            return None  # nobody else is under way who could wait
        if isinstance(step, Join):
            raise ConfigurationError(
                "a flow given to once() asks for its own key, or for one that waits for it, so it would wait for itself"
            )
        if isinstance(step, Pause):
            self._home.wait(step.seconds, unless=lambda: self._run.stopped is not None)
            if self._run.stopped is not None:
                raise self._run.stop_error()
            return None
        self._wait_for_slot(step)
        try:
            self._run.began(step, entry)
            answer, error = step.run_blocking()
            step.came_back(error)
        finally:
            step.leave()
        self._run.ended(step, entry, answer, error)
        if error is not None:
            raise error
        return answer

    def _await(self, step: Await, entry: Entry) -> Exception | None:
        answers: list[Exception | None] = []

        def called_back(answer: Exception | None) -> None:
            answers.append(answer)
            self._home.nudge()

        step.begin(called_back)
        while not answers:
            self._home.attend()
            if step.leavable and not answers:
                self._run.look_at_time()
                if self._run.stopped is not None:
                    raise self._run.stop_error()
                if self._run.is_late(entry):
                    raise self._run.item_late()
        return answers[0]

    def _wait_for_slot(self, call: Call) -> None:
        """Pass the gates; other threads may hold their slots."""
        self._started = False
        call.seek(self._home, self._start)
        try:
            while not self._started:
                rate = self._run.gates.rate
                self._home.attend(rate.due())
                rate.look()
                if self._run.stopped is not None and not self._started:
                    raise self._run.stop_error()
        except BaseException:
            call.withdraw()
            raise

    def _start(self, call: Call) -> None:
        self._started = True

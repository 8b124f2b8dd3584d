"""The concurrent driver for blocking callers: a private loop works, the caller waits and feeds it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

from anyio.from_thread import BlockingPortal

from ..errors import RunStopped
from ..report import Failure, Outcome
from .concurrent import ConcurrentDriver
from .conductor import PENDING, Pending, Source
from .intake import Entry, Intake
from .run import Run
from .threaded import LocalSource
from .wake import A_WHILE

MakeDriver = Callable[[Source, Callable[[Outcome[Any]], bool]], ConcurrentDriver]

ACKNOWLEDGE_EVERY = 16
"""Outcomes taken before the loop is told, as long as there are more to take: each telling wakes a thread."""


@dataclass(frozen=True, slots=True)
class _Want:
    """The loop has room for this many more entries."""

    entries: int


class _Done:
    """The loop has delivered everything."""


class FedSource:
    """
    Entries read by the calling thread.

    A lazy iterable is the user's code, which may block or belong to its thread (a database cursor, say), so
    it is never advanced on the loop.
    """

    def __init__(self, want: Callable[[int], object]) -> None:
        self._want = want
        self._entries: deque[Entry | Failure] = deque()
        self._asked = False
        self._exhausted = False
        self._failure: BaseException | None = None

    def take(self, room: int) -> Entry | Failure | Pending | None:
        """Return the next entry that was fed, asking for more when there is none."""
        if self._asked:
            return PENDING
        if self._entries:
            return self._entries.popleft()
        if self._failure is not None:
            raise self._failure
        if self._exhausted:
            return None
        self._asked = True
        self._want(room)
        return PENDING

    def feed(self, entries: list[Entry | Failure], exhausted: bool, failure: BaseException | None) -> None:
        """Lay ready what was asked for, in the calling thread; nothing is taken before `answered`."""
        self._entries.extend(entries)
        self._exhausted = exhausted
        self._failure = failure

    def answered(self) -> None:
        """Note, on the loop, that what was asked for is ready."""
        self._asked = False

    def left(self) -> Iterator[Entry | Failure]:
        """Yield the entries that were read and not taken, once nobody takes any more."""
        while self._entries:
            yield self._entries.popleft()


class PortalDriver:
    """
    Runs items side by side on a private loop, for a caller that blocks.

    Args:
        portal: The loop's portal.
        run: The run.
        intake: The items; a lazy one is read in the calling thread.
        make_driver: Makes the driver, on the loop.
        collect: Whether outcomes are kept until the end, rather than making the run wait to be read.
    """

    def __init__(
        self,
        portal: BlockingPortal,
        run: Run,
        intake: Intake,
        make_driver: MakeDriver,
        *,
        collect: bool,
    ) -> None:
        self._portal = portal
        self._run = run
        self._intake = intake
        self._make_driver = make_driver
        self._collect = collect
        self._mail: SimpleQueue[Outcome[Any] | _Want | _Done] = SimpleQueue()
        self._outcomes: deque[Outcome[Any]] = deque()
        self._fed = FedSource(lambda room: self._mail.put(_Want(room)))
        self._driver: ConcurrentDriver | None = None
        self._future: Future[None] | None = None
        self._aborted = False
        self._stop_reason: str | None = None
        self._over = threading.Event()
        self._taken = 0

    def take(self) -> Outcome[Any] | None:
        """Return the next outcome, waiting for it; None after the last."""
        if self._future is None:
            self._future = self._portal.start_task_soon(self._host)
        while True:
            if self._outcomes:
                return self._outcomes.popleft()
            if self._taken and (self._mail.empty() or self._taken >= ACKNOWLEDGE_EVERY):
                self._acknowledge()
            try:
                letter = self._mail.get(timeout=A_WHILE)
            except Empty:
                continue
            if isinstance(letter, _Done):
                self._mail.put(letter)  # whoever asks again is told again
                self._outcomes.extend(self._not_run())
                if self._outcomes:
                    continue
                try:
                    self._future.result()
                except CancelledError:
                    raise RunStopped("the runner was closed while its outcomes were being read") from None
                return None
            if isinstance(letter, _Want):
                self._feed(letter.entries)
            else:
                self._taken += 1
                return letter

    def stop(self, reason: str) -> None:
        """Let calls in flight end, and begin nothing more; may be called from a signal handler."""
        self._stop_reason = reason  # before looking for the driver, as the host looks here after setting it
        driver = self._driver
        if driver is not None:
            driver.home.post(partial(driver.stop, reason))

    def abort(self) -> Iterator[Outcome[Any]]:
        """Give up: calls in flight are cancelled. Yields the outcomes that were not taken."""
        self._aborted = True  # before looking for the driver, as the host looks here after setting it
        driver = self._driver
        if driver is not None:
            driver.home.post(driver.conductor.abort)
            while not self._over.wait(A_WHILE):
                pass
        yield from self._outcomes
        while not self._mail.empty():
            letter = self._mail.get()
            if not isinstance(letter, (_Want, _Done)):
                yield letter
        yield from self._not_run()

    async def _host(self) -> None:
        source: Source = LocalSource(self._intake) if self._intake.checked_whole else self._fed
        self._driver = driver = self._make_driver(source, self._deliver)
        try:
            if self._stop_reason is not None:
                driver.stop(self._stop_reason)
            if not self._aborted:
                await driver.run()
        finally:
            self._mail.put(_Done())
            self._over.set()

    def _deliver(self, outcome: Outcome[Any]) -> bool:
        if self._collect:
            self._outcomes.append(outcome)
        else:
            self._mail.put(outcome)
        return self._collect

    def _acknowledge(self) -> None:
        taken, self._taken = self._taken, 0
        if self._driver is not None:
            self._driver.home.post(partial(self._driver.conductor.taken, taken))

    def _feed(self, room: int) -> None:
        entries: list[Entry | Failure] = []
        failure: BaseException | None = None
        try:
            for entry in islice(self._intake, room):
                entries.append(entry)  # noqa: PERF402  (keeps what came before the iterable raised)
        except Exception as raised:
            failure = raised
        self._fed.feed(entries, len(entries) < room and failure is None, failure)
        driver = self._driver
        if driver is not None:

            def fed() -> None:
                self._fed.answered()
                driver.conductor.refill()

            driver.home.post(fed)

    def _not_run(self) -> Iterator[Outcome[Any]]:
        """Fail the entries that were read but came too late to be run."""
        for entry in self._fed.left():
            if isinstance(entry, Failure):
                self._run.closed(entry)
                yield entry
            else:
                yield self._run.close(entry, None, self._run.stop_error())

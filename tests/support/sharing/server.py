"""A server on a socket of this machine that works on calls for as long as they say, and counts them by process."""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

CLOCK = time.CLOCK_BOOTTIME if hasattr(time, "CLOCK_BOOTTIME") else time.CLOCK_MONOTONIC


def now() -> float:
    """Return the time on a clock that all processes of this machine share."""
    return time.clock_gettime(CLOCK)


class CountingServer:
    """
    Works on calls, and counts them.

    A call is a line with the process's number, when its backend was called, how long it takes, and how many messages
    the process has sent to its broker so far. A process that was stopped may have called its backend before, and be
    heard of afterwards: such calls are counted apart, as those are that it had in flight.

    How busy it is counts while there is a process that has calls: one that has made some, and was neither stopped nor
    ended since. Slots that are lent to a process that is stopped or dead do not count.

    Attributes:
        peak: Most calls at once, but those counted apart.
        peak_apart: Most of those at once.
        calls: Calls so far.
        by_process: Calls so far, by process.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.peak = self.peak_apart = self.calls = 0
        self.by_process: dict[int, int] = {}
        self.busy_seconds = self.slot_seconds = 0.0
        self.too_many: list[str] = []
        self._in_flight: dict[object, tuple[int, float]] = {}
        self._stopped: dict[int, list[tuple[float, float, int]]] = {}  # when, until when, and its slots then
        self._ended: set[int] = set()
        self._waiting: set[int] = set()  # processes that have calls
        self._messages: dict[int, tuple[float, int, float, int]] = {}  # first and last: when, and how many
        self._measured_at = now()
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="counting-server")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        listening = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.port = listening.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        listening.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                process, called_at, seconds, messages = line.split()
                call = object()
                with self._lock:
                    self.measure()
                    self._begin(call, int(process), float(called_at), int(messages))
                await asyncio.sleep(float(seconds))  # it works on, whatever becomes of the process
                with self._lock:
                    self.measure()
                    del self._in_flight[call]
                writer.write(b"\n")
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _begin(self, call: object, process: int, called_at: float, messages: int) -> None:
        self._in_flight[call] = process, called_at
        self.calls += 1
        self.by_process[process] = self.by_process.get(process, 0) + 1
        if not self._is_apart(process, called_at):
            self._waiting.add(process)
        first = self._messages.get(process, (now(), messages))[:2]
        self._messages[process] = *first, now(), messages
        self._count()

    def message_rates(self, at_least: float) -> list[float]:
        """Return the messages a second of each process that was there for some seconds."""
        return [
            (last - first) / (until - since)
            for since, first, until, last in self._messages.values()
            if until - since >= at_least
        ]

    def stopped(self, process: int, until: float, lent: int) -> None:
        """Note that a process was stopped or killed, and how many slots are lent to it until when."""
        with self._lock:
            self.measure()
            self._waiting.discard(process)
            self._stopped.setdefault(process, []).append((now(), until, lent))

    def ended(self, process: int) -> None:
        """Note that a process was asked to end: it cancels its calls, which a real server would notice."""
        with self._lock:
            self.measure()
            self._ended.add(process)
            self._waiting.discard(process)

    def _is_apart(self, process: int, called_at: float) -> bool:
        return process in self._ended or any(
            called_at <= since < now() - 1.0 for since, _, _ in self._stopped.get(process, ())
        )

    def _count(self) -> None:
        apart = sum(1 for call in self._in_flight.values() if self._is_apart(*call))
        number = len(self._in_flight) - apart
        self.peak, self.peak_apart = max(self.peak, number), max(self.peak_apart, apart)
        if number > self.limit:
            by_process: dict[int, int] = {}
            for process, _ in self._in_flight.values():
                by_process[process] = by_process.get(process, 0) + 1
            self.too_many.append(f"{number} in flight, and {apart} apart: {by_process}")

    def measure(self) -> None:
        """Count how many of the slots were busy that are not lent to a process that was stopped."""
        at = now()
        seconds, self._measured_at = at - self._measured_at, at
        gone = {
            process: lent
            for process, times in self._stopped.items()
            for _, until, lent in times
            if at < until
        }
        if not self._waiting:
            return
        busy = sum(
            1 for process, _ in self._in_flight.values() if process not in gone and process not in self._ended
        )
        self.busy_seconds += seconds * busy
        self.slot_seconds += seconds * max(busy, self.limit - sum(gone.values()))

    @property
    def busy_share(self) -> float:
        with self._lock:
            self.measure()
            return self.busy_seconds / self.slot_seconds if self.slot_seconds else 1.0

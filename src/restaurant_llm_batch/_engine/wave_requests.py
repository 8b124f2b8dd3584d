"""
Requests of the flows that carry waves: made in other threads, made again if they fail in passing ways.

A request to the service blocks, so it is made where it does not hold up the run, and its flow waits for a callback. The
store's journal calls back by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

from ..errors import StoreError, TransientBackendError
from ..steps import Sleep
from . import wave_timing as timing
from .memo import WaitForCallback
from .wave_service import FileNotVisible
from .waves import Waves, log

T = TypeVar("T")

WaveSteps: TypeAlias = Generator["Sleep | WaitForCallback", Any, T]


def done(waves: Waves, work: Callable[[], T]) -> WaveSteps[T]:
    """Do something that blocks, and return or raise what it does."""
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
            waves.host.run_blocking(run)
        except RuntimeError as error:  # no thread
            errors.append(TransientBackendError(f"no thread can be started: {error}", local_shortage=True))
            on_done(None)

    yield WaitForCallback(subscribe)
    if errors:
        raise errors[0]
    return results[0]


def retried(waves: Waves, work: Callable[[], T], tries: int) -> WaveSteps[T]:
    """
    Do something that may be done twice, until it succeeds or fails for good.

    Raises:
        BackendError: Its last error: a permanent one, or a passing one after so many tries, or fewer if the service
            does not find a file.
    """
    missed = 0
    for number, wait in enumerate(timing.waits(), 1):
        try:
            return (yield from done(waves, work))
        except TransientBackendError as error:
            missed += isinstance(error, FileNotVisible)
            if number >= tries or missed >= timing.FILE_TRIES:
                raise
            log.info("the batch service failed, and is asked again: %s", error)
            yield pause(wait, error)
    raise AssertionError("unreachable")


def pause(wait: float, error: TransientBackendError) -> Sleep:
    """Return the sleep before the next try: as long as the service has said, within bounds."""
    return Sleep(max(wait, min(error.retry_after or 0.0, timing.LONGEST)))


def journalled(write: Callable[[Callable[[Exception | None], object]], object]) -> WaveSteps[None]:
    """
    Write to the journal, and wait until that is durable.

    Raises:
        StoreError: The store cannot be written.
    """
    failure = yield WaitForCallback(write)
    if failure is not None:
        raise StoreError(str(failure)) from failure

"""A shortage of this process's own, of threads, descriptors or ports, makes a run slower and loses nothing."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.patience import PATIENCE
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Limits,
    LLMRequest,
    LLMResponse,
    RetryPolicy,
    Strategy,
    TimeLimits,
    errors,
)
from restaurant_llm_batch._engine.threads import DaemonThreadPool
from restaurant_llm_batch._shortage import NoThread, is_local_shortage
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM


def ask(item: int) -> Any:
    return (yield from complete(LLMRequest("t", (), inputs={"item": item}))).text


def different(item: int) -> Any:
    return (yield from complete(LLMRequest("t", ({"role": "user", "content": str(item)},)))).text


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENFILE, "Too many open files in system"),
        OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
        RuntimeError("can't start new thread"),
        MemoryError(),
        NoThread("none"),
        caused(
            errors.TransientBackendError("connection failed"), OSError(errno.EMFILE, "Too many open files")
        ),
        caused(ValueError(), caused(KeyError(), OSError(errno.ENOBUFS, "No buffer space available"))),
    ],
)
def test_a_shortage_is_seen_through_what_it_caused(error: Exception) -> None:
    assert is_local_shortage(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ECONNREFUSED, "Connection refused"),
        ConnectionResetError(),
        RuntimeError("can't do this"),
        errors.RateLimited("429"),
        caused(errors.TransientBackendError("down"), TimeoutError()),
    ],
)
def test_a_failure_of_the_service_is_no_shortage(error: Exception) -> None:
    assert not is_local_shortage(error)


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert not is_local_shortage(first)


class FewDescriptors:
    """A backend that finds `count` descriptors, and fails for want of another."""

    def __init__(self, count: int) -> None:
        self.free = threading.BoundedSemaphore(count)
        self.fake = FakeLLM(seconds=0.005)
        self.failed = 0

    def _open(self) -> None:
        if not self.free.acquire(blocking=False):
            self.failed += 1
            raise caused(
                errors.TransientBackendError("no connection"), OSError(errno.EMFILE, "Too many open files")
            )

    def complete(self, request: LLMRequest) -> LLMResponse:
        self._open()
        try:
            return self.fake.complete(request)
        finally:
            self.free.release()

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        self._open()
        try:
            return await self.fake.acomplete(request)
        finally:
            self.free.release()


@pytest.mark.parametrize("strategy", [Strategy.stage(2), Strategy.stage(4), Strategy.threaded()])
@pytest.mark.parametrize("limit", [32, AdaptiveLimit(start=32)])
@pytest.mark.sample(1)
def test_calls_that_find_no_descriptor_are_made_again_and_use_up_no_attempt(
    strategy: Strategy, limit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    llm = FewDescriptors(4)
    retry = RetryPolicy(attempts=1, wait_initial=0.01, wait_max=0.02, max_rate_limit_attempts=1000)
    runner = BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=limit), llm_retry=retry)
    with caplog.at_level(logging.WARNING):
        report = runner.run(ask, range(100))

    assert len(report.results) == 100
    assert report.stats.rate_limited == 0  # the service refused nothing
    said = [record for record in caplog.records if "short of file descriptors" in record.message]
    assert len(said) == (llm.failed > 0)


def test_a_shortage_lowers_an_adaptive_limit() -> None:
    llm = FewDescriptors(4)
    retry = RetryPolicy(attempts=1, wait_initial=0.01, wait_max=0.02, max_rate_limit_attempts=1000)
    limits = Limits(llm=AdaptiveLimit(start=32))
    report = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=limits, llm_retry=retry).run(
        ask, range(200)
    )

    assert llm.failed
    assert min(change.limit for change in report.stats.limit_history) < 32


def test_a_shortage_that_does_not_end_fails_the_item_with_its_reason() -> None:
    class NoDescriptors:
        calls = 0

        def complete(self, request: LLMRequest) -> LLMResponse:
            self.calls += 1
            raise OSError(errno.EMFILE, "Too many open files")

    llm = NoDescriptors()
    retry = RetryPolicy(wait_initial=0.0, wait_max=0.0, max_rate_limit_attempts=5)
    (failure,) = BatchRunner(llm=llm, llm_retry=retry).run(ask, [1]).failures

    assert llm.calls == 5
    assert "Too many open files" in str(failure.error)


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the system start only so many of our threads from now on."""
    start = threading.Thread.start

    def allow(count: int) -> None:
        started: list[threading.Thread] = []

        def scarce(thread: threading.Thread) -> None:
            if thread.name.startswith("restaurant-llm-batch-"):
                if len(started) >= count:
                    raise RuntimeError("can't start new thread")
                started.append(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", scarce)

    return allow


class Blocking:
    """A model without an async client."""

    def __init__(self) -> None:
        self.fake = FakeLLM(seconds=0.002)

    def complete(self, request: LLMRequest) -> LLMResponse:
        return self.fake.complete(request)


@pytest.mark.parametrize("threads", [2, 3, 5])
@each_strategy
@pytest.mark.sample(4)
def test_a_run_goes_on_with_the_threads_that_there_are(
    strategy: Strategy, threads: int, few_threads: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    few_threads(threads)
    llm = Blocking()
    with caplog.at_level(logging.WARNING):
        report = BatchRunner(llm=llm, strategy=strategy, limits=Limits(llm=16)).run(ask, range(60))

    assert len(report.results) == 60
    assert llm.fake.peak <= threads
    assert len([record for record in caplog.records if "worker threads" in record.message]) <= 1


def test_a_call_that_waits_for_a_thread_is_given_up_with_its_item(few_threads: Callable[[int], None]) -> None:
    few_threads(2)  # one of them runs the run
    gate = threading.Event()

    class Stuck:
        def complete(self, request: LLMRequest) -> LLMResponse:
            gate.wait(PATIENCE)
            return LLMResponse("late")

    runner = BatchRunner(
        llm=Stuck(), strategy=Strategy.threaded(), limits=Limits(llm=8), time_limits=TimeLimits(item=0.1)
    )
    with runner:
        report = runner.run(ask, range(8))
        gate.set()
        assert [type(failure.error) for failure in report.failures] == [errors.DeadlineExceeded] * 8
        # The thread that was reserved for a call that had gone comes back to the next run.
        assert len(runner.run(ask, range(8)).results) == 8


def test_a_pool_whose_only_threads_run_runs_says_that_it_can_start_none(
    few_threads: Callable[[int], None],
) -> None:
    few_threads(1)
    pool = DaemonThreadPool()
    ended = threading.Event()
    pool.start(ended.wait)
    try:
        with pytest.raises(NoThread, match="starts no more threads"):
            pool.reserve(lambda: True)
    finally:
        ended.set()
        pool.close()


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(4)])
def test_without_a_thread_for_the_store_replies_are_written_where_they_arrive(
    strategy: Strategy, few_threads: Callable[[int], None], tmp_path: Path
) -> None:
    llm = FakeLLM()
    for _ in range(2):
        few_threads(1 if strategy.is_concurrent else 0)  # the thread of the event loop
        report = BatchRunner(llm=llm, strategy=strategy, store=tmp_path / "run.db").run(different, range(20))
        assert len(report.results) == 20
        assert report.stats.stopped_because is None

    assert llm.calls == 20  # the second run found all of them

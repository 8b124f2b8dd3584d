"""What is called when calls are given up: once, at once, and never so that giving up fails."""

from __future__ import annotations

import threading

import pytest

from restaurant_llm_batch.cancellation import (
    CancelToken,
    cancel_requested,
    on_cancel,
    run_with_token,
    shielded,
    sleep,
)
from tests.support.patience import PATIENCE


def test_a_callback_is_called_once_by_the_thread_that_cancels() -> None:
    this, called = CancelToken(), list[threading.Thread]()
    this.add_callback(lambda: called.append(threading.current_thread()))
    assert not this.is_set()
    assert not this.wait(0)
    giving_up = threading.Thread(target=this.set)
    giving_up.start()
    assert this.wait(PATIENCE)
    giving_up.join()
    this.set()
    assert called == [giving_up]
    assert this.is_set()


def test_a_callback_that_comes_too_late_is_called_at_once() -> None:
    this, called = CancelToken(), list[int]()
    this.set()
    take_back = this.add_callback(lambda: called.append(1))
    assert called == [1]
    take_back()


def test_a_callback_that_was_taken_back_is_not_called() -> None:
    this, called = CancelToken(), list[int]()
    first = this.add_callback(lambda: called.append(1))
    this.add_callback(lambda: called.append(2))
    first()
    first()
    this.set()
    first()
    assert called == [2]


def test_a_callback_that_fails_is_logged_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    this, called = CancelToken(), list[int]()
    this.add_callback(lambda: called.append(1 // 0))
    this.add_callback(lambda: called.append(2))
    this.set()
    this.add_callback(lambda: called.append(1 // 0))
    assert called == [2]
    assert caplog.text.count("ZeroDivisionError: ") == 2


def test_a_callback_may_remove_another_and_cancel_again() -> None:
    this, called = CancelToken(), list[int]()
    take_back = this.add_callback(lambda: called.append(1))
    this.add_callback(take_back)
    this.add_callback(this.set)
    this.set()
    assert called == [1]


def test_calls_of_many_threads_are_each_ended_once_or_taken_back() -> None:
    this, count, lock = CancelToken(), [0], threading.Lock()
    begun = threading.Barrier(9)

    def call() -> None:
        begun.wait()
        for _ in range(300):
            mine: list[int] = []
            take_back = this.add_callback(lambda: mine.append(1))  # noqa: B023
            take_back()
            assert len(mine) <= 1
            with lock:
                count[0] += len(mine)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    this.set()
    for thread in threads:
        thread.join()
    assert count[0] <= 2400
    assert this.is_set()


def test_a_block_is_ended_only_while_it_lasts_and_only_in_a_run() -> None:
    this, called = CancelToken(), list[str]()

    def work() -> None:
        with on_cancel(lambda: called.append("before")):
            pass
        with on_cancel(lambda: called.append("during")):
            this.set()
        with on_cancel(lambda: called.append("after")):
            pass

    run_with_token(this, work)
    with on_cancel(lambda: called.append("outside")):
        pass
    assert called == ["during", "after"]


def test_a_shielded_call_is_not_cancelled() -> None:
    this, called = CancelToken(), list[str]()
    this.set()

    def work() -> None:
        assert cancel_requested()
        with shielded(), on_cancel(lambda: called.append("ended")):
            assert not cancel_requested()
            sleep(0)
        assert cancel_requested()

    run_with_token(this, work)
    assert not called

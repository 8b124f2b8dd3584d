"""Waits and starts of threads: an interrupt at any line leaves nothing locked, and nobody waiting."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.support.patience import PATIENCE
from tests.support.raiser import Raiser

from restaurant_llm_batch import Embedding, SparseVector
from restaurant_llm_batch._store.writer import CommitFuture
from restaurant_llm_batch._threads import SignalSafeEvent, SignalSafeSemaphore, SignalSafeThread
from restaurant_llm_batch.cancellation import CancelToken
from restaurant_llm_batch.search._embedding_cache import QueryEmbeddingCache

ANYWHERE = ("restaurant_llm_batch", "/threading.py", "concurrent")


def interrupted(use: Callable[[], object]) -> Iterator[str]:
    """Use something, interrupted at one line after the other; yield where, each time."""
    at = 0
    while True:
        at += 1
        raiser = Raiser(at, KeyboardInterrupt, ANYWHERE)
        with suppress(KeyboardInterrupt), raiser.armed():
            use()
        if not raiser.place:
            break
        yield raiser.place
    assert at > 2


def in_thread(work: Callable[[], object]) -> bool:
    """Do something in another thread; return whether it came to its end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


def test_an_event_whose_wait_was_interrupted_can_be_set() -> None:
    event = SignalSafeEvent()
    for place in interrupted(lambda: event.wait(0.001)):
        assert in_thread(event.set), place
        assert in_thread(event.wait), place
        event.clear()
        assert not event.wait(0.001), place


def test_an_event_that_is_cleared_within_set_is_waited_for_without_looking_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = SignalSafeEvent()
    release = SignalSafeEvent._release

    def clear_first(setting: SignalSafeEvent) -> None:
        setting.clear()
        release(setting)

    with monkeypatch.context() as patch:
        patch.setattr(SignalSafeEvent, "_release", clear_first)
        event.set()
    lines = 0

    def count(*_: object) -> Any:
        nonlocal lines
        lines += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        assert not event.wait(0.2)
    finally:
        sys.settrace(before)
    assert lines < 100
    assert in_thread(event.set)
    assert event.wait(PATIENCE)


def test_an_event_whose_setting_was_interrupted_can_be_set() -> None:
    event = SignalSafeEvent()
    for place in interrupted(event.set):
        assert in_thread(event.set), place
        assert in_thread(event.wait), place
        event.clear()


def test_a_cancel_token_whose_wait_was_interrupted_can_be_set() -> None:
    for place in interrupted(lambda: CancelToken().wait(0.001)):
        assert place
    token = CancelToken()
    for place in interrupted(lambda: token.wait(0.001)):
        assert not token.is_set(), place
    assert in_thread(token.set)


def test_a_commit_that_is_no_longer_waited_for_holds_up_no_writer() -> None:
    def wait(commit: CommitFuture) -> None:
        with suppress(TimeoutError):
            commit.result(0.001)

    commit = CommitFuture()
    for place in interrupted(lambda: wait(commit)):
        assert place
    assert in_thread(lambda: commit(None))
    commit.result(PATIENCE)


# Python reports what is raised in a `__del__`, and goes on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_takes_no_slot_of_a_semaphore() -> None:
    semaphore = SignalSafeSemaphore(2)

    def use() -> None:
        slot = semaphore.slot()
        try:
            while not slot.acquire(0.001):
                pass
        finally:
            slot.release()

    for place in interrupted(use):
        first, second, third = (semaphore.slot() for _ in range(3))
        assert first.acquire(PATIENCE), place
        assert second.acquire(PATIENCE), place
        assert not third.acquire(0.001), place
        first.release()
        second.release()


def test_who_waits_for_a_slot_gets_it() -> None:
    semaphore = SignalSafeSemaphore(1)
    mine = semaphore.slot()
    mine.acquire(PATIENCE)
    got: list[bool] = []

    def wait() -> None:
        slot = semaphore.slot()
        got.append(slot.acquire(PATIENCE))
        slot.release()

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    mine.release()
    for thread in threads:
        thread.join(PATIENCE)
    assert got == [True] * 4


def test_a_thread_whose_start_was_interrupted_ends_if_it_runs() -> None:
    worked: list[None] = []
    threads: list[SignalSafeThread] = []

    def start() -> None:
        threads.append(SignalSafeThread(lambda: worked.append(None), "test"))
        threads[-1].start()

    for place in interrupted(start):
        while threads:
            thread = threads.pop()
            began = time.monotonic()
            while thread.ident is None and time.monotonic() < began + 0.2:
                pass
            if thread.ident is not None:
                thread.join()
                assert not thread.is_alive(), place
                assert worked, place
        worked.clear()


def test_a_thread_whose_start_was_interrupted_is_not_started_a_second_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    start_now, begun = getattr(threading, name), 0

    def start_later(function: Callable[..., object], *args: Any, **named: Any) -> Any:
        nonlocal begun
        begun += 1

        def later(*arguments: object) -> None:
            time.sleep(0.02)  # as on a busy machine
            function(*arguments)

        return start_now(later, *args, **named)

    monkeypatch.setattr(threading, name, start_later)
    for at in range(1, 40):
        thread = SignalSafeThread(int, "test")
        begun, raiser = 0, Raiser(at, KeyboardInterrupt, ANYWHERE)
        with suppress(KeyboardInterrupt), raiser.armed():
            thread.start()
        with suppress(RuntimeError):  # it runs, or has run
            thread.start()
        thread.join()
        assert begun == 1, raiser.place
        if not raiser.place:
            break


def test_a_thread_whose_join_was_interrupted_can_be_joined() -> None:
    gate = threading.Lock()
    gate.acquire()
    thread = SignalSafeThread(gate.acquire, "test")
    thread.start()
    for _, place in zip(range(6), interrupted(thread.join), strict=False):
        assert thread.is_alive(), place
    thread.join(0.001)
    assert thread.is_alive()
    gate.release()
    thread.join()
    assert not thread.is_alive()


def test_a_thread_that_was_not_started_is_not_waited_for() -> None:
    thread = SignalSafeThread(int, "test")
    thread.join()
    assert not thread.is_alive()


def test_a_thread_that_is_about_to_say_that_it_runs_is_joined() -> None:
    thread, hold = SignalSafeThread(int, "test"), threading.Lock()
    hold.acquire()
    set_started = thread._started.set

    class Late:
        def set(self) -> None:
            hold.acquire(timeout=PATIENCE)
            set_started()

        wait, is_set = thread._started.wait, thread._started.is_set

    thread._started = Late()  # type: ignore[assignment]
    starter = threading.Thread(target=thread.start, daemon=True)
    starter.start()
    while thread.ident is None:
        pass
    threading.Timer(0.01, hold.release).start()
    thread.join()
    assert thread._ended.is_set()
    starter.join(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_waits_for_no_thread_of_its_parent_and_may_start_its_own() -> None:
    gate = threading.Lock()
    gate.acquire()
    thread = SignalSafeThread(gate.acquire, "test")
    thread.start()
    child = os.fork()
    if not child:
        code = 1
        try:
            thread.join()
            own = SignalSafeThread(int, "own")
            own.start()
            own.join()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    gate.release()
    thread.join()


class Embedder:
    name, size = "constant", 2

    def embed_documents(self, texts: Any) -> Any:
        raise AssertionError

    def embed_query(self, text: str) -> Embedding:
        return Embedding([1.0, 0.0], SparseVector([1], [1.0]))


def test_a_text_whose_embedding_was_interrupted_is_embedded_by_another_thread() -> None:
    cache = QueryEmbeddingCache(Embedder())
    number = 0

    def embed() -> None:
        nonlocal number
        number += 1
        cache.embed(str(number))

    for place in interrupted(embed):
        assert in_thread(lambda: cache.embed(str(number))), place


def test_an_interrupt_of_the_thread_that_embeds_is_no_matter_of_one_that_waits() -> None:
    waits, found = threading.Event(), []

    class Interrupted(Embedder):
        calls = 0

        def embed_query(self, text: str) -> Embedding:
            self.calls += 1
            if self.calls == 1:
                waits.wait(PATIENCE)
                time.sleep(0.05)
                raise KeyboardInterrupt
            return super().embed_query(text)

    cache = QueryEmbeddingCache(Interrupted())

    def first() -> None:
        with suppress(KeyboardInterrupt):
            cache.embed("text")

    def second() -> None:
        waits.set()
        found.append(cache.embed("text"))

    threads = [threading.Thread(target=first)]
    threads[0].start()
    while not cache._slots:
        pass
    threads.append(threading.Thread(target=second))
    threads[1].start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [Embedding([1.0, 0.0], SparseVector([1], [1.0]))]


class Worker:
    """Has a thread, as a writer has."""

    def __init__(self) -> None:
        self.thread = SignalSafeThread(self.work, "worker")

    def work(self) -> None:
        """Do nothing."""


def test_what_has_a_thread_that_has_ended_is_not_left_to_the_garbage_collector() -> None:
    worker = Worker()
    worker.thread.start()
    worker.thread.join()
    kept = weakref.ref(worker)

    gc.disable()
    try:
        del worker
        assert kept() is None
    finally:
        gc.enable()

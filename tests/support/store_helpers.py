"""What the tests of the store share."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from restaurant_llm_batch import LLMResponse
from restaurant_llm_batch._store.store import Store
from restaurant_llm_batch._store.writer import CommitFuture
from tests.support.store_child import key_of, reply_of

REPLY = LLMResponse("국물이 진하다", "stop", 120, 30, "qwen", 64)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def key(number: int) -> bytes:
    return key_of("test", number)


def durably(do: Callable[..., None], *arguments: Any) -> None:
    """Do something and wait until it is durable."""
    durable = CommitFuture()
    do(*arguments, durable)
    durable.result()


def fill(store: Store, numbers: range) -> None:
    told = [CommitFuture() for _ in numbers]
    for number, durable in zip(numbers, told, strict=True):
        store.put(key(number), reply_of("test", number), durable)
    for durable in told:
        durable.result()


def ignore(error: Exception | None) -> None:
    pass


def in_child(do: Callable[[], str]) -> str:
    """Do something in a forked child and return what it says."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python dislikes forks of processes with threads
        child = os.fork()
    if not child:
        signal.alarm(20)  # a child that waits for a lock of its parent would wait for ever
        try:
            said = do()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said

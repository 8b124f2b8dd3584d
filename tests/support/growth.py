"""The growth of work with the length of its input, in CPU time: linear or not, whatever else the machine does."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

BOUND = 2.5
"""Most times the work for an input of twice the length. Linear work has 2, work of the length squared 4."""

TRIES = 6
NOISE = 0.002
"""Seconds of CPU time that a first call, a full cache or the garbage collector may add."""


def assert_linear(
    work: Callable[[str], object], unit: str, length: int, ends: tuple[str, str] = ("", "")
) -> None:
    """Fail if `work` for a text of four times the length costs more than `BOUND` squared.

    The texts are `unit` repeated up to `length` and to four times as many characters, between the two `ends`. What
    counts is the least CPU time of this thread over several tries, so a busy machine makes the test slow, not red. Each
    try has a text of its own, so no cache answers it.
    """

    def seconds(characters: int, number: int) -> float:
        text = f"{ends[0]}{(unit * characters)[:characters]}{ends[1]}{number}"
        start = time.thread_time()
        work(text)
        return time.thread_time() - start

    gc.collect()
    short, long = [], []
    for number in range(TRIES):
        short.append(seconds(length, 2 * number))
        long.append(seconds(4 * length, 2 * number + 1))
        if min(long) <= BOUND**2 * min(short) + NOISE:
            return
    raise AssertionError(
        f"{4 * length} characters of {unit!r} take {min(long):.4f} s, {length} take {min(short):.4f} s: "
        f"{(min(long) / min(short)) ** 0.5:.1f} times the work for twice the length"
    )

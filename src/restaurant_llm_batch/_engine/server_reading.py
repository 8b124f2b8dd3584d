"""Server reading: reads the load of a server where that does not block its run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .._threads import SignalSafeThread
from .mailbox import Mailbox
from .plan import LoadMethod

MOST_SECONDS = 10.0
"""Most seconds that a reading on an event loop may take."""


def read_in_thread(
    mailbox: Mailbox, method: LoadMethod, done: Callable[[Any, BaseException | None], object]
) -> None:
    """Read in a thread of its own, and report it in the mailbox. The thread of a server that hangs ends nothing."""

    def read() -> None:
        answer: Any = None
        error: BaseException | None = None
        try:
            answer = method.method()
        except BaseException as raised:
            error = raised
        mailbox.post_deferred(partial(done, answer, error))

    SignalSafeThread(read, "server watch").start()


def read_at_once(
    mailbox: Mailbox, method: LoadMethod, done: Callable[[Any, BaseException | None], object]
) -> None:
    """Read here and now, as on virtual time, and report it in the mailbox."""
    answer: Any = None
    error: BaseException | None = None
    try:
        answer = method.method()
    except Exception as raised:
        error = raised
    mailbox.post_deferred(partial(done, answer, error))

"""
Shortages: whether a call failed because this process, or the server, lacks something.

A shortage of this process, of threads, file descriptors, ports or memory, says nothing about the service, which never
saw the call: no attempt is used up, and the call is made again when others have ended. A server that had no memory left
says so in its error.
"""

from __future__ import annotations

import errno
import re
from typing import Literal, TypeAlias

from .errors import BackendError

_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})

_MOST = 50
"""Causes that are looked at; SDK, client, transport and socket make four."""


class NoThread(RuntimeError):
    """The system starts no more threads, and none of ours is left to wait for."""


def is_local_shortage(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, is a shortage of this process."""
    pending: list[BaseException | None] = [error]
    for _ in range(_MOST):  # causes may form a circle
        if not pending:
            return False
        cause = pending.pop()
        if cause is None:
            continue
        if isinstance(cause, (NoThread, MemoryError)) or is_thread_shortage(cause):
            return True
        if (isinstance(cause, OSError) and cause.errno in _ERRNOS) or getattr(cause, "local_shortage", False):
            return True
        if isinstance(cause, BaseExceptionGroup):
            pending += cause.exceptions
        pending += [getattr(cause, "os_error", None), cause.__context__, cause.__cause__]
    return False


OutOfMemory: TypeAlias = Literal["gpu", "kv_cache", "host", "unknown"]
"""Which memory of a server was full."""
_NO_MEMORY = re.compile(
    r"out ?of ?memory|\boom\b|oom[-_ ]?kill|cannot allocate memory|\b(?:exit|status) ?code:? ?137\b"
    r"|no (?:available|free) (?:memory for the )?(?:kv[-_ ]?)?cache blocks?",
    re.IGNORECASE,
)
_KINDS: dict[OutOfMemory, re.Pattern[str]] = {
    "gpu": re.compile(r"cuda|cublas|\bhip\b|\bgpu\b|\btorch\b|vram", re.IGNORECASE),
    "kv_cache": re.compile(r"kv[-_ ]?cache|cache blocks?", re.IGNORECASE),
    "host": re.compile(r"kill|\b137\b|cannot allocate|cgroup|memoryerror", re.IGNORECASE),
}


def out_of_memory(error: BaseException | None) -> OutOfMemory | None:
    """Return which memory of the server was full, if that is what an error of a backend says; otherwise None."""
    if not isinstance(error, BackendError):
        return None
    text = str(error)
    if not _NO_MEMORY.search(text):
        return None
    return next((kind for kind, said in _KINDS.items() if said.search(text)), "unknown")


def is_thread_shortage(error: BaseException) -> bool:
    """Return whether the interpreter says that the system starts no more threads."""
    return type(error) is RuntimeError and str(error).startswith("can't start new thread")

"""
Local shortage: whether a call failed because this process lacks threads, file descriptors, ports or memory.

Such a failure says nothing about the service, which never saw the call: no attempt is used up, and the call is made
again when others have ended.
"""

from __future__ import annotations

import errno
import logging

log = logging.getLogger("restaurant_llm_batch")

_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})

_DEPTH = 12
"""Most causes that are followed: SDK, client, transport, socket."""


class NoThread(RuntimeError):
    """The system starts no more threads, and none of ours is left to wait for."""


def is_local_shortage(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, is a shortage of this process."""
    cause: BaseException | None = error
    for _ in range(_DEPTH):
        if cause is None:
            return False
        if isinstance(cause, OSError) and cause.errno in _ERRNOS:
            return True
        if isinstance(cause, (NoThread, MemoryError)) or is_thread_shortage(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def is_thread_shortage(error: BaseException) -> bool:
    """Return whether the interpreter says that the system starts no more threads."""
    return type(error) is RuntimeError and str(error).startswith("can't start new thread")

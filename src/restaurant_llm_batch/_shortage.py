"""
Local shortage: whether a call failed because this process lacks threads, file descriptors, ports or memory.

Such a failure says nothing about the service, which never saw the call: no attempt is used up, and the call is made
again when others have ended.
"""

from __future__ import annotations

import errno

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


def is_thread_shortage(error: BaseException) -> bool:
    """Return whether the interpreter says that the system starts no more threads."""
    return type(error) is RuntimeError and str(error).startswith("can't start new thread")

"""What few runners are given, and what only these import: a store, a record, and limits that processes share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._limits.concurrency import ConcurrencyLimiter
from .._limits.limiters import LimiterSet

if TYPE_CHECKING:
    from .._store.folder import StoreFolder
    from .._store.store import Store
    from ..records._recording import Recording
    from ..sharing.limiter import SharedLimiter


def open_store(store: str | os.PathLike[str] | Store | StoreFolder | None) -> Store | StoreFolder | None:
    """
    Return a store, open; None without one.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    if store is None:
        return None
    from .._store.folder import StoreFolder
    from .._store.store import Store

    opened = store if isinstance(store, (Store, StoreFolder)) else Store(store)
    opened.open()
    return opened


def open_recording(record: str | os.PathLike[str] | Recording | None) -> Recording | None:
    """
    Return the record of runs, open; None without one.

    Raises:
        ConfigurationError: It cannot be opened.
    """
    if record is None:
        return None
    from ..records._recording import as_recording

    return as_recording(record)


def open_shared(limiters: LimiterSet) -> list[SharedLimiter]:
    """
    Return the limiters that other processes share, open.

    Raises:
        ConfigurationError: The broker of one cannot be used.
    """
    special = [one for one in limiters.each() if type(one) is not ConcurrencyLimiter]
    if not special:
        return []
    from ..sharing.limiter import SharedLimiter

    shared = [one for one in special if isinstance(one, SharedLimiter)]
    for limiter in shared:
        limiter.open()
    return shared
